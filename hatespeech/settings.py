"""The engine's settings: for each an environment variable, a default, a range and one sentence.

An entry point reads them once and passes them down. A setting's variable is its field's name in
capitals. An empty variable counts as unset, because ``docker run -e NAME=`` is how people unset
one. :mod:`hatespeech.serving.settings` adds the HTTP server's settings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

from hatespeech.errors import SettingsError

# Between a setting's name and one that is mistyped: one letter of DEVICE may be another one. What
# ordinary environments hold, such as LANG, LOGNAME, MODEL and DEVICE_ID, is further away.
CLOSE: Final = 0.83
SHORT: Final = 4  # letters of PORT and HOST, which are close to too much
FOREIGN: Final = ("HF_", "OTEL_")  # of libraries, which have settings that are named like ours


def checked(is_allowed: Callable[[Any], object]) -> AfterValidator:
    """Return what refuses a value that is set unless ``is_allowed`` says so.

    It may raise ``ValueError`` instead.
    """

    def check(value: Any) -> Any:
        if value is not None and not is_allowed(value):
            raise ValueError("not allowed")
        return value

    return AfterValidator(check)


def _is_repository(value: str) -> bool:
    part = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
    return re.fullmatch(f"{part}/{part}", value) is not None and "--" not in value


class EngineSettings(BaseModel):
    """The settings of the engine and of the queue worker, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model_dir: Annotated[
        Path | None,
        Field(
            description="Checkpoint folder, or a repository's folder in a cache of Hugging Face's "
            "hub. If neither this nor `MODEL_ID` is set, `checkpoints/bertweet-large` if it "
            "exists, else the embedded checkpoint `mini`. If set, the program starts from this "
            "folder or not at all."
        ),
    ] = None
    model_id: Annotated[
        str | None,
        checked(_is_repository),
        Field(
            description="Repository of Hugging Face's hub that holds a checkpoint folder. It is "
            "looked for in caches and on Runpod's network volume, and never downloaded "
            "([Runpod](runpod.md#without-weights-in-the-image)). Not together with `MODEL_DIR`.",
            json_schema_extra={"allowed": "ORG/NAME"},
        ),
    ] = None
    hf_hub_cache: Annotated[
        Path | None,
        Field(description="The cache that is searched first for `MODEL_ID`."),
    ] = None
    hf_home: Annotated[
        Path | None,
        Field(
            description="Folder whose `hub` is that cache if `HF_HUB_CACHE` is unset.",
        ),
    ] = None
    device: Annotated[
        str,
        Field(
            pattern=r"^(auto|cpu|cuda(:(0|[1-9][0-9]?))?)$",
            description="Where the model runs; `auto` is the first GPU, or the CPU if there is "
            "no GPU. On Runpod, a queue worker without a GPU starts only if this is `cpu`.",
            json_schema_extra={"allowed": "auto, cpu, cuda or cuda:N"},
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "int8"],
        Field(
            description="Number format of the weights; `auto` is float16 on a GPU and float32 on a "
            "CPU. On a CPU, bfloat16 is faster with AVX512_BF16 or AMX; int8 is faster still, and "
            "needs AVX512_VNNI or AMX."
        ),
    ] = "auto"
    max_batch_tokens: Annotated[
        int,
        Field(
            ge=512,
            le=1_048_576,
            description="Maximum tokens in one forward pass; lower it if memory runs out.",
        ),
    ] = 16_384
    max_queue_texts: Annotated[
        int,
        Field(
            ge=1,
            le=1_000_000,
            description="Maximum texts that wait or are being scored; further jobs wait until "
            "there is room. Each reading that `explain` needs counts as a text.",
        ),
    ] = 16_384
    max_texts_per_request: Annotated[
        int, Field(ge=1, le=100_000, description="Maximum texts in one request.")
    ] = 1024
    max_request_chars: Annotated[
        int,
        Field(
            ge=1,
            le=10_000_000,
            description="Maximum code points in all texts of one request. Keeps a reply, which "
            "echoes them, within Runpod's 20 MB.",
        ),
    ] = 1_000_000
    max_request_tokens: Annotated[
        int,
        Field(
            ge=512,
            le=100_000_000,
            description="Maximum tokens that the model reads for one request, in all windows and "
            "all readings that `explain` and `robust` need; a reading of `explain` counts as at "
            "least a token for every 16 code points.",
        ),
    ] = 1_048_576
    max_text_chars: Annotated[
        int, Field(ge=1, le=1_000_000, description="Maximum code points in one text.")
    ] = 10_000
    max_windows: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="Maximum windows of 512 tokens in one text; with `robust`, in both "
            "readings together.",
        ),
    ] = 32
    on_unread: Annotated[
        Literal["warn", "refuse"],
        Field(
            description="What becomes of a text that the checkpoint can't read: `warn` scores it "
            "and adds `warnings`, `refuse` makes it an error with the code `unread`."
        ),
    ] = "warn"
    thresholds_file: Annotated[
        Path | None,
        Field(
            description="Thresholds of your own for this checkpoint, which `evaluate.py "
            "--write-thresholds` writes. A request asks for them by their name.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None
    audit_log: Annotated[
        Path | None,
        Field(
            description="File to which a line is appended for each decision: id, hash of the text, "
            "scores, thresholds, versions; never the text.",
            json_schema_extra={"allowed": "a file"},
        ),
    ] = None
    robust: Annotated[
        bool,
        Field(
            description="Whether texts are also read without their disguise: look-alike letters, "
            "separated letters, digits for letters. A request's `robust` overrides it."
        ),
    ] = False
    max_concurrency: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="Maximum jobs that a queue worker has at a time. Lower it so that one "
            "worker of a fleet does not take the whole queue.",
        ),
    ] = 256
    stop_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=3600,
            description="Seconds for which a queue worker goes on scoring after SIGTERM. What is "
            "not scored then is answered with `unhealthy`, for the caller to send it again.",
        ),
    ] = 8
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"],
        Field(description="Minimum severity to log. Texts are never logged at any level."),
    ] = "INFO"
    log_format: Annotated[
        Literal["text", "json"], Field(description="Format of the log on standard error.")
    ] = "text"
    log_counters: Annotated[
        bool,
        Field(
            description="Whether the log has a line of counters for each minute in which a request "
            "or a job was answered."
        ),
    ] = True
    otel_exporter_otlp_endpoint: Annotated[
        str | None,
        Field(
            pattern=r"^https?://[^\s?#@]+$",
            description="Collector that gets traces and metrics over OTLP (http/protobuf); none if "
            "unset. Needs the extra `otel`.",
            json_schema_extra={"allowed": "http://… or https://…, without a query or a password"},
        ),
    ] = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the settings from the environment.

        Raises :class:`SettingsError`, which names the variable, its value and what is allowed.
        """
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
        if settings.model_dir is not None and settings.model_id is not None:
            raise SettingsError("MODEL_DIR and MODEL_ID are both set; leave one of them empty")
        if settings.max_queue_texts < settings.max_texts_per_request:
            raise SettingsError(
                f"MAX_QUEUE_TEXTS={settings.max_queue_texts} is not allowed: it must be at least "
                f"MAX_TEXTS_PER_REQUEST ({settings.max_texts_per_request})"
            )
        return settings

    @property
    def hub_cache(self) -> Path | None:
        """The cache of Hugging Face's hub that is searched first."""
        if self.hf_hub_cache is None and self.hf_home is not None:
            return self.hf_home / "hub"
        return self.hf_hub_cache

    @property
    def names_checkpoint(self) -> bool:
        """Whether a checkpoint is asked for, so that no other may answer."""
        return self.model_dir is not None or self.model_id is not None


