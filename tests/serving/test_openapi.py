"""The examples in the documentation of the HTTP server, run as they are printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatespeech.labels import LABELS
from hatespeech.serving.settings import ServerSettings
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.http_client import TOKEN
from tests.support.processes.server import HttpServer, http_server
from tests.support.processes.worker import clean_environment

pytestmark = pytest.mark.slow

PAGES = ("http.md", "nevermined.md", "../README.md")
# These start the server; here it runs already, on a port of its own.
STARTS = re.compile(r"^export (BEARER_)?TOKEN=.*server\.py\n$", re.DOTALL)


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    with http_server(tmp_path_factory.mktemp("docs"), small_checkpoint) as server:
        yield server.ready()


def examples(page: str) -> list[tuple[str, str]]:
    """Return the fenced examples that say what they are: language and text."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = []
    for indent, language, body in re.findall(
        r"^( *)```(sh|python)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL
    ):
        found.append((language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_example_does_what_it_says(page: str, server: HttpServer, tmp_path: Path) -> None:
    environment = {
        **clean_environment(tmp_path, None),
        "URL": server.url,
        "TOKEN": TOKEN,
        "PYTHONWARNINGS": "error",
    }
    outputs: dict[str, str] = {}
    for language, text in examples(page):
        if STARTS.match(text) or (page == "../README.md" and "$URL" not in text):
            continue
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
        result = subprocess.run(
            [*command, text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, f"{text}\n{result.stderr}\n{server.stderr[-2000:]}"
        assert result.stdout or "openapi.json" in text, text
        assert "FAILED" not in result.stdout, text
        outputs[text] = result.stdout
    assert outputs
    if page == "http.md":
        assert (tmp_path / "scored.csv").read_text().count("\n") == 3
    elif page == "nevermined.md":
        (refused,) = (output for text, output in outputs.items() if "Bearer wrong" in text)
        assert refused.endswith("}401\n")  # right after the good reply, which ends no line
        assert (tmp_path / "openapi.json").stat().st_size > 1000
    else:
        (reply,) = outputs.values()
        assert json.loads(reply)["label"] in LABELS


def test_the_operations_page_names_settings_and_metrics_that_exist(server: HttpServer) -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    known = {name.upper() for name in ServerSettings.model_fields}
    others = {"FAILED", "COMPLETED", "IN_QUEUE", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEBUG"}
    others |= {"OMP_NUM_THREADS", "OMP_WAIT_POLICY"}
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text))
    unknown = named - others - known
    assert all(name.startswith("OTEL_") for name in unknown)  # OpenTelemetry reads these
    metrics = {f"hate_speech_{name.partition(':')[0]}" for name in server.metrics()}
    histograms = {name.removesuffix("_count") for name in metrics}
    assert set(re.findall(r"hate_speech_\w+", text)) <= metrics | histograms


def test_the_http_page_names_every_limit_of_the_front() -> None:
    pages = (*PAGES[:2], "migrating.md", "deploy.md", "selling.md")
    text = " ".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in pages)
    of_http = ServerSettings.model_fields.keys() - EngineSettings.model_fields.keys()
    assert not [name.upper() for name in of_http if name.upper() not in text]
