"""Formats that are read as another one: a text on each line, JSON arrays, and workbooks."""

from __future__ import annotations

import bz2
import csv
import datetime
import importlib.util
import io
import json
import lzma
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatespeech.bulk import command as score
from hatespeech.formats.json_arrays import NotAnArrayError, array_items
from hatespeech.formats.packing_codecs import (
    FED_BYTES,
    TooCostlyError,
    packed,
    unpacked,
    window_log,
)
from tests.support.processes.score import run_here as scored

pytestmark = pytest.mark.usefixtures("mini")


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_text_ends_at_a_line_feed_and_nowhere_else() -> None:
    texts = ["one\u2028still one", "two\x85\x0c\x0b\x1c,", "", '"four"', " five\r "]
    Path("a.txt").write_bytes("\r\n".join(texts).encode() + b"\n")
    scored("a.txt", "b.jsonl")
    with Path("b.jsonl").open(encoding="utf-8", newline="\n") as file:
        found = [json.loads(line) for line in file]
    assert [row["text"] for row in found] == texts
    assert found[2]["error"] == "validation: text: must not be empty"


def test_texts_become_a_column_with_the_name_that_is_asked_for() -> None:
    Path("in").mkdir()
    Path("in/a.txt").write_text("good morning\n")
    Path("in/b.txt.gz").write_bytes(pa.compress(b"you are scum", "gzip", asbytes=True))
    scored("in", "out", "--text-column", "tweet")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.txt.csv", "b.txt.csv.gz"]
    assert [row["tweet"] for row in rows("out/a.txt.csv")] == ["good morning"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("out", ["b.json", "b.jsonl", "b.csv"])
def test_an_array_of_objects_keeps_its_values(out: str, indent: int | None) -> None:
    items: list[dict[str, Any]] = [
        {"text": "good\nmorning \u2028", "n": 1.5, "deep": {"list": [1, {"a": None}, "]}, {"]}},
        {"text": None, "n": 2, "deep": {}},
    ]
    Path("a.json").write_text(json.dumps(items, indent=indent, ensure_ascii=False))
    scored("a.json", out)
    written = Path(out).read_text(encoding="utf-8")
    if out == "b.json":
        found = json.loads(written)
    elif out == "b.jsonl":
        found = [json.loads(line) for line in written.removesuffix("\n").split("\n")]
    else:
        assert rows(out)[0]["deep"] == json.dumps(items[0]["deep"])
        return
    assert [{key: row[key] for key in items[0]} for row in found] == items
    assert found[0]["label"] == "neutral"


@pytest.mark.parametrize("content", ["[]", " [ \n ] "])
def test_an_array_without_items_stays_one(content: str) -> None:
    Path("a.json").write_text(content)
    scored("a.json", "b.json")
    assert json.loads(Path("b.json").read_text()) == []


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda each: st.lists(each), max_leaves=5
)


@given(
    st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), max_size=5),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_an_array_cut_anywhere_has_the_same_items(
    items: list[dict[str, Any]], size: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only)
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    found = list(array_items(pieces))
    assert [json.loads(item) for item in found] == items
    assert not any("\n" in item for item in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not an array of objects"),
        ('{"data": []}', "is not an array of objects; a file with an object on each line is JSONL"),
        ("[1]", "holds something else than an object"),
        ('[{"a": 1}, 2]', "holds something else than an object"),
        ('[{"a": 1} {"a": 2}]', "has something else than a comma after an object"),
        ('[{"a": 1},]', "holds something else than an object"),
        ('[{"a": 1}] []', "has something after the end of the array"),
        ('[{"a": 1}', "has something else than a comma after an object"),
        ('[{"a": ', "is broken, or longer than 4194304 characters"),
        ('[{"a": "' + "x" * 4_200_000, "is broken, or longer than 4194304 characters"),
        ('[{"a": ' + "[" * 100_000, "is nested too deeply"),
    ],
)
def test_what_is_no_array_of_objects_is_named(content: str, message: str) -> None:
    with pytest.raises(NotAnArrayError) as caught:
        list(array_items(pieces_of(content)))
    assert str(caught.value) == message


