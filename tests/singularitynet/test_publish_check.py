"""scripts/publish-check: it names what cannot be published, one line each, and shows no secret."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from scripts import publish_check
from scripts.publish_check import address_of
from tests.paths import ROOT
from tests.support.stand_ins.snet_client import write_config

SCRIPT: Final = ROOT / "scripts" / "publish-check"
CONTENT_ID: Final = "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o"
KEY: Final = "ab" * 32
GROUP_ID: Final = "99ybRIg2wAx55mqVsA6sB4S7WxPQHNKqa4BPu/bhj+U="

PAYMENT: Final = {"payment_address": f"0x{'56' * 20}", "payment_expiration_threshold": 40320}

Change = Callable[[dict[str, Any]], object]


def publishable_metadata() -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((ROOT / "service_metadata.json").read_text())
    metadata["service_api_source"] = f"ipfs://{CONTENT_ID}"
    metadata["model_ipfs_hash"] = CONTENT_ID
    metadata["service_description"]["url"] = "https://example.com"
    metadata["contributors"] = [{"name": "A", "email_id": "a@example.com"}]
    metadata["groups"][0] |= {
        "endpoints": ["https://daemon.example.com:8088"],
        "daemon_addresses": [f"0x{'34' * 20}"],
        "free_call_signer_address": address_of(KEY),
        "free_calls": 3,
    }
    return metadata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that can be published."""
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "service.proto").write_bytes((ROOT / "service.proto").read_bytes())
    certificate = ("--ssl-cert", "/etc/nowhere/a.pem", "--ssl-key", "/etc/nowhere/a.key")
    secrets = {"RUNPOD_API_KEY": "rpa_SECRET", "SNET_PRIVATE_KEY_FOR_FREE_CALLS": KEY}
    write_config(tmp_path, "--endpoint-id", "abc", *certificate, **secrets)
    (tmp_path / "service_metadata.json").write_text(json.dumps(publishable_metadata()))
    return tmp_path


def change(path: Path, *changes: Change) -> None:
    value = json.loads(path.read_text())
    for each in changes:
        each(value)
    path.write_text(json.dumps(value))


def check(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    code = publish_check.main([str(folder), *options])
    lines = capsys.readouterr().out.splitlines()
    assert KEY not in str(lines)
    assert "rpa_SECRET" not in str(lines)
    return code, lines


def test_what_can_be_published_ends_with_0(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = check(folder, capsys)
    assert (code, len(lines)) == (0, 1)


def group(**values: Any) -> Change:
    return lambda metadata: metadata["groups"][0].update(values)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (group(endpoints=["<ENDPOINT: https://x>"]), "groups[0].endpoints[0]: is still the"),
        (group(free_call_signer_address="0xSIGNER_ADDRESS"), "must be an address"),
        (group(free_call_signer_address=f"0x{'12' * 20}"), f"must be {address_of(KEY)}, the"),
        (group(free_calls=0), "groups[0].free_calls: must be greater than or equal to 1"),
        (
            group(pricing=[{"price_model": "fixed_price", "price_in_cogs": 0, "default": True}]),
            "groups[0].pricing[0].price_in_cogs: must be greater than or equal to 1; the service",
        ),
        (group(pricing=[]), "groups[0].pricing: is empty"),
        (group(endpoints=["https://d.example.com:8088/"]), "endpoints[0]: must end after the port"),
        (group(endpoints=["d.example.com:8088"]), "endpoints[0]: must be http://HOST:PORT or"),
        (group(endpoints=["http://d.example.com:8088"]), "endpoints[0]: must be https, as the"),
        (group(group_name="other"), "daemon_group_name: is not a group of service_metadata.json"),
        (group(licenses={}), "groups[0].licenses: is unknown to the CLI"),
        (lambda m: m.update(model_ipfs_hash=""), "model_ipfs_hash: is empty; --fill writes it"),
        (lambda m: m.update(model_ipfs_hash="Qmother"), "model_ipfs_hash: must be the content id"),
        (lambda m: m.update(service_api_source="Qm"), "service_api_source: must be ipfs://"),
        (lambda m: m.update(service_type="grpc"), "service_type: must be http: a service of"),
        (lambda m: m.update(service_type="jsonrpc"), "service_type: must be 'http' or 'grpc'"),
        (lambda m: m.update(mpe_address="0x12"), "mpe_address: must be an address"),
        (lambda m: m.pop("service_description"), "service_description: is missing; snet service"),
        (lambda m: m["service_description"].pop("description"), "needs a description; snet"),
    ],
)
def test_fault_of_the_metadata_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], changed: Change, line: str
) -> None:
    change(folder / "service_metadata.json", changed)
    code, lines = check(folder, capsys)
    assert code == 1
    assert any(line in each for each in lines), lines
    assert len({each.split(": ")[1] for each in lines}) == 1  # one field


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"private_key_for_free_calls": ""}, "groups[0].free_calls: the daemon has no private_key"),
        ({"private_key_for_free_calls": f"0x{KEY}"}, "private_key_for_free_calls: must be 64 hex"),
        ({"ssl_cert": "", "ssl_key": ""}, "is https, but the daemon has no certificate"),
        ({"ssl_key": ""}, "ssl_cert: needs ssl_key"),
        ({"ssl_cert": str(ROOT / "LICENSE"), "ssl_key": str(ROOT / "LICENSE")}, "ssl_cert: is not"),
        ({"organization_id": "<ORGANIZATION_ID>"}, "organization_id: is still the placeholder"),
        ({"service_id": ""}, "service_id: is missing"),
        ({"token_secret_key": "short"}, "token_secret_key: must be 32 bytes or more"),
        ({"blockchain_enabled": False}, "blockchain_enabled: must be true"),
        ({"passthrough_enabled": False}, "passthrough_enabled: must be true"),
        ({"daemon_group_name": "other"}, "daemon_group_name: is not a group of service_metadata"),
        ({"service_endpoint": ""}, "service_endpoint: must be a URL"),
        ({"daemon_endpoint": "8088"}, "daemon_endpoint: must be HOST:PORT"),
        ({"service_timeout": "320"}, "service_timeout: must be a duration"),
        ({"max_message_size_in_mb": 0}, "max_message_size_in_mb: must be from 1 to 2048"),
        ({"service_credentials": [{"key": "a", "location": "head"}]}, "each needs a location"),
        (
            {"service_credentials": [{"key": "a", "value": 1, "location": "query"}]},
            "service_credentials: the value of a header or a query must be a text",
        ),
        ({"passthrough_endpoints": "http://a"}, "passthrough_endpoints: snetd does not know"),
    ],
)
def test_fault_of_the_daemon_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], line: str
) -> None:
    change(folder / "snetd.local.json", lambda config: config.update(changed))
    code, lines = check(folder, capsys)
    assert code == 1
    (found,) = lines
    assert line in found


