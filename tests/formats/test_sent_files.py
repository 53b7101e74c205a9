"""Files that strangers send: what a small one may grow to, and what comes out of it."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import decimal
import io
import os
import struct
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.contract import Prediction, TextScore
from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.formats.file_options import FileOptions
from hatespeech.formats.foreign_parquet import ForeignParquet
from hatespeech.formats.interface import BLOCK_ROWS, ReadLimits
from hatespeech.formats.limited_process import LANDLOCK_CREATE_RULESET
from hatespeech.formats.names import Format
from hatespeech.formats.parquet import BLOCK_TEXT_BYTES, parts_of
from hatespeech.formats.parquet_batches import BATCH_BYTES, batches, open_parquet, text_bytes
from hatespeech.formats.records import BLOCK_CHARS
from hatespeech.formats.scored_file import ScoredFile, SentFile
from hatespeech.formats.scores import SCORES, table_of
from hatespeech.serving.uploads.table import UploadLimits, UploadTable
from tests.support.memory import reset_peak, resident
from tests.support.processes.worker import wait_until

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


def sent(name: str, content: bytes, max_rows: int = 1_000_000) -> ScoredFile:
    """Open a file of text as an upload is opened."""
    form = Format.of(name)
    assert form
    return ScoredFile(
        SentFile(lambda: io.BytesIO(content), form),
        FileOptions(compression=form.compression),
        ReadLimits(max_rows, 100 * MEGABYTE),
    )


@contextlib.contextmanager
def parquet_table(
    content: bytes, max_rows: int | None = None, process_bytes: int = 256 * MEGABYTE
) -> Iterator[ForeignParquet]:
    """Open a file as an upload is opened; its process ends with the block."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        with contextlib.closing(
            ForeignParquet(file, FileOptions(), ReadLimits(max_rows), process_bytes)
        ) as table:
            yield table


def text_type(content: bytes) -> pa.DataType:
    return pq.read_schema(io.BytesIO(content)).field("text").type


def score(table: ScoredFile | ForeignParquet) -> tuple[bytes, list[list[Any]]]:
    """Give every row the same scores; return the file that comes out, and each block's texts."""
    table.check()
    written, parts = b"", []
    while (texts := table.next()) is not None:
        written += table.write(table_of([ITEM] * len(texts)))
        parts.append(texts)
    return written + table.end(), parts


# Parquet: what a file may grow to. A process of its own reads it, and that process is limited.


def huge_page(values: int) -> bytes:
    """Return a file whose one page holds this many distinct bytes of text, well compressed."""
    return parquet_bytes(
        {"text": ["good", "x" * values]},
        compression="zstd",
        use_dictionary=False,
    )


def lying_list(items: int, told: int) -> bytes:
    """Return a file whose footer tells another number of a list's items than its pages hold."""
    column = pa.array([[0] * items], pa.list_(pa.int64()))
    content = parquet_bytes({"text": ["good"], "same": column})
    (footer,) = struct.unpack("<i", content[-8:-4])
    start = len(content) - 8 - footer
    said = varint(items)
    assert said in content[start:-8]
    lie = bytes([told << 1 | 128, *[128] * (len(said) - 2), 0])  # a varint of the same length
    return content[:start] + content[start:-8].replace(said, lie) + content[-8:]


def varint(number: int) -> bytes:
    """Encode as Thrift's compact protocol encodes an i64."""
    left, out = number << 1, []
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    return bytes([*out, left])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["page", "list", "lying_list", "dictionary", "delta", "map"])
def test_a_small_file_that_needs_much_memory_is_refused_and_takes_none_of_ours(name: str) -> None:
    large = "x" * (8 * MEGABYTE)
    content = {
        "page": lambda: huge_page(96 * MEGABYTE),
        "list": lambda: parquet_bytes(
            {
                "text": ["good"],
                "same": pa.array([[0] * (12 * MEGABYTE)], pa.list_(pa.int64())),
            }
        ),
        "lying_list": lambda: lying_list(12 * MEGABYTE, 1),
        "dictionary": lambda: parquet_bytes({"text": repeated([large], [0] * 16)}, typed=False),
        "delta": lambda: parquet_bytes(
            {"text": [large] * 16},
            use_dictionary=False,
            column_encoding={"text": "DELTA_BYTE_ARRAY"},
        ),
        "map": lambda: parquet_bytes(
            {
                "text": ["good"],
                "nested": pa.array([[(1, large)] * 16], pa.map_(pa.int8(), pa.string())),
            }
        ),
    }[name]()
    assert len(content) < 8 * MEGABYTE
    with parquet_table(content, process_bytes=64 * MEGABYTE) as table:
        before = reset_peak()
        with pytest.raises(TooLargeError) as caught:
            table.check()
        assert resident("VmHWM") - before < 16 * MEGABYTE
        assert caught.value.line == (
            f"file: needs more than {64 * MEGABYTE} bytes of memory to be read"
        )


