"""What the page's commands make of the metadata is what snet-cli and snet-sdk take.

The real tools run here, each in an environment of its own, with the real contracts on a chain of
this machine. The IPFS node is a stand-in.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from scripts import publish_check
from scripts.publish_check import address_of
from tests.docs.pages import marked
from tests.paths import ROOT
from tests.support.cached_tools import (
    SNET_CLI,
    SNET_SDK,
    node_tool,
    python_of,
    python_tool,
    site_packages,
)
from tests.support.stand_ins.chain import LocalChain
from tests.support.stand_ins.ipfs import IpfsNode
from tests.support.stand_ins.snet_client import write_config

pytestmark = pytest.mark.slow

PAGE: Final = "docs/singularitynet.md"
KEY: Final = "ab" * 32
ADDRESSES: Final[Mapping[str, str]] = {
    "0xPAYMENT_ADDRESS": f"0x{'12' * 20}",
    "0xDAEMON_ADDRESS": f"0x{'34' * 20}",
    "0xSIGNER_ADDRESS": address_of(KEY),
}
ANVIL: Final = "@foundry-rs/anvil-linux-amd64@1.7.1"


@dataclass(frozen=True)
class Publisher:
    """A home folder with snet-cli, and what its commands reach."""

    home: Path
    environment: Mapping[str, str]
    chain: LocalChain
    ipfs: IpfsNode

    @property
    def folder(self) -> Path:
        return self.home / "publish"

    def run(self, commands: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        for name, address in ADDRESSES.items():
            commands = commands.replace(name, address)
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=folder or self.home,
            env=self.environment,
            input="y\n" * 20,  # before each transaction the CLI asks
            capture_output=True,
            text=True,
            timeout=120,
        )

    def must_run(self, commands: str, folder: Path | None = None) -> str:
        ran = self.run(commands, folder)
        # snet-cli ends some of its failures with 0.
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert not re.search("^(Error|ERROR)", ran.stdout, re.MULTILINE), ran.stdout
        return ran.stdout

    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "service_metadata.json").read_text())
        return found

    def configure(self, **secrets: str) -> None:
        certificate = ("--ssl-cert", "/etc/ssl/daemon.pem", "--ssl-key", "/etc/ssl/daemon.key")
        written = write_config(
            self.home,
            *("--endpoint-id", "abc", "--organization", "my-org", *certificate),
            RUNPOD_API_KEY="rpa_x",
            **secrets,
        )
        written.replace(self.folder / written.name)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Publisher]:
    """A publisher whose snet has an identity and knows the chain and the IPFS node."""
    home = tmp_path_factory.mktemp("home")
    cli = python_tool(SNET_CLI)
    environment = {
        "HOME": str(home),
        "PATH": f"{cli / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "REPOSITORY": str(ROOT),
    }
    anvil = node_tool(ANVIL) / ANVIL.rpartition("@")[0] / "bin" / "anvil"
    contracts = site_packages(cli) / "snet" / "contracts" / "resources"
    with LocalChain(anvil, contracts, home) as chain, IpfsNode() as ipfs:
        made = Publisher(home, environment, chain, ipfs)
        made.must_run(
            f"snet identity create me key --private-key {chain.owner.key} --do-not-encrypt\n"
            f"snet set default_eth_rpc_endpoint {chain.url}\n"
            f"snet set default_ipfs_endpoint {ipfs.multiaddress}\n"
        )
        yield made


@pytest.fixture(scope="module")
def said(publisher: Publisher) -> str:
    """What the page's commands print, one after the other."""
    printed = ""
    for block in marked(PAGE, "run with snet-cli"):
        folder = publisher.folder if publisher.folder.exists() else publisher.home
        if "publish-check" in block.text:
            publisher.configure(SNET_PRIVATE_KEY_FOR_FREE_CALLS=KEY)
        printed += publisher.must_run(block.text, folder)
    return printed


