"""The runpod engine against an emulated endpoint with two real workers behind it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hatespeech.bulk.engines.base import Chunk, ScoredChunk
from hatespeech.bulk.engines.runpod_client import BASE_URL_VARIABLE, Endpoint, Pace
from hatespeech.bulk.engines.runpod_engine import JOB_BYTES, RunpodEngine
from hatespeech.bulk.engines.runpod_jobs import EndpointJobs, Limits
from hatespeech.bulk.engines.runpod_options import add_arguments, make_engine
from hatespeech.contract import COLUMNS, Prediction, TextScore
from hatespeech.engine.predictor import Predictor
from hatespeech.errors import read_error
from hatespeech.retry import Backoff
from hatespeech.settings import EngineSettings
from tests.conftest import StartWorker
from tests.paths import ROOT
from tests.support.checkpoints import SENTENCES
from tests.support.processes.worker import APP, WorkerProcess, clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, FORGOTTEN, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import LOST, Fault

pytestmark = pytest.mark.slow

MARKER = "zebrafish"
PODS = ("pod-a", "pod-b")
SILENT_SECONDS = 2.0  # a worker pings every second, and nearly always has a poll open
WORKER_SETTINGS = {
    # Lower than the client's, so that it has to find out.
    "MAX_TEXTS_PER_REQUEST": "300",
    "MAX_TEXT_CHARS": "5000",
    "MAX_REQUEST_CHARS": "2000000",
    # So that one worker alone does not take everything.
    "MAX_CONCURRENCY": "4",
}
QUICK = Pace(first_poll=0.05, longest_poll=0.2, retry=Backoff(first=0.05, longest=0.2))


@dataclass
class Cloud:
    """The endpoint, and the workers behind it by their pod ids."""

    endpoint: RunpodEndpoint
    workers: dict[str, WorkerProcess]


def score_in(row: Mapping[str, Any]) -> TextScore:
    """The score in a row of the output."""
    values = {name: row[name] for name in COLUMNS}
    error, warnings = values.pop("error"), values.pop("warnings")
    return TextScore(
        "",
        **values,
        error=None if error is None else read_error(error),
        warnings=None if warnings is None else tuple(warnings.split(",")),
    )


@pytest.fixture(scope="module")
def running(start_worker: StartWorker) -> Iterator[Cloud]:
    with RunpodEndpoint(silent_seconds=SILENT_SECONDS) as endpoint:
        workers = {
            pod: start_worker([APP], {**endpoint.environment(pod), **WORKER_SETTINGS})
            for pod in PODS
        }

        def watch() -> None:
            for worker in workers.values():
                worker.require_running()

        wait_until(lambda: endpoint.has_seen(*PODS), "the workers to start", watch=watch)
        yield Cloud(endpoint, workers)


@pytest.fixture
def cloud(running: Cloud) -> Iterator[Cloud]:
    running.endpoint.forget()
    yield running
    assert running.endpoint.problems == []


def tweets(seed: int, count: int) -> list[Any]:
    """Return invented tweets, no two alike."""
    rng = random.Random(seed)
    words = " ".join(SENTENCES).split()
    return [
        f"{MARKER} {seed}.{i} {' '.join(rng.choices(words, k=rng.randint(1, 20)))}"
        for i in range(count)
    ]


def chunks_of(texts: Sequence[Any], rows: int) -> list[Chunk]:
    return [
        Chunk(index, list(texts[start : start + rows]))
        for index, start in enumerate(range(0, len(texts), rows))
    ]


@contextlib.contextmanager
def quick_engine(
    cloud: Cloud,
    *,
    in_flight: int = 4,
    job_texts: int = 100,
    settings: EngineSettings | None = None,
) -> Iterator[RunpodEngine]:
    endpoint = Endpoint(cloud.endpoint.base_url, ENDPOINT_ID, KEY, QUICK)
    settings = settings or EngineSettings()
    jobs = EndpointJobs(endpoint, Limits(job=600, queue=600), settings.robust)
    engine = RunpodEngine(endpoint, jobs, settings, in_flight=in_flight, job_texts=job_texts)
    with contextlib.closing(engine):
        yield engine


class Expected:
    """What the same model says in this process."""

    def __init__(self, classifier: Predictor) -> None:
        self._classifier = classifier
        self.model = classifier.model_id

    def check(
        self,
        scored: Sequence[ScoredChunk],
        texts: Sequence[Any],
        rows: int,
        errors: Mapping[int, str] | None = None,
    ) -> None:
        """Hold a run's chunks to what their texts score here; ``errors`` are by row."""
        errors = errors or {}
        assert sorted(chunk.index for chunk in scored) == list(range(-(-len(texts) // rows)))
        assert {chunk.model for chunk in scored} == {self.model}
        found = [
            row for chunk in sorted(scored, key=lambda chunk: chunk.index) for row in chunk.rows
        ]
        assert len(found) == len(texts)
        sound = [index for index in range(len(texts)) if index not in errors]
        known = dict(
            zip(sound, self._classifier.score([texts[index] for index in sound]), strict=True)
        )
        for index, row in enumerate(found):
            if index in errors:
                assert str(row.error) == errors[index]
                assert (row.scores, row.label, row.windows) == ({}, None, None)
                continue
            expected = known[index]
            assert isinstance(expected, Prediction)
            assert row.error is None
            assert [*row.scores.values()] == pytest.approx(expected.scores, abs=1e-5)
            assert row.label == max(row.scores, key=row.scores.__getitem__)
            assert row.windows == expected.windows


@pytest.fixture(scope="module")
def expected(small_classifier: Predictor) -> Expected:
    return Expected(small_classifier)


def test_rows_are_those_of_the_model_in_this_process_whatever_stands_in_them(
    cloud: Cloud, expected: Expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tweets(1, 2000)
    bad: dict[int, tuple[Any, str]] = {
        0: (None, "validation: text: must be a string, not null"),
        7: (12.5, "validation: text: must be a string"),
        8: (b"bytes", "validation: text: must be a string"),
        300: ("", "validation: text: must not be empty"),
        301: (
            " \t",
            "validation: text: holds nothing but white space or invisible characters",
        ),
        500: ("x" * 10_001, "too_large: text: has 10001 characters, the limit is 10000"),
        501: ("x" * 6000, "too_large: text: has 6000 characters, the limit is 5000"),
    }
    for index, (value, _) in bad.items():
        texts[index] = value
    texts[600] = "two windows " * 300
    # A chunk without a text to score.
    texts[1000:1250] = [None] * 250
    errors = {index: error for index, (_, error) in bad.items()}
    errors |= dict.fromkeys(range(1000, 1250), bad[0][1])

    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv(BASE_URL_VARIABLE, cloud.endpoint.base_url)
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group("runpod"))
    options = parser.parse_args(
        ["--endpoint", ENDPOINT_ID, "--in-flight", "6", "--job-texts", "100"]
    )
    done: list[int] = []
    with contextlib.closing(make_engine(options, EngineSettings())) as engine:
        scored = list(engine.score(chunks_of(texts, 250), done.append))
    expected.check(scored, texts, 250, errors)
    assert sum(done) == len(texts)
    assert 2 <= cloud.endpoint.most_in_flight <= 6
    assert set(cloud.endpoint.answered_by) == set(PODS)
    assert cloud.endpoint.count("run") == 7 * 3


def test_jobs_ask_for_the_folded_reading(cloud: Cloud, small_classifier: Predictor) -> None:
    texts = ["you 1d10t", "ѕtuрid", "s.c.u.m", "ｇｏ ａｗａｙ", "good morning"]
    with quick_engine(cloud, settings=EngineSettings(robust=True)) as engine:
        (scored,) = engine.score([Chunk(0, texts)], lambda _rows: None)
    expected = small_classifier.score(texts, robust=True)
    read = [each.read_as for each in expected if isinstance(each, Prediction)]
    assert [row.read_as for row in scored.rows] == read
    assert "folded" in read


def test_a_lone_surrogate_is_scored_as_a_replacement_character(
    cloud: Cloud, expected: Expected
) -> None:
    with quick_engine(cloud) as engine:
        (scored,) = engine.score([Chunk(0, ["half an emoji \ud83d here"])], lambda _rows: None)
    expected.check([scored], ["half an emoji \ufffd here"], 1)


def test_chunks_without_any_text_name_the_model_too(cloud: Cloud, expected: Expected) -> None:
    error = "validation: text: must be a string, not null"
    with quick_engine(cloud) as engine:
        scored = list(engine.score(chunks_of([None] * 4, 2), lambda _rows: None))
    expected.check(scored, [None] * 4, 2, dict.fromkeys(range(4), error))


def test_what_the_worker_finds_too_large_is_split_down_to_the_text(
    cloud: Cloud, expected: Expected
) -> None:
    texts = tweets(2, 700)
    texts[650] = "x" * 2_000_001
    settings = EngineSettings(max_text_chars=1_000_000, max_request_chars=10_000_000)
    # Past the client's own check, so that the whole request is what the worker refuses.
    relaxed = settings.model_copy(update={"max_text_chars": 3_000_000})
    with quick_engine(cloud, job_texts=1000, settings=relaxed) as engine:
        scored = list(engine.score([Chunk(0, texts)], lambda _rows: None))
    error = "too_large: text: 2000001 characters in all, the limit is 2000000"
    expected.check(scored, texts, 700, {650: error})
    sizes = [len(job.input["texts"]) for job in cloud.endpoint.jobs.values()]
    assert max(sizes) == 700
    assert min(sizes) == 1


def test_jobs_stay_under_the_platforms_bytes(cloud: Cloud) -> None:
    # Each character is six bytes of JSON, in the request and in the reply.
    texts: list[Any] = ["\x01" * 4000] * 600
    settings = EngineSettings(max_request_chars=10_000_000)
    with quick_engine(cloud, job_texts=1000, settings=settings) as engine:
        (scored,) = engine.score([Chunk(0, texts)], lambda _rows: None)
    error = "validation: text: holds nothing but white space or invisible characters"
    assert [str(row.error) for row in scored.rows] == [error] * 600
    assert 0.9 * JOB_BYTES < cloud.endpoint.largest_body <= JOB_BYTES


RETRIES_OF_A_JOB: dict[str, Mapping[str, Any]] = {
    "failed_by_the_platform": {"status": "FAILED", "error": f"worker gone, had {MARKER}"},
    "failed_by_a_broken_worker": {
        "status": "FAILED",
        "error": "unhealthy: the device failed; this worker is being replaced",
    },
    "timed_out": {"status": "TIMED_OUT"},
    "cancelled_by_somebody": {"status": "CANCELLED"},
    "completed_without_output": {"status": "COMPLETED"},
    "forgotten": FORGOTTEN,
}


@pytest.mark.parametrize("end", RETRIES_OF_A_JOB.values(), ids=RETRIES_OF_A_JOB.keys())
def test_a_job_that_came_to_nothing_is_submitted_again(
    cloud: Cloud, expected: Expected, end: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = tweets(3, 60)
    cloud.endpoint.end_next(end, end)
    with quick_engine(cloud, job_texts=10) as engine:
        scored = list(engine.score(chunks_of(texts, 20), lambda _rows: None))
    expected.check(scored, texts, 20)
    assert cloud.endpoint.count("run") == 6 + 2
    assert "submitting it again" in caplog.text
    assert KEY not in caplog.text
    assert MARKER not in caplog.text


FAULTS: dict[str, tuple[str, Fault, int]] = {
    "submission_refused_500": ("run", Fault(500), 6 + 2),
    "submission_refused_503": ("run", Fault(503, retry_after=1), 6 + 2),
    "submission_reply_lost": ("run", LOST, 6 + 2),
    "submission_reply_garbled": ("run", Fault(200, "<html>"), 6 + 2),
    "status_refused_500": ("status", Fault(500), 6),
    "status_reply_lost": ("status", LOST, 6),
    "status_reply_garbled": ("status", Fault(200, "[]"), 6),
}


@pytest.mark.parametrize(("operation", "fault", "submissions"), FAULTS.values(), ids=FAULTS.keys())
def test_a_request_that_failed_is_sent_again(
    cloud: Cloud,
    expected: Expected,
    operation: str,
    fault: Fault,
    submissions: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    texts = tweets(4, 60)
    cloud.endpoint.fail(operation, fault, fault)
    with quick_engine(cloud, job_texts=10) as engine:
        scored = list(engine.score(chunks_of(texts, 20), lambda _rows: None))
    expected.check(scored, texts, 20)
    assert cloud.endpoint.count("run") == submissions
    assert KEY not in caplog.text
    assert MARKER not in caplog.text


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
@pytest.mark.parametrize("operation", ["run", "status"])
def test_nothing_is_asked_before_the_time_that_a_429_names(
    cloud: Cloud, expected: Expected, operation: str, as_date: bool
) -> None:
    texts = tweets(6, 20)
    fault = Fault(429, retry_after=2 if as_date else 1, as_date=as_date)
    cloud.endpoint.fail(operation, fault)
    with quick_engine(cloud, in_flight=1, job_texts=10) as engine:
        scored = list(engine.score(chunks_of(texts, 20), lambda _rows: None))
    expected.check(scored, texts, 20)
    assert cloud.endpoint.early == 0


def test_a_429_to_one_job_holds_all_back(cloud: Cloud, expected: Expected) -> None:
    texts = tweets(7, 200)
    cloud.endpoint.fail("status", Fault(429, retry_after=1))
    with quick_engine(cloud, in_flight=4, job_texts=10) as engine:
        scored = list(engine.score(chunks_of(texts, 100), lambda _rows: None))
    expected.check(scored, texts, 100)
    # The three others may have had a request on its way.
    assert cloud.endpoint.early <= 3


def test_score_py_interrupted_takes_its_jobs_back_and_goes_on_later(
    cloud: Cloud, expected: Expected, tmp_path: Path
) -> None:
    texts = tweets(8, 600)  # in 12 jobs
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts), "utf-8")
    command = [str(ROOT / "score.py"), str(source), str(out), "--engine", "runpod"]
    command += ["--endpoint", ENDPOINT_ID, "--in-flight", "2", "--chunk-rows", "50"]
    environment = clean_environment(tmp_path, None)
    environment |= {"RUNPOD_API_KEY": KEY, BASE_URL_VARIABLE: cloud.endpoint.base_url}
    cloud.endpoint.answers_allowed = 4  # so it can't be done before it is interrupted
    with WorkerProcess(command, environment, tmp_path / "first") as first:
        scores = tmp_path / "out.jsonl.partial" / "scores"
        wait_until(
            lambda: len(list(scores.glob("*.parquet"))) >= 3,
            "three chunks to be scored",
            watch=first.require_running,
        )
        first.process.send_signal(signal.SIGINT)
        assert first.wait() == 130
    jobs = len(cloud.endpoint.jobs)
    assert 3 <= jobs < 12
    statuses = {job.status for job in cloud.endpoint.jobs.values()}
    assert statuses <= {"COMPLETED", "CANCELLED"}
    assert not out.exists()
    done = sum(job.status == "COMPLETED" for job in cloud.endpoint.jobs.values())
    cloud.endpoint.answers_allowed = None
    with WorkerProcess(command, environment, tmp_path / "second") as second:
        assert second.wait() == 0
    # Of what was done before, two jobs at most had not been heard of.
    assert 12 - done <= len(cloud.endpoint.jobs) - jobs <= 12 - done + 2
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    found = [score_in(row) for row in rows]
    assert [row["text"] for row in rows] == texts
    expected.check([ScoredChunk(0, found, expected.model)], texts, 600)
    for run in (first, second):
        assert KEY not in run.stdout + run.stderr
        assert MARKER not in run.stdout + run.stderr


# The last one: it leaves one worker.


def test_a_worker_killed_at_work_costs_no_row(cloud: Cloud, expected: Expected) -> None:
    texts = tweets(5, 1500)
    endpoint, (victim, survivor) = cloud.endpoint, PODS
    endpoint.kill_at_answer[victim] = cloud.workers[victim].process.pid
    with quick_engine(cloud, in_flight=6, job_texts=100) as engine:
        scored = list(engine.score(chunks_of(texts, 500), lambda _rows: None))
    expected.check(scored, texts, 500)
    assert cloud.workers[victim].wait() == -9
    # The job whose answer was its last deed, at least; another's may have arrived with it.
    moved = [job.pods for job in endpoint.jobs.values() if len(job.pods) > 1]
    assert moved
    assert moved == [[victim, survivor]] * len(moved)
    assert endpoint.answered_by.total() == 15
    cloud.workers[survivor].require_running()
