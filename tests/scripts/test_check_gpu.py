"""``scripts/check-gpu`` on a CPU: its stages, its table, and what a failure does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks import check_gpu, models
from tests.paths import ROOT


@pytest.mark.slow
def test_every_stage_runs_and_the_table_holds_what_it_found(tmp_path: Path) -> None:
    output = tmp_path / "table.md"
    done = subprocess.run(
        [ROOT / "scripts" / "check-gpu", "--device", "cpu", "--output", output],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = len(check_gpu.STAGES)
    for number, name in enumerate(check_gpu.STAGES, 1):
        assert f"[{number}/{count}] {name}\n" in done.stdout
    table = output.read_text(encoding="utf-8")
    assert table in done.stdout
    assert table.count(" | met |") == 9
    assert "not met" not in table
    for tokens in check_gpu.SMALL.sizes:
        assert re.search(
            rf"^\| {tokens} \| [\d.]+ \| [\d,]+ \| [\d.e-]+ \| [\d.]+ \|$", table, re.M
        )


def test_a_stage_that_fails_costs_the_others_nothing_and_the_command_its_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_subject: check_gpu.Subject) -> list[check_gpu.Line]:
        raise RuntimeError("no kernel image is available")

    def fine(_subject: check_gpu.Subject) -> list[check_gpu.Line]:
        return [check_gpu.Line("scores", "1e-6", "at most 1e-4", True)]

    monkeypatch.setattr(check_gpu, "STAGES", {"one": failing, "two": fine})
    output = tmp_path / "table.md"
    assert check_gpu.main(["--device", "cpu", "--output", str(output)]) == 1
    assert "no kernel image is available" in capsys.readouterr().out
    table = output.read_text(encoding="utf-8")
    assert "| scores | 1e-6 | at most 1e-4 | met |" in table
    assert re.search(r"^\| one \| failed: RuntimeError.* \| \*\*not met\*\* \|$", table, re.M)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_gpu.main(["--output", str(tmp_path / "table.md")]) == 2
    assert "error: there is no cuda, or torch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [30, 2, 17, 17, 9]])
def test_attention_without_padding_gives_what_padded_groups_give(lengths: list[int]) -> None:
    subject = check_gpu.Subject(torch.device("cpu"), check_gpu.SMALL, Path())
    padded = models.random_model(subject.config)
    sequences = [[0, *range(5, length + 3), 2] for length in lengths]
    expected = check_gpu.forward(padded, sequences)
    check_gpu.use_varlen(padded)
    assert torch.allclose(check_gpu.forward(padded, sequences), expected, atol=1e-5)
