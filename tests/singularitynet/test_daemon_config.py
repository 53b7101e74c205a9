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
from scripts.snetd_config import KEYS
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
        "DATA_DIR",
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
    names = [
        "snetd.local.json",
        ".snetd.local.json.abc.local.json",
        # What the daemon reads and leaves in the folder where it starts.
        "snetd.config.json",
        "snet-daemon.log",
        "snet-daemon.20260131.log",
        "etcd-server.log",
        "storage-data-dir-1.etcd/member/wal/0.wal",
        ".certs/daemon.example",
    ]
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
        (("--self-hosted", "http://[::1::]:80"), {}, "--self-hosted: must be an http"),
        (("--self-hosted", "https://api.runpod.ai/v2/x"), {}, "--self-hosted: is Runpod's API"),
        (("--self-hosted", "http://a.example:8000"), {}, "--self-hosted: must begin with https://"),
        (("--self-hosted", "HTTP://192.0.2.1"), {}, "--self-hosted: must begin with https://"),
        (
            RUNPOD,
            {"RUNPOD_ENDPOINT_BASE_URL": "http://api.example/v2"},
            "RUNPOD_ENDPOINT_BASE_URL: must begin with https://",
        ),
        ((*OWN, "--data-dir", str(ROOT / "etcd")), {}, "--data-dir: must be outside"),
        (OWN, {"BEARER_TOKEN": ", ,"}, "BEARER_TOKEN: must be printable ASCII"),
        (OWN, {"BEARER_TOKEN": "one two"}, "BEARER_TOKEN: must be printable ASCII"),
        (OWN, {"SNET_DAEMON_ENDPOINT": "8088"}, "SNET_DAEMON_ENDPOINT: must be HOST:PORT"),
        (
            OWN,
            {"SNET_MIN_BALANCE_FOR_FREE_CALL": "a few"},
            "SNET_MIN_BALANCE_FOR_FREE_CALL: must be a whole number",
        ),
        (OWN, {"SNET_METERING_ENABLED": "perhaps"}, "SNET_METERING_ENABLED: must be true or false"),
        (OWN, {"SNET_FREE_CALLS_PER_ADDRESS": "3"}, "SNET_FREE_CALLS_PER_ADDRESS: must be an obj"),
        (OWN, {"SNET_IPFS_ENDPOINT": "here"}, "SNET_IPFS_ENDPOINT: must be an http"),
        (
            RUNPOD,
            {"SNET_PRIVATE_KEY_FOR_FREE_CALLS": "0x" + "0" * 64},
            "SNET_PRIVATE_KEY_FOR_FREE_CALLS: must be 64 hex digits",
        ),
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
        ("http://127.0.0.1:8088", "192.0.2.1:8088"),
        ("http://[::1]:8000/behind/a/prefix", "localhost:8088"),
        ("https://scores.example", "0.0.0.0:443"),
    ],
)
def test_what_the_daemon_can_use_is_accepted(url: str, listen: str, tmp_path: Path) -> None:
    config = written(tmp_path, "--self-hosted", url, "--listen", listen)
    assert (config["service_endpoint"], config["daemon_endpoint"]) == (f"{url}/", listen)


@pytest.mark.parametrize(
    ("url", "endpoint", "health"),
    [
        ("http://a:8000/", "http://a:8000/", "http://a:8000/health"),
        ("http://a:8000/runsync", "http://a:8000/", "http://a:8000/health"),
        ("HTTP://a/prefix/runsync/", "http://a/prefix/", "http://a/prefix/health"),
        ("http://a/v2/scores/runsync", "http://a/v2/scores/", "http://a/health"),
        (" http://a/prefix/v2/scores ", "http://a/prefix/v2/scores/", "http://a/prefix/health"),
    ],
)
def test_url_of_the_route_is_that_of_the_service(
    tmp_path: Path, url: str, endpoint: str, health: str
) -> None:
    config = written(tmp_path, "--self-hosted", url)
    assert (config["service_endpoint"], config["heartbeat_endpoint"]) == (endpoint, health)


@pytest.mark.parametrize("tokens", ["one", "one,two", " one , two ", ",one", "one\n"])
def test_first_of_several_tokens_is_written(tmp_path: Path, tokens: str) -> None:
    config = written(tmp_path, *OWN, secrets={"BEARER_TOKEN": tokens})
    assert config["service_credentials"][0]["value"] == "Bearer one"


