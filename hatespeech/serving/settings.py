"""The HTTP server's settings, in addition to the engine's."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr

from hatespeech.errors import SettingsError
from hatespeech.serving.payments.payment_settings import PaymentSettings
from hatespeech.settings import EngineSettings, checked, table

# Shorter than this, a token can be guessed.
SAFE_TOKEN_CHARS: Final = 16

# For requests in flight when told to stop; then they are cut off.
SHUTDOWN_SECONDS: Final = 60

_ONE_LIMIT = r"[1-9]\d{0,8}/([1-9]\d{0,4} ?)?(second|minute|hour|day)s?"


def _commas(value: str) -> list[str]:
    return [part for part in (part.strip() for part in value.split(",")) if part]


def _are_tokens(value: SecretStr) -> bool:
    tokens = _commas(value.get_secret_value())
    return bool(tokens) and all(re.fullmatch(r"[!-~]+", token) for token in tokens)


def _is_address(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return (
        re.fullmatch(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+", host) is not None
        and re.fullmatch(r"[1-9]\d{0,4}", port) is not None
        and int(port) <= 65_535
    )


# What stands for the address of a proxy that connects to UNIX_SOCKET.
UNIX: Final = "unix"


def _are_proxies(value: str) -> bool:
    return all(part == UNIX or ipaddress.ip_network(part) for part in _commas(value))


def _are_networks(value: str) -> bool:
    return all(ipaddress.ip_network(part) for part in _commas(value))


def read_webhook_secret(value: str) -> bytes:
    """Return the key that ``whsec_…`` holds; raise ``ValueError`` for anything else."""
    prefix, _, encoded = value.partition("_")
    key = base64.b64decode(encoded, validate=True)
    if prefix != "whsec" or not 24 <= len(key) <= 64:
        raise ValueError("not a secret of 24 to 64 bytes")
    return key


def _is_webhook_secret(value: SecretStr) -> bool:
    return bool(read_webhook_secret(value.get_secret_value()))


def _are_origins(value: str) -> bool:
    origins = _commas(value)
    for origin in origins:
        if re.fullmatch(r"https?://[^/\s*]+/", origin):
            raise SettingsError(
                f"CORS_ORIGINS={value!r} is not allowed: an origin has no / at its end, so "
                f"{origin} must be {origin[:-1]}"
            )
    return all(re.fullmatch(r"\*|https?://[^/\s*]+", origin) for origin in origins)


def _is_redis(value: SecretStr) -> bool:
    return re.fullmatch(r"rediss?://\S+", value.get_secret_value()) is not None


# What the URL of a database of jobs starts with; libpq reads the rest.
POSTGRES: Final = ("postgresql://", "postgres://")


def _read_jobs_db(value: str | Path) -> Path | SecretStr:
    if isinstance(value, str) and value.startswith(POSTGRES):
        return SecretStr(value)  # it may hold a password
    return Path(value)


# Protocols of other services, in the order in which documents name them.
PROTOCOLS: Final = ("perspective", "openai", "huggingface", "litellm")


def _are_protocols(value: str) -> bool:
    names = _commas(value)
    return value == "off" or (bool(names) and set(names) <= set(PROTOCOLS))


class ServerSettings(PaymentSettings):
    """The settings of ``server.py``, checked."""

    host: Annotated[
        str,
        Field(
            min_length=1,
            description="Address that `server.py` listens on; `0.0.0.0` means every network, which "
            "a container needs.",
            json_schema_extra={"allowed": "an address of this machine"},
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=1, le=65_535, description="Port that `server.py` listens on.")
    ] = 8000
    unix_socket: Annotated[
        Path | None,
        Field(
            description="Unix socket that `server.py` listens on instead of `HOST` and `PORT`, for "
            "a proxy on the same machine. Who may write to its folder's sockets may connect.",
            json_schema_extra={"allowed": "a path in a folder that exists"},
        ),
    ] = None
    root_path: Annotated[
        str,
        Field(
            pattern=r"^(/[A-Za-z0-9._~-]+)*$",
            description="Path prefix at which a proxy serves this server, whether or not the proxy "
            "takes it off. It can't be a path of the server itself, such as `/score`.",
            json_schema_extra={"allowed": "such as /moderation"},
        ),
    ] = ""
    keep_alive: Annotated[
        int,
        Field(
            ge=1,
            le=86_400,
            description="Seconds for which `server.py` keeps an idle connection open. Balancers "
            "must close theirs earlier, or they answer 502 now and then.",
        ),
    ] = 75
    port_health: Annotated[
        int | None,
        Field(
            ge=1,
            le=65_535,
            description="A second port, for `/ping` and `/health` only. If unset or equal to "
            "`PORT`, there is none.",
            json_schema_extra={"allowed": "a whole number from 1 to 65535"},
        ),
    ] = None
    bearer_token: Annotated[
        SecretStr | None,
        checked(_are_tokens),
        Field(
            description="Token that callers must send, or several tokens. The server does not "
            "start without one unless `ALLOW_ANONYMOUS` is 1.",
            json_schema_extra={"allowed": "visible ASCII; separate tokens by commas"},
        ),
    ] = None
    allow_anonymous: Annotated[
        bool,
        Field(
            description="If 1 and `BEARER_TOKEN` is unset, everyone may call. It has no effect if "
            "`BEARER_TOKEN` is set."
        ),
    ] = False
    cors_origins: Annotated[
        str | None,
        checked(_are_origins),
        Field(
            description="Origins whose web pages may call this server; none if unset.",
            json_schema_extra={"allowed": "`*`, or https://host; separate hosts by commas"},
        ),
    ] = None
    rate_limit: Annotated[
        str,
        Field(
            pattern=rf"^(off|{_ONE_LIMIT}(;{_ONE_LIMIT})*)$",
            description="Maximum requests with one token or, without tokens, from one address. "
            "Every 1024 readings that `explain` needs count as one more. Asking for the health, "
            "the metrics or the status of a job counts nothing. "
            "Separate several limits by semicolons.",
            json_schema_extra={"allowed": "off, or limits such as 600/minute or 5/10 seconds"},
        ),
    ] = "600/minute"
    rate_limit_counts: Annotated[
        Literal["requests", "texts"],
        Field(
            description="What `RATE_LIMIT` is a maximum of. A request counts as at least one text; "
            "an uploaded file counts each of its rows."
        ),
    ] = "requests"
    rate_limit_storage: Annotated[
        SecretStr | None,
        checked(_is_redis),
        Field(
            description="Redis in which several servers count requests together; each counts its "
            "own if unset. Needs the extra `redis`.",
            json_schema_extra={"allowed": "redis://… or rediss://… (TLS)"},
        ),
    ] = None
    metrics: Annotated[
        Literal["off", "token", "open"],
        Field(description="Who may read `GET /metrics`: nobody, token holders, or everyone."),
    ] = "token"
    jobs_db: Annotated[
        Path | SecretStr,
        BeforeValidator(_read_jobs_db),
        Field(
            description="Where asynchronous jobs and their results are: an SQLite file of this "
            "server alone, or a PostgreSQL database that several servers share, which needs the "
            "extra `postgres`.",
            json_schema_extra={
                "allowed": "a file that no other process uses, or "
                "postgresql://USER:PASSWORD@HOST/DATABASE"
            },
        ),
    ] = Path("jobs.sqlite3")
    job_ttl: Annotated[
        int,
        Field(ge=1, le=2_592_000, description="Seconds for which a job's result can be fetched."),
    ] = 1800
    webhook_secret: Annotated[
        SecretStr | None,
        checked(_is_webhook_secret),
        Field(
            description="Key that webhooks are signed with. If unset, a job with a `webhook` is "
            "refused.",
            json_schema_extra={
                "allowed": "`whsec_` and 24 to 64 bytes in Base64: "
                '`echo "whsec_$(openssl rand -base64 32)"`'
            },
        ),
    ] = None
    webhook_networks: Annotated[
        str | None,
        checked(_are_networks),
        Field(
            description="Networks that webhooks may go to, also without TLS, besides public "
            "addresses over https.",
            json_schema_extra={"allowed": "addresses or networks; separate them by commas"},
        ),
    ] = None
    max_queue_jobs: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Maximum asynchronous jobs that wait in `JOBS_DB`.",
        ),
    ] = 1000
    max_body_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1_073_741_824,
            description="Maximum bytes in the body of an HTTP request, or in a gRPC message.",
        ),
    ] = 20_971_520
    max_file_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1_099_511_627_776,
            description="Maximum bytes in a file uploaded to `/score/file`.",
        ),
    ] = 268_435_456
    all_bodies_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1_099_511_627_776,
            description="Maximum bytes of all bodies that are in memory at the same time, beyond "
            "the first 64 KiB of each. One caller may have half of them; one body always fits. The "
            "gRPC messages that are arriving may have as much again.",
        ),
    ] = 268_435_456
    all_files_bytes: Annotated[
        int,
        Field(
            ge=1024,
            le=1_099_511_627_776,
            description="The same for all files uploaded to `/score/file`, which lie on the disk.",
        ),
    ] = 4_294_967_296
    max_connections_per_address: Annotated[
        int,
        Field(
            ge=1,
            le=65_535,
            description="Maximum HTTP connections from one address (of IPv6, from one /64 network) "
            "at the same time. All callers behind one proxy share its address.",
        ),
    ] = 1024
    trusted_proxies: Annotated[
        str | None,
        checked(_are_proxies),
        Field(
            description="Proxies whose header `X-Forwarded-For` names the caller's address. If "
            "unset, the address is that of the connection, whatever a header says. uvicorn's own "
            "name for it, `FORWARDED_ALLOW_IPS`, is read, too.",
            json_schema_extra={
                "allowed": f"addresses or networks, or {UNIX} for `UNIX_SOCKET`; separate them by "
                "commas"
            },
        ),
    ] = None
    max_file_rows: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000_000,
            description="Maximum rows in a file uploaded to `/score/file`.",
        ),
    ] = 10_000_000
    parquet_memory_bytes: Annotated[
        int,
        Field(
            ge=268_435_456,
            le=1_099_511_627_776,
            description="Maximum memory of all Parquet files that are read at the same time, of "
            "which there are at most four, two of them of one caller. Each is read in a process of "
            "its own, which gets a quarter.",
        ),
    ] = 1_073_741_824

    compat: Annotated[
        str,
        checked(_are_protocols),
        Field(
            description="Protocols of other services that are answered as well. They need the "
            "token and share all limits ([migrating](migrating.md)).",
            json_schema_extra={"allowed": f"off, or {', '.join(PROTOCOLS)}; separate by commas"},
        ),
    ] = ",".join(PROTOCOLS)
    compat_mapping: Annotated[
        Path | None,
        Field(
            description="TOML file whose lines replace those of the shipped mapping of other "
            "services' names.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None
    suggestions_file: Annotated[
        Path | None,
        Field(
            description="File to which Perspective's `comments:suggestscore` adds a line of JSON, "
            "with the text; if unset, nothing is stored and the answer is 501.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None
    public_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://[A-Za-z0-9._~:\[\]/-]+$",
            description="URL at which clients reach this server, for Perspective's discovery "
            "document, which takes it from the request if it is unset, and for buyers.",
            json_schema_extra={"allowed": "http://… or https://…, without a query"},
        ),
    ] = None
    grpc: Annotated[
        str | None,
        checked(_is_address),
        Field(
            description="Address where `server.py` answers gRPC calls as well; none if unset. "
            "Needs the extra `grpc`.",
            json_schema_extra={"allowed": "HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051"},
        ),
    ] = None
    grpc_tls_cert: Annotated[
        Path | None,
        Field(
            description="Certificate chain in PEM format, for gRPC over TLS; plain text if unset.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None
    grpc_tls_key: Annotated[
        Path | None,
        Field(
            description="Private key of that certificate in PEM format, without a password.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None

    @property
    def tokens(self) -> Sequence[str]:
        """The bearer tokens. Compare them in constant time, and never show them."""
        return [] if self.bearer_token is None else _commas(self.bearer_token.get_secret_value())

    @property
    def health_port(self) -> int | None:
        """The port that has the probes alone, if there is one."""
        return None if self.port_health == self.port else self.port_health

    @property
    def webhook_targets(self) -> Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The networks that webhooks may go to besides public addresses."""
        return [ipaddress.ip_network(part) for part in _commas(self.webhook_networks or "")]

    @property
    def protocols(self) -> Sequence[str]:
        """The names of other services' protocols to answer, each once, in order."""
        return [name for name in PROTOCOLS if name in _commas(self.compat)]

    @property
    def origins(self) -> Sequence[str]:
        """The origins that CORS allows."""
        return _commas(self.cors_origins or "")


def tables() -> dict[str, str]:
    """Return the Markdown tables of ``docs/settings.md``: the engine's, the server's, selling."""
    return {
        "engine": table(EngineSettings),
        "server": table(ServerSettings, skip=PaymentSettings.model_fields),
        "selling": table(PaymentSettings, skip=EngineSettings.model_fields),
    }


if __name__ == "__main__":
    import sys

    sys.stdout.write("\n".join(tables().values()))