@pytest.mark.slow
def test_a_file_that_holds_fewer_rows_than_it_says_is_refused() -> None:
    with (
        parquet_table(lying_list(1000, 0)) as table,
        pytest.raises(ValidationError, match="can't be read as Parquet"),
    ):
        table.check()


def column_of(name: str) -> pa.Array:
    """Return a column that takes kilobytes in a file, and more than a megabyte when it is read."""
    if name == "value":
        return repeated(["x" * 100_000], [0] * 30)
    if name == "item":
        return pa.array([[None] * 10_000] * 150, pa.list_(pa.null()))
    if name == "field":
        nulls = [pa.nulls(100_000)] * 16
        return pa.StructArray.from_arrays(nulls, [f"f{i}" for i in range(len(nulls))])
    return repeated(["x" * MEGABYTE], [0] * 30_000)


@pytest.mark.parametrize("name", ["value", "item", "field", "dictionary"])
def test_what_a_small_file_repeats_counts_each_time(name: str) -> None:
    column = column_of(name)
    rows = len(column)
    columns = {"text": pa.nulls(rows, pa.string()), "more": column}
    content = parquet_bytes(columns, typed=name != "value", compression="zstd")
    assert len(content) < 32 * 1024
    form = Format("Parquet", None)
    for most in (MEGABYTE, 16 * MEGABYTE):
        source = SentFile(lambda: io.BytesIO(content), form)
        table = ScoredFile(source, FileOptions(), ReadLimits(max_bytes=most))
        if most > MEGABYTE:
            assert table.check() == rows
            continue
        with pytest.raises(TooLargeError) as caught:
            table.check()
        assert caught.value.line == (
            "file: has more than 1048576 bytes of values; leave out columns, or send it in parts"
        )


@pytest.mark.slow
def test_the_values_of_an_upload_may_have_a_hundred_times_its_bytes_and_no_more() -> None:
    texts = [f"good morning {number} 👋" for number in range(2000)]
    often = pa.repeat("<a href='https://example.com'>an app</a>", len(texts))
    honest = parquet_bytes({"text": texts, "source": often, "place": pa.nulls(len(texts))})
    bomb = parquet_bytes({"text": repeated(["x" * 10_000], [0] * 2000)}, typed=False)
    limits = UploadLimits(1_000_000, 1, 256 * MEGABYTE)
    for content, rows in ((honest, 2000), (bomb, None)):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            table = UploadTable(file, Format("Parquet", None), FileOptions(), limits)
            with contextlib.closing(table):
                if rows is not None:
                    assert table.check() == rows
                    continue
                more = f"has more than {100 * len(content)} bytes of values"
                with pytest.raises(TooLargeError, match=more):
                    table.check()


@pytest.mark.slow
def test_a_process_that_reads_knows_no_secret_and_dies_with_its_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "a-secret-of-the-server")
    with parquet_table(parquet_bytes({"text": ["good"]})) as table:
        table.check()
        process = table.process._process
        assert b"a-secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        assert process.poll() is None
    assert process.poll() is not None


# Runs in the process that reads, in place of its check, as code that has taken it over could.
TAKEN_OVER: Final = """
import os
from pathlib import Path
from hatespeech.formats import scored_file

def check(self, made_by=None):
    found = {}
    for path in made_by:
        try:
            os.listdir(path) if os.path.isdir(path) else Path(path).read_bytes()
            found[path] = "read"
        except OSError as error:
            found[path] = type(error).__name__
    return found

scored_file.ScoredFile.check = check
"""


