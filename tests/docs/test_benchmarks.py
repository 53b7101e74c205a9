"""The benchmarks run and report what they measured; that says nothing of the figures."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet_model, normalizer, report, run_all
from tests.paths import ROOT, SAMPLE

Json = Mapping[str, Any]
# Little to measure; FEW stands for a short file.
ARGUMENTS = {
    "compiled_pass": ("--only", "mini,float32", "--texts", "2"),
    "idle_latency": ("--texts", "3"),
    "normalizer": ("FEW",),
    "original_way": ("--texts", "1"),
}


def test_both_sides_take_turns_in_alternating_order() -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> Callable[[], float]:
        def measure() -> float:
            calls.append(name)
            return value

        return measure

    left, right = report.in_turn(side("ours", 6.0), side("theirs", 3.0), 4)
    assert (left, right) == ([6.0] * 4, [3.0] * 4)
    assert sorted(calls[:2]) == sorted(calls[2:4]) == ["ours", "theirs"]
    assert calls[:2] == calls[4:6] != calls[2:4]


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    ours, theirs = [2.0, 30.0, 4.0], [1.0, 1.0, 1.0]
    more = report.at_least("rate", "theirs", (ours, theirs), 4.1, unit="x")
    less = report.at_most("cost", "theirs", (ours, theirs), 4.1)
    assert (more.ratio, more.met, less.ratio, less.met) == (4.0, False, 4.0, True)
    assert more.raw == {
        "ours": 4.0,
        "theirs": 1.0,
        "unit": "x",
        "rounds": [[2.0, 1.0], [30.0, 1.0], [4.0, 1.0]],
    }
    assert report.at_least("rate", "theirs", (ours, theirs)).met is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_benchmark_reports_machine_ratio_and_raw_figures(name: str, tmp_path: Path) -> None:
    path, few = tmp_path / "figures.json", tmp_path / "few.tsv"
    few.write_text("".join(SAMPLE.read_text(encoding="utf-8").splitlines(keepends=True)[:50]))
    command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", "1", "--json", str(path)]
    done = subprocess.run(
        [*command, *(str(few) if given == "FEW" else given for given in ARGUMENTS[name])],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    document: Json = json.loads(path.read_text(encoding="utf-8"))
    assert document["machine"]["torch"].startswith("2.")
    assert document["figures"]
    for figure in document["figures"]:
        assert figure["name"] in done.stdout
        assert figure["raw"]["ours"] > 0 < figure["raw"]["theirs"]
        assert f"ratio {figure['ratio']:.3f}" in done.stdout


@pytest.mark.parametrize("name", [*run_all.BENCHMARKS, "comment_beside_bulk"])
def test_every_benchmark_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in shown
    assert "--json" in shown


@pytest.mark.parametrize("argument", ["missing.tsv", str(ROOT / "README.md")])
def test_a_file_that_cannot_be_read_is_one_line(
    argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        normalizer.main([argument])
    assert "error: cannot read FILE" in capsys.readouterr().err.splitlines()[-1]


def test_the_table_holds_every_figure_and_says_what_was_not_met() -> None:
    machine = {"processor": "x", "torch": "2"}
    figures = [
        {"name": "a", "against": "b", "ratio": 2.345, "target": "at least 3", "met": False},
        {"name": "c", "against": "d", "ratio": 1234.5, "target": "", "met": None},
    ]
    found = {
        "date": "2026-01-02",
        "machine": machine,
        "figures": [{**each, "raw": {"ours": 0.5, "theirs": 7}} for each in figures],
    }
    lines = run_all.table({"cold_start": found}).splitlines()
    assert lines[2] == "| a | b | 0.5 | 7 | 2.35 | at least 3 | **not met** |"
    assert lines[3] == "| c | d | 0.5 | 7 | 1,234 |  |  |"
    assert lines[5] == "cold_start: 2026-01-02: processor x, torch 2."


def test_the_readme_holds_the_table_of_the_recorded_results() -> None:
    recorded = json.loads(run_all.RESULTS.read_text(encoding="utf-8"))
    ordered = {name: recorded[name] for name in run_all.BENCHMARKS if name in recorded}
    assert run_all.table(ordered) in run_all.README.read_text(encoding="utf-8")
    assert set(ordered) == set(run_all.BENCHMARKS)


def test_the_page_of_performance_holds_the_model_of_the_recorded_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet_model.main([])
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out in page


def test_a_price_makes_hours_a_cost(capsys: pytest.CaptureFixture[str]) -> None:
    fleet_model.main(["--price-per-hour", "2", "--busy", "1", "--share", "0.1"])
    line = capsys.readouterr().out.splitlines()[2]
    hours, cost = (float(number) for number in re.findall(r"(\d+\.\d+) \((\d+\.\d+)\)", line)[0])
    assert cost == pytest.approx(2 * hours, abs=0.02)