def test_a_text_of_a_million_blanks_in_an_array_does_not_take_an_hour() -> None:
    item = json.dumps({"text": " " * 1_000_000})
    assert list(array_items(pieces_of(f"[{item}]"))) == [item]


def pieces_of(text: str) -> Iterator[str]:
    return (text[start : start + 65_536] for start in range(0, len(text), 65_536))


@pytest.mark.parametrize("name", ["a.csv.bz2", "a.csv.xz", "a.csv.zst", "a.csv.gz"])
def test_every_compression_is_read_and_written(name: str) -> None:
    data = b"text\n" + b"".join(b"tweet %d\n" % number for number in range(50_000))
    with Path(name).open("wb") as raw, packed(raw, compression_of(name)) as file:
        file.write(data)
    with Path(name).open("ab") as raw, packed(raw, compression_of(name)) as file:
        file.write(b"the last one\n")  # a second stream, as parallel compressors write
    with Path(name).open("rb") as found:
        assert unpacked(found, compression_of(name)).read() == data + b"the last one\n"


def compression_of(name: str) -> str:
    return {"bz2": "bz2", "xz": "xz", "zst": "zstd", "gz": "gzip"}[name.rpartition(".")[2]]


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.xz"])
def test_a_file_that_ends_too_soon_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(f'{{"text": "tweet {number}"}}\n' for number in range(200_000)).encode()
    whole = bz2.compress(lines) if name.endswith("bz2") else lzma.compress(lines, preset=0)
    Path(name).write_bytes(whole[: len(whole) // 2])
    assert score.main([name, "b.jsonl"]) == 1
    said = capsys.readouterr().err
    assert f"/{name}: can't be decompressed after row " in said
    assert ": it ends too early, as after a download that broke off" in said
    Path(name).write_bytes(b"not compressed at all, whatever its name says")
    assert score.main([name, "b.jsonl"]) == 1
    assert f"/{name}: can't be decompressed after row 0" in capsys.readouterr().err


def test_a_window_of_xz_beyond_the_bound_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    large = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 * 1024 * 1024}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=large)
    Path("a.csv.xz").write_bytes(compressor.compress(b"text\ngood morning\n") + compressor.flush())
    assert score.main(["a.csv.xz", "b.csv"]) == 1
    needs = "needs a window of more than 128 MiB: xz -d it first"
    assert f"/a.csv.xz: {needs}" in capsys.readouterr().err


def test_zeros_between_streams_of_xz_are_passed_over() -> None:
    zeros = bytes(2 * FED_BYTES)
    content = lzma.compress(b"a") + zeros + lzma.compress(b"b") + zeros
    assert unpacked(io.BytesIO(content), "xz").read() == b"ab"


@pytest.mark.parametrize("after", [bytes(8), b"text"])
def test_what_follows_zstd_and_is_not_zstd_is_an_error(after: bytes) -> None:
    content = pa.compress(b"text", codec="zstd", asbytes=True) + after
    with pytest.raises(OSError, match="the zstd stream is damaged"):
        unpacked(io.BytesIO(content), "zstd").read()


# The frame's header alone: magic, descriptor, window descriptor (RFC 8878), and a raw last block.
LONG = bytes.fromhex("28b52ffd") + b"\x00" + bytes([21 << 3]) + b"\x29\x00\x00" + b"text\n"


@pytest.mark.parametrize("before", [b"", bytes.fromhex("502a4d1804000000") + b"skip"])
def test_a_window_of_zstd_beyond_the_bound_is_named(before: bytes) -> None:
    Path("a.zst").write_bytes(before + LONG)
    needs = "needs a window of 2 GiB: zstd -d --long=31 it first"
    with Path("a.zst").open("rb") as raw, pytest.raises(TooCostlyError) as caught:
        unpacked(raw, "zstd").read()
    more = "needs a window of more than 128 MiB: zstd -d --long=31 it first"
    assert str(caught.value) == (more if before else needs)


@pytest.mark.parametrize(
    ("header", "log"),
    [
        ("28b52ffd00a8", 31),
        ("28b52ffd0088", 27),
        ("28b52ffd0089", 28),  # a little more than 128 MiB
        ("28b52ffda000000008", 27),  # one segment of 128 MiB
        ("28b52ffda001000008", 28),
        ("1f8b0800", 0),
    ],
)
def test_the_window_that_a_frame_asks_for(header: str, log: int) -> None:
    assert window_log(bytes.fromhex(header) + b"\0\0") == log


