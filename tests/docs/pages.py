"""The project's Markdown pages, and how their examples are found and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.paths import ROOT

PAGES: Final = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md")]
)

_MARK: Final = re.compile(r"\s*<!-- (.+) -->\s*")
_FENCE: Final = re.compile(r"( *)```(\w*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str  # without the indent of a list
    mark: str  # what the comment right above it says; "" without one


def blocks(text: str) -> Iterator[Block]:
    """Yield a page's fenced blocks, in order."""
    above = ""
    lines = iter(text.splitlines(keepends=True))
    for line in lines:
        fence = _FENCE.fullmatch(line.rstrip())
        if fence is None:
            above = line
            continue
        inside = []
        for inner in lines:
            if inner.rstrip() == f"{fence[1]}```":
                break
            inside.append(inner)
        mark = _MARK.fullmatch(above)
        yield Block(fence[2], textwrap.dedent("".join(inside)), mark[1] if mark else "")


def marked(page: str, mark: str) -> list[Block]:
    """Return the blocks of a page, named from the repository's root, that bear a mark."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in blocks(text) if block.mark == mark]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        text = text.replace(block.text, "")  # a comment in a program is not a heading
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run_shell(
    text: str, folder: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run commands as a reader of the page would in a checkout; raise if one fails.

    ``folder`` stands for the checkout: it gets links to the scripts, and a virtual environment with
    ``python``, ``python3`` and ``hatespeech``.
    """
    for name in ("score.py", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, starts in (("python", ""), ("python3", ""), ("hatespeech", " -m hatespeech")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{starts} "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={
            **environment,
            "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done
