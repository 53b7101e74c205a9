"""How torch's threads share the work: each product, parts of one pass, or several passes.

A pass that is too short to share has one thread. While more waits than one pass takes, passes run
in *lanes* beside each other, each with its share of the threads, so that none waits for another.

A pass of a small model over a short text takes about a millisecond. OpenMP wakes its second thread
for each of some twenty products, and each waits for the slower thread: after a pause, or beside
other processes, the pass then takes many times as long (``benchmarks/lone_tweets.py``).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

# A core does this in about two milliseconds.
SHORT_PASS_OPERATIONS: Final = 500_000_000
# More would make each pass of many threads take longer, and a lone text with it.
LANES: Final = 2
Item = TypeVar("Item")
Found = TypeVar("Found")

MAPPED_FILES: Final = Path("/proc/self/maps")


@contextmanager
def as_many_as_useful(operations: int) -> Iterator[None]:
    """Compute meanwhile in one thread if there are at most ``SHORT_PASS_OPERATIONS``.

    This holds for the calling thread only.
    """
    with _at_most(1 if operations <= SHORT_PASS_OPERATIONS else torch.get_num_threads()):
        yield


def lanes() -> int:
    """Return how many passes had better run beside each other than one after another.

    While one lane packs its pass or hands out what it gave, the other computes.
    """
    return LANES if torch.get_num_threads() >= LANES and _setter() is not None else 1


@contextmanager
def lane_of(lanes: int) -> Iterator[None]:
    """Compute meanwhile in the share of the threads that one of so many lanes has.

    This holds for the calling thread only.
    """
    with _at_most(max(1, torch.get_num_threads() // lanes)):
        yield


def independent() -> int:
    """Return how many threads can each compute something else, without gradients."""
    able = torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
    return torch.get_num_threads() if able and _setter() is not None else 1


def apart(function: Callable[[Item], Found], items: Sequence[Item], workers: int) -> list[Found]:
    """Call a function with each item, in threads of which each computes alone.

    They end with the call: threads that wait would not survive a fork.
    """

    def alone(item: Item) -> Found:
        with torch.inference_mode(), as_many_as_useful(0):
            return function(item)

    if workers < 2:
        return list(map(function, items))
    with ThreadPoolExecutor(workers, thread_name_prefix="part") as pool:
        return list(pool.map(alone, items))


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Let the calling thread compute meanwhile in at most so many threads."""
    threads = torch.get_num_threads()
    setter = _setter() if count < threads else None
    if setter is None:
        yield
        return
    setter(count)
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
