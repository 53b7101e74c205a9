"""Checks what is about to be published on SingularityNET: metadata, proto and daemon together.

``scripts/publish-check`` runs this. snet-cli 3.1, snet-sdk 6.0 and snetd 6.2 each refuse other
things, at different times and in their own words; this says all of it before anything is paid for.
A test compares it with the CLI and the SDK.
"""

from __future__ import annotations

import argparse
import json
import re
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import coincurve
from Crypto.Hash import keccak
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from hatespeech.cli import make_parser
from scripts import snetd_config

ROOT: Final = Path(__file__).resolve().parent.parent
PROTO: Final = ROOT / "service.proto"

METADATA_NAME: Final = "service_metadata.json"
ORGANIZATION_NAME: Final = "organization_metadata.json"
CONFIG_NAMES: Final = ("snetd.local.json", "snetd.config.json", "daemon_config.json")
PROTO_FOLDERS: Final = ("proto", ".")

PLACEHOLDER: Final = r"<[A-Z][A-Z_]*(: [^<>]*)?>|YOUR_[A-Z_]+|Example(Organization|Service)Id"
# `snet service publish --update-mpe-address` sets both.
SET_BY_PUBLISH: Final = re.compile(r"mpe_address|groups\[\d+\]\.group_id")
# A block is 12 seconds. The operator has this long to claim what the last calls cost.
BLOCKS_A_DAY: Final = 7200

DESCRIPTION: Final = """\
Say whether what is in a folder can be published on SingularityNET, before you pay for it.

DIR holds
  service_metadata.json       what snet-cli publishes
  proto/*.proto               what snet-cli publishes with it (or *.proto in DIR itself)
  snetd.local.json            what scripts/daemon-config wrote (or snetd.config.json)
  organization_metadata.json  optional: what `snet organization` wrote

Each line names a file, a field in it, and what is wrong: what snet-cli, snet-sdk or snetd refuses,
a placeholder that is left, a service that costs nothing, a signer of free calls that is not the
daemon's, another organization than the daemon's, a proto that is not this repository's, an endpoint
and a certificate that do not fit. It asks no network and changes no file, unless you say --fill. It
shows no secret.

`snet service validate-metadata` does not say this: it accepts placeholders, and its exit status is
1 if the file is valid."""

EXAMPLES: Final = """\
exit status: 0 if it can be published, 1 if not, 2 if the command line makes no sense

examples:
  scripts/publish-check ~/publish
  scripts/publish-check ~/publish --fill            after every `snet service metadata-set-api`
  scripts/publish-check ~/publish --behind-proxy    if a proxy in front of snetd has the certificate
"""


class CheckError(Exception):
    """A file is not there or cannot be read; the message is one line."""


def reachable(address: str) -> str:
    """Refuse an endpoint that clients do not reach: they connect to a scheme, a host and a port."""
    host = rf"https?://({snetd_config.HOST})(:({snetd_config.PORT}))?"
    if re.fullmatch(f"{host}/.*", address):
        raise ValueError("must end after the port: the SDK ignores a path, and the CLI fails on it")
    if not re.fullmatch(host, address):
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    return address


Text = Annotated[str, StringConstraints(min_length=1)]
Address = Annotated[str, StringConstraints(pattern=rf"^{snetd_config.ADDRESS}$")]
Endpoint = Annotated[str, AfterValidator(reachable)]


