"""The image: built, looked into, and run as operators run it, for ``scripts/check-image``.

- ``check``: what is checked, in its order; the command
- ``base``: the small base image, from this machine's package sources, and the wheels for it
- ``engine``: what builds and runs: ``docker``, a daemon of its own, or ``buildah``, whose
  containers are ``namespaces``
- ``layers``: what must not lie in them
- ``hardening``, ``compose``: what Docker alone can show
"""
