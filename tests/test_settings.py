"""EngineSettings: what the environment may say, and the table that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from hatespeech.errors import SettingsError
from hatespeech.serving.settings import ServerSettings, tables
from hatespeech.settings import EngineSettings, allowed
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


def test_every_setting_says_what_it_is_and_what_it_may_be() -> None:
    for name, field in ServerSettings.model_fields.items():
        assert field.description, name
        assert allowed(field), name


def test_the_page_holds_the_tables() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for name, table in tables().items():
        assert table in page, name
