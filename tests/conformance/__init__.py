"""One list of requests and replies, ``cases.json``, that every front of the service is held to.

- ``suite``: what ``cases.json`` holds, and how two replies differ
- ``invariants``: what every reply and every error must satisfy, whatever the checkpoint
- ``fronts``, ``grpc_front``, ``local_runs``: how each front is sent a case, and its answer read
- ``record``: writes the expected replies anew, from the embedded checkpoint
- ``test_fronts``: each front answers every case; ``test_suite``: the suite itself makes sense
"""
