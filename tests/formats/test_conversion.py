"""OUT in another format than IN: what comes out, what is refused, and that it survives a kill."""

from __future__ import annotations

import csv
import datetime
import json
import math
import random
import signal
import struct
import uuid
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hatespeech.bulk import command as score
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.json_values import ARROW, EXACT, batch_of, text_of, widened
from hatespeech.formats.scores import SCORES
from tests.support.processes.score import run_here as run
from tests.support.processes.score import run_score

pytestmark = pytest.mark.usefixtures("mini")

SECRET = "nobody-may-read-this"
FORMATS = ["csv", "tsv", "jsonl", "parquet"]
COLUMNS = ["id", "text", "empty", "other"]
STRINGS = [
    ["007", "good morning", "", "1.50"],
    ["008", 'a "quoted", text', "", "null"],
    ["009", "schön 🎉\u2028", "", "{}"],
    ["010", "", "", "true"],
]


def write(name: str, columns: list[str], rows: Sequence[Sequence[Any]]) -> None:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), path)
    elif path.suffix == ".jsonl":
        objects = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
        path.write_text("\n".join(objects), encoding="utf-8")
    else:
        dialect = Dialect().arguments("TSV") if path.suffix == ".tsv" else {}
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, **dialect).writerows([columns, *rows])


def read(name: str) -> list[dict[str, Any]]:
    path = Path(name)
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = path.read_bytes().decode()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    if path.suffix == ".tsv":
        header, *lines = (line.split("\t") for line in text.removesuffix("\n").split("\n"))
        return [dict(zip(header, line, strict=True)) for line in lines]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def slow_if_parquet(*names: str) -> Any:
    """Return a case; Parquet of this machine is checked by a process of its own."""
    return pytest.param(*names, marks=[pytest.mark.slow] if names[0] == "parquet" else [])


@pytest.mark.parametrize(
    ("source", "out"), [slow_if_parquet(*pair) for pair in permutations(FORMATS, 2)]
)
def test_strings_come_out_as_they_went_in(source: str, out: str) -> None:
    write(f"in.{source}", COLUMNS, STRINGS)
    run(f"in.{source}", f"out.{out}")
    run(f"in.{source}", f"same.{source}")
    found, same = read(f"out.{out}"), read(f"same.{source}")
    assert [list(row) for row in found] == [[*COLUMNS, *SCORES.names]] * len(STRINGS)
    assert [[row[name] for name in COLUMNS] for row in found] == STRINGS
    for row, twin in zip(found, same, strict=True):
        for name in SCORES.names:  # the same values, each in its format's way
            one, other = row[name], twin[name]
            if one in (None, "") or other in (None, ""):
                assert {one, other} <= {None, ""}
            elif name in ("label", "error"):
                assert one == other
            else:
                assert struct.pack("f", float(one)) == struct.pack("f", float(other))
                assert isinstance(one, (int, float)) == (out in ("jsonl", "parquet"))
    if out == "parquet":
        schema = pq.read_schema("out.parquet")
        assert [schema.field(name) for name in SCORES.names] == list(SCORES)
        assert {schema.field(name).type for name in COLUMNS} == {pa.string()}


def typed() -> pa.Table:
    """Columns of every kind that Parquet has; the second row is one of nulls."""
    instant = [1_700_000_000_123_456_789, None]
    key = uuid.UUID(int=5)
    inner = pa.array([{"at": datetime.date(2024, 2, 29), "raw": [b"\xff"]}, None])
    return pa.table(
        {
            "text": pa.array(["good morning", None]).dictionary_encode(),
            "int": pa.array([2**64 - 1, None], pa.uint64()),
            "bool": [True, None],
            "single": pa.array([0.1, None], pa.float32()),
            "double": [0.1 + 0.2, None],
            "nan": [math.nan, -math.inf],
            "decimal": pa.array(["1.10", None]).cast(pa.decimal128(9, 2)),
            "local": pa.array(instant, pa.timestamp("ns")),
            "zoned": pa.array(instant, pa.timestamp("ns", "Europe/Paris")),
            "date": [datetime.date(2024, 2, 29), None],
            "time": [datetime.time(1, 2, 3, 4), None],
            "span": pa.array([1500, None], pa.duration("ms")),
            "binary": [b"a\xff", None],
            "uuid": pa.array([key.bytes, None], pa.uuid()),
            "nothing": pa.nulls(2),
            "list": [["a", None], None],
            "map": pa.array([[("a", 1), ("b", None)], None], pa.map_(pa.string(), pa.int8())),
            "inner": inner,
        }
    )


