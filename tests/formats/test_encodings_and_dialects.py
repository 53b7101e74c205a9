"""Text as people have it: other encodings, separators, quotes, and files without a header."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest

from hatespeech.bulk import command as score
from tests.formats.conftest import SECRET
from tests.support.processes.score import run_here as scored

pytestmark = pytest.mark.usefixtures("mini")


def rows(path: str, **dialect: Any) -> list[list[str]]:
    """Return the first two fields of each row, and of the header."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return [row[:2] for row in csv.reader(file, **dialect)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
def test_a_byte_order_mark_says_the_encoding(name: str, encoding: str) -> None:
    text = "schön 🎉"
    written = {
        "a.csv": f"id,text\r\n1,{text}\r\n",
        "a.tsv": f"id\ttext\n1\t{text}\n",
        "a.jsonl": f'{{"id": "1", "text": "{text}"}}\n',
        "a.json": f'[{{"id": "1", "text": "{text}"}}]',
        "a.txt": text,
    }
    Path(name).write_bytes(written[name].encode(encoding))
    scored(name, "out.csv", "--encoding", "cp1252")  # the mark wins
    assert rows("out.csv")[1][-1 if name != "a.txt" else 0] == text


@pytest.mark.parametrize("byte_order", ["le", "be"])
def test_utf_16_without_its_mark_is_named(byte_order: str, refuse: Callable[..., str]) -> None:
    Path("a.csv").write_bytes(f"text\n{SECRET}\n".encode(f"utf-16-{byte_order}"))
    said = refuse("a.csv", "b.csv")
    looks = "a.csv: looks like UTF-16 without a byte order mark"
    assert said == f"{looks} (--encoding utf-16-{byte_order})"
    scored("a.csv", "b.csv", "--encoding", f"utf-16-{byte_order}")
    assert rows("b.csv")[1][0] == SECRET


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Für die Straße – schön, café au lait, naïve"),
        ("cp1251", "Привет, как дела сегодня, всё хорошо"),
        ("cp932", "おはようございます、今日はいい天気ですね"),
        ("gb18030", "早上好，今天天气很好，我们明天再见"),
    ],
)
def test_another_encoding_is_suggested_and_never_guessed(
    encoding: str, text: str, refuse: Callable[..., str]
) -> None:
    Path("a.csv").write_text(f'text,id\nfine,0\n"{text}",1\n', encoding=encoding)
    said = refuse("a.csv", "b.csv")
    assert said == (
        "a.csv: row 1, or a row soon after it, is not UTF-8; its bytes look like those of another "
        f"encoding (--encoding {encoding})"
    )
    scored("a.csv", "b.csv", "--encoding", encoding)
    assert rows("b.csv")[2] == [text, "1"]


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (gzip.compress(b"text\na\n", mtime=0), "gzip"),
        (bz2.compress(b"text\na\n"), "bzip2"),
        (lzma.compress(b"text\na\n"), "xz"),
        (pa.compress(b"text\na\n", "zstd", asbytes=True), "zstd"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"PK\x03\x04\x14", "a ZIP file or a workbook"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "parquet", "zip"],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_what_is_no_text_is_named(
    name: str, start: bytes, what: str, refuse: Callable[..., str]
) -> None:
    Path(name).write_bytes(start)
    said = f"{name}: is {what}, not text: its name must say so (--input-format)"
    assert refuse(name, "out.jsonl") == said


def test_an_array_that_is_named_jsonl_is_told(refuse: Callable[..., str]) -> None:
    Path("a.jsonl").write_text(f'[{{"text": "{SECRET}"}}]')
    said = refuse("a.jsonl", "b.jsonl")
    assert said == "a.jsonl: row 1 is not a JSON object (--input-format json)"
    scored("a.jsonl", "b.jsonl", "--input-format", "json")


def test_a_file_is_not_in_the_encoding_that_was_given(refuse: Callable[..., str]) -> None:
    Path("a.csv").write_bytes(b"text\nfine\n\x81\xff\n")
    assert "row 1, or a row soon after it, is not CP932" in refuse(
        "a.csv", "b.csv", "--encoding", "cp932"
    )


