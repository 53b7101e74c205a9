"""docs/bulk.md: its example runs as it stands, and its figures are the project's."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fleet_model, models
from benchmarks.useful_work import operations
from hatespeech.bulk.command import parse
from hatespeech.bulk.report import SHOWN_GROUPS
from hatespeech.bulk.statistics import EXAMPLES, GROUPS
from hatespeech.formats import names as files
from hatespeech.formats.records import MAX_RECORD_CHARS
from tests.docs.pages import marked
from tests.paths import ROOT
from tests.support.processes.score import SECONDS, environment

DOC = (ROOT / "docs" / "bulk.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_writes_what_the_page_shows(tmp_path: Path) -> None:
    examples = [block.text for block in marked("docs/bulk.md", "run")]
    shown = re.search(r"<!-- output -->\n```csv\n(.*?)```", DOC, re.DOTALL)
    assert shown
    (tmp_path / "score.py").symlink_to(ROOT / "score.py")
    (tmp_path / "bin").mkdir()
    for name, module in (("python", ""), ("hatespeech", "-m hatespeech")):
        command = f'PYTHONPATH="{ROOT}" exec "{sys.executable}" {module} "$@"'
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-e", "-c", "".join(examples)],
        cwd=tmp_path,
        env={**environment(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    found = list(csv.DictReader(done.stdout.splitlines()))
    expected = list(csv.DictReader(shown[1].splitlines()))
    assert len(found) == len(expected) == 4
    for row, wanted in zip(found, expected, strict=True):
        assert row.keys() == wanted.keys()
        for name, value in wanted.items():
            if re.fullmatch(r"0\.\d+", value):
                assert float(row[name]) == pytest.approx(float(value), abs=1e-3)
            else:
                assert row[name] == value
    for name in ("scored.csv.run.json", "report.html"):
        assert (tmp_path / name).exists()
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "you are scum" in page
    assert "you are scum" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_figures_of_the_report_are_those_of_the_code() -> None:
    assert f"A column may have {GROUPS:,} values" in DOC
    assert f"the {SHOWN_GROUPS} most frequent values" in DOC
    assert EXAMPLES == 10
    assert "ten rows of each label" in DOC


def test_every_command_of_the_page_parses() -> None:
    commands = re.findall(r"^(?:[A-Z_]+=\S+ |.+ \| )*python score\.py ([^|\n]+)", DOC, re.MULTILINE)
    assert len(commands) == 15
    for command in commands:
        assert parse(shlex.split(command)).out.startswith(
            ("scored", "s3://", "/mnt/shared/scored", "-")
        )


def test_sizing_is_the_model_of_a_fleet() -> None:
    lines = ["| one of these | tweets/s | 10 million tweets | a billion, on 16 of them |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, peak in fleet_model.PEAKS.items():
        rate = 0.35 * peak * 1e12 / operations(models.LARGE, fleet_model.TOKENS, 1)
        hours = [1e7 / rate / 3600, 1e9 / 16 / rate / 3600]
        lines.append(f"| {name} | {rate:,.0f} | {hours[0]:.1f} h | {hours[1]:.1f} h |")
    assert "<!-- sizing -->\n" + "\n".join(lines) + "\n\n" in DOC


def test_page_names_what_the_code_reads() -> None:
    for suffix in (*files.KINDS, *files.COMPRESSIONS):
        assert f"`{suffix}`" in DOC
    assert MAX_RECORD_CHARS // 1_000_000 == 4
    assert "A record may have 4 million characters" in DOC
    assert f"`--chunk-rows` rows ({parse(['in.csv', 'out.csv']).chunk_rows})" in DOC


def test_library_that_opens_urls_is_pinned_as_locked() -> None:
    (pinned,) = re.findall(r"^(fsspec==\S+)$", (ROOT / "requirements.txt").read_text(), re.M)
    assert f"\n{pinned} \\\n" in (ROOT / "requirements.lock").read_text()
