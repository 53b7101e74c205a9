"""docs/python.md and the notebook: their examples run, and print what they show."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from hatespeech.paths import EMBEDDED
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+\.\d+")


def steps() -> list[tuple[str, str]]:
    """The page's programs, and what each of them shows to print."""
    found = re.findall(
        r"```python\n(.*?)```(?:\n\n<!-- output -->\n```text\n(.*?)```)?", PAGE, re.DOTALL
    )
    return [(code, output) for code, output in found]


def test_every_example_prints_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(EMBEDDED))
    names: dict[str, Any] = {}
    assert len(steps()) >= 7
    for code, shown in steps():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "docs/python.md", "exec"), names)
        said = printed.getvalue()
        assert NUMBER.sub("N", said) == NUMBER.sub("N", shown), code
        numbers = [float(number) for number in NUMBER.findall(said)]
        assert numbers == pytest.approx([float(n) for n in NUMBER.findall(shown)], abs=0.015), code


@pytest.mark.slow
def test_the_notebook_runs_from_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "examples"
    notebook = nbformat.read(folder / "quickstart.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client.execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures, "the plot of the scores"
