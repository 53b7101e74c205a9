"""Files of texts over HTTP: what comes back, what is refused, and what stays behind: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import lzma
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from backports.zstd import CompressionParameter, ZstdCompressor
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Message

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.formats.interface import BLOCK_ROWS
from hatespeech.labels import FLAGS, LABELS
from hatespeech.serving.guards.limits import UNCOUNTED_BYTES
from hatespeech.serving.uploads.form import read_form
from hatespeech.serving.uploads.table import WINDOWS
from hatespeech.serving.uploads.upload import PARQUET_FILES, WINDOW_BYTES
from tests.support.bad_inputs import MARKER
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import BEARER, OTHER_TOKEN, TOKEN, HttpClient, read_csv, together
from tests.support.local_server import local_server
from tests.support.processes.server import HttpServer, http_server
from tests.support.processes.worker import wait_until

ADDED: Final = [*FLAGS, "label", "windows", "warnings", "read_as", "error"]
HARD_TEXTS: Final = [
    "plain",
    'with "quotes", commas and \t tabs',
    "two\nlines",
    "emoji 👩‍👩‍👧 and العربية",
    " spaces around ",
    "=1+1",
    '"starts quoted',
]


LIMITS = {"MAX_REQUEST_CHARS": "100000", "MAX_REQUEST_TOKENS": "40000"}


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    with local_server(tmp_path_factory.mktemp("files"), small_checkpoint, LIMITS) as server:
        yield server.ready()


def upload(
    server: HttpClient, name: str, content: bytes, fields: dict[str, str] | None = None
) -> requests.Response:
    files = {"file": (name, content, "application/octet-stream")}
    return server.post("/score/file", files=files, data=fields or {})


def check_scores(rows: list[dict[str, Any]], classifier: Predictor) -> None:
    """Hold the rows of ``HARD_TEXTS``, in their order, to what each text scores alone."""
    assert [row["text"] for row in rows] == HARD_TEXTS
    for row, result in zip(rows, classifier.score(HARD_TEXTS), strict=True):
        assert isinstance(result, Prediction)
        assert [float(row[label]) for label in LABELS] == pytest.approx(result.scores, abs=1e-5)
        assert row["label"] == max(LABELS, key=lambda label: float(row[label]))
        assert int(row["windows"]) == 1


def test_a_csv_comes_back_with_every_column_and_scores_beside(
    server: HttpClient, small_classifier: Predictor
) -> None:
    rows = [{"id": f"0{i}", "text": text, "note": ""} for i, text in enumerate(HARD_TEXTS)]
    rows.insert(3, {"id": "empty", "text": "", "note": "x"})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["id", "text", "note"])
    writer.writeheader()
    writer.writerows(rows)
    reply = upload(server, "tweets.CSV", ("\ufeff" + text.getvalue()).encode())
    assert reply.status_code == 200
    assert reply.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert reply.headers["Content-Disposition"] == 'attachment; filename="scored.csv"'
    scored = read_csv(reply.content.decode())
    assert list(scored[0]) == ["id", "text", "note", *ADDED]
    assert [{key: row[key] for key in rows[0]} for row in scored] == rows
    assert scored[3]["error"] == "validation: text: must not be empty"
    assert [scored[3][name] for name in ADDED[:-1]] == [""] * (len(ADDED) - 1)
    check_scores([row for row in scored if not row["error"]], small_classifier)


def test_a_tsv_is_taken_as_it_stands(server: HttpClient) -> None:
    lines = ["id\ttext", '1\t"not a quote', "2\tplain", '3\t""']
    reply = upload(server, "a.tsv", "\n".join(lines).encode(), {"quoting": "none"})
    assert reply.headers["Content-Type"].startswith("text/tab-separated-values")
    scored = reply.content.decode().splitlines()
    assert scored[0] == "\t".join(["id", "text", *ADDED])
    assert [line.split("\t")[:2] for line in scored] == [line.split("\t") for line in lines]
    assert all(len(line.split("\t")) == 2 + len(ADDED) for line in scored)


def test_csv_without_quotes_is_refused_since_an_error_may_hold_a_comma(server: HttpClient) -> None:
    reply = upload(server, "a.csv", b'id,text\n1,"half a quote\n', {"quoting": "none"})
    refused = "file: CSV without quotes can't hold the new columns; send TSV or JSONL"
    assert (reply.status_code, reply.json()["error"]) == (422, refused)


def test_a_tsv_that_looks_quoted_is_scored_once_the_caller_says_what_its_quotes_are(
    server: HttpClient, small_classifier: Predictor
) -> None:
    file = b'id\ttext\n1\t"she said ""good morning"" to me"\n'
    refused = upload(server, "a.tsv", file)
    assert (refused.status_code, refused.json()["error"]) == (
        422,
        "file: row 1 has a field in quotes, as pandas and R write TSV: say quoting csv if the "
        "quotes are not part of the text, quoting none if they are",
    )
    texts = {"csv": 'she said "good morning" to me', "none": '"she said ""good morning"" to me"'}
    for quoting, text in texts.items():
        reply = upload(server, "a.tsv", file, {"quoting": quoting})
        line = reply.content.decode().splitlines()[1]
        (expected,) = small_classifier.score([text])
        assert isinstance(expected, Prediction)
        assert float(line.split("\t")[2]) == pytest.approx(expected.scores[0], abs=1e-5)
    wrong = upload(server, "a.tsv", file, {"quoting": "maybe"})
    assert wrong.json()["error"] == "quoting: must be one of csv, none"


def test_a_jsonl_line_goes_out_as_it_came_with_keys_added(
    server: HttpClient, small_classifier: Predictor
) -> None:
    lines = [json.dumps({"id": 10**30, "text": text, "x": [1.10, None]}) for text in HARD_TEXTS]
    odd = ['{"text": null}', "{ }", '{"text": 7 }', '{"text":"half \\ud83d"}']
    reply = upload(server, "a.jsonl", "\n".join([*lines, "", *odd]).encode())
    scored = reply.content.decode().splitlines()
    assert len(scored) == len(lines) + len(odd)
    for line, out in zip([*lines, *odd], scored, strict=True):
        assert out.startswith(line[:-1].rstrip())
        assert list(json.loads(out))[-len(ADDED) :] == ADDED
    check_scores([json.loads(line) for line in scored[: len(lines)]], small_classifier)
    errors = [json.loads(line)["error"] for line in scored[len(lines) :]]
    must = "validation: text: must be a string"
    assert errors == [f"{must}, not null", f"{must}, not null", must, None]


@pytest.mark.slow
def test_a_parquet_table_keeps_its_columns_and_types(
    server: HttpClient, small_classifier: Predictor
) -> None:
    count = 5000
    table = pa.table(
        {
            "id": pa.array(range(count), pa.uint16()),
            "text": [HARD_TEXTS[i % len(HARD_TEXTS)] if i % 100 else None for i in range(count)],
            "nested": [{"a": [i]} for i in range(count)],
        },
        metadata={"made": "here"},
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1111)
    reply = upload(server, "a.parquet", sink.getvalue())
    assert reply.headers["Content-Type"] == "application/vnd.apache.parquet"
    scored = pq.read_table(io.BytesIO(reply.content))
    assert scored.column_names == [*table.column_names, *ADDED]
    assert scored.select(table.column_names).equals(table)
    assert scored.schema.metadata[b"made"] == b"here"
    rows = scored.to_pylist()
    must = "validation: text: must be a string, not null"
    assert {row["error"] for row in rows[::100]} == {must}
    check_scores(rows[7:14], small_classifier)


@pytest.mark.slow
def test_an_empty_table_gains_its_columns(server: HttpClient) -> None:
    assert upload(server, "a.csv", b"text\n").text == f"text,{','.join(ADDED)}\n"
    assert upload(server, "a.jsonl", b"").text == ""
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), sink)
    reply = upload(server, "a.parquet", sink.getvalue())
    assert pq.read_table(io.BytesIO(reply.content)).column_names == ["text", *ADDED]


def test_rows_too_many_tokens_for_one_request_are_scored_in_several(server: HttpClient) -> None:
    # Each of many windows; together more than MAX_REQUEST_CHARS and MAX_REQUEST_TOKENS.
    rows = [f"{i} {'good morning ' * 700}" for i in range(20)]
    reply = upload(server, "a.csv", ("text\n" + "\n".join(rows) + "\n").encode())
    scored = read_csv(reply.content.decode())
    assert [row["text"] for row in scored] == rows
    assert {row["error"] for row in scored} == {""}
    assert int(scored[0]["windows"]) > 5


Bad = tuple[str, str | bytes, int]
BAD_FILES: Final[dict[str, Bad]] = {
    "no_text_column": ("a.csv", f"id,{MARKER}\n1,x\n", 422),
    "two_text_columns": ("a.csv", "text,text\n1,x\n", 422),
    "column_of_ours": ("a.csv", "text,label\nx,spam\n", 422),
    "empty": ("a.csv", "", 422),
    "ragged": ("a.csv", f"id,text\n1,x\n2,{MARKER},z\n", 422),
    "quote_left_open": ("a.csv", f'id,text\n1,x\n2,"{MARKER}\n', 422),
    "no_utf8": ("a.csv", b"text\nfine\n\xff\n", 422),
    "no_json": ("a.jsonl", f'{{"text": "a"}}\n{{{MARKER}\n', 422),
    "no_object": ("a.jsonl", f'["{MARKER}"]\n', 422),
    "key_of_ours": ("a.jsonl", '{"text": "a", "hate": 1}\n', 422),
    "deep": ("a.jsonl", '{"text": ' + "[" * 50_000 + "]" * 50_000 + "}", 422),
    "line_without_end": ("a.jsonl", '{"text": "' + "x" * 5_000_000 + '"}', 422),
    "field_without_end": ("a.csv", 'text\n"' + "x\n" * 2_500_000 + '"', 422),
    "row_without_end": (
        "a.csv",
        "text,b,c,d,e\n" + ",".join(['"' + "x\n" * 500_000 + '"'] * 5),
        422,
    ),
    "no_parquet": ("a.parquet", MARKER * 100, 422),
    "damaged_parquet": ("a.parquet", b"PAR1" + b"\x00" * 50 + b"PAR1", 422),
    "other_format": ("a.xlsx", MARKER, 415),
    "no_name": ("", MARKER, 415),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if "parquet" in name else [])
        for name in BAD_FILES
    ],
)
def test_a_file_that_cannot_be_scored_is_refused_before_a_reply_begins(
    server: HttpClient, name: str
) -> None:
    file, content, status = BAD_FILES[name]
    reply = upload(server, file, content if isinstance(content, bytes) else content.encode())
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"error", "error_type"}
    assert MARKER not in reply.text


def test_a_server_without_pyarrow_refuses_files_and_scores_texts(
    server: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    reply = upload(server, "a.csv", b"text\ngood morning\n")
    assert reply.status_code == 415
    assert reply.json()["error"].endswith("was installed without pyarrow, and reads no files")
    assert server.post("/score", json={"text": "good morning"}).status_code == 200


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"other": ("a.csv", "text\na\n")}, "file: is missing; send it as a form field named file"),
        ({"file": (None, "text")}, "file: is missing; send it as a form field named file"),
        ({"file": ("a.csv", "text\na\n"), "b": ("b.csv", "x")}, "body: holds several files"),
        (
            {"file": ("a.csv", "text\na\n"), "prefix": (None, "x" * 5000)},
            "body: holds a field that is too long",
        ),
    ],
)
def test_a_form_other_than_one_file_is_a_validation_error(
    server: HttpClient, parts: dict[str, Any], said: str
) -> None:
    reply = server.post("/score/file", files=parts)
    assert (reply.status_code, reply.json()["error"]) == (422, said)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_fields_choose_the_column_its_prefix_and_thresholds(server: HttpClient, kind: str) -> None:
    texts = ["good morning", "", "win a phone"]
    rows = [{"label": "ours", "body": text} for text in texts]
    content = {
        "csv": lambda: "".join(f"{row['label']},{row['body']}\n" for row in rows).encode(),
        "jsonl": lambda: "".join(f"{json.dumps(row)}\n" for row in rows).encode(),
        "parquet": lambda: parquet_bytes(rows),
    }[kind]()
    if kind == "csv":
        content = b"label,body\n" + content
    fields = {"text_column": "body", "prefix": "our_", "thresholds": "hate=0,spam=1,toxic=0"}
    reply = upload(server, f"a.{kind}", content, fields)
    assert reply.status_code == 200, reply.text
    if kind == "csv":
        found: list[dict[str, Any]] = read_csv(reply.text)
    elif kind == "jsonl":
        found = [json.loads(line) for line in reply.text.splitlines()]
    else:
        found = pq.read_table(io.BytesIO(reply.content)).to_pylist()
    assert list(found[0]) == ["label", "body", *(f"our_{name}" for name in ADDED), "our_flagged"]
    assert [row["label"] for row in found] == ["ours"] * 3
    assert [row["our_flagged"] or "" for row in found] == ["hate,toxic", "", "hate,toxic"]
    assert found[1]["our_error"] == "validation: text: must not be empty"


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("sent", "packing", "comes"),
    [("a.csv.gz", None, "gz"), ("a.csv.zst", "none", ""), ("a.csv", "zst", "zst")],
)
def test_a_compressed_file_goes_in_and_out(
    server: HttpClient, sent: str, packing: str | None, comes: str
) -> None:
    codecs = {"gz": "gzip", "zst": "zstd"}
    content = b"text\ngood morning\n"
    if (codec := codecs.get(sent.rpartition(".")[2])) is not None:
        content = pa.compress(content, codec=codec, asbytes=True)
    reply = upload(server, sent, content, {} if packing is None else {"compression": packing})
    name = f"scored.csv.{comes}" if comes else "scored.csv"
    assert reply.headers["Content-Disposition"] == f'attachment; filename="{name}"'
    found = reply.content
    if comes:
        assert reply.headers["Content-Type"] == f"application/{codecs[comes]}"
        found = pa.CompressedInputStream(io.BytesIO(found), codecs[comes]).read()
    (row,) = read_csv(found.decode())
    assert (row["text"], row["error"]) == ("good morning", "")


def zstd(content: bytes, **options: int) -> bytes:
    """Compress as a pipe does, which can't say how long the content is."""
    named: dict[int, int] = {CompressionParameter[name]: value for name, value in options.items()}
    compressor = ZstdCompressor(options=named)
    return compressor.compress(content) + compressor.flush()


