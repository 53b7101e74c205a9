"""A run's memory does not grow with its input."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.bulk import RunError
from hatespeech.bulk.places import Place, find_inputs
from hatespeech.formats.choice import READERS
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.interface import MAX_COLUMNS, Block, Head, Reader
from hatespeech.formats.lines import FIELD_CHARS
from hatespeech.formats.names import Format
from hatespeech.formats.parquet import WAITING_TABLES, ParquetReader, ParquetWriter
from hatespeech.formats.parquet_batches import BATCH_BYTES
from hatespeech.formats.records import BLOCK_CHARS
from hatespeech.formats.scores import SCORE_TYPES, SCORES
from tests.paths import ROOT
from tests.support.processes.score import SECONDS, environment

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
FEW, MANY = 5_000, 200_000
# Beside an empty text, which costs no time on the device.
ROW_BYTES = 1000
SCRIPT = """
import importlib
import sys
from tests.support.memory import resident
code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(resident("VmHWM"))
sys.exit(code)
"""


def write(path: Path, rows: int) -> None:
    """Write rows that differ; a Parquet file gets all of them in one row group."""
    others = [f"{index}-{'y' * ROW_BYTES}" for index in range(rows)]
    if path.suffix == ".parquet":
        table = pa.table({"text": [""] * rows, "other": others})
        pq.write_table(table, path, row_group_size=rows, use_dictionary=False, compression="none")
    elif path.suffix == ".jsonl":
        lines = (json.dumps({"text": "", "other": other}) for other in others)
        path.write_text("\n".join(lines))
    else:
        tab = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f"text{tab}other\n" + "".join(f"{tab}{other}\n" for other in others))


def peaks(folder: Path, kind: str, rows: int) -> list[int]:
    """Return the bytes that a run of so many rows took at most, and then a page about all of it."""
    source, out = folder / f"{rows}", folder / f"out-{rows}{kind}"
    source.mkdir()
    for form in FORMATS:
        write(source / f"a{form}", rows // len(FORMATS))
    scored = peak(folder, "command", source, out)
    if kind:
        return [scored]
    shown = ("--group-by", "other", "--id-column", "other", "--include-text")
    return [scored, peak(folder, "report_command", out, folder / f"{rows}.html", *shown)]


def peak(folder: Path, module: str, *arguments: object) -> int:
    """Return the bytes that a command took at most."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"hatespeech.bulk.{module}", *map(str, arguments)],
        env={**environment(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("small", [0, 3000], ids=["throughout", "after_small_ones"])
def test_values_that_a_dictionary_makes_small_in_the_file_come_a_few_at_a_time(
    small: int, tmp_path: Path
) -> None:
    """Such as the page that many tweets link to: once in the file, once in each row in memory."""
    rows = 6000
    index = pa.array([0] * small + [1] * (rows - small), pa.int32())
    pages = pa.DictionaryArray.from_arrays(index, ["", "y" * 40_000])
    table = pa.table({"text": [f"{row}" for row in range(rows)], "page": pages})
    path = tmp_path / "a.parquet"
    # It reads back as plain strings.
    pq.write_table(table, path, store_schema=False, row_group_size=rows)
    assert path.stat().st_size < 1_000_000
    (source,) = find_inputs(str(path), Place.of("out")).inputs
    texts: list[str] = []
    sizes: list[int] = []
    for block in ParquetReader(source, "text", "").blocks():
        sizes.append(block.rows.nbytes)
        texts += block.texts
        assert set(block.rows["page"].to_pylist()) <= {"", "y" * 40_000}
    assert texts == table["text"].to_pylist()
    # One block may be what shows that rows have become larger.
    assert sum(size > 1.1 * BATCH_BYTES for size in sizes) <= bool(small)


def table_of(path: Path) -> Reader:
    (source,) = find_inputs(str(path), Place.of("out")).inputs
    return READERS[source.format.kind](source, "text", "")


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_a_block_holds_few_rows_of_many_empty_fields(kind: str, tmp_path: Path) -> None:
    """Which take next to nothing in a compressed file, and a pointer each in memory."""
    path, fields, rows = tmp_path / f"a.{kind}.gz", 5000, 200
    tab = "," if kind == "csv" else "\t"
    with gzip.open(path, "wt") as file:
        file.write(tab.join(["text", *(f"c{index}" for index in range(1, fields))]) + "\n")
        file.write((tab * (fields - 1) + "\n") * rows)
    sizes = [sum(map(len, block.rows)) for block in table_of(path).blocks()]
    assert sum(sizes) == rows * fields
    assert max(sizes) <= BLOCK_CHARS // FIELD_CHARS + fields


def test_values_that_are_no_texts_do_not_wait_for_their_scores(tmp_path: Path) -> None:
    """A list of empty lists is some twenty times as large in memory as in JSON."""
    path = tmp_path / "a.jsonl.gz"
    values = ["[" + ",".join(["[]"] * 1000) + "]", '"good morning"', "null", '{"a": {}}', "7"]
    with gzip.open(path, "wt") as file:
        file.write("".join(f'{{"text": {value}}}\n' for value in values))
    (texts,) = table_of(path).texts()
    assert texts == [False, "good morning", None, False, False]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_more_columns_than_memory_is_planned_for_are_refused(kind: str, tmp_path: Path) -> None:
    path, out = tmp_path / f"a.{kind}", tmp_path / "b.parquet"
    names = ["text", *(f"c{index}" for index in range(MAX_COLUMNS))]
    if kind == "parquet":
        pq.write_table(pa.table({name: ["a"] for name in names}), path)
    elif kind == "jsonl":
        path.write_text(json.dumps(dict.fromkeys(names, "a")) + "\n")
    else:
        path.write_text(("," if kind == "csv" else "\t").join(names) + "\n")
    said = re.escape(f"{path}: has {MAX_COLUMNS + 1:,} columns; the limit is {MAX_COLUMNS:,}")
    with pytest.raises(RunError, match=f"^{said}$"):
        Conversion(Format("Parquet", None), [table_of(path)]).require_common_columns()
    assert not out.exists()


def test_blocks_of_a_wide_table_are_joined_while_a_row_group_fills(tmp_path: Path) -> None:
    """A table takes some hundred bytes for each of its columns, however few its rows are."""
    names = ["text", *(f"c{index}" for index in range(50))]
    schema = pa.schema([(name, pa.string()) for name in names])
    batch = pa.RecordBatch.from_pylist([dict.fromkeys(names, "")], schema)
    scores = pa.table({name: pa.nulls(1, kind) for name, kind in SCORE_TYPES}, SCORES)
    waiting = []
    with (tmp_path / "a.parquet").open("wb") as file:
        writer = ParquetWriter(file, Head(schema), SCORES)
        for _ in range(100):
            writer.write(Block(batch, [""], 0), scores)
            waiting.append(len(writer._waiting))
        writer.close()
    assert max(waiting) < 2 * WAITING_TABLES
    assert len(pq.read_table(tmp_path / "a.parquet")) == 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", ".parquet"], ids=["each_in_its_format", "all_into_parquet"])
def test_forty_times_the_rows_take_the_same_memory(kind: str, tmp_path: Path) -> None:
    few, many = (peaks(tmp_path, kind, rows) for rows in (FEW, MANY))
    grown = (MANY - FEW) * ROW_BYTES
    # As a whole in memory it would be that, or several times as much; Parquet's writer keeps a row
    # group, which ends at 16 MiB, encoded and not.
    assert many[0] - few[0] < 0.6 * grown, f"{few} {many}"
    assert all(page[0] - page[1] < 0.3 * grown for page in zip(many[1:], few[1:], strict=True))
