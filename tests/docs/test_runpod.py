"""docs/runpod.md: its examples run as they stand, and its figures are the project's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatespeech.engine.predictor import Predictor
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.worked import worked_endpoint

DOC = (ROOT / "docs/runpod.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", DOC, re.DOTALL))


@pytest.fixture(scope="module")
def cloud(small_classifier: Predictor) -> Iterator[RunpodEndpoint]:
    with worked_endpoint(small_classifier) as running:
        yield running


def command(language: str, folder: Path) -> list[str]:
    """Return what runs an example of the page, whose text is put in a file unchanged."""
    suffix = {"sh": "sh", "python": "py", "javascript": "mjs"}[language]
    program = {"sh": shutil.which("bash"), "python": sys.executable, "javascript": NODE}[language]
    assert program
    example = folder / f"example.{suffix}"
    example.write_text(EXAMPLES[language], encoding="utf-8")
    return [program, str(example)]


def run_example(
    language: str, cloud: RunpodEndpoint, folder: Path, key: str = KEY
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "ENDPOINT": f"{cloud.base_url}/{ENDPOINT_ID}",
        "RUNPOD_API_KEY": key,
    }
    return subprocess.run(
        command(language, folder),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


NODE = shutil.which("node")
LANGUAGES = [
    "sh",
    "python",
    pytest.param("javascript", marks=pytest.mark.skipif(NODE is None, reason="no node here")),
]


def test_every_language_has_an_example() -> None:
    assert EXAMPLES.keys() == {"sh", "python", "javascript"}


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_example_gets_its_scores(language: str, cloud: RunpodEndpoint, tmp_path: Path) -> None:
    run = run_example(language, cloud, tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "good morning" in run.stdout
    assert re.search(r"\b(hate|abusing|neutral|spam)\b", run.stdout)


@pytest.mark.slow
def test_python_example_shows_the_error_of_a_text_beside_the_others(
    cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    lines = run_example("python", cloud, tmp_path).stdout.splitlines()
    assert len(lines) == 3
    assert lines[1] == "validation: prompts[1]: must not be empty | "


@pytest.mark.slow
def test_javascript_example_asks_until_the_job_is_done(
    cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    if NODE is None:
        pytest.skip("no node here")
    cloud.delay_seconds = 0.7
    try:
        before = len(cloud.requests)
        assert run_example("javascript", cloud, tmp_path).returncode == 0
    finally:
        cloud.delay_seconds = 0.0
    asked = [path for method, path in cloud.requests[before:] if method == "GET"]
    assert len(asked) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_example_fails_with_a_wrong_key(
    language: str, cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    run = run_example(language, cloud, tmp_path, key="wrong")
    assert run.returncode != 0
    assert "401" in run.stderr


def test_page_names_the_defaults_of_the_settings() -> None:
    assert f"**`MAX_CONCURRENCY`** ({EngineSettings().max_concurrency})" in DOC
    assert f"`STOP_SECONDS` ({EngineSettings().stop_seconds})" in DOC
    assert f"up to {EngineSettings().max_texts_per_request} texts" in DOC


def test_page_names_the_build_arguments() -> None:
    (text,) = re.findall(r"^Build arguments: (.*?)\.\n\n", DOC, re.DOTALL | re.MULTILINE)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for name in re.findall(r"`([A-Z_0-9]+)`", text):
        assert re.search(rf"^ARG {name}=", dockerfile, re.MULTILINE), name


def test_pages_that_it_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", DOC):
        assert (ROOT / "docs" / target).is_file(), target