def xz(content: bytes, **options: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, **options}]
    return lzma.compress(content, filters=filters)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.zst", zstd(b"text\na\n", compression_level=19)),
        ("a.csv.xz", xz(b"text\na\n", preset=9)),
    ],
)
def test_what_zstd_19_and_xz_9_write_is_read(server: HttpClient, name: str, content: bytes) -> None:
    reply = upload(server, name, content, {"compression": "none"})
    assert reply.status_code == 200, reply.text
    assert [row["text"] for row in read_csv(reply.content.decode())] == ["a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv.zst",
            zstd(b"text\na\n", window_log=24),
            "needs a window of 16 MiB: zstd -d --long=24 it first",
        ),
        (
            "a.csv.zst",
            zstd(b"text\na\n") + zstd(b"b\n", window_log=27),
            "needs a window of more than 8 MiB: zstd -d --long=31 it first",
        ),
        (
            "a.csv.xz",
            xz(b"text\na\n", preset=9, dict_size=128 * 1024 * 1024),
            "needs a window of more than 64 MiB: xz -d it first",
        ),
        (
            "a.csv.zst",
            zstd(b"text\na\n") + zstd(b"") * 100_000,
            "has too many zstd frames: decompress it first",
        ),
    ],
    ids=["zstd", "later frame", "xz", "many frames"],
)
def test_a_file_that_takes_more_to_decompress_is_too_large_and_says_what_to_do(
    server: HttpClient, name: str, content: bytes, message: str
) -> None:
    reply = upload(server, name, content)
    assert (reply.status_code, reply.json()["error_type"]) == (413, "too_large")
    assert reply.json()["error"] == f"file: {message}"