TYPED = {
    "text": "good morning",
    "int": 2**64 - 1,
    "bool": True,
    "single": 0.1,
    "double": 0.1 + 0.2,
    "nan": "NaN",
    "decimal": "1.10",
    "local": "2023-11-14T22:13:20.123456789",
    "zoned": "2023-11-14T22:13:20.123456789Z",
    "date": "2024-02-29",
    "time": "01:02:03.000004",
    "span": 1500,
    "binary": "Yf8=",
    "uuid": "00000000-0000-0000-0000-000000000005",
    "nothing": None,
    "list": ["a", None],
    "map": {"a": 1, "b": None},
    "inner": {"at": "2024-02-29", "raw": ["/w=="]},
}


@pytest.mark.slow
def test_types_of_parquet_become_json() -> None:
    pq.write_table(typed(), "in.parquet")
    run("in.parquet", "out.jsonl")
    first, second = ({name: row[name] for name in TYPED} for row in read("out.jsonl"))
    assert first == TYPED
    assert {type(first[name]) for name in ("int", "span")} == {int}
    assert second == {**dict.fromkeys(TYPED), "nan": "-Infinity"}


@pytest.mark.slow
@pytest.mark.parametrize("out", ["csv", "tsv"])
def test_types_of_parquet_become_text(out: str) -> None:
    pq.write_table(typed(), "in.parquet")
    run("in.parquet", f"out.{out}")
    first, second = ({name: row[name] for name in TYPED} for row in read(f"out.{out}"))
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in TYPED.items()
    }
    assert first == {**texts, "nothing": ""}
    assert second == {**dict.fromkeys(TYPED, ""), "nan": "-Infinity"}


JSON_COLUMNS = ["text", "int", "float", "bool", "null", "mixed", "large", "list", "huge", "late"]
JSON_ROWS = [
    ["good morning", 1, 1, True, None, 1, 2**53 + 1, [1, {"a": "ü\t"}], 1, 1],
    ["", -1, 0.5, None, None, "a", -1, None, 2**63, None],
]
LATE: list[Any] = [7, None, None, False, None, None, None, {}, None, "not before the last file"]
JSON_TEXTS = [
    ["good morning", "1", "1", "true", "", "1", str(2**53 + 1), '[1, {"a": "ü\\t"}]', "1", "1"],
    ["", "-1", "0.5", "", "", "a", "-1", "", str(2**63), ""],
    ["7", "", "", "false", "", "", "", "{}", "", LATE[-1]],
]


def write_objects() -> None:
    write("in/a.jsonl", JSON_COLUMNS, JSON_ROWS)
    # In another order, which is no other row.
    write("in/b.jsonl", JSON_COLUMNS[::-1], [LATE[::-1]])


def test_types_of_json_are_learnt_from_every_row() -> None:
    write_objects()
    run("in", "out.parquet")
    table = pq.read_table("out.parquet").select(JSON_COLUMNS)
    kinds = ["string", "int64", "double", "bool", "string", "string", "int64", *["string"] * 3]
    assert [str(kind) for kind in table.schema.types] == kinds
    expected = [
        [text if kind == "string" and value is not None else value for value, text, kind in row]
        for row in (
            zip(values, texts, kinds, strict=True)
            for values, texts in zip([*JSON_ROWS, LATE], JSON_TEXTS, strict=True)
        )
    ]
    assert [list(row.values()) for row in table.to_pylist()] == expected
    assert read("out.parquet")[2]["error"] == "validation: text: must be a string"


@pytest.mark.parametrize("out", ["csv", "tsv"])
def test_json_becomes_text(out: str) -> None:
    write_objects()
    run("in", f"out.{out}")
    assert [list(row.values())[: len(JSON_COLUMNS)] for row in read(f"out.{out}")] == JSON_TEXTS


@pytest.mark.slow
@pytest.mark.parametrize("out", FORMATS)
def test_inputs_of_several_formats_go_into_one(out: str) -> None:
    for index, form in enumerate(FORMATS):
        write(f"in/{index}.{form}", COLUMNS, STRINGS[index : index + 1])
    Path("in/9.jsonl").touch()
    run("in", f"out.{out}")
    assert [[row[name] for name in COLUMNS] for row in read(f"out.{out}")] == STRINGS