class Exact(BaseModel):
    """A part of the metadata whose names snet-cli knows; it refuses others."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


class Pricing(Exact):
    """A price for each call: of the models, the one that all three take."""

    price_model: Literal["fixed_price"]
    price_in_cogs: Annotated[int, Field(ge=1)]
    default: Literal[True]


class Group(Exact):
    """The endpoints that share payment channels."""

    group_name: Text
    group_id: Text = "set by publish"
    pricing: Annotated[list[Pricing], Field(min_length=1)]
    endpoints: Annotated[list[Endpoint], Field(min_length=1)]
    daemon_addresses: Annotated[list[Address], Field(min_length=1)]
    free_calls: Annotated[int, Field(ge=1)] = 1
    free_call_signer_address: Address


class Description(BaseModel):
    """What the marketplace shows."""

    model_config = ConfigDict(strict=True)

    url: str
    short_description: Annotated[str, StringConstraints(max_length=180)]
    description: str = ""
    long_description: str = ""

    @model_validator(mode="after")
    def _has_a_description(self) -> Description:
        if not self.description and not self.long_description:
            raise ValueError("needs a description")
        return self


class Medium(Exact):
    """A picture or a film."""

    order: Annotated[int, Field(ge=1)]
    url: Text
    file_type: Literal["image", "video"]
    alt_text: Literal["hover_on_the_image_text", "hover_on_the_video_url", ""]
    asset_type: Literal["hero_image", "proto_file", "demo_component"]


class Contributor(Exact):
    """Who made the service."""

    name: Text
    email_id: str


class Metadata(Exact):
    """``service_metadata.json`` as snet-cli, snet-sdk and snetd all take it."""

    version: Annotated[int, Field(ge=1)]
    display_name: Text
    encoding: Literal["proto"]
    service_type: Literal["http", "grpc"]
    service_api_source: Annotated[str, StringConstraints(pattern=r"^(ipfs|filecoin)://\w+$")]
    model_ipfs_hash: Text
    mpe_address: Address = "0x" + "0" * 40
    groups: Annotated[list[Group], Field(min_length=1)]
    service_description: Description
    contributors: Annotated[list[Contributor], Field(min_length=1)]
    media: list[Medium] = []
    assets: dict[str, Any] = {}
    tags: list[Text] = []


# What to do about it, where the rule alone does not say.
ADVICE: Final[Mapping[str, str]] = {
    "model_ipfs_hash": "--fill writes it, as no command of snet does, and the SDK refuses it empty",
    "free_calls": "remove it to offer none; the SDK refuses 0",
    "free_call_signer_address": "snet service metadata-set-freecall-signer-address, even if no "
    "call is free: the SDK refuses a service without it",
    "price_in_cogs": "the service must cost something: snet service metadata-set-fixed-price",
    "pricing": "snet service metadata-set-fixed-price",
    "endpoints": "snet service metadata-update-endpoints",
    "daemon_addresses": "snet service metadata-update-daemon-addresses",
    "contributors": "snet service metadata-add-contributor",
    "service_description": "snet service metadata-add-description",
    "service_api_source": "snet service metadata-set-api",
}


@dataclass(frozen=True)
class Files:
    """What is about to be published."""

    folder: Path
    metadata: dict[str, Any]
    protos: Sequence[Path]
    config_name: str
    config: dict[str, Any] | None
    organization: dict[str, Any] | None

    @classmethod
    def of(cls, folder: Path) -> Files:
        """Read a folder.

        Raises :class:`CheckError` if there is no metadata, or a file is not JSON.
        """
        if not folder.is_dir():
            raise CheckError(f"{folder}: is not a folder")
        found = [sorted((folder / at).glob("*.proto")) for at in PROTO_FOLDERS]
        names = [name for name in CONFIG_NAMES if (folder / name).exists()]
        organization = folder / ORGANIZATION_NAME
        return cls(
            folder,
            read_object(folder / METADATA_NAME),
            next(filter(None, found), []),
            (names or CONFIG_NAMES)[0],
            read_object(folder / names[0]) if names else None,
            read_object(organization) if organization.exists() else None,
        )


def read_object(path: Path) -> dict[str, Any]:
    """Return a file's JSON object, or raise :class:`CheckError`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise CheckError(f"{path.name}: cannot be read: {exc.strerror}") from None
    except ValueError:
        raise CheckError(f"{path.name}: is not JSON") from None
    if not isinstance(value, dict):
        raise CheckError(f"{path.name}: is not a JSON object")
    return value


def problems(files: Files, *, behind_proxy: bool) -> Iterator[str]:
    """Yield what is wrong, one line each."""
    for where, what in (*metadata_problems(files.metadata), *content_problems(files.metadata)):
        yield f"{METADATA_NAME}: {where}: {what}"
    yield from proto_problems(files.protos)
    if files.config is None:
        yield f"{files.config_name}: is missing; scripts/daemon-config --output writes it"
        return
    config = snetd_config.settle(files.config)
    for where, what in config_problems(files.config, config):
        yield f"{files.config_name}: {where}: {what}"
    yield from fitting_problems(files, config, behind_proxy=behind_proxy)
    if files.organization is not None:
        published, served = files.organization.get("org_id"), config["organization_id"]
        if published and served and published != served:
            yield (
                f"{files.config_name}: organization_id: must be {published}, the org_id of "
                f"{ORGANIZATION_NAME}, or the daemon ends"
            )
        for where, what in organization_problems(files.organization, config["daemon_group_name"]):
            yield f"{ORGANIZATION_NAME}: {where}: {what}"


