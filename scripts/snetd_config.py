"""What snetd 6.2 takes as its configuration: the names of its keys, and why it would not start.

``daemon_config.py`` and ``publish_check.py`` beside this ask it, and so does the tests' stand-in
for the daemon. It needs no package.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["text", "number", "flag", "list", "map"]

# Every key of the file's top level. snetd ignores a name that it does not know.
KEYS: Final[Mapping[str, Kind]] = {
    "alerts_email": "text",
    "allowed_user_addresses": "list",
    "allowed_user_flag": "flag",
    "authentication_addresses": "list",
    "auto_ssl_cache_dir": "text",
    "auto_ssl_domain": "text",
    "blockchain_enabled": "flag",
    "blockchain_network_selected": "text",
    "blockchain_provider_api_key": "text",
    "burst_size": "number",
    "config_path": "text",
    "daemon_endpoint": "text",
    "daemon_group_name": "text",
    "daemon_type": "text",
    "enable_dynamic_pricing": "flag",
    "ethereum_json_rpc_http_endpoint": "text",
    "ethereum_json_rpc_ws_endpoint": "text",
    "executable_path": "text",
    "free_calls_per_address": "map",
    "heartbeat_endpoint": "text",
    "ipfs_endpoint": "text",
    "ipfs_timeout": "number",
    "lighthouse_endpoint": "text",
    "log": "map",
    "max_message_size_in_mb": "number",
    "metering_enabled": "flag",
    "metering_endpoint": "text",
    "min_balance_for_free_call": "number",
    "model_maintenance_endpoint": "text",
    "model_training_enabled": "flag",
    "notification_endpoint": "text",
    "organization_id": "text",
    "passthrough_enabled": "flag",
    "payment_channel_ca_path": "text",
    "payment_channel_cert_path": "text",
    "payment_channel_key_path": "text",
    "payment_channel_storage_client": "map",
    "payment_channel_storage_server": "map",
    "payment_channel_storage_type": "text",
    "private_key_for_free_calls": "text",
    "private_key_for_metering": "text",
    "rate_limit_per_minute": "number",
    "registry_address_key": "text",
    "service_credentials": "list",
    "service_endpoint": "text",
    "service_heartbeat_type": "text",
    "service_id": "text",
    "service_timeout": "text",
    "ssl_cert": "text",
    "ssl_key": "text",
    "token_expiry_in_minutes": "number",
    "token_secret_key": "text",
    "trusted_free_call_signers": "list",
}

# Older names, which snetd takes with a warning.
DEPRECATED: Final[Mapping[str, str]] = {
    "daemon_end_point": "daemon_endpoint",
    "heartbeat_svc_end_point": "heartbeat_endpoint",
    "ipfs_end_point": "ipfs_endpoint",
    "metering_end_point": "metering_endpoint",
    "notification_svc_end_point": "notification_endpoint",
    "passthrough_endpoint": "service_endpoint",
    "pvt_key_for_free_calls": "private_key_for_free_calls",
    "pvt_key_for_metering": "private_key_for_metering",
}

# The defaults that decide whether and how it starts. It has more.
DEFAULTS: Final[Mapping[str, Any]] = {
    "auto_ssl_domain": "",
    "blockchain_enabled": True,
    "blockchain_network_selected": "sepolia",
    "daemon_endpoint": "127.0.0.1:8080",
    "daemon_group_name": "default_group",
    "daemon_type": "grpc",
    "max_message_size_in_mb": 4,
    "passthrough_enabled": True,
    "private_key_for_free_calls": "",
    "service_credentials": [],
    "service_endpoint": "http://localhost:5000",
    "service_timeout": "100s",
    "ssl_cert": "",
    "ssl_key": "",
}

URLS: Final = ("ethereum_json_rpc_http_endpoint", "ipfs_endpoint", "lighthouse_endpoint")
HEARTBEATS: Final = ("", "none", "tcp", "http", "grpc")
LOCATIONS: Final = ("body", "header", "query")
MIN_TOKEN_SECRET_BYTES: Final = 32
MAX_MESSAGE_MB: Final = 2048
PORT: Final = r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]"
HOST: Final = r"[\w.-]+|\[[0-9A-Fa-f:.]+\]"
ADDRESS: Final = r"(0[xX])?[0-9a-fA-F]{40}"
# The order of the curve secp256k1: a private key is below it.
CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
NANOSECONDS: Final[Mapping[str, int]] = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


class Refusal(NamedTuple):
    """Why snetd would not start with a configuration, or would not do what the key says."""

    key: str
    rule: str  # what the value must be; it holds no value, which may be a secret

    def __str__(self) -> str:
        return f"{self.key}: {self.rule}"


def settle(
    given: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a file's content as snetd reads it: with its defaults, and under the current names.

    ``environment`` is the daemon's, if it is known: its ``SNET_*`` variables win over the file.
    """
    config = {**DEFAULTS, **{key.lower(): value for key, value in given.items()}}
    for old, new in DEPRECATED.items():
        if old in config:
            config[new] = config.pop(old)
    return {**config, **dict(from_environment(environment or {}))}