def test_rows_of_the_format_of_out_stay_as_they_are() -> None:
    write("in/a.csv", ["text"], [["good morning"]])
    line = '{ "text":"good morning", "n": 1.50, "n": 2'
    Path("in/b.jsonl").write_text(line + "}")
    run("in", "out.jsonl")
    assert Path("out.jsonl").read_text().splitlines()[1].startswith(f'{line}, "hate": ')


def test_a_folder_keeps_the_format_of_each_input() -> None:
    write("in/a.csv", ["text"], [["good morning"]])
    write("in/b.jsonl", ["text", "n"], [["good morning", 1]])
    run("in", "out")
    assert (read("out/a.csv")[0]["text"], read("out/b.jsonl")[0]["n"]) == ("good morning", 1)


def test_an_input_without_rows_becomes_an_output_without_rows() -> None:
    Path("a.jsonl").touch()
    run("a.jsonl", "b.parquet")
    assert pq.read_schema("b.parquet").names == ["text", *SCORES.names]
    assert pq.read_metadata("b.parquet").num_rows == 0
    write("c.csv", ["text", "n"], [])
    run("c.csv", "d.jsonl.gz")
    run("c.csv", "e.parquet")
    assert pq.read_schema("e.parquet").names == ["text", "n", *SCORES.names]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@example([2**53 + 1, 0.5, 1], random.Random(0))
