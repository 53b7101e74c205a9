"""How many threads a pass gets."""

from __future__ import annotations

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