def workbook(path: str, **sheets: list[list[Any]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for title, content in sheets.items():
        sheet = book.create_sheet(title)
        for row in content:
            sheet.append(row)
    book.save(path)


def test_the_rows_of_a_workbook_become_strings() -> None:
    when = datetime.datetime(2024, 2, 29, 12, 30)
    workbook(
        "a.xlsx",
        tweets=[
            ["id", "text", "when", "share", "sure"],
            [1, "good\nmorning; 🎉", when, 1.5, True],
            [None] * 5,
            [2, "you are scum"],
        ],
    )
    scored("a.xlsx", "b.csv")
    first, second = rows("b.csv")
    assert list(first.values())[:5] == ["1", "good\nmorning; 🎉", when.isoformat(), "1.5", "TRUE"]
    assert list(second.values())[:5] == ["2", "you are scum", "", "", ""]
    assert second["label"] == "abusing"
    scored("a.xlsx", "out/")
    assert Path("out/a.xlsx.csv").read_bytes() == Path("b.csv").read_bytes()
    scored("a.xlsx", "c.parquet", "--no-header", "--text-column", "2")


def test_a_sheet_is_chosen_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    workbook("a.xlsx", notes=[["hello"]], tweets=[["text"], ["good morning"]])
    for options, message in (
        ([], "has 2 sheets: notes, tweets (--sheet)"),
        (["--sheet", "none"], "has no such sheet; it has notes, tweets (--sheet)"),
    ):
        assert score.main(["a.xlsx", "b.csv", *options]) == 1
        assert f"/a.xlsx: {message}" in capsys.readouterr().err
    scored("a.xlsx", "b.csv", "--sheet", "tweets")
    assert [row["text"] for row in rows("b.csv")] == ["good morning"]


def edit_sheet(path: str, old: bytes, new: bytes) -> None:
    """Replace a piece of the first sheet's XML."""
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    assert old in parts[sheet]
    parts[sheet] = parts[sheet].replace(old, new)
    with zipfile.ZipFile(path, "w") as book:
        for name, content in parts.items():
            book.writestr(name, content)


@pytest.mark.parametrize("said", [b"A1", b"A1:ZZZ999999999"])
def test_a_sheet_is_read_to_its_end_whatever_it_says_of_its_size(said: bytes) -> None:
    workbook("a.xlsx", tweets=[["id", "text"], [1, "good morning"], [2, "you are scum"]])
    edit_sheet("a.xlsx", b'ref="A1:B3"', b'ref="%s"' % said)
    scored("a.xlsx", "b.csv")
    assert [row["text"] for row in rows("b.csv")] == ["good morning", "you are scum"]


def test_a_row_beyond_the_last_of_excel_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    workbook("a.xlsx", tweets=[["text"], ["good morning"]])
    edit_sheet("a.xlsx", b'<row r="2"', b'<row r="999999999"')
    assert score.main(["a.xlsx", "b.csv"]) == 1
    assert "/a.xlsx: has a row beyond the 1,048,576 of Excel" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no workbook", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_workbook_is_named(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.xlsx").write_bytes(content)
    assert score.main(["a.xlsx", "b.csv"]) == 1
    assert "/a.xlsx: can't be read as a workbook (" in capsys.readouterr().err


def test_a_workbook_that_unpacks_to_too_much_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workbook("a.xlsx", tweets=[["text"], *([f"tweet {number}"] for number in range(1000))])
    monkeypatch.setattr("hatespeech.formats.workbook_rows.MAX_UNPACKED", 2 << 10)
    assert score.main(["a.xlsx", "b.csv"]) == 1
    assert "MiB; save it as CSV" in capsys.readouterr().err


def test_a_reader_of_workbooks_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.xlsx").write_bytes(b"")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "openpyxl" else real(name, *more),
    )
    assert score.main(["a.xlsx", "b.csv"]) == 1
    assert "/a.xlsx: openpyxl reads it: pip install openpyxl" in capsys.readouterr().err