@pytest.mark.parametrize("rest", [b"9,caf\xe9 noir\n", b"9,caf\xc3"])
def test_nothing_is_suggested_for_a_file_that_is_mostly_utf_8(
    rest: bytes, refuse: Callable[..., str]
) -> None:
    Path("a.csv").write_bytes(b"id,text\n" + "1,größer café\n".encode() * 5 + rest)
    assert refuse("a.csv", "b.csv").endswith("is not UTF-8")


def test_a_file_that_is_not_as_its_mark_says(refuse: Callable[..., str]) -> None:
    Path("a.csv").write_bytes("id,text\n1,hello\n".encode("utf-16") + b"x")
    said = refuse("a.csv", "b.csv")
    assert said.endswith("is not UTF-16, which its byte order mark says")


def test_an_encoding_that_needs_a_mark(refuse: Callable[..., str]) -> None:
    text = "id,text\n1,hello\n"
    Path("a.csv").write_bytes(text.encode("utf-16-be"))
    assert refuse("a.csv", "b.csv", "--encoding", "utf-16").endswith("(--encoding utf-16-be)")
    Path("a.csv").write_text(text)
    assert refuse("a.csv", "b.csv", "--encoding", "utf-16").endswith("is not UTF-16")


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.xz", "a.jsonl.zst"])
def test_a_file_that_is_not_compressed_as_its_name_says(
    name: str, refuse: Callable[..., str]
) -> None:
    Path(name).write_bytes(b'{"text": "a"}')
    assert "can't be decompressed after row 0; is it " in refuse(name, "b.csv")


@pytest.mark.parametrize("value", ["klingon", "base64", "rot13", "idna", ""])
def test_an_encoding_that_is_none_is_refused(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        score.main(["a.csv", "b.csv", "--encoding", value])
    assert "--encoding: must be an encoding that Python knows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "separator", "hint"),
    [
        ("a.csv", ";", "semicolons (--delimiter ';')"),
        ("a.csv", "\t", "tabs (--input-format tsv)"),
        ("a.csv", "|", "vertical bars (--delimiter '|')"),
        ("a.tsv", ",", "commas (--input-format csv)"),
        ("a.tsv", ";", "semicolons (--delimiter ';' --input-format csv)"),
    ],
)
def test_a_header_with_other_separators_is_told(
    name: str, separator: str, hint: str, refuse: Callable[..., str]
) -> None:
    Path(name).write_text(separator.join(["id", '"text"']) + f"\n1{separator}{SECRET}\n")
    said = refuse(name, "out.csv")
    assert said == f"{name}: its header has no column text; its fields look separated by {hint}"
    options = [part.strip("'") for part in hint.partition("(")[2].strip(")").split()]
    quoted = ["--quoting", "csv"] if separator == "\t" else []
    scored(name, "out.csv", *options, *quoted)
    between = separator if "--delimiter" in options else ","
    assert rows("out.csv", delimiter=between)[1] == ["1", SECRET]


def test_a_separator_is_that_of_in_and_out(refuse: Callable[..., str]) -> None:
    Path("a.csv").write_text('id;text\n1;good, morning\n2;"you; are ""scum"""\n')
    scored("a.csv", "b.csv", "--delimiter", ";")
    found = rows("b.csv", delimiter=";")
    assert found == [["id", "text"], ["1", "good, morning"], ["2", 'you; are "scum"']]
    other = "already exists, and was not made from this input with these options"
    assert other in refuse("a.csv", "b.csv", "--delimiter", "|")