def test_the_windows_of_one_callers_files_are_bounded_together(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    content = xz(b"text\na\n", preset=0)
    fitting = WINDOW_BYTES // 2 // WINDOWS["xz"]
    switches = Switches(tmp_path)
    with (
        faulty_device(switches),
        local_server(tmp_path, small_checkpoint) as server,
        ThreadPoolExecutor(fitting + 1) as pool,
    ):
        server.ready()
        switches.hold()
        try:
            replies = [pool.submit(upload, server, "a.csv.xz", content) for _ in range(fitting + 1)]
            wait_until(lambda: any(reply.done() for reply in replies), "a refusal")
            (refused,) = [reply.result() for reply in replies if reply.done()]
            assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
            assert (
                refused.json()["error"] == "too many zstd and xz files at the same time; try again"
            )
            assert refused.headers["Retry-After"] == "1"
        finally:
            switches.release()
        codes = sorted(reply.result().status_code for reply in replies)
        assert codes == [200] * fitting + [429]
        for _ in range(fitting + 1):  # each gives back what it took
            assert upload(server, "a.csv.xz", content).status_code == 200


def test_a_reply_in_xz_takes_little_memory_on_both_sides(server: HttpClient) -> None:
    reply = upload(server, "a.csv", b"text\na\n", {"compression": "xz"})
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=3 * 1024 * 1024)
    assert [row["text"] for row in read_csv(reader.decompress(reply.content).decode())] == ["a"]