@given(st.lists(SCALARS | st.lists(SCALARS, max_size=2), min_size=1), st.randoms())
@settings(deadline=None)
def test_learnt_types_hold_every_value(values: list[Any], rng: random.Random) -> None:
    kind = reduce(widened, values, None)
    assert reduce(widened, rng.sample(values, len(values)), None) == kind
    schema = pa.schema([("x", ARROW[kind])])
    found = batch_of([[value] for value in values], schema).column("x").to_pylist()
    for before, after in zip(values, found, strict=True):
        if before is None or kind != "string":
            assert after == before or (after != after and before != before)
        else:
            assert after == text_of(before)
    if {type(value) for value in values} <= {int, float}:
        large = [value for value in values if type(value) is int and abs(value) > EXACT]
        assert kind != "string" or large


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def refused(source: str, out: str) -> str:
        assert score.main([source, out]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert SECRET not in "".join(lines)
        assert "scoring" not in "".join(lines)
        assert not list(Path().glob("*.partial"))
        return lines[-1].replace(f"{Path.cwd()}/", "")

    return refused


TAB = "a tab or a line break, which TSV can't hold"


@pytest.mark.parametrize(
    ("name", "data", "out", "message"),
    [
        ("a.csv", f'text,b\nx,y\nx,"{SECRET}\n"\n', "b.tsv", f"row 2: its b holds {TAB}"),
        ("a.csv", f"text,b\nx,{SECRET}\tx\n", "b.tsv", f"row 1: its b holds {TAB}"),
        ("a.csv", f"text,{SECRET}\tb\n", "b.tsv", f"the name of a column holds {TAB}"),
        ("a.jsonl", f'{{"text": "{SECRET}\\r"}}', "b.tsv", f"row 1: its text holds {TAB}"),
        (
            "a.jsonl",
            f'{{"text": "x"}}\n{{"text": "{SECRET}\\ud800"}}',
            "b.csv",
            "row 2: its text holds a lone surrogate, which UTF-8 can't hold",
        ),
        (
            "a.jsonl",
            f'{{"text": "x"}}\n{{"text": "x", "{SECRET}": 1}}',
            "b.csv",
            "row 2: its keys differ from those of the first row of a.jsonl; CSV needs the same "
            "keys in every row",
        ),
        (
            "a.jsonl",
            '{"text": "x", "b": 1}\n{"text": "x"}',
            "b.parquet",
            "row 2: its keys differ from those of the first row of a.jsonl; Parquet needs the same "
            "keys in every row",
        ),
        (
            "a.jsonl",
            f'{{"text": "x", "text": "{SECRET}"}}',
            "b.parquet",
            "row 1 is not a JSON object, or has a key twice",
        ),
        ("a.jsonl", SECRET, "b.tsv", "row 1 is not a JSON object, or has a key twice"),
        ("a.jsonl", '{"text": "x"}\n[1]', "b.tsv", "row 2 is not a JSON object"),
        ("a.jsonl", '{"body": "x"}', "b.csv", "no row has the key text (--text-column)"),
        (
            "a.jsonl",
            '{"text": "x", "label": 1}',
            "b.parquet",
            "already has label; --prefix gives the new columns other names",
        ),
        ("a.csv", "text,b,b\n", "b.jsonl", "has two columns with one name, which JSONL can't hold"),
        ("a.tsv", "text\tb\tb\n", "b.parquet", "has two columns with one name, which Parquet"),
        ("a.csv", "text,b\nx\n", "b.parquet", "row 1 has 1 fields, the header 2"),
    ],
)
def test_what_the_other_format_cannot_hold_is_refused_before_scoring(
    name: str, data: str, out: str, message: str, refuse: Callable[..., str]
) -> None:
    Path(name).write_text(data, encoding="utf-8", newline="")
    assert refuse(name, out).startswith(f"error: {name}: {message}")


@pytest.mark.slow
def test_a_tab_in_parquet_is_found_before_scoring(refuse: Callable[..., str]) -> None:
    write("a.parquet", ["text", "b"], [["x", "y"]] * 1500 + [["x", f"{SECRET}\t"]])
    assert refuse("a.parquet", "b.tsv") == f"error: a.parquet: row 1501: its b holds {TAB}"


@pytest.mark.slow
def test_inputs_of_several_formats_must_agree(refuse: Callable[..., str]) -> None:
    write("a/1.csv", ["text", "b"], [["x", "y"]])
    write("a/2.parquet", ["text", "c"], [["x", "y"]])
    assert refuse("a", "b.jsonl") == "error: a/2.parquet: has no column b, unlike a/1.csv"
    write("c/1.csv", ["text", "b"], [["x", "1"]])
    write("c/2.parquet", ["text", "b"], [["x", 1]])
    assert refuse("c", "d.parquet") == (
        "error: c/2.parquet: its b is int64, but string in inputs of other formats"
    )
    write("e/1.csv", ["text", "b"], [["x", "1"]])
    write("e/2.jsonl", ["text", "c"], [["x", SECRET]])
    assert refuse("e", "f.csv") == (
        "error: e/2.jsonl: row 1: its keys differ from those of the first row of e/1.csv; "
        "CSV needs the same keys in every row"
    )
    write("g/1.parquet", ["text", "b"], [["x", 1]])
    write("g/2.parquet", ["text", "b"], [["x", "1"]])
    types = "its column b is string, but int64 in g/1.parquet; OUT as a folder takes both"
    assert refuse("g", "h.parquet") == f"error: g/2.parquet: {types}"
    run("g", "h.csv")
    assert [row["b"] for row in read("h.csv")] == ["1", "1"]


MOMENTS = [
    ("hatespeech.formats.conversion:Conversion.require_common_types", 1, "after"),
    ("os:replace", 3, "after"),  # run.json and two parts are there
    ("hatespeech.formats.parquet:ParquetWriter.write", 1, "after"),
    ("hatespeech.formats.parquet:ParquetWriter.close", 1, "after"),
]


@pytest.mark.slow
def test_a_killed_conversion_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    # The first rows alone would make other types.
    rows = [[f"good morning, {index}", index, index] for index in range(150)]
    write("in.jsonl", ["text", "n", "id"], [*rows, ["last", "one", 150]])
    command = (tmp_path / "in.jsonl", tmp_path / "out.parquet", "--chunk-rows", "40")
    # In a process of the same kind: this one may round otherwise (ATEN_CPU_CAPABILITY, threads).
    whole = run_score(tmp_path, command[0], tmp_path / "expected.parquet", *command[2:])
    assert whole.returncode == 0, whole.stderr
    for moment in MOMENTS:
        killed = run_score(tmp_path, *command, moment=moment)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
        assert not Path("out.parquet").exists()
    done = run_score(tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert "checking" not in done.stderr
    assert Path("out.parquet").read_bytes() == Path("expected.parquet").read_bytes()
    assert [row["n"] for row in read("out.parquet")] == [*map(str, range(150)), "one"]
    assert [row["id"] for row in read("out.parquet")] == list(range(151))
