"""What the tests share.

What runs:

- ``processes``: the project's programs as processes of their own: start, watch, kill, ask
- ``local_server``: the HTTP front in a thread of this process
- ``http_client``, ``grpc_client``: who asks it, or the process
- ``browsers``, ``demo_page``: a browser, and what tests do in the page that it opens
- ``faulty_device``: a device under either that can be held, made to fail or broken
- ``stand_ins``: what the project talks to: Runpod, SingularityNET's daemon, a file server

What they are given:

- ``bad_inputs``: inputs that the contract refuses, and the errors
- ``checkpoints``, ``small_tokenizer``, ``corpora``: a model quick to make, texts to learn from
- ``pickles``: checkpoint files in the published format: sound, damaged, hostile

What they look at or set up:

- ``image``: the Dockerfile built and run, for ``scripts/check-image``
- ``cached_tools``: snet-cli, snet-sdk and npm packages, installed once into the user's cache
- ``environments``, ``imports``: virtual environments, and what a script imports
- ``loggers``, ``memory``, ``ports``: of this process and this machine
"""
