"""Inputs that change under a run, and runs that fail: one line, and nothing wrong is written."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.bulk import command as score
from hatespeech.bulk.engines.base import EngineError, ScoredChunk
from hatespeech.bulk.engines.local import LocalEngine
from tests.paths import ROOT
from tests.support.processes.score import SECONDS, environment

pytestmark = pytest.mark.usefixtures("mini")

BEFORE = "id,text\n1,good morning\n2,you are scum\n"
CHANGES = {
    "rows_swapped": "id,text\n2,you are scum\n1,good morning\n",
    "a_row_more": BEFORE + "3,one more\n",
    "a_row_less": "id,text\n1,good morning\n",
    "a_field_less": BEFORE + "3\n",
    "another_header": "id,body\n1,good morning\n2,you are scum\n",
    "gone": None,
}


def once_before(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Have something happen just before a stage of the run."""
    module, _, path = name.partition(":")
    target = f"hatespeech.bulk.{module}.{path}"
    real = resolve_name(f"hatespeech.bulk.{module}:{path}")

    def staged(*arguments: Any) -> Any:
        act()
        return real(*arguments)

    monkeypatch.setattr(target, staged)


@pytest.mark.parametrize("stage", ["row_scoring:score_missing", "row_scoring:OnePass.end"])
@pytest.mark.parametrize("after", CHANGES.values(), ids=CHANGES.keys())
def test_an_input_that_changes_while_it_is_scored_ends_the_run(
    stage: str,
    after: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = Path("a.csv")
    source.write_text(BEFORE)

    def change() -> None:
        source.unlink()
        if after is not None:
            source.write_text(after)

    once_before(monkeypatch, stage, change)
    assert score.main(["a.csv", "b.csv", "--chunk-rows", "1"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {source.absolute()}: changed while it was being scored; remove "
        f"{Path('b.csv').absolute()}.partial and run again"
    )
    assert not Path("b.csv").exists()


def test_an_engine_that_fails_is_said_whatever_has_become_of_the_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.csv").write_text(BEFORE)

    def fail(*_arguments: object) -> None:
        Path("a.csv").unlink()
        raise EngineError("the device failed")

    monkeypatch.setattr("hatespeech.bulk.engines.local.LocalEngine.score", fail)
    assert score.main(["a.csv", "b.csv"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: the device failed"
    assert Path("b.csv.partial").exists()


def test_scoring_ends_before_the_engine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.csv").write_text(BEFORE)
    ended = []
    real = LocalEngine.close

    def scoring(*_arguments: object) -> Iterator[ScoredChunk]:
        try:
            yield ScoredChunk(0, [], "mini@000000000000")  # not the rows that there are
        finally:
            ended.append("scoring")

    def close(self: LocalEngine) -> None:
        ended.append("engine")
        real(self)

    monkeypatch.setattr(LocalEngine, "score", scoring)
    monkeypatch.setattr(LocalEngine, "close", close)
    assert score.main(["a.csv", "b.csv"]) == 1
    assert ended == ["scoring", "engine"]


def test_a_change_that_leaves_no_trace_on_the_file_shows_in_its_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a mapped file's does on some file systems: size and time stay."""
    source = Path("a.csv")
    source.write_text(BEFORE)
    known = source.stat()

    def change() -> None:
        source.write_text("id,text\n1,good morning\n2,you\n3,scum\n".ljust(known.st_size, "\n"))
        os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))

    once_before(monkeypatch, "row_scoring:score_missing", change)
    assert score.main(["a.csv", "b.csv"]) == 1
    assert "a.csv: changed while it was being scored" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_comes_to_the_folder_meanwhile_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("in").mkdir()
    Path("in/a.csv").write_text(BEFORE)
    once_before(monkeypatch, "row_scoring:OnePass.end", lambda: Path("in/b.csv").write_text(BEFORE))
    assert score.main(["in", "out"]) == 0
    assert [path.name for path in Path("out").iterdir()] == ["a.csv"]


def test_a_text_that_changes_without_a_trace_on_the_file_is_not_given_old_scores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hatespeech.bulk.row_scoring.WAITING_BYTES", 0)  # rows are read once more
    source = Path("a.csv")
    source.write_text(BEFORE)
    known = source.stat()

    def change() -> None:
        source.write_text(BEFORE.replace("you are scum", "are you scum"))
        os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))

    once_before(monkeypatch, "row_scoring:OnePass.end", change)
    assert score.main(["a.csv", "b.csv"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: a text is not the one that was scored: has the input changed?"
    assert not Path("b.csv").exists()


@pytest.mark.parametrize("stage", ["row_scoring:score_missing", "run:finish"])
def test_an_output_that_appears_meanwhile_is_not_replaced(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.csv").write_text(BEFORE)
    out = Path("b.csv")
    command = ["a.csv", "b.csv"]
    with monkeypatch.context() as patch:
        once_before(patch, stage, lambda: out.write_text("somebody's work"))
        assert score.main(command) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "b.csv: appeared during the run, and was not made by it" in said
    assert out.read_text() == "somebody's work"
    assert score.main(command) == 1  # it is not taken for this run's
    assert "was not made from this input" in capsys.readouterr().err.splitlines()[-1]
    out.unlink()
    assert score.main(command) == 0
    assert " rows in " not in capsys.readouterr().err  # nothing was scored again
    assert out.read_text().startswith("id,text,hate,")


def test_an_output_folder_that_appears_meanwhile_keeps_its_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in").mkdir()
    Path("in/a.csv").write_text(BEFORE)
    out = Path("out")

    def appear() -> None:
        out.mkdir()
        (out / "a.csv").write_text("somebody's work")

    once_before(monkeypatch, "run:finish", appear)
    assert score.main(["in", "out"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "out: appeared during the run, and was not made by it" in said
    assert (out / "a.csv").read_text() == "somebody's work"


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
def test_a_file_system_without_links_gets_its_output_all_the_same(
    taken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    Path("a.csv").write_text(BEFORE)
    if taken:
        once_before(monkeypatch, "run:finish", lambda: Path("b.csv").write_text("somebody's work"))
    monkeypatch.setattr(os, "link", refuse)
    assert score.main(["a.csv", "b.csv"]) == (1 if taken else 0)
    begins = "somebody's work" if taken else "id,text,hate,"
    assert Path("b.csv").read_text().startswith(begins)


@pytest.mark.slow
@pytest.mark.parametrize("limited", [True, False], ids=["disk_full", "interrupted"])
def test_a_parquet_file_given_up_leaves_nothing_but_one_line(limited: bool, tmp_path: Path) -> None:
    """What pyarrow does when its writer is collected would come after it, as a traceback."""
    rng = random.Random(7)
    others = [rng.randbytes(50).hex() for _ in range(2000)]
    pq.write_table(pa.table({"text": [""] * 2000, "other": others}), "a.parquet")
    script = """
import sys
import hatespeech.formats.parquet, hatespeech.bulk.output
from hatespeech.bulk import command as score
hatespeech.formats.parquet.GROUP_ROWS = 100

def interrupt(*arguments):
    raise KeyboardInterrupt

if sys.argv[1] == "False":
    hatespeech.bulk.output.Statistics.add = interrupt
code = score.main(["a.parquet", "b.parquet"])
import gc
gc.collect()
sys.exit(code)
"""
    limit = ["bash", "-c", f'ulimit -f {64 if limited else 1_000_000}; exec "$@"', "bash"]
    done = subprocess.run(
        [*limit, sys.executable, "-c", script, str(limited)],
        env={**environment(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == (1 if limited else 130), done.stderr
    assert "Traceback" not in done.stderr
    said = "error: " if limited else "interrupted; run the same command again to resume"
    assert done.stderr.splitlines()[-1].startswith(said)