def test_a_small_compressed_file_that_becomes_a_large_one_is_too_large(server: HttpClient) -> None:
    rows = (b"x" * 999 + b"\n") * 17_000
    content = pa.compress(b"text\n" + rows, codec="gzip", asbytes=True)
    assert len(content) < 100_000
    reply = upload(server, "a.csv.gz", content)
    assert (reply.status_code, reply.json()["error_type"]) == (413, "too_large")
    assert reply.json()["error"] == "file: has more than 16777216 characters"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"column": "a"}, "body: fields are file, text_column, prefix, thresholds, quoting, "),
        ({"text_column": "a\nb"}, "text_column: must be at most 200 printable characters"),
        ({"prefix": "x" * 51}, "prefix: must be at most 50 printable characters"),
        ({"compression": "rar"}, "compression: must be one of none, gz, zst"),
        ({"thresholds": "severe"}, "thresholds: names are "),
        ({"thresholds": "spam=2"}, "thresholds.spam: must be a number from 0 to 1"),
        ({"thresholds": "spam=a"}, "thresholds: must be a name, or label=number joined by commas"),
        ({"thresholds": "insult=1"}, "thresholds: may be set for hate"),
        ({"text_column": "body"}, "file: its header has no column body (text_column)"),
        ({"prefix": "i"}, "file: already has ihate; prefix gives the new columns other names"),
    ],
)
def test_a_field_that_cannot_be_is_named(
    server: HttpClient, fields: dict[str, str], message: str
) -> None:
    reply = upload(server, "a.csv", b"ihate,text\n1,a\n", fields)
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
    assert reply.json()["error"].startswith(message)