def placeholders(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the place of each placeholder that is left in a JSON value, and the placeholder."""
    if isinstance(value, str):
        if found := re.search(PLACEHOLDER, value):
            yield where, found[0]
        return
    if isinstance(value, dict):
        for name, each in value.items():
            yield from placeholders(each, join(where, name))
    if isinstance(value, list):
        for position, each in enumerate(value):
            yield from placeholders(each, join(where, f"[{position}]"))


def join(where: str, name: str) -> str:
    """Return the place of a part."""
    return f"{where}{name}" if name.startswith("[") or not where else f"{where}.{name}"


def metadata_problems(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the place and the fault of what is open or refused in the metadata."""
    left = dict(placeholders(metadata))
    for where, placeholder in left.items():
        if not SET_BY_PUBLISH.fullmatch(where):
            yield where, advised(where, f"is still the placeholder {placeholder}")
    try:
        Metadata.model_validate(metadata)
    except ValidationError as exc:
        for error in exc.errors(include_input=False, include_url=False):
            where = ""
            for part in error["loc"]:
                where = join(where, f"[{part}]" if isinstance(part, int) else part)
            if where not in left:
                yield where, advised(where, in_our_words(error["type"], error["msg"]))


def in_our_words(kind: str, message: str) -> str:
    """Return a pydantic message as the house words it."""
    match kind:
        case "missing":
            return "is missing"
        case "string_too_short" | "too_short":
            return "is empty"
        case "extra_forbidden":
            return "is unknown to the CLI, which refuses it"
        case "string_pattern_mismatch" if snetd_config.ADDRESS in message:
            return "must be an address: 0x and 40 hex digits"
        case "string_pattern_mismatch":
            return "must be ipfs:// or filecoin:// and a content id"
    return re.sub("^(Input|String) should", "must", message.removeprefix("Value error, "))


def advised(where: str, what: str) -> str:
    """Return a fault with what to do about it."""
    advice = ADVICE.get(re.sub(r"\[\d+\]$", "", where).rpartition(".")[2])
    return f"{what}; {advice}" if advice else what


def content_id(metadata: Mapping[str, Any]) -> str:
    """Return the content id of the published protos, or nothing while there is none."""
    return str(metadata.get("service_api_source", "")).partition("://")[2]


def content_problems(metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a fault if the older field names other protos than the newer one."""
    older = metadata.get("model_ipfs_hash")
    if older and content_id(metadata) and older != content_id(metadata):
        yield "model_ipfs_hash", "must be the content id of service_api_source; --fill writes it"


def proto_problems(protos: Sequence[Path]) -> Iterator[str]:
    """Yield what is wrong with the protos that the CLI would publish."""
    if not protos:
        yield "proto: there is no .proto file"
        return
    ours = compile_proto(PROTO)
    same = []
    for path in protos:
        try:
            theirs = compile_proto(path)
        except CheckError as exc:
            yield str(exc)
            continue
        same.append(theirs == ours)
        if not same[-1]:
            yield f"{path.name}: differs from the service's: copy {PROTO.name} again"
    if len(same) > 1:
        yield "proto: holds several files, and the CLI publishes all; leave service.proto alone"


def compile_proto(path: Path) -> bytes:
    """Return what a proto file defines, without its name and comments.

    Raises :class:`CheckError` if it does not compile. The compiler, which is a library here, says
    why on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "descriptors"
        options = [f"-I{path.parent}", f"--descriptor_set_out={compiled}"]
        if protoc.main(["protoc", *options, path.name]):
            raise CheckError(f"{path.name}: does not compile")
        (file,) = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    file.ClearField("name")
    return file.SerializeToString(deterministic=True)


def config_problems(
    given: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what is open in the daemon's configuration, or would keep it from serving."""
    left = dict(placeholders(given))
    for where, placeholder in left.items():
        yield where, f"is still the placeholder {placeholder}"
    open_keys = {re.split(r"[.\[]", where)[0] for where in left}
    for refusal in (*snetd_config.ignored(given), *snetd_config.refusals(config)):
        if refusal.key not in open_keys:
            yield refusal
    for key in ("organization_id", "service_id"):
        if not config.get(key):
            yield key, "is missing; the daemon ends if it is not the published one"
    if config["blockchain_enabled"] is False:
        yield "blockchain_enabled", "must be true, or every call is free and of type grpc"
    if config["passthrough_enabled"] is False:
        yield "passthrough_enabled", "must be true, or the daemon echoes requests"
    cert, key = config["ssl_cert"], config["ssl_key"]
    if cert and key and Path(cert).exists() and Path(key).exists():
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
        except (OSError, ssl.SSLError):
            yield "ssl_cert", "is not a certificate, or not the one of ssl_key"


def address_of(private_key: str) -> str:
    """Return the Ethereum address of a private key of 64 hex digits."""
    public = coincurve.PublicKey.from_secret(bytes.fromhex(private_key)).format(compressed=False)
    return f"0x{keccak.new(digest_bits=256, data=public[1:]).hexdigest()[-40:]}"


def fitting_problems(
    files: Files, config: Mapping[str, Any], *, behind_proxy: bool
) -> Iterator[str]:
    """Yield where the daemon's group in the metadata does not fit the daemon."""
    found = group_named(config["daemon_group_name"], files.metadata)
    if found is None:
        yield f"{files.config_name}: daemon_group_name: is not a group of {METADATA_NAME}"
        return
    place, group = f"{METADATA_NAME}: groups[{found[0]}]", found[1]
    key = config["private_key_for_free_calls"]
    signer = str(group.get("free_call_signer_address", "")).lower().removeprefix("0x")
    if isinstance(key, str) and snetd_config.is_private_key(key):
        expected = address_of(key)
        if signer != expected.removeprefix("0x"):
            yield (
                f"{place}.free_call_signer_address: must be {expected}, the address of the "
                "daemon's private_key_for_free_calls, or no call is free"
            )
    elif not key and group.get("free_calls"):
        yield (
            f"{place}.free_calls: the daemon has no private_key_for_free_calls to sign for them; "
            "give scripts/daemon-config the variable SNET_PRIVATE_KEY_FOR_FREE_CALLS"
        )
    certified = bool(config["ssl_cert"] or config["auto_ssl_domain"])
    for position, endpoint in enumerate(group.get("endpoints") or ()):
        scheme = str(endpoint).partition("://")[0].lower()
        if scheme == "https" and not certified and not behind_proxy:
            yield (
                f"{place}.endpoints[{position}]: is https, but the daemon has no certificate "
                "(ssl_cert, ssl_key); --behind-proxy if a proxy in front of it has one"
            )
        if scheme == "http" and (certified or behind_proxy):
            owner = "daemon" if certified else "proxy"
            yield f"{place}.endpoints[{position}]: must be https, as the {owner} has a certificate"
    if files.metadata.get("service_type") == "grpc" and config["service_credentials"]:
        yield (
            f"{METADATA_NAME}: service_type: must be http: a service of type grpc gets raw frames "
            "and none of the service_credentials"
        )


def organization_problems(organization: Mapping[str, Any], name: str) -> Iterator[tuple[str, str]]:
    """Yield what keeps callers from paying, or the operator from claiming payments."""
    found = group_named(name, organization)
    if found is None:
        yield "groups", f"has no group {name}: snet organization add-group"
        return
    position, group = found
    payment = group.get("payment", {})
    if not re.fullmatch(snetd_config.ADDRESS, str(payment.get("payment_address"))):
        yield (
            f"groups[{position}].payment.payment_address",
            "must be an address: 0x and 40 hex digits, or callers can't open a channel",
        )
    where = f"groups[{position}].payment.payment_expiration_threshold"
    blocks = payment.get("payment_expiration_threshold")
    if not isinstance(blocks, int) or blocks < BLOCKS_A_DAY:
        rule = (
            f"must be a number, {BLOCKS_A_DAY} or more: in so many blocks you must claim payments"
        )
        yield where, rule


def group_named(name: str, metadata: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]] | None:
    """Return the position and the content of a group of a service's or organization's metadata."""
    for position, group in enumerate(metadata.get("groups") or ()):
        if isinstance(group, dict) and group.get("group_name") == name:
            return position, group
    return None


def fill(files: Files) -> None:
    """Write into the metadata what no command of snet does, or only ``publish``."""
    metadata = files.metadata
    if content_id(metadata):
        metadata["model_ipfs_hash"] = content_id(metadata)
    for group in metadata.get("groups", []):
        found = group_named(group.get("group_name"), files.organization or {})
        if found is not None:
            group["group_id"] = found[1]["group_id"]
    path = files.folder / METADATA_NAME
    path.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; exit with 2 if it does not make sense."""
    parser = make_parser("scripts/publish-check", DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", metavar="DIR", type=Path, help="what you are about to publish")
    parser.add_argument(
        "--fill",
        action="store_true",
        help="first write model_ipfs_hash into service_metadata.json, from service_api_source, and "
        "group_id, from organization_metadata.json if it is there",
    )
    parser.add_argument(
        "--behind-proxy",
        action="store_true",
        help="callers' TLS ends at a proxy in front of the daemon, which has the certificate",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a folder, print what is wrong, and return the exit code."""
    options = parse_arguments(arguments)
    try:
        files = Files.of(options.folder)
        if options.fill:
            fill(files)
        lines = list(dict.fromkeys(problems(files, behind_proxy=options.behind_proxy)))
    except CheckError as exc:
        lines = [str(exc)]
    for line in lines:
        sys.stdout.write(f"{line}\n")
    if lines:
        return 1
    sys.stdout.write("ready to publish: snet service publish ORGANIZATION SERVICE\n")
    return 0
