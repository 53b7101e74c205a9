"""Single values on their way from one format to another.

Between formats a value is what JSON can represent: ``None``, a bool, int, float, str, list or dict.
Text formats hold it as text.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

# Numbers that JSON does not have, by their names in Arrow.
NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
AS_THEY_ARE: Final = (types.is_null, types.is_boolean, types.is_integer)
BINARY: Final = (
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
    types.is_fixed_size_binary,
)
# float64 holds every integer up to here.
EXACT: Final = 2**53
# The type of a column by the kind of its values; the kind is None if all values are null.
ARROW: Final[Mapping[str | None, pa.DataType]] = {
    None: pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),  # within EXACT
    "large int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),  # also for mixed and nested values, as text
}
# One encoder for all values: json.dumps with this argument would make one for every call.
to_json: Final = json.JSONEncoder(ensure_ascii=False).encode
JOINED: Final = {frozenset({"int", "large int"}): "large int", frozenset({"int", "float"}): "float"}


def text_of(value: Any) -> str:
    """Return a value as text: a string as it is, null as nothing, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else to_json(value)


def widened(kind: str | None, value: Any) -> str | None:
    """Return the kind of a column whose values had ``kind`` and now include ``value``."""
    match value:
        case None:
            return kind
        case bool():
            found = "bool"
        case int() if abs(value) <= EXACT:
            found = "int"
        case int() if -(2**63) <= value < 2**63:
            found = "large int"
        case float():
            found = "float"
        case _:
            found = "string"
    if kind is None or kind == found:
        return found
    return JOINED.get(frozenset({kind, found}), "string")


def batch_of(rows: Iterable[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as a batch; the schema's types must have been learnt from these values."""
    arrays = []
    for field, column in zip(schema, zip(*rows, strict=True), strict=True):
        values: Iterable[Any] = column
        if types.is_string(field.type):
            values = (None if value is None else text_of(value) for value in column)
        arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def plain(column: Any) -> list[Any]:
    """Return an Arrow array's values as JSON values; docs/bulk.md has the rules."""
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return [value and str(value) for value in column.to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        return plain(column.storage)
    if types.is_dictionary(kind):
        return plain(column.dictionary_decode())
    if types.is_map(kind):
        entry = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        entries = plain(column.cast(pa.list_(entry)))
        return [
            None if row is None else {text_of(each["key"]): each["value"] for each in row}
            for row in entries
        ]
    if types.is_struct(kind):
        names = [field.name for field in kind]
        rows = zip(*map(plain, column.flatten()), strict=True) if names else [()] * len(column)
        valid = column.is_valid().to_pylist()
        return [
            dict(zip(names, row, strict=True)) if there else None
            for row, there in zip(rows, valid, strict=True)
        ]
    if types.is_nested(kind):  # lists, large lists, fixed-size lists, list views
        items = iter(plain(column.flatten()))
        return [_take(items, length) for length in pc.list_value_length(column).to_pylist()]
    if any(test(kind) for test in AS_THEY_ARE):
        return list(column.to_pylist())
    if any(test(kind) for test in BINARY):
        return [value if value is None else _base64(value) for value in column.to_pylist()]
    if types.is_duration(kind):
        return list(column.cast(pa.int64()).to_pylist())
    if types.is_timestamp(kind):
        if kind.tz is not None:
            column = column.cast(pa.timestamp(kind.unit, "UTC"))
        text = pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
        return list(text.to_pylist())
    texts = list(column.cast(pa.string()).to_pylist())  # also dates, times and decimals
    if types.is_floating(kind):  # the text has no more digits than the type needs
        return [text and _number(text) for text in texts]
    return texts


def _take(items: Iterator[Any], length: int | None) -> list[Any] | None:
    return None if length is None else list(islice(items, length))


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _number(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else NOT_FINITE[text]