def read_by_the_sdk(publisher: Publisher) -> subprocess.CompletedProcess[str]:
    """Have snet-sdk read the metadata and the proto from IPFS, as it does for a client."""
    content = (publisher.folder / "service_metadata.json").read_bytes()
    program = (
        "from pathlib import Path\n"
        "from snet.sdk.registry.models import FileURI\n"
        "from snet.sdk.registry.storage_provider import StorageProvider\n"
        "storage = StorageProvider()\n"
        f"read = storage.fetch_service_metadata(FileURI.from_raw_uri("
        f"'ipfs://{publisher.ipfs.add(content)}'))\n"
        "storage.fetch_and_extract_proto("
        "FileURI.from_raw_uri(read.service_api_source), Path('extracted'))\n"
        "print(read.groups[0].model_dump_json())\n"
    )
    return subprocess.run(
        [python_of(SNET_SDK), "-c", program],
        cwd=publisher.home,
        env={
            "HOME": str(publisher.home),
            "SNET_IPFS_ENDPOINT": publisher.ipfs.multiaddress,
            "SNET_PRIVATE_KEY": publisher.chain.owner.key,
            "SNET_ETH_RPC_ENDPOINT": publisher.chain.url,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def validate(publisher: Publisher) -> subprocess.CompletedProcess[str]:
    return publisher.run("snet service validate-metadata", publisher.folder)


def assert_published_protos_are_the_services(publisher: Publisher) -> None:
    metadata = publisher.metadata()
    assert metadata["service_api_source"] == f"ipfs://{metadata['model_ipfs_hash']}"
    (extracted,) = (publisher.home / "extracted").iterdir()
    assert extracted.read_bytes() == (ROOT / "service.proto").read_bytes()
    extracted.unlink()


def test_commands_of_the_page_make_metadata_that_cli_and_sdk_take(
    publisher: Publisher, said: str
) -> None:
    assert "ready to publish" in said
    assert "ServiceCreated" in said
    valid = validate(publisher)
    # With these words and this status, since it ends by sys.exit("OK. ...").
    assert (valid.returncode, valid.stderr) == (1, "OK. Ready to publish.\n")
    read = read_by_the_sdk(publisher)
    assert read.returncode == 0, read.stderr
    group = json.loads(read.stdout.splitlines()[-1])
    assert group["free_calls"] == 10
    assert group["free_call_signer_address"] == ADDRESSES["0xSIGNER_ADDRESS"]
    assert group["pricing"][0]["price_in_cogs"] == 10**13
    assert_published_protos_are_the_services(publisher)
    organization = json.loads((publisher.folder / "organization_metadata.json").read_text())
    (owner,) = organization["groups"]
    assert owner["payment"]["payment_expiration_threshold"] == 40320
    assert group["group_id"] == owner["group_id"]


def broken(metadata: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield metadata that the CLI's schema or the SDK's model refuses, each with its field."""

    def changed(*path: str | int, value: Any = None) -> dict[str, Any]:
        copy: dict[str, Any] = json.loads(json.dumps(metadata))
        part: Any = copy
        for name in path[:-1]:
            part = part[name]
        if value is None:
            del part[path[-1]]
        else:
            part[path[-1]] = value
        return copy

    for name in ("display_name", "encoding", "service_type", "model_ipfs_hash"):
        yield name, changed(name)
        yield name, changed(name, value=7)
    for name in ("group_name", "pricing", "endpoints", "daemon_addresses"):
        yield name, changed("groups", 0, name)
    yield "free_call_signer_address", changed("groups", 0, "free_call_signer_address")
    for name in ("version", "contributors"):
        yield name, changed(name)
    yield "groups", changed("groups", value=[])
    yield "model_ipfs_hash", changed("model_ipfs_hash", value="")
    yield "service_type", changed("service_type", value="HTTP")
    yield "encoding", changed("encoding", value="protobuf")
    yield "version", changed("version", value=0)
    yield "free_calls", changed("groups", 0, "free_calls", value=0)
    yield "free_calls", changed("groups", 0, "free_calls", value="10")
    yield "endpoints", changed("groups", 0, "endpoints", value=[])
    yield "daemon_addresses", changed("groups", 0, "daemon_addresses", value=[])
    yield "price_in_cogs", changed("groups", 0, "pricing", 0, "price_in_cogs", value=0)
    yield "price_in_cogs", changed("groups", 0, "pricing", 0, "price_in_cogs", value=0.5)
    yield "price_in_cogs", changed("groups", 0, "pricing", 0, "price_in_cogs", value="1")
    yield "price_model", changed("groups", 0, "pricing", 0, "price_model", value="free")
    yield "default", changed("groups", 0, "pricing", 0, "default")
    yield "url", changed("service_description", "url")
    yield "short_description", changed("service_description", "short_description")
    yield "name", changed("contributors", 0, "name", value="")
    yield "email_id", changed("contributors", 0, "email_id")
    yield "tags", changed("tags", value=[""])
    yield "media", changed("media", value=[{"url": "Qm"}])
    yield "price", changed("price", value=1)
    yield "free", changed("groups", 0, "free", value=1)


REFUSED_BY_CLI: Final = """
import json, sys, snet.cli, jsonschema
from pathlib import Path
schema = json.loads((Path(snet.cli.__file__).parent / "resources/service_schema.json").read_text())
validator = jsonschema.Draft7Validator(schema)
print(json.dumps([not validator.is_valid(each) for each in json.load(sys.stdin)]))
"""
REFUSED_BY_SDK: Final = """
import json, sys
from pydantic import ValidationError
from snet.sdk.registry.service_metadata import ServiceMetadata
def refuses(each):
    try:
        ServiceMetadata(**each)
    except ValidationError:
        return True
    return False
print(json.dumps([refuses(each) for each in json.load(sys.stdin)]))
"""


def refused(requirement: str, program: str, cases: list[dict[str, Any]], home: Path) -> list[bool]:
    ran = subprocess.run(
        [python_of(requirement), "-c", program],
        input=json.dumps(cases),
        env={"HOME": str(home), "SNET_PRIVATE_KEY": "cd" * 32, "SNET_ETH_RPC_ENDPOINT": "http://a"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    found: list[bool] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.usefixtures("said")
def test_whatever_cli_or_sdk_refuse_is_told_before(
    publisher: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    good = publisher.metadata()
    cases = [good, *(case for _, case in broken(good))]
    by_cli = refused(SNET_CLI, REFUSED_BY_CLI, cases, publisher.home)
    by_sdk = refused(SNET_SDK, REFUSED_BY_SDK, cases, publisher.home)
    # Both take what the page makes, and every case has one that does not.
    either = [cli or sdk for cli, sdk in zip(by_cli, by_sdk, strict=True)]
    assert either == [False] + [True] * (len(cases) - 1)
    assert by_cli != by_sdk
    path = publisher.folder / "service_metadata.json"
    silent = []
    for field, case in broken(good):
        path.write_text(json.dumps(case))
        code = publish_check.main([str(publisher.folder)])
        said = capsys.readouterr().out
        if not code or not re.search(rf"^service_metadata.json: .*\b{field}\b", said, re.MULTILINE):
            silent.append((field, said))
    path.write_text(json.dumps(good))
    assert silent == []


@pytest.mark.usefixtures("said")
def test_commands_that_start_from_nothing_do_so_too(publisher: Publisher) -> None:
    (publisher.folder / "service_metadata.json").unlink()
    (beginning,) = marked(PAGE, "run from nothing with snet-cli")
    *_, checking, _publishing = marked(PAGE, "run with snet-cli")
    publisher.must_run(beginning.text + checking.text, publisher.folder)
    assert validate(publisher).stderr == "OK. Ready to publish.\n"
    read = read_by_the_sdk(publisher)
    assert read.returncode == 0, read.stderr
    assert publisher.metadata()["service_type"] == "http"
    assert_published_protos_are_the_services(publisher)
