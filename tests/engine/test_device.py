"""One recovery of a pass that fails, for requests and files alike."""

from __future__ import annotations

import math

import pytest
import torch

from hatespeech.engine.device import Device, DeviceError
from hatespeech.engine.pass_size import SMALLEST_BUDGET, PassSize
from hatespeech.engine.predictor import Predictor, Probabilities, Sequences

TEXTS = [f"number {index} of {'many ' * (index % 40)}" for index in range(200)]


@pytest.fixture(scope="module")
def sequences(small_classifier: Predictor) -> Sequences:
    return [small_classifier.encode(text).windows[0] for text in TEXTS]


@pytest.fixture
def fail(small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch) -> list[Sequences]:
    """The passes that were tried, of which those with too many tokens find no memory."""
    real = small_classifier.probabilities
    tried: list[Sequences] = []

    def small(sequences: Sequences) -> Probabilities:
        tried.append(sequences)
        if sum(map(len, sequences)) > 700:
            raise torch.OutOfMemoryError("no memory")
        return real(sequences)

    monkeypatch.setattr(small_classifier, "probabilities", small)
    return tried


def test_sequences_come_back_in_order_in_passes_that_memory_holds(
    small_classifier: Predictor, sequences: Sequences, fail: list[Sequences]
) -> None:
    size = PassSize(16_384, seconds=math.inf)
    device = Device(small_classifier, size)
    found = list(device.run(sequences))
    starts = [each.start for each in found]
    ends = [each.start + len(each.rows) for each in found]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == len(sequences)
    failed = [each for each in fail if sum(map(len, each)) > 700]
    assert len(failed) <= math.log2(16_384 / SMALLEST_BUDGET)
    # Later ones fit from the start.
    fail.clear()
    list(device.run(sequences))
    assert max(sum(map(len, each)) for each in fail) <= 700


def test_short_of_memory_at_the_smallest_size_a_pass_is_still_cut(
    small_classifier: Predictor, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, longest = small_classifier.probabilities, max(map(len, sequences))
    assert longest < SMALLEST_BUDGET

    def tiny(found: Sequences) -> Probabilities:
        if sum(map(len, found)) > longest:
            raise MemoryError
        return real(found)

    monkeypatch.setattr(small_classifier, "probabilities", tiny)
    found = list(Device(small_classifier, PassSize(16_384, seconds=math.inf)).run(sequences))
    assert sum(len(each.rows) for each in found) == len(sequences)


def test_a_sequence_that_fails_is_alone(
    small_classifier: Predictor, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = small_classifier.probabilities

    def fussy(found: Sequences) -> Probabilities:
        if sequences[17] in found:
            raise ValueError("cursed")
        return real(found)

    monkeypatch.setattr(small_classifier, "probabilities", fussy)
    found = list(Device(small_classifier, PassSize(16_384, seconds=math.inf)).run(sequences))
    assert [each.start for each in found if not each.rows] == [17]
    assert sum(len(each.rows) for each in found) == len(sequences) - 1


def test_a_device_that_gives_no_finite_score_at_all_is_broken(
    small_classifier: Predictor, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        small_classifier, "probabilities", lambda found: [[math.nan] * 4 for _ in found]
    )
    device = Device(small_classifier, PassSize(16_384))
    with pytest.raises(DeviceError, match="the device failed: no score is finite"):
        list(device.run(sequences[:3]))
