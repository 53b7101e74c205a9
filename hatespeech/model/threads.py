"""How torch's threads share the work: each product, parts of one pass, or several passes.

A pass that is too short to share has one thread. While more waits than one pass takes, passes run
in *lanes* beside each other, each with its share of the threads, so that none waits for another.

A pass of a small model over a short text takes about a millisecond. OpenMP wakes its second thread
for each of some twenty products, and each waits for the slower thread: after a pause, or beside
other processes, the pass then takes many times as long (``benchmarks/lone_tweets.py``).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

# A core does this in about two milliseconds.
SHORT_PASS_OPERATIONS: Final = 500_000_000
# More would make each pass of many threads take longer, and a lone text with it.
LANES: Final = 2
# Threads that :func:`spread` keeps on cores of their own.
SPREAD: Final = 2
Item = TypeVar("Item")
Found = TypeVar("Found")

MAPPED_FILES: Final = Path("/proc/self/maps")
# Settings of the environment that bind OpenMP's threads.
BINDINGS: Final = frozenset({"GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND"})


@contextmanager
def as_many_as_useful(operations: int) -> Iterator[None]:
    """Compute meanwhile in one thread if there are at most ``SHORT_PASS_OPERATIONS``.

    This holds for the calling thread only.
    """
    with _at_most(1 if operations <= SHORT_PASS_OPERATIONS else torch.get_num_threads()):
        yield


@contextmanager
def spread() -> Iterator[None]:
    """Compute meanwhile on one core, and keep the thread that helps this one off it.

    After a pause Linux wakes OpenMP's second thread on the core of the thread that wakes it, and
    leaves both there for the pass, which then takes twice as long and more. Threads that are bound
    for good could not give way to other processes. This binds for a pass: afterwards this thread
    may run anywhere, and its helper, which sleeps, has a new place in the next pass.

    Two threads are bound, and never more: of those, OpenMP ends some for a small product, and what
    it starts for the next one would stay on this core. In a lane nothing is bound, because the
    other lane may be on the same core. Nor is it with one core, where torch's OpenMP is not found,
    or where the environment says how OpenMP binds its threads.
    """
    count = torch.get_num_threads()
    may = count == SPREAD and not getattr(_own, "lane", False)
    library = _library() if may and not _binds() else None
    if library is None:
        yield
        return
    core, allowed = {_core_number()()}, os.sched_getaffinity(0)
    if not core < allowed:
        yield
        return
    helper = getattr(_own, "helper", None)
    if helper is None or not _own.task_of_helper.exists():
        helper = _own.helper = _helper(library)
        _own.task_of_helper = Path(f"/proc/self/task/{helper}")
    if helper is None:
        yield
        return
    _bind(helper, allowed - core)
    try:
        _bind(0, core)
        yield
    finally:
        _bind(0, allowed)


def lanes() -> int:
    """Return how many passes had better run beside each other than one after another.

    While one lane packs its pass or hands out what it gave, the other computes.
    """
    even = torch.get_num_threads() % LANES == 0  # otherwise a core would have no lane
    return LANES if even and _setter() is not None else 1


@contextmanager
def lane_of(lanes: int) -> Iterator[None]:
    """Compute meanwhile in the share of the threads that one of so many lanes has.

    This holds for the calling thread only.
    """
    with _at_most(max(1, torch.get_num_threads() // lanes)):
        _own.lane = lanes > 1
        try:
            yield
        finally:
            _own.lane = False


def in_passing(function: Callable[[], Found]) -> Found:
    """Call a function in a thread that ends with it, and return what it returns.

    Each thread that computes has OpenMP threads of its own, until it ends. If they are more than
    the cores, none waits in a short loop for its next product any more: each sleeps, and a lone
    text's pass takes two or three times as long.
    """
    done: Future[Found] = Future()

    def call() -> None:
        try:
            done.set_result(function())
        except BaseException as exc:
            done.set_exception(exc)

    # A daemon: an interrupted program need not wait for it.
    threading.Thread(target=call, name="passing", daemon=True).start()
    return done.result()


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
    of_mkl = _mkl_setter()(count)
    try:
        yield
    finally:
        _mkl_setter()(of_mkl)
        setter(threads)


# Of the calling thread: ``lane``, whether it has a share of the threads only, ``helper``, the id
# that the system gives its second thread, and ``task_of_helper``, a file that is there while that
# thread is: OpenMP ends threads, too.
_own: Final = threading.local()


def _helper(library: str) -> int | None:
    """Return the id of the thread that OpenMP gives the calling thread, if it gives any."""
    found: list[int] = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(
        lambda _data: found.append(threading.get_native_id())
    )
    # Unlike PyDLL, CDLL lets go of Python meanwhile, which the other threads need.
    ctypes.CDLL(library).GOMP_parallel(note, None, SPREAD, 0)
    return next((each for each in found if each != threading.get_native_id()), None)


def _bind(thread: int, cores: set[int]) -> None:
    """Let a thread, 0 for the calling one, run on these cores, if the system allows it."""
    with contextlib.suppress(OSError):  # a sandbox may not, and cores may just have been taken away
        os.sched_setaffinity(thread, cores)


@cache
def _binds() -> bool:
    """Return whether the environment says how OpenMP binds its threads, which it read long ago."""
    return not BINDINGS.isdisjoint(os.environ)


@cache
def _core_number() -> Callable[[], int]:
    """Return what says on which core the calling thread runs."""
    asked: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu
    return asked


def _setter() -> Callable[[int], Any] | None:
    """Return ``omp_set_num_threads`` of torch's OpenMP; ``None`` if it is not found.

    ``torch.set_num_threads`` would also set the number for threads that start meanwhile.
    """
    library = _library()
    return None if library is None else _function(library)


@cache
def _mkl_setter() -> Callable[[int], Any]:
    """Return what sets the number of MKL's threads for the calling thread, and returns the last.

    torch's MKL multiplies attention's float32 matrices. It has a number of its own, and would wake
    a second thread for each of them.
    """
    try:
        library = ctypes.PyDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        setter: Callable[[int], Any] = library.MKL_Set_Num_Threads_Local
    except (AttributeError, OSError):  # a build without MKL
        return lambda _count: 0
    return setter


@cache
def _function(library: str) -> Callable[[int], Any]:
    setter: Callable[[int], Any] = ctypes.PyDLL(library).omp_set_num_threads
    return setter


@cache
def _library() -> str | None:
    """Return the file of the OpenMP that torch uses; ``None`` if it is not found."""
    if not MAPPED_FILES.exists():
        return None
    mapped = MAPPED_FILES.read_text(encoding="utf-8", errors="replace")
    before = torch.get_num_threads()
    paths: list[str] = re.findall(r"/\S*/lib(?:g|i)?omp\S*\.so\S*", mapped)
    for path in sorted(set(paths)):
        if not hasattr(ctypes.CDLL(path), "GOMP_parallel"):
            continue
        setter = _function(path)
        setter(before + 1)
        found = torch.get_num_threads() == before + 1
        setter(before)
        if found:
            return path
    return None
