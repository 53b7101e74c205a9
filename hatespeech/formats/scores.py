"""The columns that scoring adds to a file, as a table of Arrow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from ctypes import c_float
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from hatespeech.contract import COLUMNS, TextScore, Versions
from hatespeech.labels import FLAGS

SCORES: Final = pa.schema(
    [pa.field(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
)
SCORE_TYPES: Final = list(zip(SCORES.names, SCORES.types, strict=True))
# Comes next, where thresholds are asked for: the labels that reach theirs, joined by commas.
FLAGGED: Final = pa.field("flagged", pa.string())
# Comes last, where it is asked for: the id of the model that scored the row.
MODEL: Final = pa.field("model", pa.string())


def score_columns(flagged: bool = False, prefix: str = "", model: bool = False) -> pa.Schema:
    """Return the columns that scoring adds.

    ``flagged`` says whether thresholds are asked for, and ``model`` whether the model's id is.
    """
    found = [*SCORES, *([FLAGGED] if flagged else []), *([MODEL] if model else [])]
    return pa.schema([field.with_name(prefix + field.name) for field in found])


def with_flags(scores: pa.Table, thresholds: Mapping[str, float]) -> pa.Table:
    """Return scores with a column of what reaches its threshold, compared in float32."""
    flags = [flag for flag in FLAGS if flag in thresholds]
    reached = [
        pc.greater_equal(scores[flag], pa.scalar(c_float(thresholds[flag]).value, pa.float32()))
        for flag in flags
    ]
    rows: Any = zip(*(column.to_pylist() for column in reached), strict=True)
    values = [
        None if None in row else ",".join(flag for flag, met in zip(flags, row, strict=True) if met)
        for row in rows
    ]
    return scores.append_column(FLAGGED, pa.array(values, FLAGGED.type))


def with_model(scores: pa.Table, model: str) -> pa.Table:
    """Return scores with the id of the model beside each row."""
    return scores.append_column(MODEL, pa.repeat(pa.scalar(model, MODEL.type), len(scores)))


def made_by(
    model: str | None, versions: Versions | None, thresholds: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return what a file of scores carries about them; without rows there is no model."""
    found = {
        "model": model,
        "versions": versions and dataclasses.asdict(versions),
        "thresholds": thresholds,
    }
    return {name: value for name, value in found.items() if value is not None}


def table_of(rows: Sequence[TextScore], flagged: bool = False) -> pa.Table:
    """Return the scores of rows as a table with the columns of :func:`score_columns`."""
    found = [row.columns() for row in rows]
    arrays = [pa.array([row[name] for row in found], kind) for name, kind in SCORE_TYPES]
    if flagged:
        flags = [None if row.flagged is None else ",".join(row.flagged) for row in rows]
        arrays.append(pa.array(flags, FLAGGED.type))
    return pa.table(arrays, schema=score_columns(flagged))
