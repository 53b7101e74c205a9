"""How many threads a pass gets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from threading import Thread

import pytest
import torch

from hatespeech.model import threads
from hatespeech.model.network import ModelConfig
from hatespeech.model.threads import SHORT_PASS_OPERATIONS, as_many_as_useful
from tests.support.checkpoints import random_model

needs_openmp = pytest.mark.skipif(
    threads._setter() is None, reason="torch's OpenMP is not found on this system"
)


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


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
def test_a_lane_has_its_share_of_the_threads() -> None:
    assert threads.lanes() == 2
    with threads.lane_of(1):
        assert torch.get_num_threads() == 3
    with threads.lane_of(2):
        assert torch.get_num_threads() == 1
        with as_many_as_useful(SHORT_PASS_OPERATIONS + 1):
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    assert threads.lanes() == 1


# A pass that is long enough for each thread to read parts of its own.

SMALL = ModelConfig(
    vocab_size=50, hidden_size=192, num_hidden_layers=2, num_attention_heads=2, classifier_size=8
)


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