def test_signer_is_needed_even_if_no_call_is_free(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyless = {"private_key_for_free_calls": ""}
    change(folder / "snetd.local.json", lambda config: config.update(keyless))
    metadata = folder / "service_metadata.json"
    change(metadata, lambda m: m["groups"][0].pop("free_calls"))
    assert check(folder, capsys)[0] == 0
    change(metadata, lambda m: m["groups"][0].pop("free_call_signer_address"))
    (line,) = check(folder, capsys)[1]
    assert "free_call_signer_address: is missing; snet service metadata-set-freecall" in line


def test_proxy_in_front_may_have_the_certificate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = {"ssl_cert": "", "ssl_key": ""}
    change(folder / "snetd.local.json", lambda config: config.update(bare))
    assert check(folder, capsys, "--behind-proxy")[0] == 0
    change(folder / "service_metadata.json", group(endpoints=["http://d.example.com:8088"]))
    assert "must be https, as the proxy has" in check(folder, capsys, "--behind-proxy")[1][0]
    change(folder / "service_metadata.json", group(endpoints=["https://d.example.com:8088"]))
    change(folder / "snetd.local.json", lambda config: config.update(auto_ssl_domain="a.example"))
    assert check(folder, capsys)[0] == 0


def test_what_publish_sets_may_stay_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = json.loads((folder / "service_metadata.json").read_text())
    assert metadata["mpe_address"].startswith("<MPE_ADDRESS")
    assert metadata["groups"][0]["group_id"].startswith("<GROUP_ID")
    change(folder / "service_metadata.json", lambda m: m["groups"][0].pop("group_id"))
    assert check(folder, capsys)[0] == 0


def test_address_is_the_one_of_the_key() -> None:
    # The first account of every Ethereum development chain.
    key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
    assert address_of(key) == "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"


def test_proto_that_is_not_the_services_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = folder / "proto" / "service.proto"
    original = proto.read_text()
    proto.write_text(f"// A comment changes nothing.\n{original}")
    assert check(folder, capsys)[0] == 0
    proto.write_text(original.replace("float hate = 2", "double hate = 2"))
    assert check(folder, capsys)[1] == [
        "service.proto: differs from the service's: copy " + ("service.proto again")
    ]
    proto.rename(folder / "proto" / "renamed.proto").write_text(original)
    assert check(folder, capsys)[0] == 0
    (folder / "proto" / "renamed.proto").unlink()
    proto.write_text("syntax")
    assert check(folder, capsys)[1] == ["service.proto: does not compile"]
    proto.write_text(original)
    (folder / "proto" / "other.proto").write_text('syntax = "proto3"; message a {}')
    code, lines = check(folder, capsys)
    assert code == 1
    assert lines[-1].startswith("proto: holds several files")
    for path in (folder / "proto").iterdir():
        path.unlink()
    assert check(folder, capsys)[1] == ["proto: there is no .proto file"]


def test_time_to_claim_payments_is_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    organization = folder / "organization_metadata.json"

    def write(blocks: Any, name: str = "default_group") -> None:
        payment = PAYMENT | {"payment_expiration_threshold": blocks}
        groups = [{"group_name": name, "group_id": GROUP_ID, "payment": payment}]
        organization.write_text(json.dumps({"groups": groups}))

    write(40320)
    assert check(folder, capsys)[0] == 0
    # `add-group` writes 100 if it is not told, and `update-group` a text.
    for blocks in (100, "40320"):
        write(blocks)
        (line,) = check(folder, capsys)[1]
        assert "payment_expiration_threshold: must be a number, 7200 or more" in line
    write(40320, name="other")
    assert "groups: has no group default_group" in check(folder, capsys)[1][0]


def test_daemon_of_another_organization_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = [{"group_name": "default_group", "group_id": GROUP_ID, "payment": PAYMENT}]
    organization = {"org_id": "test-org", "groups": groups}
    (folder / "organization_metadata.json").write_text(json.dumps(organization))
    assert check(folder, capsys)[0] == 0
    change(folder / "snetd.local.json", lambda config: config.update(organization_id="test_org"))
    (line,) = check(folder, capsys)[1]
    assert line.startswith("snetd.local.json: organization_id: must be test-org, the org_id of")


def test_payment_address_that_is_none_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payment = PAYMENT | {"payment_address": "0xPAYMENT_ADDRESS"}
    groups = [{"group_name": "default_group", "group_id": GROUP_ID, "payment": payment}]
    (folder / "organization_metadata.json").write_text(json.dumps({"groups": groups}))
    (line,) = check(folder, capsys)[1]
    assert "groups[0].payment.payment_address: must be an address" in line


def test_fill_writes_what_no_command_of_snet_does(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = folder / "service_metadata.json"
    change(metadata, lambda m: m.update(model_ipfs_hash=""))
    before = metadata.read_bytes()
    assert check(folder, capsys)[0] == 1
    assert metadata.read_bytes() == before
    groups = [{"group_name": "default_group", "group_id": GROUP_ID, "payment": PAYMENT}]
    (folder / "organization_metadata.json").write_text(json.dumps({"groups": groups}))
    assert check(folder, capsys, "--fill")[0] == 0
    filled = json.loads(metadata.read_text())
    assert filled["model_ipfs_hash"] == CONTENT_ID
    assert filled["groups"][0]["group_id"] == GROUP_ID
    assert filled["service_description"] == publishable_metadata()["service_description"]


def test_missing_and_broken_files_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "snetd.local.json").unlink()
    assert check(folder, capsys)[1][0].startswith("snetd.local.json: is missing")
    (folder / "service_metadata.json").write_text("{")
    assert check(folder, capsys) == (1, ["service_metadata.json: is not JSON"])
    (folder / "service_metadata.json").write_text("[]")
    assert check(folder, capsys) == (1, ["service_metadata.json: is not a JSON object"])
    (folder / "service_metadata.json").unlink()
    (line,) = check(folder, capsys)[1]
    assert line == "service_metadata.json: cannot be read: No such file or directory"
    assert check(folder / "nowhere", capsys)[1][0].endswith("nowhere: is not a folder")


def test_every_placeholder_of_the_templates_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = check(ROOT, capsys)
    left = [line for line in lines if "is still the placeholder" in line]
    templates = [
        (ROOT / name).read_text() for name in ("service_metadata.json", "daemon_config.json")
    ]
    set_by_publish = 2
    assert (code, len(left)) == (1, sum(text.count("<") for text in templates) - set_by_publish)
    assert left == lines


@pytest.mark.slow
def test_script_runs_with_any_python_beside_the_environment(folder: Path) -> None:
    helped = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, timeout=60)
    words = ("service_metadata.json", "--fill", "--behind-proxy", "examples:", "exit status:")
    assert all(word in helped.stdout for word in words), helped.stderr
    ran = subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("ready to publish")