@pytest.mark.parametrize("value", ["", ";;", '"', "\n"])
def test_a_separator_is_one_sign(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        score.main(["a.csv", "b.csv", "--delimiter", value])
    assert "--delimiter: must be one character, or tab" in capsys.readouterr().err


QUOTED: Final = [
    'id\ttext\n1\t"she said ""good morning"" to me"\n2\tplain\n',  # pandas
    '"id"\t"text"\n"1"\t"good morning"\n',  # R's write.table
    'id\ttext\n1\tplain\n2\t"two\nlines"\n',
    'text\n"two\nlines"\n',
]


@pytest.mark.parametrize("content", QUOTED)
def test_tsv_that_looks_quoted_is_asked_about(content: str, refuse: Callable[..., str]) -> None:
    Path("a.tsv").write_text(content)
    assert (
        "has a field in quotes, as pandas and R write TSV: say --quoting csv if the quotes are not "
        "part of the text, --quoting none if they are"
    ) in refuse("a.tsv", "b.tsv")
    scored("a.tsv", "b.tsv", "--quoting", "csv")
    before, after = rows("a.tsv", delimiter="\t"), rows("b.tsv", delimiter="\t")
    assert [row[: len(before[0])] for row in after] == before


def test_tsv_whose_quotes_can_only_be_of_the_text_is_not_asked_about() -> None:
    texts = ['"yes" she said', 'it is 5" long', 'he said "no"', '"a" and "b"']
    Path("a.tsv").write_text("text\tid\n" + "".join(f"{text}\t1\n" for text in texts))
    scored("a.tsv", "b.tsv")
    plain = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    assert [row[0] for row in rows("b.tsv", **plain)] == ["text", *texts]


def test_csv_without_quotes(refuse: Callable[..., str]) -> None:
    Path("a.csv").write_text('id|text\n1|"half a quote\n2|it is 5" long\n')
    options = ["--delimiter", "|", "--quoting", "none"]
    scored("a.csv", "b.csv", *options)
    plain = {"delimiter": "|", "quoting": csv.QUOTE_NONE, "quotechar": None}
    assert rows("b.csv", **plain)[1:] == [["1", '"half a quote'], ["2", 'it is 5" long']]
    Path("c.txt").write_text(f"fine\n{SECRET}|\n")
    holds = "its text holds a vertical bar or a line break, which CSV without quotes can't hold"
    assert refuse("c.txt", "d.csv", *options) == f"c.txt: row 2: {holds}"


def test_csv_without_quotes_whose_separator_is_in_errors_goes_into_another_format(
    refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is too long has an error with a comma: no unquoted field could hold it."""
    monkeypatch.setenv("MAX_TEXT_CHARS", "20")
    Path("a.csv").write_text('id,text\n1,"half a quote\n2,it is much too long for this\n')
    options = ["--quoting", "none"]
    for out in ("b.csv", "b.csv.gz", "b/"):
        said = refuse("a.csv", out, *options)
        assert said.startswith("--quoting none: OUT can't be CSV with this separator")
    scored("a.csv", "b.tsv", *options)
    lines = Path("b.tsv").read_text().splitlines()
    assert lines[1].startswith('1\t"half a quote\t0.')
    assert lines[2].endswith(", the limit is 20")


def test_columns_without_a_header_have_numbers(refuse: Callable[..., str]) -> None:
    Path("a.csv").write_text("1,good morning\n\n2,you are scum\n")
    scored("a.csv", "b.csv", "--no-header", "--text-column", "2")
    assert rows("b.csv") == [["1", "2"], ["1", "good morning"], ["2", "you are scum"]]
    for column in ("text", "0", "3"):
        said = refuse("a.csv", "c.csv", "--no-header", "--text-column", column)
        assert said == "a.csv: without a header, --text-column must be a number from 1 to 2"
    Path("d.csv").write_text("1,2\n3\n")
    said = refuse("d.csv", "e.csv", "--no-header", "--text-column", "2")
    assert said == "d.csv: row 2 has 1 fields, the first row 2"


def test_an_interrupted_run_is_not_resumed_with_another_dialect(
    refuse: Callable[..., str],
) -> None:
    Path("a.csv").write_text("id,text\n1,good morning\n")
    for options, other in (
        ((), ["--no-header", "--text-column", "2"]),
        ((), ["--encoding", "cp1252"]),
        (("--delimiter", ","), []),
    ):
        scored("a.csv", "b.csv", *options)
        assert "was not made from this input with these options" in refuse("a.csv", "b.csv", *other)
        Path("b.csv").unlink()
        Path("b.csv.run.json").unlink()
