"""What is counted of replies, and what a log line says of it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from hatespeech.contract import Prediction, TextScore, Timing
from hatespeech.errors import ValidationError
from hatespeech.logs import JsonFormatter
from hatespeech.settings import EngineSettings
from hatespeech.telemetry import recorder as recorders
from hatespeech.telemetry.recorder import Recorder
from hatespeech.telemetry.tally import Totals
from tests.support.bad_inputs import MARKER

HATEFUL = TextScore.of(
    MARKER, Prediction((0.9, 0.05, 0.03, 0.02), 3, (0, 1), None), {"hate": 0.9, "toxic": 0.5}
)
CALM = TextScore.of(MARKER, Prediction((0.0, 0.0, 1.0, 0.0), 1, None, None, None, ("unread",)), {})
FAILED = TextScore(MARKER, error=ValidationError("is empty", field="texts[2]"))
REPLY = [HATEFUL, CALM, FAILED]


def test_one_pass_counts_everything_that_a_reply_holds() -> None:
    totals = Totals()
    for _ in range(2):
        tally = totals.count(REPLY, Timing(1.5, 20.0, 41), "grpc")
    assert tally.fields() == {
        "texts": 3,
        "tokens": 41,
        "queue_ms": 1.5,
        "compute_ms": 20.0,
        "labels": {"hate": 1, "neutral": 1},
        "flagged": {"hate": 1, "toxic": 1},
        "warnings": {"unread": 1},
        "failed": {"validation": 1},
    }
    assert (totals.tally.texts, totals.tally.tokens) == (6, 82)
    assert totals.tally.labels == {"hate": 2, "abusing": 0, "neutral": 2, "spam": 0}
    assert totals.errors["validation"] == sum(totals.errors.values()) == 2
    assert totals.texts_by_protocol == {"grpc": 6}
    hate = dict(totals.scores["hate"].cumulative())
    assert (hate[0.05], hate[0.8], hate[0.9], hate[float("inf")]) == (2, 2, 4, 4)
    assert totals.scores["hate"].sum == pytest.approx(1.8)
    assert dict(totals.windows.cumulative())[2.0] == 2
    assert dict(totals.compute_seconds.cumulative())[0.025] == 2


def test_a_reply_without_a_scored_text_has_no_time_on_the_device() -> None:
    totals = Totals()
    totals.count([FAILED], Timing(0.0, 0.0), "http")
    assert dict(totals.queue_seconds.cumulative())[float("inf")] == 0


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "hatespeech")
    return caplog


def read(lines: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(JsonFormatter().format(record)) for record in lines.records]


def run(recorder: Recorder) -> None:
    """Answer two jobs, the second of which fails."""

    async def main() -> None:
        with recorder.account("queue"):
            recorder.count(REPLY, Timing(1.5, 20.0, 41))
            recorder.count([CALM], Timing(0.5, 1.0, 4))
            recorder.job_ended("job-1", "finished")
        with recorder.account("queue"):
            recorder.job_ended("job-2", "failed", "too_large")
        recorder.close()

    asyncio.run(main())


def test_a_job_is_one_line_that_tells_failed_from_finished(
    lines: pytest.LogCaptureFixture,
) -> None:
    run(Recorder(EngineSettings(log_counters=False)))
    finished, failed = read(lines)
    assert finished["message"].startswith("job job-1 finished in ")
    assert finished["message"].endswith(
        ": 4 texts, 45 tokens, queue 2.0 ms, compute 21.0 ms, hate 1, neutral 2, "
        "flagged: hate 1 toxic 1, warnings: unread 2, failed: validation 1"
    )
    assert (finished["outcome"], finished["texts"], finished["tokens"]) == ("finished", 4, 45)
    assert (failed["outcome"], failed["error_type"]) == ("failed", "too_large")
    assert "texts" not in failed
    assert MARKER not in lines.text


def test_the_counters_of_a_minute_are_one_line_and_a_quiet_minute_has_none(
    lines: pytest.LogCaptureFixture,
) -> None:
    recorder = Recorder(EngineSettings())
    run(recorder)
    counters = read(lines)[-1]
    assert counters["message"].startswith("counters of 1 s: finished: 1, failed: 1; 4 texts, ")
    assert counters["outcomes"] == {"finished": 1, "failed": 1}
    assert (counters["texts"], counters["labels"]) == (4, {"hate": 1, "neutral": 2})
    assert counters["memory_bytes"] > 1_000_000
    lines.clear()
    recorder.close()
    assert read(lines) == []
    run(recorder)
    assert read(lines)[-1]["texts"] == 4, "counts begin anew"


def test_the_counters_are_written_while_it_runs(
    lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "COUNTERS_SECONDS", 0.01)

    async def main() -> None:
        recorder = Recorder(EngineSettings())
        with recorder.account():
            recorder.job_ended("job", "finished")
        while "counters of" not in lines.text:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))