def mistyped(
    settings: type[EngineSettings], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield each variable that is named nearly as a setting which is not set, and that setting."""
    names = {name.upper() for name in settings.model_fields}
    for variable in sorted(environment.keys() - names):
        if re.fullmatch(r"[A-Z0-9_]+", variable) and not variable.startswith(FOREIGN):
            alike = [each for each in names if each[0] == variable[0] and len(each) > SHORT]
            for name in difflib.get_close_matches(variable, alike, n=1, cutoff=CLOSE):
                if not environment.get(name):
                    yield variable, name


def is_secret(field: FieldInfo) -> bool:
    """Return whether a setting's value must never be shown."""
    return SecretStr in get_args(field.annotation)


def allowed(field: FieldInfo) -> str:
    """Return in words which values a setting allows, for error messages and the table."""
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


def table(settings: type[EngineSettings], skip: Collection[str] = ()) -> str:
    """Return settings as a Markdown table, without the fields in ``skip``."""
    rows = ["| variable | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, field in settings.model_fields.items():
        if name in skip:
            continue
        value = int(field.default) if isinstance(field.default, bool) else field.default
        default = "unset" if value is None else f"`{value}`"
        rows.append(f"| `{name.upper()}` | {default} | {allowed(field)} | {field.description} |")
    return "\n".join(rows) + "\n"