@pytest.mark.slow
def test_a_process_that_was_taken_over_reads_neither_the_servers_secrets_nor_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_landlock():
        pytest.skip("this kernel has no Landlock: Linux 5.13 or later has it, unless it is off")
    injected = tmp_path / "injected"
    injected.mkdir()
    (injected / "sitecustomize.py").write_text(TAKEN_OVER)
    monkeypatch.syspath_prepend(injected)
    secret = tmp_path / "jobs.sqlite3"
    secret.write_text("a text")
    paths = [f"/proc/{os.getpid()}/environ", "/proc/self/environ", "/proc", str(secret), "/"]
    with parquet_table(parquet_bytes({"text": ["good"]})) as table:
        found: Any = table.check(dict.fromkeys(paths, ""))
        assert found == dict.fromkeys(paths, "PermissionError")
        pid = table.process._process.pid
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1, "a thread may open files"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["snappy", "zstd", "gzip", "brotli", "lz4"])
def test_a_table_of_many_types_goes_through_a_process_that_opens_no_files(codec: str) -> None:
    rows = 50
    noon = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    values: dict[str, tuple[Any, pa.DataType]] = {
        "text": ("good", pa.string()),
        "time": (noon, pa.timestamp("us", "Europe/Berlin")),
        "day": (noon.date(), pa.date32()),
        "lasts": (datetime.timedelta(1), pa.duration("us")),
        "price": (decimal.Decimal("1.5"), pa.decimal128(10, 2)),
        "half": (1.5, pa.float16()),
        "bytes": (b"x", pa.binary()),
        "uuid": (uuid.UUID(int=1).bytes, pa.uuid()),
        "map": ([("a", 1)], pa.map_(pa.string(), pa.int8())),
        "pair": ([1, 2], pa.list_(pa.int8(), 2)),
        "view": ("v", pa.string_view()),
        "deep": ([{"b": [1]}], pa.list_(pa.struct([("b", pa.list_(pa.int8()))]))),
        "kind": ("a", pa.dictionary(pa.int8(), pa.string())),
        "nothing": (None, pa.null()),
    }
    columns = {name: pa.array([value] * rows, kind) for name, (value, kind) in values.items()}
    content = parquet_bytes(columns, compression=codec)
    with parquet_table(content) as table:
        scored, _ = score(table)
    before, after = (pq.read_table(io.BytesIO(each)) for each in (content, scored))
    assert after.select(before.column_names).equals(before)


def has_landlock() -> bool:
    libc = ctypes.CDLL(None)
    version: int = libc.syscall(ctypes.c_long(LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), 1)
    return version > 0


@pytest.mark.slow
def test_closing_a_table_ends_the_check_that_another_thread_waits_for() -> None:
    given = UploadLimits(1_000_000_000, 1 << 40, 256 * MEGABYTE)
    rows = pa.table({"text": pa.nulls(1_000_000, pa.string())})
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(1) as threads:
        with pq.ParquetWriter(file, rows.schema) as writer:
            for _ in range(100):
                writer.write_table(rows)
        file.flush()
        table = UploadTable(file, Format("Parquet", None), FileOptions(), given)
        check = threads.submit(table.check)
        wait_until(lambda: table._process is not None, "the process to start")
        table.close()
        assert isinstance(check.exception(timeout=60), TooLargeError)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_file_of_too_many_rows_is_refused(kind: str) -> None:
    texts: list[str | None] = ["a"] * 30
    content = {
        "csv": b"text\n" + b"a\n" * 30,
        "jsonl": b'{"text": "a"}\n' * 30,
        "parquet": parquet_bytes({"text": texts}),
    }[kind]
    for max_rows in (29, 30):
        with contextlib.ExitStack() as stack:
            if kind == "parquet":
                table: Any = stack.enter_context(parquet_table(content, max_rows))
            else:
                table = sent(f"a.{kind}", content, max_rows)
            if max_rows == 30:
                table.check()
            else:
                with pytest.raises(TooLargeError, match="has more than 29 rows"):
                    table.check()


@pytest.mark.slow
def test_billions_of_null_rows_are_refused_by_their_number() -> None:
    content = parquet_bytes({"text": pa.nulls(50_000_000, pa.string())}, row_group_size=10_000_000)
    assert len(content) < MEGABYTE
    more = "has more than 10000000 rows"
    with parquet_table(content, 10_000_000) as table, pytest.raises(TooLargeError, match=more):
        table.check()


def test_rows_that_share_a_large_value_are_read_a_few_at_a_time() -> None:
    rows = ["x" * MEGABYTE] * ROWS
    content = parquet_bytes({"text": repeated(rows[:1], [0] * ROWS)}, typed=False)
    sizes = [batch.nbytes for batch in batches(open_parquet(io.BytesIO(content)), ROWS)]
    assert max(sizes) <= BATCH_BYTES + MEGABYTE
    small = parquet_bytes({"text": ["good"] * 1000})
    counts = [len(batch) for batch in batches(open_parquet(io.BytesIO(small)), ROWS)]
    assert counts == [16, 240, 256, 256, 232]
    # Rows that grow: their number falls, and none is lost or repeated.
    grows = [str(i) * (1 if i < 300 else 200_000) for i in range(600)]
    content = parquet_bytes({"text": grows}, row_group_size=400)
    found = list(batches(open_parquet(io.BytesIO(content)), ROWS))
    assert [row for batch in found for row in batch.column("text").to_pylist()] == grows
    assert max(batch.nbytes for batch in found) <= 3 * BATCH_BYTES