@pytest.mark.parametrize("pairs", [[("prefix", "a"), ("prefix", "b")], [("prefix", "a")] * 5])
def test_a_field_that_comes_twice_is_refused(
    server: HttpClient, pairs: list[tuple[str, str]]
) -> None:
    reply = server.post("/score/file", data=pairs, files={"file": ("a.csv", b"text\na\n")})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")


def test_a_file_is_on_the_disk_once_it_is_larger_than_what_no_limit_counts() -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    body = head + b"x" * (UNCOUNTED_BYTES + 1) + b"\r\n--b--\r\n"

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "headers": headers}, receive)
    file = asyncio.run(read_form(request, max_fields=1, max_field_bytes=1))["file"]
    assert isinstance(file, UploadFile)
    assert not file._in_memory
    file.file.close()


def test_a_form_that_is_none_is_a_validation_error(server: HttpClient) -> None:
    part = b'--a\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\ntext\nhi\n'
    for kind, body, said in (
        ("multipart/form-data", b"x", "its Content-Type names no boundary"),
        ("multipart/form-data; boundary=a", b"x" * 100, "is not a form of this type"),
        ("multipart/form-data; boundary=a", b"--a\r\n\r\n\r\n--a--", "has a part without a name"),
        ("multipart/form-data; boundary=a", part, "ends before its last boundary"),
        ("multipart/form-data; boundary=a", part + b"\r\n--a", "ends before its last boundary"),
    ):
        reply = server.post("/score/file", data=body, headers={**BEARER, "Content-Type": kind})
        assert (reply.status_code, reply.json()["error"]) == (422, f"body: {said}")


