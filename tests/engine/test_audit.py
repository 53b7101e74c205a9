"""The audit log: a line for each decision, whatever becomes of the file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hatespeech.contract import Prediction, TextScore, Versions
from hatespeech.engine.audit import AuditLog
from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.errors import SettingsError, ValidationError
from hatespeech.settings import EngineSettings
from tests.support.http_client import HttpClient
from tests.support.local_server import local_server

SECRET = "Quizzaciously said"
NUMBERS = {"hate": 0.1}
NAMED = {"name": "ours", "version": "0f0f0f0f", **NUMBERS}


def opened(path: Path) -> AuditLog:
    return AuditLog(path, "m@1", Versions("1.2.3", "0123456789ab", "2"))


def decisions(*texts: str) -> list[TextScore]:
    prediction = Prediction([0.125, 0.25, 0.5, 0.125], 1, None, None)
    return [TextScore.of(text, prediction, NUMBERS, f"id of {text[:1]}") for text in texts]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_what_was_decided_by_what_and_never_the_text(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = opened(path)
    failed = TextScore.of("", ValidationError("must not be empty", field="prompts[1]"), None, "b")
    audit.write([*decisions(SECRET), failed], NAMED)
    audit.close()
    first, second = lines(path)
    assert first.pop("time") == second.pop("time")
    once = {
        "thresholds": NAMED,
        "model": "m@1",
        "versions": {"service": "1.2.3", "checkpoint": "0123456789ab", "normaliser": "2"},
    }
    assert first == {
        "id": "id of Q",
        "text_sha256": hashlib.sha256(SECRET.encode()).hexdigest(),
        **{"hate": 0.125, "abusing": 0.25, "neutral": 0.5, "spam": 0.125},
        "label": "neutral",
        "flagged": ["hate"],
        **once,
    }
    assert second == {
        "id": "b",
        "text_sha256": hashlib.sha256(b"").hexdigest(),
        "error": "validation: prompts[1]: must not be empty",
        **once,
    }
    assert "Quizz" not in path.read_text(encoding="utf-8")


def test_a_new_file_is_for_its_owner_and_an_old_one_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    before = os.umask(0)
    try:
        audits = [opened(path), opened(path)]
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for number in range(3):
        for audit in audits:
            audit.write(decisions(f"{number}"), None)
    assert [line["id"] for line in lines(path)] == [f"id of {n}" for n in (0, 0, 1, 1, 2, 2)]


@pytest.mark.parametrize("leaves", ["a new file", "nothing"])
def test_a_file_that_is_rotated_is_left_alone(tmp_path: Path, leaves: str) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    audit = opened(path)
    audit.write(decisions("a"), None)
    path.rename(old)
    if leaves == "a new file":
        path.touch()
    audit.write(decisions("b"), None)
    assert [line["id"] for line in lines(old)] == ["id of a"]
    assert [line["id"] for line in lines(path)] == ["id of b"]


def test_a_place_that_can_not_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^AUDIT_LOG=.*nowhere/audit.jsonl: No such file"):
        opened(tmp_path / "nowhere" / "audit.jsonl")


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as on a disk that is full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_what_a_full_disk_loses_is_counted_and_a_torn_line_spoils_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = opened(path)
    audit.write(decisions("a"), None)
    size = path.stat().st_size
    with caplog.at_level(logging.ERROR, "hatespeech"), room_for(2 * size + size // 2):
        audit.write(decisions("b", "c", "d"), None)  # room for one and a half
        assert audit.unwritten == 2
        audit.write(decisions("e"), None)
        assert audit.unwritten == 3
    assert len(caplog.records) == 1, "one line, not one for each reply"
    assert "AUDIT_LOG" in caplog.text
    audit.write(decisions("f"), None)
    assert audit.unwritten == 3
    kept = path.read_text(encoding="utf-8").splitlines()
    assert len(kept) == 4
    assert not kept.pop(2).endswith("}"), "the torn one"
    assert [json.loads(line)["id"] for line in kept] == ["id of a", "id of b", "id of f"]


def test_every_request_that_the_scorer_answers_is_written(
    small_classifier: Predictor, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    scorer = Scorer(small_classifier, EngineSettings(audit_log=path))

    async def ask() -> None:
        await scorer.score({"text": SECRET, "id": "one"})
        await scorer.score({"texts": [SECRET, ""], "ids": ["two", "three"]})
        with pytest.raises(ValidationError):
            await scorer.score({"text": ""})  # no decision

    asyncio.run(ask())
    scorer.close()
    assert [(line["id"], "error" in line) for line in lines(path)] == [
        ("one", False),
        ("two", False),
        ("three", True),
    ]


@pytest.fixture(scope="module")
def on_a_full_disk(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    folder = tmp_path_factory.mktemp("full")
    full = {"AUDIT_LOG": "/dev/full"}
    with local_server(folder, small_checkpoint, full) as server:
        yield server.ready()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_with_a_full_disk_the_answer_goes_out_and_a_metric_counts(
    on_a_full_disk: HttpClient,
) -> None:
    assert on_a_full_disk.metrics()["audit_unwritten_total"] == 0
    reply = on_a_full_disk.post(
        "/score", json={"texts": ["good morning", SECRET], "ids": ["a", "b"]}
    )
    assert reply.status_code == 200
    assert [item["id"] for item in reply.json()["items"]] == ["a", "b"]
    assert on_a_full_disk.metrics()["audit_unwritten_total"] == 2
    # Protocols of other services decide, too.
    assert on_a_full_disk.post("/v1/moderations", json={"input": SECRET}).status_code == 200
    assert on_a_full_disk.metrics()["audit_unwritten_total"] == 3
