"""What the README shows is what happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_reply_shown_is_the_reply_of_test_input() -> None:
    shown = re.search(r"<!-- reply of test_input.json -->\n```json\n(.*?)```", README, re.DOTALL)
    assert shown
    expected = json.loads(shown[1])
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "MODEL_DIR": "hatespeech/checkpoints/mini",
            "DTYPE": "float32",
        },
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


def test_the_commands_shown_exist() -> None:
    commands = re.findall(r"^(?:\./)?(scripts/\w+|download\.py)", README, re.MULTILINE)
    assert {"scripts/run", "scripts/test"} <= set(commands)
    for command in commands:
        assert (ROOT / command).stat().st_mode & 0o111 or command.endswith(".py"), command


def test_every_page_linked_to_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
