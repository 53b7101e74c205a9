"""A run by files gives the bytes of a run by rows; here the machine that is free is this one."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typing_extensions import override

from hatespeech.bulk import RunError
from hatespeech.bulk.by_file import Cut, FileTask, run_by_file
from hatespeech.bulk.engines.base import EngineError, TaskEngine
from hatespeech.bulk.engines.local import LocalEngine
from hatespeech.bulk.plan import Plan, RunOptions, make_plan
from hatespeech.bulk.row_scoring import Outcome, score_rows
from hatespeech.bulk.run import run
from hatespeech.bulk.statistics import Columns
from hatespeech.engine.predictor import Predictor
from hatespeech.settings import EngineSettings
from tests.paths import MINI
from tests.support.pages import without_time

pytestmark = pytest.mark.usefixtures("mini")

SETTINGS = EngineSettings(model_dir=MINI, device="cpu")
WORDS = ["good", "morning", "you", "are", "scum", "win", "a", "free", "phone", ""]
PARQUET_ROWS = 66  # two pieces, of 64 parts of one row and of two


class Here(TaskEngine):
    """Does one task after the other; what it has done is in ``done``."""

    def __init__(self, predictor: Predictor, most: int | None = None) -> None:
        self.engine = LocalEngine(predictor, SETTINGS)
        self.done: list[tuple[FileTask, Any]] = []
        self._predictor = predictor
        self._most = most

    @property
    @override
    def model(self) -> str:
        return self._predictor.model_id

    @property
    @override
    def dtype(self) -> str:
        return self._predictor.dtype

    @override
    def work(self, next_task: Callable[[], Any]) -> Generator[tuple[Any, Any], None, None]:
        while task := next_task():
            if len(self.done) == self._most:
                raise EngineError("interrupted")
            self.done.append((task, task.do(self.engine)))
            yield self.done[-1]

    @override
    def close(self) -> None:
        self.engine.close()

    @property
    def names(self) -> list[str]:
        """The files that it was given."""
        return sorted({task.plan.inputs[0].name for task, _ in self.done})


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_settings(SETTINGS)


@pytest.fixture
def folder(mini: None) -> Path:
    """A folder of files in each format, one of them without rows."""
    rng = random.Random(3)
    source = Path("in/sub")
    source.mkdir(parents=True)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, 9))) for _ in range(PARQUET_ROWS)]
    table = pa.table({"n": list(range(PARQUET_ROWS)), "text": texts})
    pq.write_table(table, "in/long.parquet", row_group_size=32)
    for name, first in (("in/a.csv", 0), ("in/sub/b.csv", 7)):
        rows = [f'{index},"{text}"\n' for index, text in enumerate(texts[first : first + 7])]
        Path(name).write_text("".join(["n,text\n", *rows]))
    Path("in/c.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in texts[:5]))
    Path("in/none.csv").write_text("n,text\n")
    return Path("in")


def options(out: str, **other: Any) -> RunOptions:
    wanted: dict[str, Any] = {
        "report": f"{out}.html",
        "include_text": True,
        "report_columns": Columns("n", ["n"]),
        "prefix": "",
        "chunk_rows": 1,
    } | other
    return RunOptions("in", out, "text", **wanted)


def by_file(engine: Here, out: str = "by_file", **other: Any) -> Outcome | None:
    plan = make_plan(options(out, **other), SETTINGS)
    return run_by_file(plan, lambda: engine, lambda: None)


def by_rows(predictor: Predictor, out: str = "by_rows", **other: Any) -> Outcome | None:
    plan = make_plan(options(out, **other), SETTINGS)
    return run(plan, lambda: LocalEngine(predictor, SETTINGS))


def content(folder: str) -> dict[str, bytes]:
    """All that a run has left under a name."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }
    found["report"] = without_time(Path(f"{folder}.html")).replace(folder, "OUT").encode()
    found["receipt"] = without_time(Path(f"{folder}.run.json")).encode()
    assert not Path(f"{folder}.partial").exists()
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_files_report_and_receipt_are_those_of_a_run_by_rows(predictor: Predictor) -> None:
    engine = Here(predictor)
    outcome, expected = by_file(engine), by_rows(predictor)
    assert content("by_file") == content("by_rows")
    assert outcome is not None
    assert expected is not None
    assert (outcome.model, outcome.scored) == (expected.model, expected.scored)
    assert by_file(Here(predictor)) is None
    # The large file went in pieces, each of its own row groups.
    long = [(task, found) for task, found in engine.done if "long" in task.plan.inputs[0].name]
    assert isinstance(long[0][1], Cut)
    assert [task.piece for task, _ in long] == [None, 0, 1, None]


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_run_that_ends_anywhere_goes_on_to_the_same_bytes(predictor: Predictor) -> None:
    scored = interrupted = 0
    while True:
        engine = Here(predictor, most=interrupted + 1)
        try:
            outcome = by_file(engine)
        except EngineError:
            interrupted += 1
            continue
        assert outcome is not None
        scored = outcome.scored
        break
    assert interrupted >= 7
    # What an earlier one has scored is not scored again.
    assert scored < 10
    by_rows(predictor)
    assert content("by_file") == content("by_rows")


def test_file_that_fails_is_named_and_only_that_one_is_left_to_do(
    folder: Path, predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "long.parquet").unlink()
    good = (folder / "sub/b.csv").read_text()
    (folder / "sub/b.csv").write_text(good + "1,2,3\n")
    (folder / "c.jsonl").write_text("[\n")
    with pytest.raises(RunError, match=r"^2 of 4 files have no scores, the first: .*/c.jsonl: .*"):
        by_file(Here(predictor))
    assert [record.message.partition(": ")[0] for record in caplog.records] == [
        str((folder / name).absolute()) for name in ("c.jsonl", "sub/b.csv")
    ]
    assert not Path("by_file").exists()
    # One is corrected, the other taken away.
    (folder / "sub/b.csv").write_text(good)
    (folder / "c.jsonl").unlink()
    outcome = by_file(Here(predictor))
    assert outcome is not None
    assert outcome.scored == 7
    by_rows(predictor)
    assert content("by_file") == content("by_rows")


