"""Fixtures of the tests of the engine."""

from __future__ import annotations

import pytest

from hatespeech.engine.predictor import Predictor
from tests.support.batchers import HeldDevice


@pytest.fixture
def device(small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch) -> HeldDevice:
    """The forward pass of ``small_classifier``, which a test can hold or let fail."""
    device = HeldDevice(small_classifier.probabilities)
    monkeypatch.setattr(small_classifier, "probabilities", device)
    return device
