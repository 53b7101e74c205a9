"""What the README shows is what happens."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import marked, run_shell
from tests.paths import EMBEDDED, ROOT
from tests.support.processes.worker import clean_environment

NUMBER = re.compile(r"\d\.\d+")
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_reply_shown_is_the_reply_of_test_input() -> None:
    shown = re.search(r"<!-- reply of test_input.json -->\n```json\n(.*?)```", README, re.DOTALL)
    assert shown
    expected = json.loads(shown[1])
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "MODEL_DIR": str(EMBEDDED), "DTYPE": "float32"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    reply = json.loads(run.stdout)
    assert reply.pop("timing").keys() == expected.pop("timing").keys()
    assert reply.keys() == expected.keys()
    for field, value in expected.items():
        wanted = pytest.approx(value, abs=1e-3) if isinstance(value, float) else value
        assert reply[field] == wanted, field


@pytest.mark.slow
def test_the_library_prints_what_is_shown(tmp_path: Path) -> None:
    (code,) = (block.text for block in marked("README.md", "run") if block.language == "python")
    (shown, _) = marked("README.md", "output")
    environment = {**clean_environment(tmp_path, EMBEDDED), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (run.returncode, run.stdout) == (0, shown.text), run.stderr


@pytest.mark.slow
def test_the_command_prints_what_is_shown(tmp_path: Path) -> None:
    (command, _) = (block.text for block in marked("README.md", "run") if block.language == "sh")
    (_, shown) = marked("README.md", "output")
    printed = run_shell(command, tmp_path, clean_environment(tmp_path, EMBEDDED)).stdout
    assert NUMBER.sub("N", printed) == NUMBER.sub("N", shown.text)
    for number, wanted in zip(NUMBER.findall(printed), NUMBER.findall(shown.text), strict=True):
        assert float(number) == pytest.approx(float(wanted), abs=1e-3)


@pytest.mark.slow
def test_the_command_for_files_writes_scores_beside_the_rows(tmp_path: Path) -> None:
    (command,) = marked("README.md", "run: with a file tweets.csv")
    (tmp_path / "tweets.csv").write_text("id,text\n1,good morning\n2,you are scum\n")
    run_shell(command.text, tmp_path, clean_environment(tmp_path, EMBEDDED))
    with (tmp_path / "scored.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["neutral", "abusing"]


def test_the_commands_shown_exist() -> None:
    commands = re.findall(r"^(?:\./)?(scripts/\w+|download\.py)", README, re.MULTILINE)
    assert {"scripts/run", "scripts/test"} <= set(commands)
    for command in commands:
        assert (ROOT / command).stat().st_mode & 0o111 or command.endswith(".py"), command


def test_the_figures_are_those_of_the_card() -> None:
    card = (EMBEDDED / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^Accuracy (\d\.\d+), .* over (\d+) texts", card, re.MULTILINE)
    assert found
    flags = [
        ", ".join(re.findall(rf"^\| balanced \| {flag} \| .+ \| (.+) \| (.+) \|$", card, re.M)[0])
        for flag in ("toxic", "hate")
    ]
    (row,) = re.findall(r"^\| `mini`.*$", README, re.MULTILINE)
    assert row.endswith(f" | {found[1]} | {flags[0]} | {flags[1]} |")
    assert f"{int(found[2]):,} test texts" in row
    counts = re.search(
        r"finds (\d+) of (\d+) and (\d+) of (\d+)\s+hateful texts, and predicts hate for "
        r"(\d+) of (\d+) and (\d+) of (\d+) others",
        card,
    )
    assert counts
    one, ones, two, twos, wrong, wrongs, false, falses = map(int, counts.groups())
    said = (
        f"of {ones + twos} hateful sentences by other authors it finds {one + two}, and it calls "
        f"{wrong + false} of {wrongs + falses} others hate"
    )
    assert said in " ".join(README.split())
