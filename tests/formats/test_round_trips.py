"""Every format in and out: nothing of a row changes, whatever the file system and compression."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hatespeech.bulk.engines.base import Chunk
from hatespeech.bulk.places import Input, Place
from hatespeech.bulk.plan import Plan, RunOptions, make_plan
from hatespeech.bulk.row_scoring import CHUNK_CHARS, PIECE, chunks_of_piece, pieces_of
from hatespeech.formats.interface import Block, Head
from hatespeech.formats.lines import (
    CsvReader,
    CsvWriter,
    JsonlReader,
    JsonlWriter,
    TsvReader,
    TsvWriter,
)
from hatespeech.formats.names import Format
from hatespeech.formats.scores import SCORES, score_columns
from hatespeech.labels import FLAGS, LABELS
from hatespeech.settings import EngineSettings
from tests.support.processes.score import run_here as run

pytestmark = pytest.mark.usefixtures("mini")

TEXTS = ["good morning", "win a free phone now, call 0800", 'a "quoted", long\nline', "schön 🎉"]
NEW = score_columns(prefix="new ")
ADDED = [*FLAGS, "label", "windows", "warnings", "read_as", "error"]


def compress(name: str, data: bytes) -> bytes:
    if name.endswith(".gz"):
        middle = len(data) // 2  # two members, as parallel compressors write
        return gzip.compress(data[:middle]) + gzip.compress(data[middle:])
    return pa.compress(data, codec="zstd", asbytes=True) if name.endswith(".zst") else data


def decompress(name: str, data: bytes) -> str:
    if name.endswith(".zst"):
        return str(pa.CompressedInputStream(io.BytesIO(data), "zstd").read(), "utf-8")
    return (gzip.decompress(data) if name.endswith(".gz") else data).decode()


def assert_scored(row: dict[str, Any]) -> None:
    scores = {label: float(row[label]) for label in LABELS}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert float(row["toxic"]) == pytest.approx(scores["hate"] + scores["abusing"], abs=1e-6)
    assert row["label"] == max(scores, key=scores.__getitem__)
    assert int(row["windows"]) == 1


@pytest.mark.parametrize(
    ("source", "out"), [("a.csv", "b.csv.gz"), ("a.csv.gz", "b.csv.zst"), ("a.CSV.zst", "b.csv")]
)
def test_csv_keeps_every_field(source: str, out: str, tmp_path: Path) -> None:
    rows = [[f"00{i}", text, "", "a,b"] for i, text in enumerate(TEXTS)]
    text = io.StringIO()
    csv.writer(text).writerows([["id", "text", "empty", "list"], *rows])
    (tmp_path / source).write_bytes(compress(source, b"\xef\xbb\xbf" + text.getvalue().encode()))
    run(tmp_path / source, tmp_path / out)
    written = decompress(out, (tmp_path / out).read_bytes())
    header, *found = csv.reader(io.StringIO(written, newline=""))
    assert header == ["id", "text", "empty", "list", *ADDED]
    assert [row[:4] for row in found] == rows
    for row in found:
        assert_scored(dict(zip(header, row, strict=True)))
        assert row[-1] == ""


def test_tsv_keeps_quotes_that_belong_to_its_fields(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tid\n"half a quote\t1\nplain\t"2"\n', encoding="utf-8")
    run(tmp_path / "a.tsv", tmp_path / "b.tsv", "--quoting", "none")
    header, *found = (tmp_path / "b.tsv").read_text(encoding="utf-8").splitlines()
    assert header.split("\t") == ["text", "id", *ADDED]
    assert [line.split("\t")[:2] for line in found] == [['"half a quote', "1"], ["plain", '"2"']]


@pytest.mark.parametrize(
    ("source", "out"), [("a.jsonl", "b.ndjson"), ("a.ndjson.gz", "b.jsonl.zst")]
)
def test_jsonl_keeps_values_and_the_order_of_keys(source: str, out: str, tmp_path: Path) -> None:
    lines = [
        '{"z": 1.50, "text": "good morning", "a": {"deep": [1, null]}, "big": 12345678901234567}',
        '{ "text" : "caf\\u00e9 \\ud83c" , "dup": 1, "dup": 2 }',
        "{}",
        '{"text": "x\u2028y"}',
    ]
    data = "\r\n\n".join(lines).encode()
    (tmp_path / source).write_bytes(compress(source, data))
    run(tmp_path / source, tmp_path / out)
    found = decompress(out, (tmp_path / out).read_bytes()).removesuffix("\n").split("\n")
    assert len(found) == len(lines)
    for before, after in zip(lines, found, strict=True):
        assert after.startswith(before.rstrip("}").rstrip())
        assert list(json.loads(after))[-len(ADDED) :] == ADDED
    assert_scored(json.loads(found[0]))
    assert json.loads(found[2]) == {
        **dict.fromkeys(ADDED),
        "error": "validation: text: must be a string, not null",
    }


@pytest.mark.slow
def test_parquet_keeps_types_and_metadata(tmp_path: Path) -> None:
    table = pa.table(
        {
            "at": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
            "text": pa.array(["good morning", None, "win a phone"]).dictionary_encode(),
            "tags": pa.array([["a"], [], None], pa.list_(pa.large_string())),
            "price": pa.array(["1.10", "2.20", None]).cast(pa.decimal128(9, 2)),
            "inner": pa.array([{"x": 1}, None, {"x": 3}], pa.struct([("x", pa.int8())])),
        }
    ).replace_schema_metadata({"made by": "somebody"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    run(tmp_path / "a.parquet", tmp_path / "b.parquet")
    found = pq.read_table(tmp_path / "b.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.metadata[b"made by"] == b"somebody"
    assert found.schema.names == [*table.column_names, *ADDED]
    assert found.schema.field("hate").type == pa.float32()
    rows = found.to_pylist()
    assert_scored(rows[0])
    assert_scored(rows[2])
    assert rows[1]["error"] == "validation: text: must be a string, not null"
    assert rows[1]["hate"] is rows[1]["label"] is rows[1]["windows"] is None


def test_a_url_of_any_file_system_goes_in_and_out() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bulk/in/a.csv", b"text\ngood morning\n")
    fs.pipe_file("/bulk/in/deep/b.jsonl", b'{"text": "win a phone"}\n')
    run("memory://bulk/in", "memory://bulk/out", "--report", "memory://bulk/report.html")
    assert fs.cat_file("/bulk/out/a.csv").startswith(b"text,hate,")
    assert_scored(json.loads(fs.cat_file("/bulk/out/deep/b.jsonl")))
    assert b"2 rows, 2 of them scored" in fs.cat_file("/bulk/report.html")
    assert not fs.exists("/bulk/out.partial")
    run("memory://bulk/in/*.csv", "memory://bulk/one.csv")
    assert fs.cat_file("/bulk/one.csv") == fs.cat_file("/bulk/out/a.csv")


def test_a_folder_goes_into_one_file_in_the_order_of_names(tmp_path: Path) -> None:
    for name, texts in {"b.csv": "3\n4\n", "a.csv": "1\n2\n", "sub/c.csv.gz": "5\n"}.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(compress(name, f"text\n{texts}".encode()))
    (tmp_path / "in" / "_SUCCESS").touch()
    (tmp_path / "in" / ".hidden.csv").write_text("broken")
    for _ in range(2):  # OUT within IN is no input, neither now nor later
        run(tmp_path / "in", tmp_path / "in" / "out.csv")
    rows = csv.DictReader((tmp_path / "in" / "out.csv").read_text().splitlines())
    assert [row["text"] for row in rows] == ["1", "2", "3", "4", "5"]


def test_rows_that_cannot_be_scored_get_the_errors_of_the_service(tmp_path: Path) -> None:
    values = ["good morning", "", 7, None, "\u200b", "a" * 10_001, "🎉 " * 4_000, ["x"]]
    lines = [json.dumps({"body": value}) for value in values]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    run(tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--text-column", "body", "--prefix", "our_")
    found = [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()]
    assert [row["body"] for row in found] == values
    errors = [row["our_error"] for row in found]
    assert [error and re.sub("needs [0-9]+", "needs N", error) for error in errors] == [
        None,
        "validation: text: must not be empty",
        "validation: text: must be a string",
        "validation: text: must be a string, not null",
        "validation: text: holds nothing but white space or invisible characters",
        "too_large: text: has 10001 characters, the limit is 10000",
        "too_large: text: needs N windows of 512 tokens, the limit is 32",
        "validation: text: must be a string",
    ]


def test_a_disguised_text_is_read_folded_if_the_command_asks_for_it(tmp_path: Path) -> None:
    texts = ["good morning", "you are an idiot", "you are an ʇoᴉpᴉ"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for name, options in (("b.jsonl", []), ("c.jsonl", ["--robust"])):
        run(tmp_path / "a.jsonl", tmp_path / name, *options)
    without, robust = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("b.jsonl", "c.jsonl")
    )
    assert [row["read_as"] for row in without] == [None] * 3
    # No checkpoint sees an insult in letters that stand upside down.
    assert [row["read_as"] for row in robust] == [None, None, "folded"]
    assert robust[2]["toxic"] == pytest.approx(without[1]["toxic"], abs=1e-5)


def test_a_long_text_is_read_in_windows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "some words here, " * 500}))
    run(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert json.loads((tmp_path / "b.jsonl").read_text())["windows"] > 1


def test_an_input_without_rows_gives_an_output_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    run(tmp_path / "a.csv", tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == ",".join(["text", *ADDED]) + "\n"


def a_table(kind: Any, name: str, data: bytes) -> Any:
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/tables/{name}", data)
    form = Format.of(name)
    assert form
    return kind(Input(Place(fs, f"/tables/{name}"), name, form, len(data), ""), "text", "")


def no_scores(count: int) -> pa.Table:
    return pa.Table.from_pylist([{"error": "x"}] * count, schema=SCORES)


FIELDS = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=1, max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_csv_of_any_fields_comes_back_as_it_was(rows: list[tuple[str, str]]) -> None:
    head = Head(["text", "other"])
    first, second = io.BytesIO(), io.BytesIO()
    CsvWriter(first, head, NEW).write(Block(rows, [], 0), no_scores(len(rows)))
    table = a_table(CsvReader, "a.csv", first.getvalue())
    table.column = "text"
    blocks = list(table.blocks())
    found = [row for block in blocks for row in block.rows]
    assert [tuple(row[:2]) for row in found] == rows
    assert [text for block in blocks for text in block.texts] == [text for text, _ in rows]
    CsvWriter(second, head, NEW).write(
        Block([row[:2] for row in found], [], 0), no_scores(len(rows))
    )
    assert second.getvalue() == first.getvalue()


@given(st.lists(st.dictionaries(FIELDS, FIELDS | st.none() | st.integers()), min_size=1))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_jsonl_of_any_objects_comes_back_as_it_was(rows: list[dict[str, Any]]) -> None:
    data = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
    table = a_table(JsonlReader, "a.jsonl", data)
    sink = io.BytesIO()
    added = score_columns(prefix="\0")
    for block in table.blocks():
        JsonlWriter(sink, Head(None), added).write(block, no_scores(len(block.texts)))
    found = [json.loads(line) for line in sink.getvalue().decode().removesuffix("\n").split("\n")]
    assert [{k: v for k, v in row.items() if k not in added.names} for row in found] == [
        {k: v for k, v in row.items() if k not in added.names} for row in rows
    ]


def test_tsv_field_comes_back_as_it_was() -> None:
    sink = io.BytesIO()
    TsvWriter(sink, Head(["text"]), NEW).write(Block([['"']], [], 0), no_scores(1))
    table = a_table(TsvReader, "a.tsv", sink.getvalue())
    assert [block.texts for block in table.blocks()] == [['"']]


def chunks_of(plan: Plan) -> list[Chunk]:
    """Return the chunks of a plan as machines read them, piece by piece."""
    pieces = range(len(list(pieces_of(plan))))
    return [chunk for piece in pieces for chunk in chunks_of_piece(plan, piece)]


def test_long_texts_make_parts_of_fewer_rows(tmp_path: Path) -> None:
    rows = [json.dumps({"text": "x" * 9_000, "n": index}) for index in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    job = RunOptions(
        str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "text", 4096, "", None, False
    )
    chunks = list(chunks_of(make_plan(job, EngineSettings())))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert sum(len(chunk.texts) for chunk in chunks) == 1000
    assert max(sum(map(len, chunk.texts)) for chunk in chunks) < CHUNK_CHARS + 9_000
    assert len(chunks) == 3


def test_no_part_has_rows_of_two_files_or_of_two_pieces_of_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' * 3)
    table = pa.table({"text": [str(index) for index in range(400)]})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=30)
    (tmp_path / "c.csv").write_text("text\nc\n")
    job = RunOptions(str(tmp_path), str(tmp_path / "out"), "text", 2, "", None, False)
    texts: dict[int, list[str]] = {}
    for chunk in chunks_of(make_plan(job, EngineSettings())):
        texts.setdefault(chunk.index // PIECE, []).extend(chunk.texts)
    # A piece has the row groups that 64 parts fill.
    assert {piece: len(found) for piece, found in texts.items()} == {
        0: 3, 1: 150, 2: 150, 3: 100, 4: 1
    }  # fmt: skip
    assert texts[1] + texts[2] + texts[3] == table["text"].to_pylist()


@pytest.mark.slow
def test_parquet_of_nested_dictionaries_comes_back_as_it_was(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "c", "a"]).dictionary_encode()
    nested = pa.ListArray.from_arrays(pa.array([0, 2, 3, 4]), words)
    table = pa.table({"text": ["", "", ""], "tags": nested})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=2)
    run(tmp_path / "*.parquet", tmp_path / "out.parquet")
    found = pq.ParquetFile(tmp_path / "out.parquet")
    assert found.metadata.num_row_groups == 1
    assert found.read().column("tags").to_pylist() == table.column("tags").to_pylist() * 2
