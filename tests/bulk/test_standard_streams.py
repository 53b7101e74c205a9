"""``-`` is standard input or standard output, which gets the whole file or nothing."""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hatespeech.bulk import command as score

pytestmark = pytest.mark.usefixtures("mini")

TEXT = b"text\ngood morning\nyou are scum\n"
BROKEN = b"text\ngood morning\nyou,are,scum\n"


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Give bytes to standard input."""

    def set_input(data: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))

    return set_input


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the copies lie."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_pipe_in_and_a_pipe_out(
    give: Callable[[bytes], None], temporary: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    give(TEXT)
    assert score.main(["-", "-", "--input-format", "csv"]) == 0
    said = capsysbinary.readouterr()
    header, *rows = csv.reader(io.StringIO(said.out.decode()))
    assert (header[:2], [row[0] for row in rows]) == (
        ["text", "hate"],
        ["good morning", "you are scum"],
    )
    assert b"wrote standard output\n2 rows" in said.err
    assert not list(temporary.iterdir())
    assert [path.name for path in Path().iterdir()] == [temporary.name]


@pytest.mark.parametrize(("form", "magic"), [("parquet", b"PAR1"), (".jsonl.gz", b"\x1f\x8b")])
def test_standard_output_in_another_format(
    form: str, magic: bytes, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    Path("a.csv").write_bytes(TEXT)
    assert score.main(["a.csv", "-", "--output-format", form]) == 0
    written = capsysbinary.readouterr().out
    assert written.startswith(magic)
    if form == "parquet":
        assert pq.read_table(io.BytesIO(written)).num_rows == 2


def test_what_fails_writes_nothing_to_standard_output(
    give: Callable[[bytes], None], temporary: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    give(BROKEN)
    assert score.main(["-", "-", "--input-format", "csv"]) == 1
    said = capsysbinary.readouterr()
    assert said.out == b""
    assert b"/standard input: row 2 has 3 fields, the header 1" in said.err
    assert not list(temporary.iterdir())


def test_the_same_standard_input_resumes_and_another_does_not(
    give: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-", "out.csv", "--input-format", "csv"]
    for data, code, message in (
        (TEXT, 0, "wrote "),
        (TEXT, 0, "is complete, scored by"),
        (TEXT.replace(b"scum", b"here"), 1, "already exists, and was not made from this input"),
    ):
        give(data)
        assert score.main(command) == code
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-", "b.csv"), "IN is standard input, which has no name: --input-format says its format"),
        (("in", "-"), "OUT is standard output, which has no name: --output-format says its format"),
        (
            ("a.csv", "b.csv", "--output-format", "csv"),
            "--output-format: is for standard output; OUT's name says its format",
        ),
    ],
)
def test_a_format_that_no_name_says_is_asked_for(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in").mkdir()
    Path("in/a.csv").write_bytes(TEXT)
    assert score.main([*arguments]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_format_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["-", "b.csv", "--input-format", "pdf"])
    assert "--input-format: must be one of .csv, .tsv" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "what"), [("stdin", "input"), ("stdout", "output")])
def test_a_stream_that_is_closed_is_named(
    name: str, what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(f"sys.{name}", None)
    assert score.main(["-", "-", "--input-format", "csv"]) == 1
    assert capsys.readouterr().err == f"error: standard {what}: is closed\n"


def test_a_full_disk_behind_standard_output_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.csv").write_bytes(TEXT)
    full = io.TextIOWrapper(io.BufferedWriter(io.FileIO("/dev/full", "w")))
    monkeypatch.setattr("sys.stdout", full)
    assert score.main(["a.csv", "-"]) == 1
    assert "error: standard output: No space left on device\n" in capsys.readouterr().err
    with contextlib.suppress(OSError):
        full.close()
