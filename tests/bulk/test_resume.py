"""A run that is killed, at any moment, goes on to the very bytes of one that was not."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from hatespeech.bulk import command as score
from tests.paths import MINI, ROOT
from tests.support.pages import without_time
from tests.support.processes.score import SECONDS, environment, run_score

ROWS = 600
OPTIONS = ("--chunk-rows", "100")
REPORT = ("--id-column", "id", "--group-by", "id", "--include-text", "--report")
# Each is where the next run is killed; the last leaves nothing to do.
MOMENTS = [
    ("hatespeech.bulk.run:check_inputs", 1, "before"),  # a folder, and nothing in it
    ("os:replace", 1, "before"),  # run.json is written, not yet under its name
    ("os:replace", 2, "before"),  # run.json is there, a part is written, not yet under its name
    ("os:replace", 2, "after"),  # one part more
    ("hatespeech.engine.device:Device.score", 1, "before"),
    ("hatespeech.engine.predictor:Predictor.probabilities", 2, "after"),
    ("hatespeech.bulk.engines.local:LocalEngine.close", 1, "before"),  # every part is there
    ("hatespeech.formats.lines:CsvWriter.write", 1, "after"),
    ("hatespeech.bulk.run:render", 1, "before"),  # the output is there, not yet under its name
    ("os:replace", 1, "before"),  # the report is written, not yet under its name
    ("os:replace", 2, "before"),  # so is what tells that OUT is finished
    ("os:link", 1, "before"),  # all is there but OUT
    ("os:link", 1, "after"),  # OUT is there, also under its old name, and so are the parts
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.csv"
    rng = random.Random(5)
    words = ["good", "morning", "win", "a", "free", "phone", "you", "are", "scum", "river"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for index in range(ROWS):
            writer.writerow([index, " ".join(rng.choices(words, k=rng.randint(0, 30)))])
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run_score(folder, source, folder / "out.csv", *OPTIONS, *REPORT, folder / "r.html")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_killed_at_every_stage_the_run_goes_on_to_the_same_bytes(
    source: Path, expected: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out.csv", tmp_path / "r.html"
    command = (source, out, *OPTIONS, *REPORT, report)
    for moment in MOMENTS:
        assert not out.exists()
        killed = run_score(tmp_path, *command, moment=moment)
        assert killed.returncode == -signal.SIGKILL, (moment, killed.stderr)
    assert (out.exists(), (tmp_path / "out.csv.partial").exists()) == (True, True)
    again = run_score(tmp_path, *command)
    model = json.loads((expected / "out.csv.run.json").read_text())["model"]
    assert (again.returncode, again.stderr.strip()) == (
        0,
        f"{report} stays as it is; remove it, and this command writes it again\n"
        f"{out} is complete, scored by {model}; remove it to score again",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.csv",
        "out.csv.run.json",
        "r.html",
    ]
    assert (tmp_path / "out.csv").read_bytes() == (expected / "out.csv").read_bytes()
    for name in ("out.csv.run.json", "r.html"):
        assert without_time(tmp_path / name) == without_time(expected / name), name


def start(home: Path, source: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ROOT / "score.py", source, out, "--chunk-rows", "20"],
        cwd=ROOT,
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_parts(out: Path, count: int) -> None:
    scores = out.with_name(out.name + ".partial") / "scores"
    until = time.monotonic() + SECONDS
    while len(list(scores.glob("*.parquet"))) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def long_source(source: Path, tmp_path: Path) -> Path:
    """So many rows that a run is still at it when a test gets to it."""
    header, *rows = source.read_text().splitlines()
    path = tmp_path / "long.csv"
    path.write_text("\n".join([header, *rows * 100]))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_a_run_says_how_it_goes_on(
    number: signal.Signals, long_source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    process = start(tmp_path, long_source, out)
    wait_for_parts(out, 2)
    os.killpg(process.pid, number)  # as a terminal does: every process of the run gets it
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted; run the same command again to resume"
    assert "Traceback" not in stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_the_lock_free(long_source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    process = start(tmp_path, long_source, out)
    wait_for_parts(out, 2)
    second = run_score(tmp_path, long_source, out, "--chunk-rows", "20")
    assert second.returncode == 1
    assert second.stderr.splitlines() == [f"error: {out}.partial: another run is writing there"]
    process.kill()
    process.communicate(timeout=SECONDS)
    third = start(tmp_path, long_source, out)
    before = len(list((tmp_path / "out.csv.partial" / "scores").iterdir()))
    wait_for_parts(out, before + 2)
    third.kill()
    third.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def begun_once(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose parts are there and whose OUT is not, and a copy beside it."""
    folder = tmp_path_factory.mktemp("begun") / "now"
    folder.mkdir()
    shutil.copy2(source, folder / "in.csv")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        patch.setattr("hatespeech.bulk.row_scoring.OnePass.end", interrupt)
        assert score.main(command_in(folder)) == 130
    shutil.copytree(folder, folder.with_name("kept"))
    return folder


