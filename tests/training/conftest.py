"""Sums in one order, so that two runs can be compared bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hatespeech.training.corpus import Corpus, read_corpus
from tests.support.torch_threads import torch_threads


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def corpus(data: list[str]) -> Corpus:
    """The texts to learn from; each file of tests has its own ``data``."""
    return read_corpus(Path(data[1]))
