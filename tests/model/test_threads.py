"""How many threads a pass gets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch

from hatespeech.model import threads
from hatespeech.model.network import ModelConfig
from hatespeech.model.threads import SHORT_PASS_OPERATIONS, as_many_as_useful
from tests.support.checkpoints import random_model
from tests.support.torch_threads import torch_threads

SMALL = ModelConfig(
    vocab_size=50, hidden_size=192, num_hidden_layers=2, num_attention_heads=2, classifier_size=8
)

needs_openmp = pytest.mark.skipif(
    threads._setter() is None, reason="torch's OpenMP is not found on this system"
)


@pytest.fixture
def three_threads() -> Iterator[None]:
    with torch_threads(3):
        yield


@needs_openmp
@pytest.mark.usefixtures("three_threads")
def test_only_a_short_pass_has_one_thread_and_afterwards_all_are_back() -> None:
    with as_many_as_useful(SHORT_PASS_OPERATIONS):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with as_many_as_useful(SHORT_PASS_OPERATIONS + 1):
        assert torch.get_num_threads() == 3
    with pytest.raises(ZeroDivisionError), as_many_as_useful(1):
        1 / 0  # noqa: B018 - a pass that fails
    assert torch.get_num_threads() == 3


@needs_openmp
@pytest.mark.usefixtures("three_threads")
def test_a_thread_that_starts_meanwhile_is_not_limited() -> None:
    seen: list[int] = []
    with as_many_as_useful(1):
        other = Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
    assert seen == [3]


@needs_openmp
@pytest.mark.usefixtures("three_threads")
@torch.inference_mode()
def test_a_model_shares_only_what_is_worth_it() -> None:
    model = random_model(ModelConfig(vocab_size=50, num_hidden_layers=2, classifier_size=8))
    seen: list[int] = []
    model.linear1.register_forward_pre_hook(
        lambda _module, _inputs: seen.append(torch.get_num_threads())
    )
    few = SHORT_PASS_OPERATIONS // model.config.operations_per_token
    for tokens in (few, few + 1):
        model.forward_sequences([[5] * tokens])
    assert seen == [1, 3]
    assert torch.get_num_threads() == 3


@needs_openmp
@pytest.mark.usefixtures("three_threads")
def test_a_lane_has_half_of_the_threads_and_an_odd_one_would_have_none() -> None:
    for count, lanes in ((1, 1), (2, 2), (3, 1), (4, 2), (5, 1)):
        torch.set_num_threads(count)
        assert threads.lanes() == lanes
        with threads.lane_of(lanes):
            assert torch.get_num_threads() == count // lanes
            with as_many_as_useful(SHORT_PASS_OPERATIONS + 1):
                assert torch.get_num_threads() == count // lanes
        assert torch.get_num_threads() == count


@needs_openmp
@pytest.mark.skipif(not torch._C.has_mkl, reason="this build of torch has no MKL")
@pytest.mark.usefixtures("three_threads")
def test_mkl_has_no_more_threads_than_the_pass() -> None:
    library = ctypes.PyDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    most: Callable[[], int] = library.MKL_Get_Max_Threads
    before, elsewhere = most(), threads.in_passing(most)
    with threads._at_most(2):
        with threads.lane_of(2):
            assert most() == 1
            assert threads.in_passing(most) == elsewhere
        assert most() == 2
    assert most() == before


needs_cores = pytest.mark.skipif(
    threads._library() is None or len(os.sched_getaffinity(0)) < 2,
    reason="torch's OpenMP is not found on this system, or there is one core only",
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with torch_threads(2):
        yield


def helper() -> int:
    """Return the id of the thread that helps this one in a pass."""
    with threads.spread():
        found: int = threads._own.helper
        return found


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_the_thread_that_helps_keeps_off_the_core_of_the_one_it_helps() -> None:
    before = os.sched_getaffinity(0)
    with contextlib.suppress(ZeroDivisionError), threads.spread():
        own = os.sched_getaffinity(0)
        assert len(own) == 1
        assert threads._own.helper != threading.get_native_id()
        assert os.sched_getaffinity(threads._own.helper) == before - own
        1 / 0  # noqa: B018 - a pass that fails
    assert os.sched_getaffinity(0) == before
    assert helper() == threads._own.helper


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_ended_is_not_taken_for_the_one_that_helps_now() -> None:
    def work() -> tuple[int, int]:
        first = helper()
        ended = threads._own.helper = threads.in_passing(helper)  # which ends with its thread
        threads._own.task_of_helper = Path(f"/proc/self/task/{ended}")
        while threads._own.task_of_helper.exists():
            time.sleep(0.01)
        return first, helper()

    first, second = threads.in_passing(work)
    assert second == first


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_in_a_lane_and_where_openmp_is_told_how_to_bind_or_may_not_nothing_is_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = os.sched_getaffinity(0)
    torch.set_num_threads(4)
    with threads.lane_of(2), threads.spread():
        assert torch.get_num_threads() == 2
        assert os.sched_getaffinity(0) == before
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "_binds", lambda: True)
    with threads.spread():
        assert os.sched_getaffinity(0) == before
    monkeypatch.undo()

    def refuse(_thread: int, _cores: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with threads.spread():
        assert os.sched_getaffinity(0) == before


def test_openmps_own_settings_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.BINDINGS:
        monkeypatch.delenv(name, raising=False)
    asked = threads._binds.__wrapped__
    assert not asked()
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    assert asked()


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_only_a_pass_whose_products_are_shared_stays_on_one_core() -> None:
    model = random_model(SMALL)
    seen: list[int] = []
    model.linear1.register_forward_pre_hook(
        lambda _module, _inputs: seen.append(len(os.sched_getaffinity(0)))
    )
    short = SHORT_PASS_OPERATIONS // SMALL.operations_per_token
    with torch.inference_mode():
        for sequences in ([[5] * short], [[5] * (short + 1)], [[5] * 30] * 80):
            model.forward_sequences(sequences)
        torch.set_num_threads(3)
        model.forward_sequences([[5] * (short + 1)])
    assert seen[:2] == [len(os.sched_getaffinity(0)), 1]
    assert len(seen) > 4, "the third pass has parts for all threads"
    assert 1 not in seen[2:]


@needs_cores
@pytest.mark.usefixtures("two_threads")
def test_with_a_passing_thread_the_one_that_helped_it_ends() -> None:
    left = Path(f"/proc/self/task/{threads.in_passing(helper)}")
    for _ in range(3_000):  # it ends a moment after it
        time.sleep(0.01 if left.exists() else 0)
    assert not left.exists()


def test_what_fails_in_a_passing_thread_fails_its_caller() -> None:
    with pytest.raises(ZeroDivisionError):
        threads.in_passing(lambda: 1 / 0)
    with pytest.raises(SystemExit, match="7"):
        threads.in_passing(lambda: sys.exit(7))


# A pass that is long enough for each thread to read parts of its own.


@needs_openmp
@pytest.mark.usefixtures("three_threads")
def test_each_thread_reads_parts_of_its_own_and_computes_alone() -> None:
    model = random_model(SMALL)
    seen: list[tuple[str, int]] = []
    model.linear1.register_forward_pre_hook(
        lambda _module, _inputs: seen.append(
            (threading.current_thread().name, torch.get_num_threads())
        )
    )
    sequences = [[5 + i % 9] * (20 + i % 7) for i in range(80)]
    assert sum(map(len, sequences)) * SMALL.operations_per_token > SHORT_PASS_OPERATIONS
    with torch.inference_mode():
        together = model.forward_sequences(sequences)
        assert len(seen) == 6  # for four parts of 512 tokens
        assert {count for _, count in seen} == {1}
        assert all(name.startswith("part") for name, _ in seen)
        assert not [each for each in threading.enumerate() if each.name.startswith("part")]
        assert torch.get_num_threads() == 3
        torch.set_num_threads(1)
        torch.testing.assert_close(together, model.forward_sequences(sequences))


@needs_openmp
@pytest.mark.usefixtures("three_threads")
def test_what_a_thread_could_not_know_keeps_the_parts_in_one_thread() -> None:
    with torch.inference_mode():
        assert threads.independent() == 3
        with torch.autocast("cpu", torch.bfloat16):
            assert threads.independent() == 1
    with torch.no_grad():
        assert threads.independent() == 1


@needs_openmp
@pytest.mark.usefixtures("three_threads")
def test_a_part_that_fails_fails_the_pass() -> None:
    def fail(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        threads.apart(fail, [1, 0, 1], 3)
    assert threads.apart(fail, [1, 1], 3) == [1, 1]