@pytest.mark.slow
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
    with parquet_table(content) as table:
        scored, parts = score(table)
    assert [row for part in parts for row in part] == text.to_pylist()
    assert max(sum(len(row or "") for row in part) for part in parts) <= BLOCK_TEXT_BYTES
    assert max(map(len, parts)) > 2, "small texts share a part"
    after = pq.read_table(io.BytesIO(scored))
    assert after.column_names == ["id", "text", *SCORES.names]
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
    parts = [part.column("text").to_pylist() for part in parts_of(batch, "text", 7)]
    assert parts == [["", "éé", None, "abc"], ["x" * 20], ["a", None, "", "bcdefg"], ["h"]]
    ids = [part.column("id").to_pylist() for part in parts_of(batch, "text", 7)]
    assert ids == [[0, 1, 2, 3], [4], [5, 6, 7, 8], [9]]
    (whole,) = parts_of(batch, "text", 1000)
    assert whole.equals(batch)
    assert list(parts_of(batch.slice(0, 0), "text", 7)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
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
    with parquet_table(content) as table:
        scored, parts = score(table)
    assert [row for part in parts for row in part] == rows
    assert len(parts) <= 7
    before, after = (pq.read_table(io.BytesIO(each)) for each in (content, scored))
    assert after.schema.names == [*columns, *SCORES.names]
    assert after.select(list(columns)).schema == before.schema
    assert after.select(list(columns)).to_pylist() == before.to_pylist()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_every_encoding_of_texts_is_read(encoding: str) -> None:
    rows = [f"good morning {i}" if i % 5 else None for i in range(1000)]
    numbers = pa.array(range(1000), pa.int64())
    content = parquet_bytes(
        {"text": rows, "id": numbers},
        use_dictionary=False,
        column_encoding={"text": encoding, "id": "DELTA_BINARY_PACKED"},
    )
    with parquet_table(content) as table:
        scored, parts = score(table)
    assert [row for part in parts for row in part] == rows
    assert pq.read_table(io.BytesIO(scored)).column("id").to_pylist() == list(range(1000))


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
    [("csv", csv_file), ("tsv", tsv_file), ("jsonl", jsonl_file)],
)
def test_a_chunk_closes_once_it_holds_many_characters(kind: str, write: Any) -> None:
    texts = [*(str(i % 10) * WIDE for i in range(11)), *(f"short {i}" for i in range(9))]
    scored, parts = score(sent(f"a.{kind}", write(texts)))
    assert [row for part in parts for row in part] == texts
    assert max(sum(map(len, part[:-1])) for part in parts) < BLOCK_CHARS
    # Nor does it close earlier than it must.
    assert [len(part) for part in parts] == [4, 4, 12]
    assert scored.count(b"\n") == len(texts) + (kind != "jsonl")


def test_characters_of_other_columns_fill_a_chunk_as_well() -> None:
    content = "pad,text\n" + f"{'x' * WIDE},good\n" * 9
    _, parts = score(sent("a.csv", content.encode()))
    assert [len(part) for part in parts] == [4, 4, 1]


def test_a_block_holds_so_many_rows_at_most() -> None:
    _, parts = score(sent("a.csv", b"text\n" + b"a\n" * (2 * BLOCK_ROWS + 1)))
    assert [len(part) for part in parts] == [BLOCK_ROWS, BLOCK_ROWS, 1]


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ['{{"text": {}}}', '{{"text": "a", "x": [{{"y": {}}}]}}'])
def test_json_to_python_alone_is_refused_by_the_number_of_its_row(
    constant: str, place: str
) -> None:
    content = '{"text": "NaN"}\n\n' + place.format(constant) + '\n{"text": "b"}\n'
    with pytest.raises(ValidationError) as caught:
        sent("a.jsonl", content.encode()).check()
    assert caught.value.line == (
        "file: row 2 holds NaN or Infinity, which Python writes but JSON does not have; "
        "write null instead"
    )


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.gz", "a.csv.zst"])
def test_a_compressed_file_that_never_seems_to_end_is_refused(name: str) -> None:
    codec = "gzip" if name.endswith(".gz") else "zstd"
    blank = pa.compress(b"text\n" + b"\n" * (20 * MEGABYTE), codec=codec, asbytes=True)
    assert len(blank) < MEGABYTE // 8
    form = Format.of(name)
    assert form
    source = SentFile(lambda: io.BytesIO(blank), form, 8 * MEGABYTE)
    for most in (MEGABYTE, 30 * MEGABYTE):
        table = ScoredFile(source, FileOptions(), ReadLimits(max_chars=most))
        if name.startswith("a.jsonl"):  # "text" is not an object
            expected: type[Exception] = ValidationError
        elif most == MEGABYTE:
            expected = TooLargeError
        else:
            table.check()
            continue
        with pytest.raises(expected):
            table.check()
