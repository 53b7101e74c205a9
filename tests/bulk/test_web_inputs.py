"""Inputs by URL: a signed one ends in a query, which is a secret and no part of the name."""

from __future__ import annotations

import gzip
import http.server
import json
import lzma
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typing_extensions import override

from hatespeech.bulk import command as score
from hatespeech.bulk.places import find_inputs

pytestmark = pytest.mark.usefixtures("mini")

SECRET: Final = "c2lnbmF0dXJl"
QUERY: Final = f"?response-content-disposition=x.txt&X-Amz-Signature={SECRET}#part"

# A true start: a reader that gets other bytes before the cut rightly says that they are not gzip.
CUT_GZIP: Final = gzip.compress(b'{"text": "good morning"}\n')[:20]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder to queries with the signature, as an object store does."""

    @override
    def do_GET(self) -> None:
        if not urlsplit(self.path).query.endswith(SECRET):
            self.send_error(403)
        elif self.path.startswith("/cut."):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            if self.command == "GET":
                name = urlsplit(self.path).path
                self.wfile.write(CUT_GZIP if name.endswith(".gz") else b"text\ngood morning\n")
        else:
            super().do_GET()

    do_HEAD = do_GET

    @override
    def log_message(self, *arguments: Any) -> None:
        pass


def write(path: Path) -> None:
    """Write one text in the format of the path's name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": ["good morning"]}), path)
    elif path.suffix == ".xz":
        path.write_bytes(lzma.compress(b'{"text": "good morning"}\n'))
    else:
        data = b"text\ngood morning\n"
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the folder ``served``."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(_Handler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "name",
    ["a.csv", "my tweets.csv.gz", "a.jsonl.xz", "a.parquet"],
)
def test_a_signed_url_is_scored_by_its_path(
    name: str, web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("served", name))
    url = f"{web}/{name.replace(' ', '%20')}{QUERY}"
    assert score.main([url, "out/"]) == 0
    assert [path.name for path in Path("out").iterdir()] == [name]
    kept = [Path("out.run.json").read_text(), capsys.readouterr().err]
    assert SECRET not in "".join(kept)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
def test_a_server_need_not_know_ranges(name: str, web: str) -> None:
    """The library for URLs reads 5 MB in one piece, and asks for the next ones by their range."""
    noise = random.Random(0).randbytes(6_000_000).hex()
    if name == "a.parquet":
        table = pa.table({"text": ["good morning", None], "noise": [noise[::2], noise[1::2]]})
        pq.write_table(table, "served/a.parquet", compression="none", use_dictionary=False)
    elif name == "a.csv":
        rows = (f",{noise[start : start + 500_000]}\n" for start in range(0, 12_000_000, 500_000))
        Path("served", name).write_text("text,noise\ngood morning,\n" + "".join(rows))
    else:
        rows = (json.dumps({"text": None, "n": noise[at::24]}) + "\n" for at in range(24))
        Path("served", name).write_bytes(gzip.compress("".join(rows).encode(), 1))
    assert Path("served", name).stat().st_size > 5 * 2**20
    assert score.main([f"{web}/{name}{QUERY}", "out.csv"]) == 0


def test_a_url_with_a_new_signature_is_the_same_input(
    web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("served/a.csv"))
    for query, said in ((f"?a{QUERY}", "wrote "), (f"?b{QUERY}", "is complete, scored by ")):
        assert score.main([f"{web}/a.csv{query}", "out.csv"]) == 0
        assert said in capsys.readouterr().err


def test_what_a_server_says_of_a_url_is_told_without_its_query(
    web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, query, message in (
        ("a.csv", "?X-Amz-Signature=old", "HTTP 403: is its signature wrong, or too old?"),
        ("none.csv", QUERY, "HTTP 404"),
        ("a", QUERY, "its name must end in .csv"),
    ):
        write(Path("served/a.csv"))
        Path("served/a").write_text("text\n")
        assert score.main([f"{web}/{name}{query}", "out.csv"]) == 1
        said = capsys.readouterr().err
        assert f"error: {web}/{name}: {message}" in said
        assert "Signature" not in said


def test_a_url_whose_name_says_no_format_has_it_said(web: str) -> None:
    Path("served/export").write_text("text\ngood morning\n")
    command = [f"{web}/export{QUERY}", "out.csv", "--input-format", "csv"]
    assert score.main(command) == 0
    assert len(Path("out.csv").read_text().splitlines()) == 2


def test_a_url_cannot_be_out(web: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text("text\ngood morning\n")
    assert score.main(["a.csv", f"{web}/b.csv{QUERY}"]) == 1
    said = capsys.readouterr().err
    assert "/b.csv: can't be written over HTTP" in said
    assert SECRET not in said


def test_a_query_says_nothing_of_the_rows(web: str) -> None:
    write(Path("served/a.csv"))
    assert score.main([f"{web}/a.csv?part=1/x=2/y&{SECRET}", "out.csv"]) == 0
    assert Path("out.csv").read_text().startswith("text,hate,")


def test_a_folder_in_a_url_says_a_column(web: str) -> None:
    Path("served/lang=pt br").mkdir()
    write(Path("served/lang=pt br/a.csv"))
    assert score.main([f"{web}/lang%3Dpt%20br/a.csv{QUERY}", "out.csv"]) == 0
    assert Path("out.csv").read_text().splitlines()[1].startswith("good morning,pt br,")


def test_the_files_of_a_glob_are_named_below_its_folder(
    web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SECRET", "")
    Path("served/data").mkdir()
    write(Path("served/data/a.csv"))
    (found,) = find_inputs(f"{web}/data/*.csv").inputs
    assert found.name == "a.csv"  # not a/a.csv


def test_a_signature_is_sent_as_it_is_written(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = "a%2Fb%2Bc%3D"
    monkeypatch.setattr(f"{__name__}.SECRET", signature)
    write(Path("served/my tweets.csv"))
    assert score.main([f"{web}/my%20tweets.csv?sig={signature}", "out.csv"]) == 0


@pytest.mark.parametrize("name", ["cut.csv", "cut.jsonl.gz", "cut.parquet"])
def test_a_server_that_stops_sending_is_told(
    name: str, web: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main([f"{web}/{name}{QUERY}", "out.csv"]) == 1
    said = capsys.readouterr().err
    assert f"error: {web}/{name}: the server stopped sending it (ClientPayloadError)" in said
    assert SECRET not in said