@pytest.mark.parametrize("given", ["ab" * 32, f"0x{'ab' * 32}", f"0X{'ab' * 32}"])
def test_key_is_written_as_snetd_takes_it(tmp_path: Path, given: str) -> None:
    config = written(tmp_path, *OWN, secrets={"SNET_PRIVATE_KEY_FOR_FREE_CALLS": given})
    assert config["private_key_for_free_calls"] == "ab" * 32


def test_port_alone_is_every_address(tmp_path: Path) -> None:
    assert written(tmp_path, *OWN, "--listen", ":8088")["daemon_endpoint"] == "0.0.0.0:8088"
    by_variable = written(tmp_path, *OWN, secrets={"SNET_DAEMON_ENDPOINT": ":9000"})
    assert by_variable["daemon_endpoint"] == "0.0.0.0:9000"


# A value of the right kind for every key, where one of the kind alone is not enough.
VALUES: Final[dict[str, Any]] = {
    "blockchain_enabled": True,
    "daemon_endpoint": "127.0.0.1:9000",
    "daemon_type": "grpc",
    "private_key_for_free_calls": "ab" * 32,
    "service_credentials": [],
    "service_timeout": "7s",
    "ssl_cert": "/cert.pem",
    "token_secret_key": "t" * 32,
}
BY_KIND: Final[dict[str, Any]] = {
    "text": "https://a.example",
    "number": 7,
    "flag": False,
    "list": ["0x" + "12" * 20],
    "map": {"a": 1},
}
# What the options say is not for a variable to say.
BY_OPTION: Final = {"service_endpoint", "service_credentials", "payment_channel_storage_server"}


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_of_snetd_is_taken_from_its_variable(tmp_path: Path, key: str) -> None:
    value = VALUES.get(key, BY_KIND[KEYS[key]])
    if key == "service_heartbeat_type":
        value = "none"
    secrets = {f"SNET_{key.upper()}": value if isinstance(value, str) else json.dumps(value)}
    if key == "ssl_cert":
        secrets["SNET_SSL_KEY"] = "/key.pem"
    if key == "ssl_key":
        secrets["SNET_SSL_CERT"] = "/cert.pem"
    config = written(tmp_path, *OWN[:2], secrets=secrets)
    if key not in BY_OPTION:
        assert config[key] == value


def test_variables_are_named_and_options_win_over_them(tmp_path: Path) -> None:
    secrets = {"SNET_MIN_BALANCE_FOR_FREE_CALL": "1", "SNET_SERVICE_ID": "other"}
    ran = run(tmp_path, *OWN, secrets=secrets)
    assert "min_balance_for_free_call: from SNET_MIN_BALANCE_FOR_FREE_CALL\n" in ran.stdout
    config = json.loads((tmp_path / "snetd.local.json").read_text())
    assert (config["min_balance_for_free_call"], config["service_id"]) == (1, "svc")


def test_key_that_snetd_does_not_know_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = json.loads(TEMPLATE.read_text()) | {"min_balance_for_freecall": 1}
    changed = tmp_path / "template.json"
    changed.write_text(json.dumps(template))
    monkeypatch.setattr(daemon_config, "TEMPLATE", changed)
    assert error(tmp_path, *OWN) == (
        "min_balance_for_freecall: snetd does not know this key and ignores it; "
        "did you mean min_balance_for_free_call?"
    )


def test_paths_hold_in_whatever_folder_the_daemon_starts(tmp_path: Path) -> None:
    files = ("--ssl-cert", "a.pem", "--ssl-key", "b.pem", "--data-dir", "etcd")
    config = written(tmp_path, *OWN, *files)
    assert (config["ssl_cert"], config["ssl_key"]) == (f"{tmp_path}/a.pem", f"{tmp_path}/b.pem")
    server = config["payment_channel_storage_server"]
    assert (server["data_dir"], server["enabled"]) == (f"{tmp_path}/etcd", True)
    default = written(tmp_path, *OWN, secrets={"HOME": "/home/me"})
    server = default["payment_channel_storage_server"]
    assert server["data_dir"] == "/home/me/.local/state/snetd/etcd"
    outside = written(tmp_path, *OWN, "--external-etcd")
    assert outside["payment_channel_storage_server"]["enabled"] is False


@pytest.mark.slow
def test_help_teaches() -> None:
    ran = subprocess.run(
        [sys.executable, "-B", str(SCRIPT), "--help"], capture_output=True, text=True, timeout=60
    )
    assert all(
        word in ran.stdout for word in ("RUNPOD_API_KEY", "--self-hosted", "0600", "examples:")
    )
    assert os.access(SCRIPT, os.X_OK)
