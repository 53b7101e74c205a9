"""The same rows, sent to ``POST /score/file`` and given to score.py, give the same bytes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.formats.parquet import GROUP_ROWS
from tests.paths import MINI
from tests.support.http_client import HttpClient
from tests.support.local_server import local_server
from tests.support.processes.score import run_here

# One of them is scored, because a text's last digit may depend on those that share its pass.
TEXTS = ["", "\u2028", None, "you are scum, 🎉", None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpClient]:
    with local_server(tmp_path_factory.mktemp("routes"), MINI, {"DTYPE": "float32"}) as server:
        yield server.ready()


def csv_of(columns: dict[str, list[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *zip(*columns.values(), strict=True)])
    return text.getvalue().encode()


def tsv_of(columns: dict[str, list[Any]]) -> bytes:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "".join("\t".join(str(cell or "") for cell in row) + "\n" for row in rows).encode()


def jsonl_of(columns: dict[str, list[Any]]) -> bytes:
    rows = zip(*columns.values(), strict=True)
    lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def parquet_of(columns: dict[str, list[Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=1000)
    return sink.getvalue()


# Of Parquet so many rows that row groups are cut; they have no text, which costs no scoring.
CASES: dict[str, Any] = {
    "csv": (csv_of, 0),
    "tsv": (tsv_of, 0),
    "jsonl": (jsonl_of, 0),
    "parquet": (parquet_of, 2 * GROUP_ROWS + 500),
}


@pytest.mark.usefixtures("mini")
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind == "parquet")) for kind in CASES]
)
def test_both_routes_write_the_same_bytes(kind: str, server: HttpClient) -> None:
    make, more = CASES[kind]
    texts = [*TEXTS, *[None] * more]
    notes = ['a "quoted", note', "", "schön"] + ["x"] * (len(texts) - 3)
    columns = {"id": list(range(len(texts))), "text": texts, "note": notes}
    path = Path(f"in.{kind}")
    path.write_bytes(make(columns))
    reply = server.post("/score/file", files={"file": (path.name, path.read_bytes())})
    assert reply.status_code == 200, reply.text
    run_here(path, f"out.{kind}")
    assert reply.content == Path(f"out.{kind}").read_bytes()
    if kind == "parquet":
        schema = pq.read_schema(io.BytesIO(reply.content))
        assert schema.field("hate").type == pa.float32()
        assert pq.read_metadata(io.BytesIO(reply.content)).num_row_groups > 1
    if kind == "csv":
        *_, row, _ = csv.DictReader(io.StringIO(reply.text, newline=""))
        shortest = pa.array([float(row["hate"])], pa.float32()).cast(pa.string())
        assert shortest.to_pylist() == [row["hate"]]
