"""scripts/daemon-config: fills the template, checks it, and keeps the file to its owner."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from scripts import daemon_config
from tests.paths import ROOT
from tests.support.stand_ins.snet_daemon import DaemonConfig

SCRIPT: Final = ROOT / "scripts" / "daemon-config"
TEMPLATE: Final = ROOT / "daemon_config.json"

KEY: Final = "rpa_TESTKEY0123456789"
RUNPOD: Final = ("--endpoint-id", "4xk2ab7dyl3f9z", "--organization", "org", "--service", "svc")
OWN: Final = ("--self-hosted", "http://127.0.0.1:8000", "--organization", "org", "--service", "svc")
Secrets = dict[str, str]
NONE: Final[Secrets] = {}


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str, secrets: Secrets = NONE) -> Ran:
    """Run ``main`` here: starting Python for each of these tests would take minutes."""
    environment = {"RUNPOD_API_KEY": KEY, "BEARER_TOKEN": "own-token"} | secrets
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, environment, clear=True),
    ):
        code = daemon_config.main(arguments)
    return Ran(code, out.getvalue(), err.getvalue())


def written(folder: Path, *arguments: str, secrets: Secrets = NONE) -> dict[str, Any]:
    ran = run(folder, *arguments, secrets=secrets)
    assert ran.returncode == 0, ran.stderr
    config: dict[str, Any] = json.loads((folder / "snetd.local.json").read_text())
    return config


def error(folder: Path, *arguments: str, secrets: Secrets = NONE) -> str:
    ran = run(folder, *arguments, secrets=secrets)
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert KEY not in line
    return line.removeprefix("error: ")


def test_template_is_what_the_daemon_takes_and_what_we_want_of_it(tmp_path: Path) -> None:
    template = json.loads(TEMPLATE.read_text())
    placeholders = re.findall(r"<([A-Z_]+)>", json.dumps(template))
    assert placeholders == [
        "ORGANIZATION_ID",
        "SERVICE_ID",
        "ENDPOINT_ID",
        "RUNPOD_API_KEY",
        "TOKEN_SECRET_KEY",
    ]
    config = written(tmp_path, *RUNPOD)
    assert config.keys() == template.keys()  # no key is misspelt on one side
    assert "passthrough_endpoint" not in config  # the deprecated name
    taken = DaemonConfig.read(tmp_path / "snetd.local.json")
    assert taken.passthrough_enabled  # without it the daemon echoes requests
    waits = [each["value"] for each in taken.service_credentials if each["key"] == "wait"]
    assert [int(wait) / 1000 < taken.service_timeout for wait in waits] == [True]
    assert all(isinstance(each["value"], str) for each in taken.service_credentials)
    assert config["log"]["level"] != "debug"  # which logs every caller's text
    assert config["payment_channel_storage_type"] == "etcd"
    assert config["payment_channel_storage_server"]["enabled"] is True
    assert (config["private_key_for_free_calls"], config["ssl_cert"], config["ssl_key"]) == (
        "",
    ) * 3


def test_runpod_configuration_points_the_daemon_at_the_endpoint(tmp_path: Path) -> None:
    config = written(tmp_path, *RUNPOD)
    assert config["service_endpoint"] == "https://api.runpod.ai/v2/4xk2ab7dyl3f9z/"
    assert config["service_credentials"] == [
        {"key": "Authorization", "value": f"Bearer {KEY}", "location": "header"},
        {"key": "wait", "value": "300000", "location": "query"},
    ]
    assert config["service_timeout"] == "320s"
    assert config["service_heartbeat_type"] == "none"
    assert (config["organization_id"], config["service_id"]) == ("org", "svc")
    assert "<" not in json.dumps(config)
    assert len(config["token_secret_key"]) >= 32
    assert DaemonConfig.read(tmp_path / "snetd.local.json").service_timeout == 320


def test_service_timeout_stays_above_the_wait(tmp_path: Path) -> None:
    config = written(tmp_path, *RUNPOD, "--wait-seconds", "7")
    assert config["service_credentials"][1]["value"] == "7000"
    assert config["service_timeout"] == "27s"


def test_self_hosted_configuration_points_at_our_service(tmp_path: Path) -> None:
    config = written(tmp_path, *OWN, "--network", "main", "--group", "g", "--listen", "[::]:9000")
    assert config["service_endpoint"] == "http://127.0.0.1:8000/"
    assert config["service_credentials"] == [
        {"key": "Authorization", "value": "Bearer own-token", "location": "header"},
        {"key": "wait", "value": "300000", "location": "query"},
        {"key": "Scores-Or-Error", "value": "4194304", "location": "header"},
    ]
    assert config["service_heartbeat_type"] == "http"
    assert config["heartbeat_endpoint"] == "http://127.0.0.1:8000/health"
    assert config["blockchain_network_selected"] == "main"
    assert (config["daemon_group_name"], config["daemon_endpoint"]) == ("g", "[::]:9000")
    assert KEY not in json.dumps(config)


def test_secrets_of_the_daemon_come_from_the_environment(tmp_path: Path) -> None:
    keys = {
        "SNET_TOKEN_SECRET_KEY": "t" * 32,
        "SNET_PRIVATE_KEY_FOR_FREE_CALLS": f"0x{'ab' * 32}",  # snetd refuses one with 0x
        "SNET_ETHEREUM_JSON_RPC_HTTP_ENDPOINT": "https://node.example/v3/k",
    }
    config = written(tmp_path, *RUNPOD, secrets=keys)
    assert config["ethereum_json_rpc_http_endpoint"] == "https://node.example/v3/k"
    assert config["token_secret_key"] == "t" * 32
    assert config["private_key_for_free_calls"] == "ab" * 32
    assert written(tmp_path, *RUNPOD)["token_secret_key"] != "t" * 32


def test_open_ids_stay_placeholders_and_are_named(tmp_path: Path) -> None:
    ran = run(tmp_path, "--endpoint-id", "abc", "--service", "svc")
    assert ran.returncode == 0
    assert "--organization" in ran.stdout
    assert "--service" not in ran.stdout
    config = json.loads((tmp_path / "snetd.local.json").read_text())
    assert config["organization_id"] == "<ORGANIZATION_ID>"


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_file_is_readable_by_its_owner_alone(tmp_path: Path, umask: int) -> None:
    target = tmp_path / "snetd.local.json"
    target.write_text("{}")
    target.chmod(0o666)
    before = os.umask(umask)
    try:
        written(tmp_path, *RUNPOD)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.slow
def test_no_file_ever_has_wider_rights(tmp_path: Path) -> None:
    # Every file that is opened for writing must be created private, not narrowed afterwards.
    trace = tmp_path / "sitecustomize.py"
    trace.write_text(
        "import sys\n"
        "def hook(event, args):\n"
        "    if event == 'open' and isinstance(args[2], int) and args[2] & 0o100:\n"
        "        print('created', args[0], file=sys.stderr)\n"
        "    if event == 'os.chmod': print('chmod', file=sys.stderr)\n"
        "sys.addaudithook(hook)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-B", str(SCRIPT), *RUNPOD],
        cwd=tmp_path,
        env=os.environ | {"RUNPOD_API_KEY": KEY, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    created = [line for line in ran.stderr.splitlines() if "snetd" in line or line == "chmod"]
    assert len(created) == 1
    assert re.search(r"/\.snetd\.local\.json\.\w+\.local\.json$", created[0])


def test_symbolic_link_is_refused_and_its_target_left(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep")
    (tmp_path / "snetd.local.json").symlink_to(target)
    assert "symbolic link" in error(tmp_path, *RUNPOD)
    assert target.read_text() == "keep"


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "snetd.local.json"
    target.write_text("old")
    assert "symbolic" not in error(tmp_path, *RUNPOD, secrets={"RUNPOD_API_KEY": ""})
    assert error(tmp_path, *RUNPOD, "--output", "missing/a.local.json").startswith("missing/")
    assert error(tmp_path, *RUNPOD, "--output", ".").endswith("is not a file")
    assert target.read_text() == "old"


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "snetd.local.json"
    target.write_text("old")
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch.object(os, "fsync", side_effect=full):
        assert error(tmp_path, *RUNPOD).endswith("cannot be written: No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.slow
def test_git_ignores_where_it_writes() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = ["snetd.local.json", ".snetd.local.json.abc.local.json"]
    ran = subprocess.run(
        ["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.split() == names


def test_other_names_inside_the_repository_are_refused() -> None:
    assert ".local.json" in error(ROOT, *RUNPOD, "--output", "config.json")
    assert not (ROOT / "config.json").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (RUNPOD, {"RUNPOD_API_KEY": ""}, "RUNPOD_API_KEY is not set"),
        (RUNPOD, {"RUNPOD_API_KEY": "a\nb"}, "RUNPOD_API_KEY: must be printable ASCII"),
        (RUNPOD, {"RUNPOD_ENDPOINT_BASE_URL": "here"}, "RUNPOD_ENDPOINT_BASE_URL: must be an http"),
        (OWN, {"BEARER_TOKEN": " "}, "BEARER_TOKEN is not set"),
        (("--endpoint-id", "https://api.runpod.ai/v2/abc"), {}, "--endpoint-id: must be letters"),
        ((*RUNPOD, "--wait-seconds", "301"), {}, "--wait-seconds: must be from 1 to 300"),
        ((*RUNPOD, "--wait-seconds", "0"), {}, "--wait-seconds: must be from 1 to 300"),
        ((*RUNPOD, "--listen", "8088"), {}, "--listen: must be HOST:PORT or :PORT"),
        ((*RUNPOD, "--listen", "host:99999"), {}, "--listen: must be HOST:PORT or :PORT"),
        ((*RUNPOD, "--ssl-cert", "a.pem"), {}, "--ssl-cert, --ssl-key: give both or neither"),
        ((*RUNPOD, "--organization", ""), {}, "--organization: must be printable ASCII"),
        ((*RUNPOD, "--group", "é"), {}, "--group: must be printable ASCII"),
        ((*OWN, "--listen", "0.0.0.0:8000"), {}, "--listen: must differ from the service's"),
        ((*OWN, "--listen", ":8000"), {}, "--listen: must differ from the service's"),
        (("--self-hosted", "127.0.0.1:8000"), {}, "--self-hosted: must be an http"),
        (("--self-hosted", ""), {}, "--self-hosted: must be an http"),
        (("--self-hosted", "http://a/?b=c"), {}, "--self-hosted: must be an http"),
        (("--self-hosted", "http://u:p@a/"), {}, "--self-hosted: must be an http"),
        (("--self-hosted", "http://a:99999"), {}, "--self-hosted: must be an http"),
        (("--self-hosted", "http://a/#b"), {}, "--self-hosted: must be an http"),
        (("--self-hosted", "http://a/runsync/"), {}, "--self-hosted: must end before /runsync"),
        (RUNPOD, {"SNET_TOKEN_SECRET_KEY": "short"}, "SNET_TOKEN_SECRET_KEY: must be 32 bytes or"),
        (
            RUNPOD,
            {"SNET_PRIVATE_KEY_FOR_FREE_CALLS": "no"},
            "SNET_PRIVATE_KEY_FOR_FREE_CALLS: must be 64 hex digits",
        ),
    ],
)
def test_bad_value_is_refused_on_one_line_that_names_it(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], reason: str
) -> None:
    assert error(tmp_path, *arguments, secrets=environment).startswith(reason)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "listen"),
    [
        ("http://127.0.0.1:8000", ":8088"),  # as Go reads it: every address
        ("http://127.0.0.1:8088", "192.0.2.1:8088"),
        ("http://[::1]:8000/behind/a/prefix", "localhost:8088"),
        ("https://scores.example", "0.0.0.0:443"),
    ],
)
def test_what_the_daemon_can_use_is_accepted(url: str, listen: str, tmp_path: Path) -> None:
    config = written(tmp_path, "--self-hosted", url, "--listen", listen)
    assert (config["service_endpoint"], config["daemon_endpoint"]) == (f"{url}/", listen)


@pytest.mark.slow
def test_help_teaches() -> None:
    ran = subprocess.run(
        [sys.executable, "-B", str(SCRIPT), "--help"], capture_output=True, text=True, timeout=60
    )
    assert all(
        word in ran.stdout for word in ("RUNPOD_API_KEY", "--self-hosted", "0600", "examples:")
    )
    assert os.access(SCRIPT, os.X_OK)