# What a file costs the process, and what it leaves.


@pytest.fixture(scope="module")
def served(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    with http_server(tmp_path_factory.mktemp("process"), small_checkpoint, LIMITS) as server:
        yield server.ready()


def temporary_files(server: HttpServer) -> int:
    """Count open files that have no name any more: uploads, and nothing else."""
    names = []
    for descriptor in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            names.append(descriptor.readlink().name)
        except OSError:  # closed meanwhile
            continue
    return sum(name.endswith("(deleted)") for name in names)


def peak_memory(server: HttpServer) -> int:
    """Return the most bytes that it has held in memory so far."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_a_large_file_is_streamed_in_constant_memory_and_leaves_nothing(
    served: HttpServer,
) -> None:
    # Empty texts: the device, whose memory grows with the shapes that it meets, has no part in it.
    row = f"{'x' * 8000},\n"
    content = ("padding,text\n" + row * 8000).encode()
    assert len(content) > 60_000_000
    upload(served, "warm.csv", content[: 13 + len(row) * 1000])
    before = peak_memory(served)
    reply = served.post("/score/file", files={"file": ("a.csv", content)}, stream=True)
    assert reply.headers["Transfer-Encoding"] == "chunked"
    lines = sum(chunk.count(b"\n") for chunk in reply.iter_content(65536))
    assert lines == 8001
    assert peak_memory(served) - before < 20_000_000, "a third of the file in memory"
    wait_until(lambda: temporary_files(served) == 0, "the upload to be removed")


def test_small_parquet_files_that_grow_large_share_one_budget_and_leave_nothing(
    served: HttpServer,
) -> None:
    column = pa.DictionaryArray.from_arrays(
        pa.array([0] * 64, pa.int32()), pa.array(["x" * 1_000_000])
    )
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"text": column}), sink, store_schema=False, dictionary_pagesize_limit=4_000_000
    )
    assert len(sink.getvalue()) < 100_000
    upload(served, "warm.csv", b"text\n")
    before = peak_memory(served)
    replies = together(PARQUET_FILES * 2, lambda _: upload(served, "a.parquet", sink.getvalue()))
    found = {reply.status_code for reply in replies}
    assert 200 in found
    assert found <= {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.json()["error_type"] == "overloaded"
            assert reply.headers["Retry-After"] == "1"
        else:
            errors = pq.read_table(io.BytesIO(reply.content)).column("error").to_pylist()
            assert len(errors) == 64
            assert all(error.startswith("too_large: ") for error in errors)
    assert peak_memory(served) - before < 300_000_000, "the files are decoded in this process"
    wait_until(lambda: temporary_files(served) == 0, "the uploads to be removed")
    wait_until(lambda: not children(served), "the processes to end")


def test_a_small_parquet_file_of_many_large_values_is_refused(served: HttpServer) -> None:
    column = pa.DictionaryArray.from_arrays(
        pa.array([0] * 300, pa.int32()), pa.array(["x" * 1_000_000])
    )
    sink = io.BytesIO()
    table = pa.table({"text": ["good"] * 300, "same": column})
    pq.write_table(table, sink, store_schema=False, dictionary_pagesize_limit=4_000_000)
    assert len(sink.getvalue()) < 100_000
    reply = upload(served, "a.parquet", sink.getvalue())
    assert (reply.status_code, reply.json()["error_type"]) == (413, "too_large")
    assert reply.json()["error"] == (
        "file: has more than 268435456 bytes of values; leave out columns, or send it in parts"
    )


def test_one_token_has_half_of_the_places_for_parquet_files(served: HttpServer) -> None:
    rows = 2 * BLOCK_ROWS
    large = [random.Random(row).randbytes(20_000) for row in range(rows)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [""] * rows, "more": large}), sink)
    other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
    with contextlib.ExitStack() as stack:
        for _ in range(PARQUET_FILES // 2):
            # Their replies are larger than what waits in a connection, and are not read.
            files = {"file": ("a.parquet", sink.getvalue())}
            unread = served.post("/score/file", files=files, stream=True)
            assert unread.status_code == 200
            stack.enter_context(contextlib.closing(unread))
        small = {"file": ("a.parquet", parquet_bytes([{"text": "good morning"}]))}
        refused = served.post("/score/file", files=small)
        assert (refused.status_code, refused.json()["error_type"]) == (429, "overloaded")
        assert refused.json()["error"] == "too many Parquet files at the same time; try again"
        assert served.post("/score/file", files=small, headers=other).status_code == 200
    wait_until(lambda: not children(served), "the processes to end")
    assert served.post("/score/file", files=small).status_code == 200


def children(server: HttpServer) -> list[str]:
    pid = server.process.pid
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return " ".join(task.read_text() for task in tasks).split()


def test_a_parquet_file_that_needs_too_much_memory_is_too_large(served: HttpServer) -> None:
    nested = pa.array([[0] * 40_000_000], pa.list_(pa.int64()))
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["good"], "nested": nested}), sink)
    assert len(sink.getvalue()) < 100_000
    reply = upload(served, "a.parquet", sink.getvalue())
    assert (reply.status_code, reply.json()["error_type"]) == (413, "too_large")
    wait_until(lambda: temporary_files(served) == 0, "the upload to be removed")
    wait_until(lambda: not children(served), "the process to end")


def test_a_check_ends_when_the_client_goes_away(served: HttpServer) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": pa.nulls(9_000_000, pa.string())}), sink)
    head = (
        f"POST /score/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.parquet"\r\n\r\n'
    body = part + sink.getvalue() + b"\r\n--b--\r\n"
    with served.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: len(children(served)) == 1, "the check to begin")
    wait_until(lambda: not children(served), "the check to end")
    wait_until(lambda: "POST /score/file 499" in served.stderr, "the request to end unanswered")
    wait_until(lambda: temporary_files(served) == 0, "the upload to be removed")


def test_an_upload_is_removed_when_the_client_goes_away(served: HttpServer) -> None:
    content = "text\n" + ("a " * 100 + "\n") * 20_000
    scored = served.metrics()["texts_total"]
    reply = served.post("/score/file", files={"file": ("a.csv", content)}, stream=True)
    assert temporary_files(served) == 1
    reply.close()
    wait_until(
        lambda: temporary_files(served) == 0,
        "the upload to be removed",
        watch=served.require_running,
    )
    wait_until(lambda: served.metrics()["queue_texts"] == 0, "its texts to be dropped")
    assert served.metrics()["texts_total"] - scored < 20_000
    # In the middle of sending, too.
    with served.connect() as connection:
        head = (
            f"POST /score/file HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 9000000\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\ntext\n'
        )
        connection.sendall(head.encode() + b"x\n" * 1_500_000)
        wait_until(lambda: temporary_files(served) == 1, "the upload to reach the disk")
    wait_until(lambda: temporary_files(served) == 0, "the upload to be removed")
