"""EngineSettings: what the environment may say, and the table that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from hatespeech.errors import SettingsError
from hatespeech.serving.settings import ServerSettings, tables
from hatespeech.settings import EngineSettings, allowed, mistyped
from tests.paths import ROOT


def test_nothing_set_gives_the_documented_defaults() -> None:
    settings = EngineSettings.from_environment(
        {"PATH": "/bin", "MAX_WINDOWS": "", "LOG_LEVEL": " "}
    )
    assert settings == EngineSettings()
    assert (settings.max_batch_tokens, settings.max_text_chars) == (16_384, 10_000)
    assert (settings.max_windows, settings.max_concurrency) == (32, 256)


def test_values_are_read_by_name() -> None:
    settings = EngineSettings.from_environment(
        {"MODEL_DIR": "/models/x", "DEVICE": "cuda:1", "DTYPE": "bfloat16", "MAX_WINDOWS": "8"}
    )
    assert settings.model_dir == Path("/models/x")
    assert (settings.device, settings.dtype, settings.max_windows) == ("cuda:1", "bfloat16", 8)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MAX_BATCH_TOKENS", "abc", "a whole number from 512 to 1048576"),
        ("MAX_BATCH_TOKENS", "100", "a whole number from 512 to 1048576"),
        ("MAX_WINDOWS", "1.5", "a whole number from 1 to 1024"),
        ("DEVICE", "gpu", "auto, cpu, cuda or cuda:N"),
        ("DEVICE", "cuda:01", "auto, cpu, cuda or cuda:N"),
        ("DEVICE", "cuda:300", "auto, cpu, cuda or cuda:N"),
        ("DTYPE", "int4", "auto, float32, bfloat16, float16 or int8"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("MAX_QUEUE_TEXTS", "10", "at least MAX_TEXTS_PER_REQUEST (1024)"),
    ],
)
def test_a_bad_value_names_variable_value_and_what_is_allowed(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        EngineSettings.from_environment({name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}=")
    assert value in message
    assert message.endswith(expected)
    assert "\n" not in message


def test_an_origin_with_a_slash_at_its_end_is_refused_for_that() -> None:
    with pytest.raises(SettingsError, match=r"no / at its end.* must be https://b\.example$"):
        ServerSettings.from_environment({"CORS_ORIGINS": "https://a.example, https://b.example/"})
    with pytest.raises(SettingsError, match=r"separate hosts by commas$"):
        ServerSettings.from_environment({"CORS_ORIGINS": "https://a.example/path"})


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("DEVISE", "DEVICE"),
        ("ALOW_ANONYMOUS", "ALLOW_ANONYMOUS"),
        ("BAERER_TOKEN", "BEARER_TOKEN"),
        ("MAX_WINDOW", "MAX_WINDOWS"),
        ("MODELDIR", "MODEL_DIR"),
        ("LOGLEVEL", "LOG_LEVEL"),
    ],
)
def test_a_mistyped_name_is_found_unless_the_setting_is_there(variable: str, name: str) -> None:
    environment = {variable: "secret", "PATH": "/bin"}
    assert list(mistyped(ServerSettings, environment)) == [(variable, name)]
    assert not list(mistyped(ServerSettings, {**environment, name: "1"}))


# Of shells, systems, containers, Kubernetes, Runpod, libraries, and of other programs.
ORDINARY: Final = """
LANG LANGUAGE LC_ALL HOME HOSTNAME HOST HOSTTYPE OSTYPE TYPE LOGNAME USER SHELL SHLVL PATH PWD
OLDPWD TERM TZ EDITOR PAGER DISPLAY MAIL TMPDIR COLUMNS LINES VIRTUAL_ENV PORT PORTS HOSTS DEVICE_ID
DEVICE_NAME DEVICE_TYPE MODEL MODEL_NAME MODEL_PATH MODEL_URL MODEL_VERSION MODELS DEBUG DEBUG_LEVEL
LOG_DIR LOG_FILE LOG_PATH JOB_ID JOB_NAME JOB_DIR METRICS_PORT GRPC_PORT GRPC_TRACE GRPC_VERBOSITY
ROOT_DIR PUBLIC_IP PUBLIC_KEY PUBLIC_HOST MAX_WORKERS MAX_TOKENS MAX_REQUESTS MAX_BATCH_SIZE
MAX_FILE_SIZE MAX_REQUEST_SIZE ALLOWED_ORIGINS ALLOWED_HOSTS BASE_URL REDIS_URL DATABASE_URL
API_TOKEN TOKEN COMPOSE_FILE COMPOSE_PROJECT_NAME DOCKER_HOST HTTP_PROXY HTTPS_PROXY NO_PROXY
KUBERNETES_PORT KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT_HTTPS SCORES_PORT_8000_TCP_ADDR
DEVICE_PORT DEVICE_SERVICE_HOST HF_TOKEN HF_HUB_OFFLINE HF_HUB_CACHES HF_HOMES HUGGINGFACE_HUB_CACHE
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINTS OTEL_SERVICE_NAME
CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES OMP_NUM_THREADS RUNPOD_API_KEY RUNPOD_POD_ID
RUNPOD_ENDPOINT_ID RUNPOD_WEBHOOK_GET_JOB FORWARDED_ALLOW_IPS device bearer_tokens
"""


def test_an_ordinary_environment_holds_no_mistyped_name() -> None:
    everywhere = dict.fromkeys(ORDINARY.split(), "1")
    assert not list(mistyped(ServerSettings, everywhere))
    # A worker may share its environment with a server.
    servers = {name.upper(): "1" for name in ServerSettings.model_fields}
    only = {name: "1" for name in servers if name.lower() not in EngineSettings.model_fields}
    assert not list(mistyped(EngineSettings, {**everywhere, **only}))


def test_every_setting_says_what_it_is_and_what_it_may_be() -> None:
    for name, field in ServerSettings.model_fields.items():
        assert field.description, name
        assert allowed(field), name


def test_the_page_holds_the_tables() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, table in tables().items():
        assert table in page, name
