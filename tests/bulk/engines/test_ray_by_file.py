"""Machines of a cluster that read and write whole files: the bytes of the local engine."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.bulk.command import parse
from hatespeech.bulk.engines.base import EngineError
from hatespeech.bulk.engines.ray_options import goes_by_file
from hatespeech.bulk.plan import RunOptions, make_plan
from hatespeech.settings import EngineSettings
from tests.support.pages import without_time
from tests.support.processes.ray_cluster import (
    ACTOR,
    RayCluster,
    alive,
    message,
    processes,
    start_score,
)
from tests.support.processes.score import SECONDS, run_score
from tests.support.processes.worker import wait_until

FILES: Final = 200
BY_FILE: Final = ("--engine", "ray", "--by-file", "--cpus-per-actor", 1)
WORDS: Final = [
    "good",
    "morning",
    "win",
    "a",
    "free",
    "phone",
    "you",
    "are",
    "scum",
    "@bob",
    "#fun",
    "http://t.co/x",
]


def texts(count: int) -> list[str]:
    rng = random.Random(7)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 30))) for _ in range(count)]


def content(folder: Path) -> dict[str, bytes]:
    """The files of an output, and what stands beside it."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    found["receipt"] = without_time(folder.with_name(f"{folder.name}.run.json")).encode()
    return found


def expected(source: Path, home: Path, *arguments: object) -> dict[str, bytes]:
    """What the local engine gives; with one thread, as an actor of one core has it."""
    done = run_score(home, source, home / "local", *arguments, more={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return content(home / "local")


def test_two_hundred_files_with_both_actors_killed_are_those_of_the_local_engine(
    cluster: RayCluster, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(FILES):
        rows = [f"{index},{text}\n" for index, text in enumerate(texts(number % 9))]
        (source / f"{number:03}.csv").write_text("".join(["n,text\n", *rows]))
    running = start_score(
        tmp_path, source, out, *BY_FILE, "--num-actors", 2, "--address", cluster.address
    )
    made = Path(f"{out}.partial/output")
    wait_until(
        lambda: made.exists() and len(list(made.iterdir())) >= 20,
        "a tenth of the files",
        seconds=SECONDS,
        watch=alive(running),
    )
    killed = processes(cluster.home, ACTOR)
    assert len(killed) == 2
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert len(list(made.iterdir())) < FILES
    _, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, errors
    assert content(out) == expected(source, tmp_path)


@pytest.mark.ray
def test_pieces_of_large_files_outlive_the_command_and_a_machine(
    short_folder: Path, tmp_path: Path
) -> None:
    source, out, options = tmp_path / "in", tmp_path / "out", ("--chunk-rows", 2)
    source.mkdir()
    for name in ("a", "b"):
        table = pa.table({"text": texts(300)})
        pq.write_table(table, source / f"{name}.parquet", row_group_size=100)

    def scored() -> int:
        return len(list(Path(f"{out}.partial").glob("files/*/scores/*.parquet")))

    with RayCluster(short_folder, machines=2) as cluster:
        machines = processes(cluster.home, "raylet/raylet")
        assert len(machines) == 2
        command = (tmp_path, source, out, *BY_FILE, *options, "--address", cluster.address)
        running = start_score(*command, "--num-actors", 2)
        wait_until(lambda: scored() >= 20, "a few parts", seconds=SECONDS, watch=alive(running))
        running.kill()
        running.communicate()
        wait_until(lambda: not processes(cluster.home, ACTOR), "the end of its actors")
        before = scored()
        running = start_score(*command, "--num-actors", 2)
        wait_until(lambda: scored() > before, "a part more", seconds=SECONDS, watch=alive(running))
        os.kill(max(machines), signal.SIGKILL)  # the one that is not the head
        assert scored() < 300
        _, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, errors
    assert content(out) == expected(source, tmp_path, *options)


def test_machine_that_does_not_find_the_files_ends_the_run(
    cluster: RayCluster, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("text\nhello\n")
    # Each process has a memory of its own.
    done = cluster.run(tmp_path, tmp_path / "in", "memory://out/", *BY_FILE)
    assert message(done) == (
        "error: machine 127.0.0.1: memory:///out.partial: is not the folder that the command "
        "writes to; put IN and OUT where every machine finds them, or add --no-by-file"
    )


@pytest.mark.parametrize(
    ("source", "out", "options", "by_file"),
    [
        ("in", "out", [], True),
        ("in", "out.csv", [], False),
        ("in", "out.csv", ["--by-file"], None),
        ("in", "out", ["--no-by-file"], False),
        ("in/a.csv", "out/", [], False),
        ("in/a.csv", "out.csv", ["--by-file"], True),
        # A cluster's machines may have other disks than this one, but not other object stores.
        ("in", "out", ["--address", "auto"], False),
        ("in", "out", ["--address", "auto", "--by-file"], True),
        ("in", "memory://out/", ["--address", "auto"], False),
        ("memory://in", "memory://out/", ["--address", "auto"], True),
    ],
)
def test_files_go_whole_where_every_machine_can_reach_them(
    source: str,
    out: str,
    options: list[str],
    by_file: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    memory = fsspec.filesystem("memory")
    for name in ("a.csv", "b.csv"):
        (Path("in") / name).write_text("text\n")
        memory.pipe_file(f"/in/{name}", b"text\n")
    plan = make_plan(RunOptions(source, out, "text", 1, "", None, False), EngineSettings())
    asked = parse([source, out, "--engine", "ray", *options])
    if by_file is None:
        with pytest.raises(EngineError, match="--by-file: several files can't go into one"):
            goes_by_file(asked, plan)
    else:
        assert goes_by_file(asked, plan) is by_file
