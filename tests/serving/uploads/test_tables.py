"""Tables read in bounded parts: what a small file may grow to, and what comes out of it."""

from __future__ import annotations

import io
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.contract import Prediction, TextScore
from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.formats.records import BLOCK_CHARS
from hatespeech.serving.uploads.parquet_table import CHUNK_BYTES, Parquet, parts_of, text_bytes
from hatespeech.serving.uploads.table import ADDED, UploadTable
from hatespeech.serving.uploads.text_tables import Csv, Jsonl, Tsv
from tests.support.memory import reset_peak, resident

MEGABYTE: Final = 1024 * 1024
ROWS: Final = 256
ITEM: Final = TextScore.of("", Prediction([0.1, 0.2, 0.3, 0.4], 1, None, None), None)


def repeated(values: list[str], indices: list[int | None]) -> pa.DictionaryArray:
    """Return a column whose rows are ``indices`` into ``values``; a row costs four bytes."""
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(values))


def parquet_bytes(columns: dict[str, Any], *, typed: bool = True, **options: Any) -> bytes:
    """Write a file; not ``typed``, its dictionaries are plain columns of which pages are small."""
    sink = io.BytesIO()
    limit = 64 * MEGABYTE
    pq.write_table(
        pa.table(columns), sink, store_schema=typed, dictionary_pagesize_limit=limit, **options
    )
    return sink.getvalue()


def open_parquet(content: bytes, max_group_bytes: int, rows: int = ROWS) -> Parquet:
    return Parquet(io.BytesIO(content), rows, max_group_bytes)


def text_type(content: bytes) -> pa.DataType:
    return pq.read_schema(io.BytesIO(content)).field("text").type


def score(table: UploadTable) -> tuple[bytes, list[list[Any]]]:
    """Give every row the same scores; return the file that comes out, and each part's texts."""
    table.check()
    written, parts = b"", []
    for rows, texts in table.chunks():
        written += table.write(rows, [ITEM] * len(texts))
        parts.append(texts)
    return written + table.end(), parts


# Parquet: a value is stored once, however many rows have it.


@pytest.mark.parametrize("typed", [True, False], ids=["dictionary_column", "dictionary_pages"])
def test_a_text_that_would_be_copied_for_every_row_is_refused_unread(typed: bool) -> None:
    large = "x" * (3 * MEGABYTE)
    content = parquet_bytes({"text": repeated([large], [0] * ROWS)}, typed=typed)
    del large
    assert pa.types.is_dictionary(text_type(content)) == typed
    metadata = pq.read_metadata(io.BytesIO(content))
    assert metadata.row_group(0).total_byte_size < 4 * MEGABYTE
    limit = 64 * MEGABYTE
    before = reset_peak()
    with pytest.raises(TooLargeError) as caught:
        open_parquet(content, limit).check()
    assert resident("VmHWM") - before < limit
    assert caught.value.line == f"file: has 256 rows of more than {limit} bytes"


def test_values_of_other_columns_count_as_well() -> None:
    padding = repeated(["x" * MEGABYTE], [0] * ROWS)
    content = parquet_bytes({"text": ["good"] * ROWS, "padding": padding}, typed=False)
    with pytest.raises(TooLargeError):
        open_parquet(content, 64 * MEGABYTE).check()


@pytest.mark.parametrize("nest", ["list", "struct", "map", "list_of_lists"])
def test_values_inside_nested_columns_count_as_well(nest: str) -> None:
    values = pa.array(["x" * MEGABYTE] * 64)
    offsets = pa.array(range(65), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, values)
    column = {
        "list": lists,
        "struct": pa.StructArray.from_arrays([values], ["a"]),
        "map": pa.MapArray.from_arrays(offsets, pa.array(map(str, range(64))), values),
        "list_of_lists": pa.ListArray.from_arrays(offsets, lists),
    }[nest]
    content = parquet_bytes({"text": ["good"] * 64, "nested": column})
    assert len(content) < MEGABYTE
    open_parquet(content, 80 * MEGABYTE).check()
    before = reset_peak()
    with pytest.raises(TooLargeError):
        open_parquet(content, 16 * MEGABYTE).check()
    assert resident("VmHWM") - before < 32 * MEGABYTE


@pytest.mark.parametrize("kind", ["list_of_numbers", "fixed_width"])
def test_equal_values_of_fixed_width_are_counted_before_they_are_decoded(kind: str) -> None:
    column = {
        "list_of_numbers": pa.array([[0] * (3 * MEGABYTE)], pa.list_(pa.int64())),
        "fixed_width": pa.array([b"x" * MEGABYTE] * 24, pa.binary(MEGABYTE)),
    }[kind]
    content = parquet_bytes({"text": ["good"] * len(column), "same": column})
    assert len(content) < MEGABYTE // 10
    open_parquet(content, 32 * MEGABYTE).check()
    with pytest.raises(TooLargeError, match="has a row group of more than"):
        open_parquet(content, 16 * MEGABYTE).check()


