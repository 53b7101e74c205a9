"""What the tests share.

- ``processes``: the project's programs as processes of their own: start, watch, kill, ask
- ``stand_ins``: what the project talks to: Runpod, SingularityNET's daemon, a file server
- ``pickles``: checkpoint files in the published format: sound, damaged, hostile
- ``image``: the Dockerfile built and run, for ``scripts/check-image``
- ``bad_inputs``: inputs that the contract refuses, and the errors
- ``checkpoints``, ``small_tokenizer``: a model and a tokenizer that are quick to make and to load
- ``imports``, ``memory``: what a script imports, and what the kernel says of a process
"""
