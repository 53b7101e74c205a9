"""Where ``python app.py`` takes its job from, and what it refuses before it loads a model."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from hatespeech.worker import command as app
from tests.support.bad_inputs import BAD_INPUTS, MARKER, BadInput

TEXT = "guten Tag, schöne Grüße 🌞"
JOB = json.dumps({"input": {"prompt": TEXT}}, ensure_ascii=False)

# The contract does not see these: they are refused once a text is normalised and tokenised.
pytestmark = pytest.mark.usefixtures("clean_process")

NEED_A_MODEL = {"too_many_words_to_explain", "spaces", "zero_width"}

Printed = pytest.CaptureFixture[bytes]


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
    bad: BadInput, monkeypatch: pytest.MonkeyPatch, capsysbinary: Printed
) -> None:
    monkeypatch.setenv("MODEL_DIR", "/no/such/folder")
    assert app.main(["--test_input", json.dumps({"input": bad.input})]) == 1
    printed = capsysbinary.readouterr()
    assert json.loads(printed.out) == {"error": bad.error}
    assert printed.err == b""
