"""Environment variables that torch and tokenizers read once, when they are imported."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing would make the start of every program longer
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping
    from typing import Final

POLICY: Final = "OMP_WAIT_POLICY"
SPINS: Final = "GOMP_SPINCOUNT"


def set_library_defaults(environment: MutableMapping[str, str]) -> None:
    """Set the variables that are not set yet. Call it before torch and tokenizers are imported."""
    let_threads_sleep(environment)
    # gRPC's core would write lines of its own between ours: for each failed TLS handshake, say.
    environment.setdefault("GRPC_VERBOSITY", "NONE")
    # One thread tokenises here; a pool of threads would only warn about forks.
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")


def let_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Set OpenMP's variables unless its policy is set. Importing the package does this."""
    # OpenMP's threads spin while they wait for each other. If another process takes one of their
    # cores, all of them wait for its whole time slice (benchmarks/busy_neighbour.py). So let them
    # spin only briefly, which is enough when they have the cores to themselves, and then sleep.
    # The names are those of GNU's OpenMP, which torch uses on Linux; other OpenMPs would sleep at
    # once, which is slower.
    if sys.platform == "linux" and POLICY not in environment:
        environment[POLICY] = "PASSIVE"
        environment.setdefault(SPINS, "3000")


def threads_spin(environment: Mapping[str, str]) -> bool:
    """Return whether OpenMP's threads spin for long, because neither variable is set."""
    return sys.platform == "linux" and not {POLICY, SPINS} & set(environment)
