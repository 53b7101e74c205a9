"""What the libraries below us read from the environment, once, when they are loaded."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping


def set_library_defaults(environment: MutableMapping[str, str]) -> None:
    """Set what nobody set; to be called before torch and tokenizers are imported."""
    # OpenMP's threads spin while they wait for each other. As soon as anything else wants one of
    # their cores, each waits out whole time slices of the others (benchmarks/busy_neighbour.py).
    # So they spin shortly, which is all they need on cores of their own, and then sleep. These are
    # the names of GNU's OpenMP, torch's on Linux; others would sleep at once, which is slower.
    if sys.platform == "linux" and "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment.setdefault("GOMP_SPINCOUNT", "3000")
    # One thread tokenises here; a pool beside it would only warn about forks.
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