def test_file_that_changes_meanwhile_is_scored_again(folder: Path, predictor: Predictor) -> None:
    (folder / "long.parquet").unlink()

    class Changing(Here):
        @override
        def work(self, next_task: Callable[[], Any]) -> Generator[tuple[Any, Any], None, None]:
            yield from super().work(next_task)
            (folder / "a.csv").write_text("n,text\n1,hello\n")

    with pytest.raises(RunError, match=r"/a\.csv: changed after it was scored; run the same"):
        by_file(Changing(predictor))
    outcome = by_file(Here(predictor))
    assert outcome is not None
    assert outcome.scored == 1
    by_rows(predictor)
    assert content("by_file") == content("by_rows")


def test_file_that_changes_while_it_is_scored_has_failed(
    folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "long.parquet").unlink()

    def score(plan: Plan, *arguments: Any) -> Any:
        if plan.inputs[0].name == "a.csv":
            (folder / "a.csv").write_text("n,text\n1,hello\n")
        return score_rows(plan, *arguments)

    monkeypatch.setattr("hatespeech.bulk.by_file.score_rows", score)
    with pytest.raises(RunError, match=r"^1 of 4 files .*/a\.csv: changed while it was being sco"):
        by_file(Here(predictor))


@pytest.mark.usefixtures("folder")
def test_what_goes_by_rows_does_not_go_on_by_files_and_the_other_way_round(
    predictor: Predictor,
) -> None:
    with pytest.raises(EngineError):
        by_file(Here(predictor, most=1))
    with pytest.raises(RunError, match="holds a run that goes by files; add --engine ray --by-fi"):
        by_rows(predictor, "by_file")
    with pytest.raises(RunError, match="holds a run with another --prefix; repeat its command"):
        by_file(Here(predictor), prefix="x_")
    shutil.rmtree("by_file.partial")
    Path("by_file.partial").mkdir()
    note = {"run": make_plan(options("by_file"), SETTINGS).fingerprint(), "rows": [], "kinds": []}
    Path("by_file.partial/run.json").write_text(json.dumps(note))
    with pytest.raises(RunError, match="holds a run that goes by rows; add --no-by-file"):
        by_file(Here(predictor))


@pytest.mark.usefixtures("folder")
def test_another_model_does_not_go_on(predictor: Predictor) -> None:
    class Other(Here):
        @property
        @override
        def model(self) -> str:
            return "other@000000000000"

    with pytest.raises(EngineError):
        by_file(Here(predictor, most=2))
    with pytest.raises(RunError, match=r"scored by mini@\w+, but this engine is other@0"):
        by_file(Other(predictor))


@pytest.mark.usefixtures("folder")
def test_another_number_format_does_not_go_on(predictor: Predictor) -> None:
    class OnGpus(Here):
        @property
        @override
        def dtype(self) -> str:
            return "float16"

    with pytest.raises(EngineError):
        by_file(Here(predictor, most=2))
    with pytest.raises(RunError, match=r"scored in float32, but this engine scores in float16"):
        by_file(OnGpus(predictor))


@pytest.mark.usefixtures("folder")
def test_full_disk_ends_the_run_instead_of_failing_every_file(predictor: Predictor) -> None:
    class Full(Here):
        @override
        def work(self, next_task: Callable[[], Any]) -> Generator[tuple[Any, Any], None, None]:
            Path("by_file.partial/files").write_text("where there should be a folder")
            yield from super().work(next_task)

    with pytest.raises(EngineError, match=r"/by_file\.partial/files/.*: Not a directory"):
        by_file(Full(predictor))


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_output_of_a_machine_that_was_thought_dead_does_no_harm(predictor: Predictor) -> None:
    class Twice(Here):
        """Each file is written by a second machine while the first one still writes it."""

        @override
        def work(self, next_task: Callable[[], Any]) -> Generator[tuple[Any, Any], None, None]:
            for task, result in super().work(next_task):
                task.do(self.engine)
                yield task, result

    by_file(Twice(predictor))
    by_rows(predictor)
    assert content("by_file") == content("by_rows")


def test_file_whose_name_is_not_utf_8_goes_too(folder: Path, predictor: Predictor) -> None:
    (folder / "long.parquet").unlink()
    os.rename(b"in/a.csv", b"in/a\xff.csv")  # noqa: PTH104 - a name of bytes
    by_file(Here(predictor))
    assert os.path.exists(b"by_file/a\xff.csv")  # noqa: PTH110 - as above


def test_object_store_gets_the_same_files(folder: Path, predictor: Predictor) -> None:
    (folder / "long.parquet").unlink()
    store = fsspec.filesystem("memory")
    store.put(str(folder), "/in", recursive=True)
    plan = make_plan(
        RunOptions("memory://in", "memory://out", "text", 1, "", None, False), SETTINGS
    )
    run_by_file(plan, lambda: Here(predictor), lambda: None)
    by_rows(predictor)
    made = {name: data for name, data in content("by_rows").items() if "." in name}
    assert {name: store.cat_file(f"/out/{name}") for name in made} == made
    assert sorted(store.find("/")) == sorted(
        ["/out.run.json", *(f"/{top}/{name}" for top in ("in", "out") for name in made)]
    )
