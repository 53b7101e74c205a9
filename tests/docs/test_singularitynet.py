"""The commands of docs/singularitynet.md that configure the daemon, and the unit that runs it."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from scripts.snetd_config import duration
from tests.docs.pages import marked, run_shell
from tests.support.processes.worker import clean_environment

PAGE: Final = "docs/singularitynet.md"
UNIT: Final = "check: the tests verify this unit"


def configurations(folder: Path) -> list[dict[str, Any]]:
    """Run each of the page's commands that write a configuration; return what they write."""
    written = []
    for position, block in enumerate(marked(PAGE, "run")):
        checkout = folder / str(position)
        checkout.mkdir()
        secrets = {"RUNPOD_API_KEY": "rpa_TESTKEY", "TOKEN": "token-of-the-test"}
        run_shell(block.text, checkout, {**clean_environment(checkout, None), **secrets})
        written.append(json.loads((checkout / "snetd.local.json").read_text(encoding="utf-8")))
    return written


@pytest.mark.slow
def test_every_command_writes_a_configuration(tmp_path: Path) -> None:
    runpod, own, with_free_calls = configurations(tmp_path)
    assert runpod["service_endpoint"] == "https://api.runpod.ai/v2/4xk2ab7dyl3f9z/"
    assert own["service_endpoint"] == "http://127.0.0.1:8000/"
    values = [config["service_credentials"][0]["value"] for config in (runpod, own)]
    assert values == ["Bearer rpa_TESTKEY", "Bearer token-of-the-test"]
    assert len(with_free_calls["private_key_for_free_calls"]) == 64
    assert with_free_calls["min_balance_for_free_call"] == 0


@pytest.mark.slow
def test_unit_fits_the_configuration(tmp_path: Path) -> None:
    (block,) = marked(PAGE, UNIT)
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(block.text)
    service = unit["Service"]
    for config in configurations(tmp_path)[:2]:
        # A kill within a call would lock its caller's channel.
        waits = duration(config["service_timeout"])
        assert waits is not None
        assert float(service["TimeoutStopSec"]) > waits
        kept = Path(config["payment_channel_storage_server"]["data_dir"])
        assert kept.parent == Path("/var/lib", service["StateDirectory"])
        assert config["log"]["output"]["type"] == ["stdout"]  # the file system is read-only
        assert config["payment_channel_storage_server"]["log_outputs"] == ["stdout"]
    installing = next(
        block.text for block in marked(PAGE, "not run: it makes a user of the machine")
    )
    assert service["ExecStart"].rpartition(" ")[2] in installing


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    (block,) = marked(PAGE, UNIT)
    unit = tmp_path / "snetd.service"
    unit.write_text(block.text.replace("/usr/local/bin/snetd", "/bin/true"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in ran.stderr.splitlines() if "snetd" in line]
    assert (ran.returncode, ours) == (0, [])
