"""What the libraries below us read from the environment, once, when they are loaded."""

from __future__ import annotations

from collections.abc import MutableMapping


def set_library_defaults(environment: MutableMapping[str, str]) -> None:
    """Set what nobody set; to be called before torch and tokenizers are imported."""
    # OpenMP's threads spin while they wait for each other. As soon as anything else wants one of
    # their cores, each waits out whole time slices of the others: a tweet took a hundred times as
    # long. Asleep, they cost some microseconds to wake.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # One thread tokenises here; a pool beside it would only warn about forks.
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
