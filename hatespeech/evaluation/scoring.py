"""Scores for labelled texts: from an engine of score.py, or from columns that it has written."""

from __future__ import annotations

import argparse
import contextlib
import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.command import ENGINES
from hatespeech.bulk.engines.base import Chunk
from hatespeech.bulk.engines.local import LocalEngine
from hatespeech.bulk.places import RECEIPT, Place
from hatespeech.bulk.statistics import code_of
from hatespeech.bulk.workspace import read_json_object
from hatespeech.labels import LABELS
from hatespeech.named_thresholds import NamedThresholds
from hatespeech.settings import EngineSettings

Scores = NDArray[np.float32]  # [texts, labels]

CHUNK_TEXTS: Final = 1024


@dataclass(frozen=True)
class Scored:
    """The scores of all rows, and what gave them."""

    scores: Scores  # NaN in the rows that have none
    codes: Sequence[str | None]  # of the error of each row that has none
    model: str | None  # None if the file with the scores does not say
    recommended: Mapping[str, Mapping[str, float]]  # the model's thresholds, if it is here

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which rows have scores."""
        return ~np.isnan(self.scores[:, 0])

    @property
    def errors(self) -> dict[str, int]:
        """How many rows have no scores, by the code of their error."""
        return dict(Counter(code for code in self.codes if code))

    def part(self, start: int, end: int) -> Scored:
        """Return the scores of some rows."""
        return replace(self, scores=self.scores[start:end], codes=self.codes[start:end])


def score(
    texts: Sequence[Any], options: argparse.Namespace, settings: EngineSettings, doing: str
) -> Scored:
    """Score texts by the engine that the options name; ``doing`` names the progress bar.

    Raises :class:`EngineError` and the errors of loading a model.
    """
    module: Any = importlib.import_module(ENGINES[options.engine])
    found = np.full((len(texts), len(LABELS)), np.nan, dtype=np.float32)
    codes: list[str | None] = [None] * len(texts)
    model = None
    named: Mapping[str, NamedThresholds] = {}
    starts = range(0, len(texts), CHUNK_TEXTS)
    chunks = [
        Chunk(index, list(texts[start : start + CHUNK_TEXTS])) for index, start in enumerate(starts)
    ]
    with (
        contextlib.closing(module.make_engine(options, settings)) as engine,
        progress_bar(doing, len(texts), "rows") as shown,
        contextlib.closing(engine.score(chunks, shown.update)) as results,
    ):
        for done in results:
            model = done.model
            for place, row in enumerate(done.rows, done.index * CHUNK_TEXTS):
                if row.error is None:
                    found[place] = list(row.scores.values())
                else:
                    codes[place] = row.error.code
        if isinstance(engine, LocalEngine):
            named = engine.thresholds
    return Scored(found, codes, model, {name: each.numbers for name, each in named.items()})


def read_scores(columns: Mapping[str, list[Any]], prefix: str, source: str) -> Scored:
    """Return scores that score.py has written into the file itself.

    The name of the model is in the file that score.py writes beside its output. Raises
    :class:`RunError` for a value that is not a score.
    """
    names = [prefix + label for label in LABELS]
    count = len(columns[names[0]])
    found = np.full((count, len(LABELS)), np.nan, dtype=np.float32)
    codes: list[str | None] = [None] * count
    for row in range(count):
        if error := columns[prefix + "error"][row]:
            codes[row] = code_of(str(error))
            continue
        for place, name in enumerate(names):
            found[row, place] = number_of(columns[name][row], name, row + 1, source)
    receipt = read_json_object(Place.of(source).beside(RECEIPT)) or {}
    return Scored(found, codes, receipt.get("model"), {})


def number_of(value: Any, column: str, row: int, source: str) -> float:
    """Return a score; raise :class:`RunError` for anything but a number from 0 to 1."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise RunError(f"{source}: column {column}, row {row}: must be a number from 0 to 1")
    return number