def command_in(folder: Path) -> list[str]:
    return [
        str(folder / "in.csv"),
        str(folder / "out.csv"),
        "--chunk-rows",
        "100",
    ]


@pytest.fixture
def begun(begun_once: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of that run, in the state in which it was interrupted."""
    shutil.rmtree(begun_once)
    shutil.copytree(begun_once.with_name("kept"), begun_once)
    for name, value in environment(begun_once).items():
        monkeypatch.setenv(name, value)
    return command_in(begun_once)


def interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--text-column", "id"], "--text-column"),
        (["--chunk-rows", "99"], "--chunk-rows"),
        (["--prefix", "p_"], "--prefix"),
        (["--robust"], "--robust"),
    ],
)
def test_another_command_does_not_go_on_with_a_run(
    more: list[str], what: str, begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert score.main([*begun, *more]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds a run with another {what}" in line


@pytest.mark.parametrize(("name", "value"), [("ON_UNREAD", "refuse"), ("DTYPE", "bfloat16")])
def test_another_setting_does_not_go_on_with_a_run(
    name: str,
    value: str,
    begun: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert score.main(begun) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds a run with another {name}" in line


def test_a_changed_input_does_not_go_on_with_a_run(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(begun[0]).open("a") as file:
        file.write("7,one more\n")
    capsys.readouterr()
    assert score.main(begun) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run on other or changed files" in line


def test_another_model_does_not_go_on_with_a_run(
    begun: list[str],
    small_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    part = Path(f"{begun[1]}.partial", "scores", "00000002.parquet")
    part.unlink()
    monkeypatch.setenv("MODEL_DIR", str(small_checkpoint))
    assert score.main(begun) == 1
    assert f"some parts were scored by {MINI.name}@" in capsys.readouterr().err.splitlines()[-1]
    assert not part.exists()


def test_dtype_auto_on_another_kind_of_device_does_not_go_on_with_a_run(
    begun: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Path(f"{begun[1]}.partial", "scores", "00000002.parquet")
    part.unlink()
    # As float16 on a GPU, which a CPU without it computes slowly.
    monkeypatch.setattr("hatespeech.engine.predictor.choose_dtype", lambda *_: torch.bfloat16)
    assert score.main(begun) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: some parts were scored in float32, but this engine scores in bfloat16: run again "
        "on the kind of device that scored them, or remove the .partial folder"
    )
    assert not part.exists()


def test_a_run_whose_parts_are_all_there_needs_no_model(
    begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", "nowhere")
    assert score.main(begun) == 0
    assert Path(begun[1]).exists()


@pytest.mark.parametrize("engine", ["local", "runpod"])
def test_a_finished_run_killed_while_it_removed_its_parts_needs_no_engine(
    engine: str,
    begun: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert score.main(begun) == 0
    left = Path(begun[1]).with_name("out.csv.partial") / "scores" / "00000003.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"not yet removed")
    monkeypatch.setenv("MODEL_DIR", "nowhere")
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    assert score.main([*begun, "--engine", engine]) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("; remove it to score again")
    assert not left.parent.parent.exists()


def test_a_damaged_part_is_named(begun: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    part = Path(f"{begun[1]}.partial", "scores", "00000002.parquet")
    part.write_bytes(part.read_bytes()[:50])
    assert score.main(begun) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {part}: can't be read; remove it and run again"
    )
    part.unlink()
    assert score.main(begun) == 0
    assert "\n  100 rows in " in capsys.readouterr().err  # no other part was scored again


def test_a_part_with_one_wrong_bit_is_named_and_never_merged(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    part = Path(f"{begun[1]}.partial", "scores", "00000002.parquet")
    whole = bytearray(part.read_bytes())
    whole[100] ^= 1  # among the scores
    part.write_bytes(whole)
    assert score.main(begun) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {part}: ")
    assert not Path(begun[1]).exists()


def test_parts_under_each_others_names_are_not_merged(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (
        Path(f"{begun[1]}.partial/scores/0000000{number}.parquet") for number in (1, 4)
    )
    swapped = first.read_bytes(), second.read_bytes()
    second.write_bytes(swapped[0])
    first.write_bytes(swapped[1])
    assert score.main(begun) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{begun[1]}.partial: part 1 has the scores of other texts" in said
    assert not Path(begun[1]).exists()


def test_a_run_that_an_older_version_began_says_that_it_cannot_be_resumed(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    note = Path(f"{begun[1]}.partial", "run.json")
    run = json.loads(note.read_text())
    run["run"]["format"] -= 1
    note.write_text(json.dumps(run))
    capsys.readouterr()
    assert score.main(begun) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "was begun by another version of this command, and can't be resumed" in line
    assert len(list((note.parent / "scores").iterdir())) == ROWS // 100


def test_a_run_that_an_older_version_finished_is_complete(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main(begun) == 0
    receipt = Path(f"{begun[1]}.run.json")
    said = json.loads(receipt.read_text())
    said["run"]["format"] -= 1
    receipt.write_text(json.dumps(said))
    assert score.main(begun) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("; remove it to score again")


def test_an_input_that_changes_between_two_runs_shows_although_its_time_was_put_back(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(begun[0])
    known = source.stat()
    lines = source.read_bytes().splitlines(keepends=True)
    # The same words in another order: neither size nor number of rows tells.
    index, line = next((i, line) for i, line in enumerate(lines) if b"you are" in line)
    lines[index] = line.replace(b"you are", b"are you")
    source.write_bytes(b"".join(lines))
    os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert score.main(begun) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"part {(index - 1) // 100} has the scores of other texts" in said
    assert not Path(begun[1]).exists()


def test_an_unreadable_note_of_a_run_costs_no_scores(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    note = Path(f"{begun[1]}.partial", "run.json")
    note.write_bytes(b"")
    assert score.main(begun) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {note}: can't be read")
    assert len(list((note.parent / "scores").iterdir())) == ROWS // 100


def test_a_folder_half_moved_in_an_object_store_is_completed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    fs = fsspec.filesystem("memory")
    for name in ("a.csv", "b.csv", "c.csv"):
        fs.pipe_file(f"/half/in/{name}", b"text\ngood morning\n")
    command = ["memory://half/in", "memory://half/out"]
    moved: list[str] = []
    real = type(fs).cp_file

    def once(self: Any, path: str, target: str) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        real(self, path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(fs), "cp_file", once)
        assert score.main(command) == 130
    assert [len(fs.find(f"/half/{folder}")) for folder in ("out", "out.partial/output")] == [1, 2]
    assert score.main(command) == 0
    assert len(fs.find("/half/out")) == 3
    assert not fs.exists("/half/out.partial")


def test_a_finished_output_of_another_input_is_no_success(
    begun: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main(begun) == 0
    assert score.main(begun) == 0
    assert capsys.readouterr().err.splitlines()[-1].endswith("; remove it to score again")
    assert score.main([*begun, "--report", f"{begun[1]}.html"]) == 0
    assert capsys.readouterr().err.splitlines()[-2] == f"wrote {begun[1]}.html"
    Path(begun[0]).write_text("text\nanother\n")
    assert score.main(begun) == 1
    assert "was not made from this input" in capsys.readouterr().err.splitlines()[-1]