@pytest.mark.parametrize("typed", [True, False], ids=["dictionary_column", "dictionary_pages"])
def test_large_texts_that_fit_are_read_a_few_at_a_time_and_come_back_as_they_were(
    typed: bool,
) -> None:
    large = [letter * (3 * MEGABYTE // 2) for letter in "ab"]
    small = [f"small {i}" for i in range(20)]
    # Of each row group its own dictionary; nulls; rows enough for several chunks.
    indices: list[int | None] = [*[0, 1] * 4, None, *range(2, 22), None, *[1] * 7]
    text = pa.chunked_array([repeated([*large, *small], indices), repeated(large, [None, 1, 0])])
    columns = {"id": pa.array(range(len(text)), pa.int16()), "text": text}
    content = parquet_bytes(columns, typed=typed, row_group_size=len(indices))
    before = pq.read_table(io.BytesIO(content))
    assert len(content) < MEGABYTE
    scored, parts = score(open_parquet(content, 64 * MEGABYTE, rows=16))
    assert [row for part in parts for row in part] == text.to_pylist()
    assert max(sum(len(row or "") for row in part) for part in parts) <= CHUNK_BYTES
    assert max(map(len, parts)) > 2, "small texts share a part"
    after = pq.read_table(io.BytesIO(scored))
    assert after.column_names == ["id", "text", *ADDED]
    assert after.select(before.column_names).schema == before.schema
    assert after.select(before.column_names).to_pylist() == before.to_pylist()
    assert after.column("label").to_pylist() == ["spam"] * len(text)


@pytest.mark.parametrize(
    "make",
    [pa.array, lambda rows: pa.array(rows).dictionary_encode()],
    ids=["strings", "dictionary"],
)
def test_a_batch_is_cut_where_its_texts_get_too_long_and_nowhere_else(make: Any) -> None:
    rows = ["", "éé", None, "abc", "x" * 20, "a", None, "", "bcdefg", "h"]
    batch = pa.record_batch({"text": make(rows), "id": list(range(len(rows)))})
    assert text_bytes(batch.column("text")) == [0, 4, 0, 3, 20, 1, 0, 0, 6, 1]
    parts = [part.column("text").to_pylist() for part in parts_of(batch, 7)]
    assert parts == [["", "éé", None, "abc"], ["x" * 20], ["a", None, "", "bcdefg"], ["h"]]
    ids = [part.column("id").to_pylist() for part in parts_of(batch, 7)]
    assert ids == [[0, 1, 2, 3], [4], [5, 6, 7, 8], [9]]
    (whole,) = parts_of(batch, 1000)
    assert whole.equals(batch)
    assert list(parts_of(batch.slice(0, 0), 7)) == []


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_an_ordinary_file_keeps_its_types_and_goes_through_in_whole_chunks(
    kind: pa.DataType,
) -> None:
    rows = [("good", "morning", None, "")[i % 4] for i in range(1000)]
    columns = {
        "tags": pa.array([["a", None], [], None, ["b"]] * 250, pa.list_(pa.string())),
        "text": pa.array(rows, pa.string()).cast(kind),
        "bytes": pa.array([b"\xff\x00"] * 1000, pa.binary()),
        "fixed": pa.array([b"ab"] * 1000, pa.binary(2)),
        "same": pa.array(["x"] * 1000, pa.dictionary(pa.int8(), pa.string())),
        "nested": [{"a": ["b"], "c": i} for i in range(1000)],
    }
    content = parquet_bytes(columns, row_group_size=600)
    scored, parts = score(open_parquet(content, MEGABYTE))
    assert [row for part in parts for row in part] == rows
    assert len(parts) <= 6
    before, after = (pq.read_table(io.BytesIO(each)) for each in (content, scored))
    assert after.schema.names == [*columns, *ADDED]
    assert after.select(list(columns)).schema == before.schema
    assert after.select(list(columns)).to_pylist() == before.to_pylist()


# CSV, TSV and JSONL.

WIDE: Final = BLOCK_CHARS // 4


def csv_file(texts: list[str]) -> bytes:
    return ("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts))).encode()


def tsv_file(texts: list[str]) -> bytes:
    return csv_file(texts).replace(b",", b"\t")


def jsonl_file(texts: list[str]) -> bytes:
    return "".join(f'{{"id": {i}, "text": "{text}"}}\n' for i, text in enumerate(texts)).encode()


@pytest.mark.parametrize(
    ("kind", "write"),
    [(Csv, csv_file), (Tsv, tsv_file), (Jsonl, jsonl_file)],
    ids=["csv", "tsv", "jsonl"],
)
def test_a_chunk_closes_once_it_holds_many_characters(kind: type[UploadTable], write: Any) -> None:
    texts = [*(str(i % 10) * WIDE for i in range(11)), *(f"short {i}" for i in range(9))]
    scored, parts = score(kind(io.BytesIO(write(texts)), 7, MEGABYTE))
    parts = [part for part in parts if part]
    assert [row for part in parts for row in part] == texts
    assert max(map(len, parts)) <= 7
    assert max(sum(map(len, part[:-1])) for part in parts) < BLOCK_CHARS
    # Nor does it close earlier than it must.
    assert [len(part) for part in parts][:2] == [4, 4]
    assert [len(part) for part in parts][2:] == [7, 5]
    assert scored.count(b"\n") == len(texts) + (kind is not Jsonl)


def test_characters_of_other_columns_fill_a_chunk_as_well() -> None:
    content = "pad,text\n" + f"{'x' * WIDE},good\n" * 9
    _, parts = score(Csv(io.BytesIO(content.encode()), 100, MEGABYTE))
    assert [len(part) for part in parts if part] == [4, 4, 1]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ['{{"text": {}}}', '{{"text": "a", "x": [{{"y": {}}}]}}'])
def test_json_to_python_alone_is_refused_by_the_number_of_its_line(
    constant: str, place: str
) -> None:
    content = '{"text": "NaN"}\n\n' + place.format(constant) + '\n{"text": "b"}\n'
    with pytest.raises(ValidationError) as caught:
        Jsonl(io.BytesIO(content.encode()), ROWS, MEGABYTE).check()
    assert caught.value.line == "file: line 3 is not a JSON object"
