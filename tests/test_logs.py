"""What reaches the log when something fails that nothing expected."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time

import pytest

from hatespeech.logs import JsonFormatter, TextFormatter
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER

FAILS = """
import logging, sys, threading, warnings
from hatespeech import logs
from hatespeech.settings import EngineSettings

class Last:
    def __del__(self):
        raise ValueError(sys.argv[2])

def fail():
    raise ValueError(sys.argv[2])

logs.configure(EngineSettings(log_format=sys.argv[1]))
logs.log_the_rest()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
warnings.warn(sys.argv[2])
logging.getLogger("a.library").warning(sys.argv[2])
Last()
fail()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "json"])
def test_what_nothing_caught_is_one_line_that_quotes_nothing(kind: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FAILS, kind, MARKER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert MARKER not in run.stderr
    assert len(lines) == 5, run.stderr
    said = [json.loads(line)["message"] for line in lines] if kind == "json" else lines
    for line, words in zip(
        said,
        (
            "a thread failed: ValueError",
            "UserWarning at ",
            "a.library logged something at <string>:",
            "an exception was ignored: ValueError",
            "the program failed: ValueError",
        ),
        strict=True,
    ):
        assert words in line


def test_times_are_in_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord("a", logging.INFO, "a", 1, "hello", None, None)
    record.created = 1.5
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        text, line = TextFormatter().format(record), JsonFormatter().format(record)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert text == "1970-01-01T00:00:01.500Z INFO    hello"
    assert json.loads(line)["time"] == "1970-01-01T00:00:01.500Z"


def test_an_exception_is_logged_by_its_type_and_place() -> None:
    try:
        raise ValueError(MARKER)
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "a", 1, "failed", None, sys.exc_info())
    text, line = TextFormatter().format(record), JsonFormatter().format(record)
    assert re.search(r"failed: ValueError at test_logs.py:\d+$", text)
    assert json.loads(line)["exception"].startswith("ValueError at test_logs.py:")
    assert MARKER not in text + line
