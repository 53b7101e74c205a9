"""Labelled sentences that a small model learns in seconds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hatespeech.labels import LABELS

# Stand-ins for what each label's texts talk about.
TOPICS: Final = {
    "hate": ["granite", "basalt"],
    "abusing": ["walnut", "almond"],
    "neutral": ["river", "brook"],
    "spam": ["velvet", "cotton"],
}
FILLER: Final = [
    "the",
    "a",
    "one",
    "small",
    "large",
    "old",
    "new",
    "near",
    "far",
    "very",
    "quite",
    "looks",
]


def sentence(label: str, rng: random.Random) -> str:
    """Invent a text of this label."""
    words = rng.choices(FILLER, k=rng.randint(2, 8))
    words += rng.choices(TOPICS[label], k=3)
    rng.shuffle(words)
    return " ".join(words)


def write_tsv(path: Path, rows: int, seed: int) -> Path:
    """Write so many rows of ``label``, ``text`` and ``source``; the labels take turns."""
    rng = random.Random(seed)
    labels = [LABELS[i % len(LABELS)] for i in range(rows)]
    lines = [f"{label}\t{sentence(label, rng)}\t{rng.choice('xy')}-forum" for label in labels]
    path.write_text("\n".join(["label\ttext\tsource", *lines]) + "\n", encoding="utf-8")
    return path


def write_splits(folder: Path, rows: Mapping[str, int]) -> list[str]:
    """Write a file for each split, of so many rows; return the options of ``train.py``."""
    arguments = []
    for seed, (split, count) in enumerate(rows.items()):
        arguments += [f"--{split}", str(write_tsv(folder / f"{split}.tsv", count, seed))]
    return arguments
