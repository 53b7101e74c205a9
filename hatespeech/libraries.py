"""Environment variables that torch and tokenizers read once, when they are imported."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping


def set_library_defaults(environment: MutableMapping[str, str]) -> None:
    """Set the variables that are not set yet. Call it before torch and tokenizers are imported."""
    # OpenMP's threads spin while they wait for each other. If another process takes one of their
    # cores, all of them wait for its whole time slice (benchmarks/busy_neighbour.py). So let them
    # spin only briefly, which is enough when they have the cores to themselves, and then sleep.
    # The names are those of GNU's OpenMP, which torch uses on Linux; other OpenMPs would sleep at
    # once, which is slower.
    if sys.platform == "linux" and "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment.setdefault("GOMP_SPINCOUNT", "3000")
    # gRPC's core would write lines of its own between ours: for each failed TLS handshake, say.
    environment.setdefault("GRPC_VERBOSITY", "NONE")
    # One thread tokenises here; a pool of threads would only warn about forks.
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
