"""The commands of docs/singularitynet.md that fill in the daemon's configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.pages import marked, run_shell
from tests.support.processes.worker import clean_environment


@pytest.mark.slow
def test_both_commands_write_a_configuration(tmp_path: Path) -> None:
    runpod, own = marked("docs/singularitynet.md", "run")
    written = []
    for name, command in (("runpod", runpod), ("own", own)):
        folder = tmp_path / name
        folder.mkdir()
        secrets = {"RUNPOD_API_KEY": "rpa_TESTKEY", "TOKEN": "token-of-the-test"}
        run_shell(command.text, folder, {**clean_environment(folder, None), **secrets})
        written.append(json.loads((folder / "snetd.local.json").read_text(encoding="utf-8")))
    assert [config["service_endpoint"] for config in written] == [
        "https://api.runpod.ai/v2/4xk2ab7dyl3f9z/",
        "http://127.0.0.1:8000/",
    ]
    values = [config["service_credentials"][0]["value"] for config in written]
    assert values == ["Bearer rpa_TESTKEY", "Bearer token-of-the-test"]
