"""Reads labelled texts: tab-separated files with the columns ``label``, ``text``, ``source``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from tqdm import tqdm

from hatespeech.labels import LABELS
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training import TrainingError

Choice = TypeVar("Choice")

TSV_COLUMNS: Final = ("label", "text", "source")


@dataclass(frozen=True)
class Corpus:
    """Normalised texts, their labels (indices into ``LABELS``), and the source of each."""

    texts: list[str]
    labels: list[int]
    sources: list[str]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)


def draw(choices: Sequence[Choice], rng: np.random.Generator) -> Choice:
    """Return one of several, each as likely as the others."""
    return choices[int(rng.integers(len(choices)))]


def read_corpus(path: Path) -> Corpus:
    """Read a file and normalise its texts, with a progress bar.

    The file is UTF-8 and has a header, one row on each line, and tabs between fields. A quotation
    mark is part of the text. The csv module is no help: it would read quotes, and would end a row
    at a bare carriage return. Raises :class:`TrainingError`, which names file and line.
    """
    rows = read_rows(path)
    bar = tqdm(rows, desc=f"reading {path.name}", unit="texts", disable=None)
    return Corpus(
        [normalize_tweet(text) for _, text, _ in bar],
        [LABELS.index(label) for label, _, _ in rows],
        [source for _, _, source in rows],
    )


def read_rows(path: Path) -> list[tuple[str, str, str]]:
    """Return (label, raw text, source) of each row; raises as :func:`read_corpus` does."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as exc:
        raise TrainingError(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        # Not chained: the error's message and repr hold the file's bytes.
        raise TrainingError(f"{path}: not UTF-8 (byte {exc.start} of a block)") from None
    if not lines:
        raise TrainingError(f"{path}: the file is empty")
    header = lines[0].removeprefix("\ufeff").split("\t")
    for column in TSV_COLUMNS:
        if column not in header:
            raise TrainingError(f"{path}, line 1: the column {column} is missing")
    if len(lines) == 1:
        raise TrainingError(f"{path}: no rows below the header")
    places = [header.index(column) for column in TSV_COLUMNS]
    return [_row(path, number, line, header, places) for number, line in enumerate(lines[1:], 2)]


def _row(
    path: Path, number: int, line: str, header: Sequence[str], places: Sequence[int]
) -> tuple[str, str, str]:
    fields = line.split("\t")
    if len(fields) != len(header):
        raise TrainingError(f"{path}, line {number}: {len(fields)} fields, expected {len(header)}")
    label, text, source = (fields[place] for place in places)
    if label not in LABELS:
        # The value is not shown: in a file with swapped columns it is a text.
        raise TrainingError(f"{path}, line {number}: label must be one of {', '.join(LABELS)}")
    if not text.strip():
        raise TrainingError(f"{path}, line {number}: text is empty")
    return label, text, source
