"""The columns that scoring adds to a file, as a table of Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from hatespeech.contract import COLUMNS, TextScore

SCORES: Final = pa.schema(
    [pa.field(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
)
SCORE_TYPES: Final = list(zip(SCORES.names, SCORES.types, strict=True))


# Comes last, where thresholds are asked for: the labels that reach theirs, joined by commas.
FLAGGED: Final = pa.field("flagged", pa.string())


def score_columns(flagged: bool = False, prefix: str = "") -> pa.Schema:
    """Return the columns that scoring adds; ``flagged`` says whether thresholds are asked for."""
    found = SCORES.append(FLAGGED) if flagged else SCORES
    return pa.schema([field.with_name(prefix + field.name) for field in found])


def table_of(rows: Sequence[TextScore], flagged: bool = False) -> pa.Table:
    """Return the scores of rows as a table with the columns of :func:`score_columns`."""
    found = [row.columns() for row in rows]
    arrays = [pa.array([row[name] for row in found], kind) for name, kind in SCORE_TYPES]
    if flagged:
        flags = [None if row.flagged is None else ",".join(row.flagged) for row in rows]
        arrays.append(pa.array(flags, FLAGGED.type))
    return pa.table(arrays, schema=score_columns(flagged))
