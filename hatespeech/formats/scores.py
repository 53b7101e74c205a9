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


def table_of(rows: Sequence[TextScore]) -> pa.Table:
    """Return the scores of rows as a table with the columns of :data:`SCORES`."""
    found = [row.columns() for row in rows]
    arrays = [pa.array([row[name] for row in found], kind) for name, kind in SCORE_TYPES]
    return pa.table(arrays, schema=SCORES)
