"""A DataFrame in, the same DataFrame with scores out: pandas, polars, or what narwhals knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar, cast

import narwhals as nw

from hatespeech.contract import COLUMNS, TextScore

Frame = TypeVar("Frame")

FLAGGED: Final = "flagged"
# By the Arrow types that the contract names.
DTYPES: Final[dict[str, Any]] = {"float": nw.Float32, "int32": nw.Int32, "string": nw.String}


def texts_of(frame: object, column: str, prefix: str, *, flagged: bool) -> list[Any]:
    """Return the values of a column.

    Raises :class:`ValueError` if the frame lacks the column or has one of the new columns already,
    and :class:`TypeError` for what is not a DataFrame.
    """
    try:
        data = nw.from_native(cast(Any, frame), eager_only=True)
        names = data.columns
    except TypeError:
        raise TypeError(
            f"frame: must be a DataFrame, not {type(frame).__name__}; collect a lazy one first"
        ) from None
    except nw.exceptions.DuplicateError:
        raise ValueError("two columns have the same name; rename one") from None
    if not all(isinstance(name, str) for name in names):
        raise ValueError("names of columns must be strings; rename them first")
    if column not in names:
        raise ValueError(
            f"there is no column {column!r}; the columns are {', '.join(data.columns)}"
        )
    taken = [prefix + name for name in _names(flagged) if prefix + name in names]
    if taken:
        raise ValueError(f"columns {', '.join(taken)} exist already; prefix= renames the new ones")
    values: list[Any] = data[column].to_list()
    return values


def add_scores(frame: Frame, items: Sequence[TextScore], prefix: str, *, flagged: bool) -> Frame:
    """Return a frame with one column more for each column of score.py."""
    data = nw.from_native(cast(Any, frame), eager_only=True)
    rows = [item.columns() for item in items]
    values = {name: [row[name] for row in rows] for name in COLUMNS}
    dtypes = {name: DTYPES[kind] for name, kind in COLUMNS.items()}
    if flagged:
        values[FLAGGED] = [None if i.flagged is None else ",".join(i.flagged) for i in items]
        dtypes[FLAGGED] = nw.String
    added = [
        _series(prefix + name, values[name], dtypes[name], data.implementation) for name in values
    ]
    return cast(Frame, data.with_columns(*added).to_native())


def _series(name: str, values: list[Any], dtype: Any, backend: Any) -> nw.Series[Any]:
    if dtype is nw.Int32 and backend.is_pandas_like():
        # Only its nullable integers can hold a missing value.
        native = backend.to_native_namespace().Series(values, name=name, dtype="Int32")
        return nw.from_native(native, series_only=True)
    return nw.new_series(name, values, dtype, backend=backend)


def _names(flagged: bool) -> list[str]:
    return [*COLUMNS, *([FLAGGED] if flagged else [])]
