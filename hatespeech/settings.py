"""Every setting: environment name, default, range, one sentence.

Read once, at the entry point, and passed down. A setting's environment name is its field's name in
capitals. An empty variable counts as unset, since ``docker run -e NAME=`` is how people unset one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

from utils.errors import SettingsError

# Shorter than this, a token can be guessed.
SAFE_TOKEN_CHARS: Final = 16

_ONE_LIMIT = r"[1-9]\d{0,8}/([1-9]\d{0,4} ?)?(second|minute|hour|day)s?"


def _commas(value: str) -> list[str]:
    return [part for part in (part.strip() for part in value.split(",")) if part]


def _check_tokens(value: SecretStr | None) -> SecretStr | None:
    tokens = [] if value is None else _commas(value.get_secret_value())
    if (value is not None and not tokens) or not all(
        re.fullmatch(r"[!-~]+", token) for token in tokens
    ):
        raise ValueError("not tokens")
    return value


def _check_origins(value: str | None) -> str | None:
    origins = _commas(value or "")
    if not all(re.fullmatch(r"\*|https?://[^/\s*]+", origin) for origin in origins):
        raise ValueError("not origins")
    return value


class Settings(BaseModel):
    """What the environment asked for, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_dir: Annotated[
        Path | None,
        Field(
            description="Checkpoint folder. Unset: `checkpoints/bertweet-large` if it is there, "
            "else the embedded `checkpoints/mini`. Set, it is that folder or no start."
        ),
    ] = None
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:(0|[1-9][0-9]?))?)$",
            description="Where the model runs; `auto` takes the first GPU, else the CPU.",
            json_schema_extra={"allowed": "auto, cpu, cuda or cuda:N"},
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(
            description="Number format of the weights; `auto` is float16 on a GPU and float32 on a "
            "CPU. bfloat16 is faster on CPUs with AVX512_BF16 or AMX."
        ),
    ] = "auto"
    max_batch_tokens: Annotated[
        int,
        Field(
            ge=512,
            le=1_048_576,
            description="Tokens that one forward pass reads at most; lower it if memory runs out.",
        ),
    ] = 16_384
    max_queue_texts: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Texts that wait or are being scored at most; further jobs wait for room.",
        ),
    ] = 16_384
    max_texts_per_request: Annotated[
        int, Field(ge=1, le=100_000, description="Texts in one request at most.")
    ] = 1024
    max_request_chars: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="Code points in all texts of one request at most; keeps a reply, which "
            "echoes them, within the platform's 20 MB.",
        ),
    ] = 1_000_000
    max_request_tokens: Annotated[
        int,
        Field(
            ge=512,
            le=100_000_000,
            description="Tokens that one request may make the model read, every window and every "
            "reading of `explain` counted.",
        ),
    ] = 1_048_576
    max_text_chars: Annotated[
        int, Field(ge=1, le=1_000_000, description="Code points in one text at most.")
    ] = 10_000
    max_windows: Annotated[
        int, Field(ge=1, le=1024, description="512-token windows of one text at most.")
    ] = 32
    max_concurrency: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Jobs a queue worker takes at once. Lower it so that one worker of a fleet "
            "does not hoard the queue.",
        ),
    ] = 256
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        Field(description="Least severe message that is logged. No level logs a text."),
    ] = "INFO"
    log_format: Annotated[
        Literal["text", "json"], Field(description="Shape of a log line, on standard error.")
    ] = "text"
    host: Annotated[
        str,
        Field(
            min_length=1,
            description="Address that `server.py` listens on; `0.0.0.0` is every network, which a "
            "container needs.",
            json_schema_extra={"allowed": "an address of this machine"},
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int, Field(ge=1, le=65_535, description="Port that `server.py` listens on.")
    ] = 8000
    port_health: Annotated[
        int | None,
        Field(
            ge=1,
            le=65_535,
            description="A second port, for `/ping` and `/health` alone; unset or equal to `PORT`: "
            "none.",
            json_schema_extra={"allowed": "a whole number from 1 to 65535"},
        ),
    ] = None
    bearer_token: Annotated[
        SecretStr | None,
        AfterValidator(_check_tokens),
        Field(
            description="Token that HTTP callers must send, or several; without one the server "
            "does not start.",
            json_schema_extra={"allowed": "visible ASCII, tokens separated by commas"},
        ),
    ] = None
    allow_anonymous: Annotated[
        bool,
        Field(description="1: without `BEARER_TOKEN`, serve whoever asks; with one, of no effect."),
    ] = False
    cors_origins: Annotated[
        str | None,
        AfterValidator(_check_origins),
        Field(
            description="Web pages of other origins that may call this server; unset: none.",
            json_schema_extra={"allowed": "`*`, or https://host separated by commas"},
        ),
    ] = None
    rate_limit: Annotated[
        str,
        Field(
            pattern=rf"^(off|{_ONE_LIMIT}(;{_ONE_LIMIT})*)$",
            description="Requests of one token (of one address, without tokens); several limits "
            "are separated by semicolons.",
            json_schema_extra={"allowed": "off, or such as 600/minute, 5/10 seconds"},
        ),
    ] = "600/minute"
    metrics: Annotated[
        Literal["off", "token", "open"],
        Field(description="`GET /metrics`: not there, for the token, or for everyone."),
    ] = "token"
    jobs_db: Annotated[
        Path,
        Field(
            description="SQLite file of asynchronous jobs and their results.",
            json_schema_extra={"allowed": "a file of this process alone"},
        ),
    ] = Path("jobs.sqlite3")
    job_ttl: Annotated[
        int,
        Field(ge=1, le=2_592_000, description="Seconds that the result of a job can be asked for."),
    ] = 1800
    max_queue_jobs: Annotated[
        int, Field(ge=1, le=1_000_000, description="Asynchronous jobs that wait at most.")
    ] = 1000
    max_body_bytes: Annotated[
        int,
        Field(ge=1024, le=1_073_741_824, description="Bytes in the body of an HTTP request."),
    ] = 20_971_520
    max_file_bytes: Annotated[
        int,
        Field(ge=1024, le=1_099_511_627_776, description="Bytes in an upload to `/score/file`."),
    ] = 268_435_456

    @property
    def tokens(self) -> Sequence[str]:
        """The bearer tokens; to be compared in constant time, never shown."""
        return [] if self.bearer_token is None else _commas(self.bearer_token.get_secret_value())

    @property
    def origins(self) -> Sequence[str]:
        """The origins that CORS lets in."""
        return _commas(self.cors_origins or "")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings; raise :class:`SettingsError` naming variable, value and range."""
        given = {
            name: value
            for name in cls.model_fields
            if (value := environment.get(name.upper(), "").strip())
        }
        try:
            settings = cls.model_validate(given)
        except pydantic.ValidationError as exc:
            name = str(exc.errors()[0]["loc"][0])
            field = cls.model_fields[name]
            shown = "" if is_secret(field) else f"={given[name]!r}"
            raise SettingsError(
                f"{name.upper()}{shown} is not allowed: it must be {allowed(field)}"
            ) from None
        if settings.max_queue_texts < settings.max_texts_per_request:
            raise SettingsError(
                f"MAX_QUEUE_TEXTS={settings.max_queue_texts} is not allowed: it must be at least "
                f"MAX_TEXTS_PER_REQUEST ({settings.max_texts_per_request})"
            )
        return settings


# They concern server.py alone; the queue worker reads none of them.
HTTP_SETTINGS: Final = tuple(Settings.model_fields)[list(Settings.model_fields).index("host") :]


def is_secret(field: FieldInfo) -> bool:
    """Say whether a setting's value must never be shown."""
    return SecretStr in get_args(field.annotation)


def allowed(field: FieldInfo) -> str:
    """Say in words what a setting may be, for error messages and the settings table."""
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["allowed"])
    if get_origin(field.annotation) is Literal:
        *most, last = get_args(field.annotation)
        return f"{', '.join(most)} or {last}"
    if field.annotation is bool:
        return "0 or 1"
    if field.annotation is int:
        bounds = {type(bound).__name__: bound for bound in field.metadata}
        return f"a whole number from {bounds['Ge'].ge} to {bounds['Le'].le}"
    return "a folder"


def table() -> str:
    """Return the settings as a Markdown table; the README holds exactly this."""
    rows = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        value = int(field.default) if isinstance(field.default, bool) else field.default
        default = "unset" if value is None else f"`{value}`"
        rows.append(f"| `{name.upper()}` | {default} | {allowed(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(table())
