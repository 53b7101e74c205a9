"""The engine on Ray: what the local one gives, whatever is killed; one cluster for all tests."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from hatespeech.bulk.command import parse
from hatespeech.bulk.engines.base import EngineError
from hatespeech.bulk.engines.ray_pool import require_one_model
from hatespeech.labels import LABELS
from hatespeech.settings import EngineSettings, is_secret
from tests.paths import ROOT
from tests.support.processes.ray_cluster import (
    ACTOR,
    LOOPBACK,
    RayCluster,
    alive,
    message,
    processes,
    start_score,
)
from tests.support.processes.score import SECONDS, environment, run_score
from tests.support.processes.worker import wait_until

ROWS: Final = 2000
CHUNK_ROWS: Final = 100
PARTS: Final = 20
MARKER: Final = "xyzzyplugh"  # in every text; in no log
RAY: Final = ("--engine", "ray", "--chunk-rows", CHUNK_ROWS)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(5)
    words = "good morning win a free phone you are scum @bob #fun http://t.co/x idiot \U0001f600"
    path = tmp_path_factory.mktemp("source") / "in.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for index in range(ROWS):
            text: Any = " ".join(rng.choices(words.split(), k=rng.randint(1, 25)))
            text = {
                7: None,
                13: "",
                21: f"{MARKER} {text} " * 60,  # several windows
                30: index,
                31: [text],
                32: MARKER * 1500,  # too long
                33: "\u200b",
                34: f"{MARKER} \ud800",
            }.get(index % 100, f"{text} {MARKER}")
            file.write(json.dumps({"id": index, "text": text}) + "\n")
    return path


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows that the local engine gives."""
    folder = tmp_path_factory.mktemp("local")
    done = run_score(folder, source, folder / "out.jsonl", "--chunk-rows", CHUNK_ROWS)
    assert done.returncode == 0, done.stderr
    return read(folder / "out.jsonl")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def require_equal(rows: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    assert len(rows) == len(expected) == ROWS
    for row, wanted in zip(rows, expected, strict=True):
        assert list(row) == list(wanted)
        for name in ("id", "text", "windows", "error"):
            assert row[name] == wanted[name]
        if wanted["error"]:
            assert [row[name] for name in (*LABELS, "label")] == [None] * 5
            continue
        assert [row[name] for name in LABELS] == pytest.approx(
            [wanted[name] for name in LABELS], abs=1e-4
        )
        best, second = sorted((wanted[name] for name in LABELS), reverse=True)[:2]
        assert row["label"] == wanted["label"] or best - second < 1e-4


def parts_there(out: Path) -> int:
    return len(list(Path(f"{out}.partial").glob("scores/*.parquet")))


def test_rows_are_those_of_the_local_engine_and_no_text_is_left_behind(
    cluster: RayCluster, source: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    # With two threads, other processes read ahead.
    done = cluster.run(tmp_path, source, out, *RAY, "--cpus-per-actor", 2)
    assert done.returncode == 0, done.stderr
    require_equal(read(out), expected)
    assert {re.sub("[0-9]+", "N", row["error"] or "") for row in expected} == {
        "",
        "too_large: text: has N characters, the limit is N",
        "validation: text: holds nothing but white space or invisible characters",
        "validation: text: must be a string",
        "validation: text: must be a string, not null",
        "validation: text: must not be empty",
    }
    assert {row["windows"] for row in expected} >= {1, 2, None}
    # Standard error is the project's alone.
    lines = done.stderr.replace("\r", "\n").splitlines()
    others = [line for line in lines if not re.match(r"(checking|scoring|writing):|$", line)]
    assert others[0] == f"wrote {out}"
    assert MARKER not in done.stderr
    # Its scorers are gone, and no file of Ray's holds a text.
    wait_until(lambda: not processes(cluster.home, ACTOR), "the end of the actors")
    files = [path for path in cluster.folder.rglob("*") if path.is_file()]
    assert any(path.name == "gcs_server.out" for path in files)
    assert not [path for path in files if MARKER.encode() in path.read_bytes()]


def test_actors_that_are_killed_cost_nothing_but_time(
    cluster: RayCluster, source: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    running = start_score(
        tmp_path, source, out, *RAY, "--address", cluster.address, "--num-actors", 2,
        "--cpus-per-actor", 1,
    )  # fmt: skip
    wait_until(lambda: parts_there(out) >= 2, "two parts", seconds=SECONDS, watch=alive(running))
    killed = processes(cluster.home, ACTOR)
    assert len(killed) == 2
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert parts_there(out) <= PARTS - 4
    _, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, errors
    require_equal(read(out), expected)
    assert MARKER not in errors


def test_run_that_is_killed_or_interrupted_leaves_no_process_and_goes_on(
    cluster: RayCluster,
    source: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    short_folder: Path,
) -> None:
    out = tmp_path / "out.jsonl"
    kept = 0
    killed: set[int] = set()  # processes of the killed run
    for number in (signal.SIGKILL, signal.SIGINT):
        running = start_score(tmp_path, source, out, *RAY, more={"TMPDIR": str(short_folder)})
        wait_until(
            lambda least=kept + 1: parts_there(out) >= least,  # type: ignore[misc]  # mypy can't infer a default
            "a part more",
            seconds=SECONDS,
            watch=alive(running),
        )
        own = set(processes(tmp_path, "ray")) - killed
        assert len(own) > 4
        # They do not give way to other processes, which would starve them.
        (scorer,) = set(processes(tmp_path, ACTOR)) - killed
        assert os.getpriority(os.PRIO_PROCESS, scorer) == os.getpriority(os.PRIO_PROCESS, 0)
        (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
        _, errors = running.communicate(timeout=SECONDS)
        if number == signal.SIGKILL:
            # Ray's agents try to report that for a minute before they end: the next run begins.
            killed.update(own)
        else:
            wait_until(lambda: killed >= set(processes(tmp_path)), "the end of Ray's processes")
            assert running.returncode == 130
            last = errors.replace("\r", "\n").splitlines()[-1]
            assert last == "interrupted; run the same command again to resume"
            # What the killed run left is still there, and nothing else.
            assert len(list(short_folder.glob("ray-*"))) == 1
        assert kept < parts_there(out) < PARTS
        kept = parts_there(out)
        assert not out.exists()
    done = cluster.run(tmp_path, source, out, *RAY)
    assert done.returncode == 0, done.stderr
    (again,) = re.findall(r"([0-9,]+) rows in", done.stderr)
    assert int(again.replace(",", "")) == ROWS - kept * CHUNK_ROWS
    require_equal(read(out), expected)
    wait_until(lambda: not processes(tmp_path), "the end of the killed run's", seconds=180)


REFUSING = """
import sys
import hatespeech.bulk.row_scoring
from hatespeech.bulk import command as score
parts = []
def refuse(*_arguments):
    parts.append(1)
    if len(parts) == 2:
        raise hatespeech.bulk.RunError("refused")
hatespeech.bulk.row_scoring.require_model = refuse
sys.exit(score.main(sys.argv[1:]))
"""


@pytest.mark.ray
def test_run_that_fails_among_its_parts_says_so_and_ends_ray(
    source: Path, tmp_path: Path, short_folder: Path
) -> None:
    out = tmp_path / "out.jsonl"
    # Small parts, so that Ray is in the middle of others.
    options = ["--engine", "ray", "--chunk-rows", "20", "--cpus-per-actor", "1"]
    done = subprocess.run(
        [sys.executable, "-c", REFUSING, source, out, *options],
        cwd=ROOT,
        env={**environment(tmp_path), "TMPDIR": str(short_folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert message(done) == "error: refused"
    assert not list(short_folder.glob("ray-*"))
    wait_until(lambda: not processes(tmp_path), "the end of Ray's processes", seconds=180)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--gpus-per-actor", "0.5"],
            r"no machine has room for an actor of 0.5 GPU and 1 CPUs: the largest has 2 CPUs, 0 ",
        ),
        (["--num-actors", "3", "--cpus-per-actor", "1"], r"--num-actors 3: there is room for 2"),
    ],
)
def test_actors_that_find_no_room_end_the_run_at_once(
    cluster: RayCluster, source: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    address = ["--address", cluster.address, *RAY, *options]
    done = run_score(
        tmp_path, source, tmp_path / "out.jsonl", *address, more={**LOOPBACK, "DEVICE": "auto"}
    )
    assert re.match(f"error: {told}", message(done))


def test_actors_that_wait_for_room_give_up_and_those_of_a_run_that_is_ended_make_room(
    cluster: RayCluster, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    other = start_score(
        tmp_path / "first", source, tmp_path / "first.jsonl", *RAY, "--address", cluster.address
    )
    try:
        wait_until(
            lambda: bool(processes(cluster.home, ACTOR)),
            "actors that take up the cluster",
            seconds=SECONDS,
            watch=alive(other),
        )
        done = cluster.run(tmp_path, source, tmp_path / "out.jsonl", *RAY, "--start-timeout", 1)
        assert message(done).startswith("error: no actor was ready within 1 s: do")
        # The one that has them has not noticed; it ends in order, though Ray takes up SIGTERM, too.
        other.terminate()
        _, errors = other.communicate(timeout=SECONDS)
        assert other.returncode == 130, errors
        wait_until(lambda: not processes(cluster.home, ACTOR), "the end of its actors")
    finally:
        other.kill()
        other.communicate()


def test_actors_that_give_nothing_back_end_the_run_and_it_goes_on(
    cluster: RayCluster, source: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    running = start_score(
        tmp_path, source, out, *RAY, "--address", cluster.address, "--part-timeout", 10
    )
    wait_until(lambda: parts_there(out) >= 2, "two parts", seconds=SECONDS, watch=alive(running))
    (frozen,) = processes(cluster.home, ACTOR)
    os.kill(frozen, signal.SIGSTOP)
    try:
        _, errors = running.communicate(timeout=SECONDS)
    finally:
        os.kill(frozen, signal.SIGKILL)
    assert running.returncode == 1
    assert "Traceback" not in errors
    last = errors.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("error: no part came back in 10 s: did an actor die")
    assert 2 <= parts_there(out) < PARTS
    done = cluster.run(tmp_path, source, out, *RAY)
    assert done.returncode == 0, done.stderr
    require_equal(read(out), expected)


def test_checkpoint_that_no_actor_can_load_is_named(
    cluster: RayCluster, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    address = ["--address", cluster.address, *RAY]
    more = {**LOOPBACK, "MODEL_DIR": str(tmp_path / "empty")}
    done = run_score(tmp_path, source, tmp_path / "out.jsonl", *address, more=more)
    assert message(done).startswith(f"error: {tmp_path / 'empty'}")


@pytest.mark.ray
def test_address_where_no_cluster_is_ends_the_run_at_once(source: Path, tmp_path: Path) -> None:
    address = ["--address", "127.0.0.1:9"]
    done = run_score(tmp_path, source, tmp_path / "out.jsonl", *RAY, *address)
    assert message(done).startswith("error: --address 127.0.0.1:9: can't be reached: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--address", "ray://head:10001"],
        ["--address", "head"],
        ["--gpus-per-actor", "2"],
        ["--num-actors", "0"],
    ],
)
def test_option_out_of_range_is_named(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["in.csv", "out.csv", *options])
    assert f"argument {options[0]}" in capsys.readouterr().err


@pytest.mark.slow
def test_run_without_ray_says_what_to_install(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from hatespeech.bulk.command import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, source, tmp_path / "out.jsonl", "--engine", "ray"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    told = "error: Ray is not installed: pip install -r requirements-ray.txt"
    assert message(done) == told
    assert (ROOT / "requirements-ray.txt").exists()


def test_two_models_in_one_cluster_end_the_run() -> None:
    require_one_model("one@1", "one@1")
    with pytest.raises(EngineError, match="two models, one@1 and two@2"):
        require_one_model("one@1", "two@2")


def test_no_secret_goes_to_the_actors() -> None:
    assert not any(map(is_secret, EngineSettings.model_fields.values()))


def test_page_shows_commands_that_work() -> None:
    page = (ROOT / "docs" / "bulk.md").read_text(encoding="utf-8")
    section = page.partition("\n## Ray\n")[2].partition("\n## ")[0]
    commands = re.findall(r"python score\.py (.+)", section)
    assert len(commands) >= 2
    shown = {parse(shlex.split(command)).address for command in commands}
    assert shown >= {None, "auto"}
    for option in re.findall(r"^\| `(--[a-z-]+)`", section, re.MULTILINE):
        assert getattr(parse(["in", "out"]), option[2:].replace("-", "_"), 0) != 0
    assert "pip install -r requirements-ray.txt" in section
