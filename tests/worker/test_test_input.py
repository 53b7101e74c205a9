"""Where ``python app.py`` takes its job from, and what it refuses before it loads a model."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hatespeech.logs import LOGGER
from hatespeech.settings import EngineSettings
from hatespeech.worker import command as app
from tests.support.bad_inputs import BAD_INPUTS, MARKER, BadInput
from tests.support.processes.worker import clean_environment

TEXT = "guten Tag, schöne Grüße 🌞"
JOB = json.dumps({"input": {"prompt": TEXT}}, ensure_ascii=False)

# The contract does not see these: they are refused once a text is normalised and tokenised.
NEED_A_MODEL = {"too_many_words_to_explain", "spaces", "zero_width"}

Printed = pytest.CaptureFixture[bytes]


@pytest.fixture(autouse=True)
def environment(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """An empty folder, no settings of the developer's own, and the logger as it was."""
    for name in (*map(str.upper, EngineSettings.model_fields), "RUNPOD_WEBHOOK_GET_JOB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in clean_environment(tmp_path, small_checkpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger(LOGGER)
    before = (log.handlers, log.level, log.propagate)
    yield monkeypatch
    log.handlers, log.level, log.propagate = before


def reply_of(capsysbinary: Printed) -> Any:
    return json.loads(capsysbinary.readouterr().out)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_read_as_windows_writes_it_too(
    encoding: str, tmp_path: Path, capsysbinary: Printed
) -> None:
    for name, arguments in (("job.json", ["--test_input", "job.json"]), ("test_input.json", [])):
        (tmp_path / name).write_text(JOB, encoding=encoding)
        assert app.main(arguments) == 0
        assert reply_of(capsysbinary)["text"] == TEXT


def test_json_may_begin_with_a_byte_order_mark(capsysbinary: Printed) -> None:
    assert app.main(["--test_input", f"\ufeff{JOB}"]) == 0
    assert reply_of(capsysbinary)["text"] == TEXT


def test_a_pipe_is_a_file(tmp_path: Path, capsysbinary: Printed) -> None:
    """As in ``--test_input <(jq … jobs.json)``."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A daemon: if nothing reads the pipe, the thread waits for good.
    writer = threading.Thread(target=pipe.write_text, args=(JOB, "utf-8"), daemon=True)
    writer.start()
    assert app.main(["--test_input", str(pipe)]) == 0
    writer.join(30)
    assert reply_of(capsysbinary)["text"] == TEXT


@pytest.mark.parametrize(
    ("test_input", "error"),
    [
        ("missing/job.json", "--test_input: there is no such file"),
        (".", "--test_input: cannot be read (IsADirectoryError)"),
        ("cut.json", "--test_input: is not valid JSON at line 2"),
        ("list.json", '--test_input: must be an object with "input"'),
        ("bytes.json", "--test_input: cannot be read (UnicodeDecodeError)"),
    ],
)
def test_a_file_without_a_job_is_one_line_on_standard_error(
    test_input: str, error: str, tmp_path: Path, capsysbinary: Printed
) -> None:
    (tmp_path / "cut.json").write_text(f'{{"input":\n{MARKER}')
    (tmp_path / "list.json").write_text(f'["{MARKER}"]')
    (tmp_path / "bytes.json").write_bytes(MARKER.encode() + b"\xe9")
    assert app.main(["--test_input", test_input]) == 1
    printed = capsysbinary.readouterr()
    assert (printed.out, printed.err.decode()) == (b"", f"error: validation: {error}\n")


@pytest.mark.parametrize(
    "bad", [bad for bad in BAD_INPUTS if bad.name not in NEED_A_MODEL], ids=lambda bad: bad.name
)
def test_a_wrong_input_is_refused_before_a_model_is_looked_for(
    bad: BadInput, environment: pytest.MonkeyPatch, capsysbinary: Printed
) -> None:
    environment.setenv("MODEL_DIR", "/no/such/folder")
    assert app.main(["--test_input", json.dumps({"input": bad.input})]) == 1
    printed = capsysbinary.readouterr()
    assert json.loads(printed.out) == {"error": bad.error}
    assert printed.err == b""
