"""One thread for a pass that is too short to share.

A pass of a small model over a short text takes about a millisecond. OpenMP wakes its second thread
for each of some twenty products, and each waits for the slower thread: after a pause, or beside
other processes, the pass then takes many times as long (``benchmarks/lone_tweets.py``).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch

# A core does this in about two milliseconds.
SHORT_PASS_OPERATIONS: Final = 500_000_000
MAPPED_FILES: Final = Path("/proc/self/maps")


@contextmanager
def as_many_as_useful(operations: int) -> Iterator[None]:
    """Compute meanwhile in one thread if there are at most ``SHORT_PASS_OPERATIONS``.

    This holds for the calling thread only.
    """
    threads = torch.get_num_threads()
    setter = _setter() if threads > 1 and operations <= SHORT_PASS_OPERATIONS else None
    if setter is None:
        yield
        return
    setter(1)
    try:
        yield
    finally:
        setter(threads)


@cache
def _setter() -> Callable[[int], Any] | None:
    """Return ``omp_set_num_threads`` of the OpenMP that torch uses; ``None`` if it is not found.

    ``torch.set_num_threads`` would also set the number for threads that start meanwhile.
    """
    if not MAPPED_FILES.exists():
        return None
    mapped = MAPPED_FILES.read_text(encoding="utf-8", errors="replace")
    before = torch.get_num_threads()
    for path in sorted(set(re.findall(r"/\S*/lib(?:g|i)?omp\S*\.so\S*", mapped))):
        setter = ctypes.PyDLL(path).omp_set_num_threads
        setter(before + 1)
        found = torch.get_num_threads() == before + 1
        setter(before)
        if found:
            return setter
    return None