def from_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield each key that a variable ``SNET_<KEY>`` sets, with its value.

    A value that is not of the key's kind stays a text, which :func:`refusals` then names.
    """
    for key, kind in KEYS.items():
        text = environment.get(f"SNET_{key.upper()}", "").strip()
        if text:
            yield key, parse(text, kind)


def parse(text: str, kind: Kind) -> Any:
    """Return a variable's value in the kind of its key, or as it is if it is not of that kind."""
    if kind == "text":
        return text
    if kind == "number":
        return int(text) if re.fullmatch(r"\d{1,18}", text) else text
    if kind == "flag":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        return json.loads(text)
    except ValueError:
        return re.split(r"[\s,]+", text) if kind == "list" else text


def duration(value: Any) -> float | None:
    """Return the seconds of a Go duration such as ``1m40s``, or ``None`` if it is not one."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", str(value))
    if not parts or "".join(map("".join, parts)) != value:
        return None
    return sum(float(number) * NANOSECONDS[unit] for number, unit in parts) / 1e9


def ignored(given: Mapping[str, Any]) -> Iterator[Refusal]:
    """Yield what stands in a file and snetd ignores without a word."""
    for key in given:
        if key.lower() not in (*KEYS, *DEPRECATED):
            close = difflib.get_close_matches(key.lower(), KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield Refusal(key, f"snetd does not know this key and ignores it{hint}")
    for each in given.get("service_credentials") or ():
        in_text = isinstance(each, dict) and each.get("location") in ("header", "query")
        if in_text and not isinstance(each.get("value"), str):
            rule = "the value of a header or a query must be a text, or snetd does not send it"
            yield Refusal("service_credentials", rule)


def refusals(config: Mapping[str, Any]) -> Iterator[Refusal]:
    """Yield why snetd would not start with what :func:`settle` returned, each key at most once."""
    wrong = [Refusal(key, rule) for key, rule in _wrong_kinds(config)]
    yield from wrong
    settled = {each.key for each in wrong}
    for each in _broken_rules({**config, **{key: DEFAULTS.get(key) for key in settled}}):
        if each.key not in settled:
            settled.add(each.key)
            yield each


def _wrong_kinds(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        match KEYS.get(key):
            case "text" if not isinstance(value, str):
                yield key, "must be a text"
            case "number" if not re.fullmatch(r"\d+", str(value)):
                yield key, "must be a whole number"
            case "flag" if str(value).lower() not in ("true", "false"):
                yield key, "must be true or false"
            case "list" if not isinstance(value, list):
                yield key, "must be a list"
            case "map" if not isinstance(value, dict):
                yield key, "must be an object"


def _broken_rules(config: Mapping[str, Any]) -> Iterator[Refusal]:
    if config["daemon_type"] not in ("grpc", "http"):
        yield Refusal("daemon_type", "must be grpc or http")
    if bool(config["ssl_cert"]) != bool(config["ssl_key"]):
        yield Refusal("ssl_cert", "needs ssl_key, and ssl_key needs ssl_cert")
    yield from _endpoint_rules(config["daemon_endpoint"], config["service_endpoint"])
    if not 0 < int(config["max_message_size_in_mb"]) <= MAX_MESSAGE_MB:
        yield Refusal("max_message_size_in_mb", f"must be from 1 to {MAX_MESSAGE_MB}")
    if duration(config["service_timeout"]) is None:
        yield Refusal("service_timeout", "must be a duration such as 320s")
    yield from _credential_rules(config["service_credentials"])
    yield from _user_rules(config)
    asks = config.get("service_heartbeat_type") == "http"
    for name in (*URLS, *(["heartbeat_endpoint"] if asks else [])):
        if not re.fullmatch(r"(?i:https?)://[^\s/]+(/\S*)?", config.get(name, "http://default")):
            yield Refusal(name, "must be an http:// or https:// URL")
    if config.get("service_heartbeat_type", "") not in HEARTBEATS:
        yield Refusal("service_heartbeat_type", "must be none, tcp, http or grpc")
    key = config["private_key_for_free_calls"]
    if key and not is_private_key(key):
        rule = "must be 64 hex digits without 0x, and a key of secp256k1"
        yield Refusal("private_key_for_free_calls", rule)
    secret = config.get("token_secret_key", "")
    if config["blockchain_enabled"] and len(secret.encode()) < MIN_TOKEN_SECRET_BYTES:
        yield Refusal("token_secret_key", f"must be {MIN_TOKEN_SECRET_BYTES} bytes or more")
    metering = urlsplit(config.get("metering_endpoint", ""))
    if config.get("metering_enabled") and not (metering.scheme and metering.netloc):
        yield Refusal("metering_endpoint", "must be a URL if metering_enabled is true")


def _endpoint_rules(daemon: str, service: str) -> Iterator[Refusal]:
    if not re.fullmatch(rf"({HOST})?:({PORT})", daemon):
        yield Refusal("daemon_endpoint", "must be HOST:PORT or :PORT")
        return
    try:
        theirs = urlsplit(service if "://" in service else f"http://{service}")
        host, port = theirs.hostname, theirs.port
    except ValueError:
        host = None
    if not host:
        yield Refusal("service_endpoint", "must be a URL")
        return
    ours = urlsplit(f"//{daemon}")
    everywhere = ours.hostname == "0.0.0.0" and host in ("127.0.0.1", "localhost")  # noqa: S104
    if port == ours.port and (host == ours.hostname or everywhere):
        yield Refusal("daemon_endpoint", "must differ from the service's host and port")


def _credential_rules(credentials: list[Any]) -> Iterator[Refusal]:
    for each in credentials:
        if not isinstance(each, dict) or each.get("location") not in LOCATIONS:
            rule = f"each needs a location: {', '.join(LOCATIONS)}"
        elif not each.get("key"):
            rule = "each needs a key"
        else:
            continue
        yield Refusal("service_credentials", rule)


def _user_rules(config: Mapping[str, Any]) -> Iterator[Refusal]:
    if not config.get("allowed_user_flag"):
        return
    if config["blockchain_network_selected"] == "main":
        yield Refusal("allowed_user_flag", "must be false on main")
    users = config.get("allowed_user_addresses")
    if not users or not all(re.fullmatch(ADDRESS, str(user)) for user in users):
        rule = "must hold addresses if allowed_user_flag is true"
        yield Refusal("allowed_user_addresses", rule)


def is_private_key(text: str) -> bool:
    """Say whether snetd takes a text as a private key: 64 hex digits, without ``0x``."""
    return bool(re.fullmatch(r"[0-9a-fA-F]{64}", text)) and 0 < int(text, 16) < CURVE_ORDER
