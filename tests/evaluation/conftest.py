"""Labelled files whose scores are known, so that no model is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hatespeech.evaluation import command
from hatespeech.labels import LABELS

PREFIX = "m_"  # beside a column label, score.py needs one
Row = tuple[Sequence[float], Mapping[str, Any]]  # scores in the order of LABELS, other columns
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Sequence[Row]], Path]:
    """Write rows as score.py does, each with a text of its own unless it has one."""

    def written(rows: Sequence[Row]) -> Path:
        path = tmp_path / "scored.jsonl"
        lines = []
        for number, (scores, others) in enumerate(rows):
            columns = dict(zip(LABELS, scores, strict=True)) | {"error": None}
            named = {f"{PREFIX}{name}": value for name, value in columns.items()}
            lines.append(json.dumps({"text": f"text {number}", **named, **others}))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return written


@pytest.fixture
def evaluated(write: Callable[[Sequence[Row]], Path], tmp_path: Path) -> Evaluate:
    """Evaluate rows with known scores; return what --json holds."""

    def found(rows: Sequence[Row], *options: str) -> dict[str, Any]:
        path = tmp_path / "figures.json"
        arguments = [str(write(rows)), "--scored", PREFIX, "--json", str(path), *options]
        assert command.main(arguments) == 0
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    return found


def sure(label: str, certainty: float = 0.9) -> list[float]:
    """Return scores that are sure of one label."""
    rest = (1 - certainty) / 3
    return [certainty if each == label else rest for each in LABELS]
