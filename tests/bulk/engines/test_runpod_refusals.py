"""The runpod engine where there is nothing to score with: what it refuses, and how it gives up."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from hatespeech.bulk.engines import runpod_client
from hatespeech.bulk.engines.base import Chunk, EngineError
from hatespeech.bulk.engines.runpod_client import (
    BASE_URL_VARIABLE,
    Endpoint,
    Pace,
    StoppedError,
    require_safe,
)
from hatespeech.bulk.engines.runpod_engine import JOB_BYTES, RunpodEngine
from hatespeech.bulk.engines.runpod_jobs import EndpointJobs, Limits
from hatespeech.bulk.engines.runpod_options import add_arguments, make_engine
from hatespeech.labels import LABELS
from hatespeech.retry import Backoff
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.processes.worker import WorkerProcess, clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import (
    ENDLESS_SECONDS,
    ENDPOINT_ID,
    KEY,
    RunpodEndpoint,
)
from tests.support.stand_ins.runpod.jobs import Fault

MARKER = "zebrafish"
TRIES = 4
PAUSE_SECONDS = 5
QUICK = Pace(
    first_poll=0.02, longest_poll=0.05, retry=Backoff(first=0.02, longest=0.05), tries=TRIES
)


@pytest.fixture
def cloud() -> Iterator[RunpodEndpoint]:
    with RunpodEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an engine that ends wait for what is on its way for half a second."""
    monkeypatch.setattr(runpod_client, "_CLOSING_SECONDS", 0.5)


@contextlib.contextmanager
def quick_engine(
    cloud: RunpodEndpoint,
    *,
    key: str = KEY,
    in_flight: int = 1,
    limits: Limits | None = None,
    endpoint_id: str = ENDPOINT_ID,
    pace: Pace = QUICK,
) -> Iterator[RunpodEngine]:
    endpoint = Endpoint(cloud.base_url, endpoint_id, key, pace)
    jobs = EndpointJobs(endpoint, limits or Limits(job=600, queue=60), robust=False)
    engine = RunpodEngine(endpoint, jobs, EngineSettings(), in_flight=in_flight, job_texts=2)
    with contextlib.closing(engine):
        yield engine


def give_up(engine: RunpodEngine) -> str:
    """Score two texts, which fails; return the one line that says why."""
    chunks = [Chunk(0, [f"{MARKER} one", f"{MARKER} two"])]
    with pytest.raises(EngineError) as caught:
        list(engine.score(chunks, lambda _rows: None))
    line = str(caught.value)
    assert "\n" not in line
    assert KEY not in line
    assert MARKER not in line
    return line


ITEM: Final = {"text", *LABELS, "label", "windows", "warnings"}


def reply(**changes: Any) -> dict[str, Any]:
    """Return a worker's reply to the texts of ``give_up``; None leaves a field out."""
    item = {"hate": 0.1, "abusing": 0.2, "neutral": 0.3, "spam": 0.4, "label": "spam", "windows": 1}
    items = [{"text": f"{MARKER} {name}", **item} for name in ("one", "two")]
    items[1].update({name: value for name, value in changes.items() if name in ITEM})
    output = {"items": items, "model": "m@1", "timing": {}} | {
        name: value for name, value in changes.items() if name not in {*ITEM, "error"}
    }
    if "error" in changes:
        items[1] = {"text": f"{MARKER} two", "error": changes["error"]}
    return {name: value for name, value in output.items() if value is not None}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "HTTP 400 from /run; retrying will not help"),
        (403, "HTTP 403, RUNPOD_API_KEY may not use this endpoint"),
        (404, "HTTP 404, there is no such endpoint for this key"),
        (307, "HTTP 307 from /run; retrying will not help"),
    ],
)
def test_a_refusal_that_retrying_cannot_change_ends_the_run_at_once(
    cloud: RunpodEndpoint, status: int, said: str
) -> None:
    cloud.always["run"] = Fault(status, f"{MARKER} and {KEY}")
    with quick_engine(cloud) as engine:
        assert give_up(engine) == f"endpoint {ENDPOINT_ID}: {said}"
    assert cloud.operations == ["run"]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            {"error": "policy.ttl: must be a whole number", "error_type": "validation"},
            " (policy.ttl: must be a whole number)",
        ),
        ({"error": "the queue is full", "error_type": "overloaded"}, " (the queue is full)"),
        ({"error": MARKER, "error_type": "bad_request"}, ""),
        ({"error": MARKER, "error_type": "validation", "status": 400}, ""),
        ({"error": f"\x1b[2J{MARKER}", "error_type": "validation"}, ""),
        ({"error": MARKER * 100, "error_type": "validation"}, ""),
        ([MARKER], ""),
    ],
)
def test_why_a_server_of_this_project_refuses_is_shown_and_nothing_of_another(
    cloud: RunpodEndpoint, body: Any, shown: str
) -> None:
    cloud.always["run"] = Fault(422, json.dumps(body))
    with quick_engine(cloud) as engine:
        said = give_up(engine)
    assert said == f"endpoint {ENDPOINT_ID}: HTTP 422 from /run{shown}; retrying will not help"


def test_a_wrong_key_ends_the_run_at_once(
    cloud: RunpodEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with quick_engine(cloud, key="rpa_another") as engine:
        said = give_up(engine)
    assert said == f"endpoint {ENDPOINT_ID}: HTTP 401, RUNPOD_API_KEY is not accepted"
    assert "rpa_another" not in caplog.text
    assert cloud.operations == ["run"]


@pytest.mark.parametrize("operation", ["run", "status"])
@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_request_that_always_fails_ends_the_run(
    cloud: RunpodEndpoint, operation: str, status: int
) -> None:
    cloud.always[operation] = Fault(status, MARKER)
    with quick_engine(cloud) as engine:
        assert give_up(engine) == (
            f"endpoint {ENDPOINT_ID}: /{operation} failed {TRIES} times in a row, the last time "
            f"with HTTP {status}; run the same command later to resume"
        )
    assert cloud.count(operation) == TRIES
    # What it submitted it also takes back.
    assert {job.status for job in cloud.jobs.values()} <= {"CANCELLED"}


def test_an_endpoint_that_cannot_be_reached_ends_the_run(cloud: RunpodEndpoint) -> None:
    unreachable = Endpoint("http://127.0.0.1:9", ENDPOINT_ID, KEY, QUICK)
    jobs = EndpointJobs(unreachable, Limits(job=600, queue=60), robust=False)
    engine = RunpodEngine(unreachable, jobs, EngineSettings(), in_flight=1, job_texts=2)
    with contextlib.closing(engine):
        assert "the last time with no answer (ConnectError)" in give_up(engine)


@pytest.mark.parametrize("operation", ["run", "status"])
def test_an_answer_that_never_ends_is_none(cloud: RunpodEndpoint, operation: str) -> None:
    cloud.always[operation] = Fault(endless=b" ")
    with quick_engine(cloud, pace=replace(QUICK, longest_answer=0.2)) as engine:
        assert give_up(engine) == (
            f"endpoint {ENDPOINT_ID}: /{operation} failed {TRIES} times in a row, the last time "
            "with no answer (ReadTimeout); run the same command later to resume"
        )
    assert cloud.count(operation) == TRIES


def test_an_answer_to_a_cancellation_that_never_ends_is_not_awaited(
    cloud: RunpodEndpoint, soon: None
) -> None:
    cloud.always["cancel"] = Fault(endless=b" ")
    cloud.always["status"] = Fault(400)
    with quick_engine(cloud) as engine, ThreadPoolExecutor(1) as caller:
        assert "HTTP 400 from /status" in caller.submit(give_up, engine).result(30)
    assert cloud.count("cancel") == 1


def test_closing_does_not_wait_for_an_answer_that_never_ends(
    cloud: RunpodEndpoint, soon: None
) -> None:
    cloud.always["status"] = Fault(endless=b" ")
    with quick_engine(cloud) as engine, ThreadPoolExecutor(1) as consumer:
        run = consumer.submit(lambda: list(engine.score([Chunk(0, [MARKER])], lambda _rows: None)))
        wait_until(lambda: cloud.count("status") == 1, "an answer to begin")
        engine.close()
        with pytest.raises(StoppedError):
            run.result(30)
    assert [job.status for job in cloud.jobs.values()] == ["CANCELLED"]


class SlowToAnswer(RunpodEndpoint):
    """Accepts a job a second before it says so."""

    async def _run(self, request: web.Request) -> web.Response:
        response = await super()._run(request)
        await asyncio.sleep(1)
        return response


def test_an_answer_that_comes_when_the_engine_closes_names_a_job_to_be_cancelled() -> None:
    with SlowToAnswer() as cloud, quick_engine(cloud) as engine, ThreadPoolExecutor(1) as consumer:
        run = consumer.submit(lambda: list(engine.score([Chunk(0, [MARKER])], lambda _rows: None)))
        wait_until(lambda: len(cloud.jobs) == 1, "a job to be submitted")
        engine.close()
        with pytest.raises(StoppedError):
            run.result(30)
        assert [job.status for job in cloud.jobs.values()] == ["CANCELLED"]


@pytest.mark.slow
def test_a_command_that_fails_waits_for_no_other_answer(
    cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\none\ntwo\n")
    cloud.fail("run", Fault(endless=b""))
    cloud.end_all = {"status": "FAILED", "error": "validation: input: not this"}
    command = [str(ROOT / "score.py"), str(source), str(out), "--engine", "runpod"]
    command += ["--endpoint", ENDPOINT_ID, "--job-texts", "1"]
    environment = clean_environment(tmp_path, None)
    environment |= {"RUNPOD_API_KEY": KEY, BASE_URL_VARIABLE: cloud.base_url}
    with WorkerProcess(command, environment, tmp_path / "run") as run:
        assert run.wait(ENDLESS_SECONDS - 10) == 1
    assert run.stderr.splitlines()[-1] == (
        f"error: endpoint {ENDPOINT_ID}: its worker refuses the job (validation: input: not this); "
        "does it run this version of the service?"
    )
    assert not out.exists()


def test_a_pause_of_a_day_ends_the_run(cloud: RunpodEndpoint) -> None:
    cloud.fail("run", Fault(429, retry_after=86_400))
    with quick_engine(cloud) as engine:
        assert "asks for a pause of 24.0 hours; run the same command after" in give_up(engine)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ({"status": "FAILED", "error": f"Traceback: {MARKER}"}, "ended as FAILED"),
        ({"status": "FAILED", "error": "internal: x"}, "failed (internal: x)"),
        ({"status": "TIMED_OUT"}, "ended as TIMED_OUT"),
        ({}, "is no longer known to the endpoint"),
    ],
    ids=["platform", "worker", "timed_out", "forgotten"],
)
def test_a_job_that_always_fails_ends_the_run(
    cloud: RunpodEndpoint, end: Mapping[str, Any], said: str
) -> None:
    cloud.end_all = end
    with quick_engine(cloud) as engine:
        assert give_up(engine) == (
            f"endpoint {ENDPOINT_ID}: a job failed {TRIES} times, the last time it {said}; look at "
            "the endpoint's log, then run the same command to resume"
        )
    assert cloud.count("run") == TRIES


def test_a_worker_of_another_contract_ends_the_run(cloud: RunpodEndpoint) -> None:
    error = "validation: 'texts': is not a known field"
    cloud.end_all = {"status": "FAILED", "error": error}
    with quick_engine(cloud) as engine:
        assert f"its worker refuses the job ({error})" in give_up(engine)
    assert cloud.count("run") == 1


FOREIGN: dict[str, Any] = {
    "no_object": "hello",
    "no_items": reply(items=None),
    "an_item_too_few": reply(items=reply()["items"][:1]),
    "items_no_objects": reply(items=[1, 2]),
    "another_text": reply(text=f"{MARKER} three"),
    "no_model": reply(model=None),
    "model_no_name": reply(model=f"{MARKER} of two words"),
    "label_unknown": reply(label="joy"),
    "score_above_one": reply(spam=1.5),
    "score_nan": reply(spam=float("nan")),
    "score_a_list": reply(spam=[0.4]),
    "no_windows": reply(windows=0),
    "unknown_warning": reply(warnings=["sarcasm"]),
    "warnings_no_list": reply(warnings=7),
    "error_not_ours": reply(error=f"could not read {MARKER}"),
}


@pytest.mark.parametrize("output", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_reply_that_is_not_this_services_ends_the_run(cloud: RunpodEndpoint, output: Any) -> None:
    cloud.end_all = {"status": "COMPLETED", "output": output}
    with quick_engine(cloud) as engine:
        assert give_up(engine) == (
            "the endpoint's reply is not one of this service; does it run this version?"
        )
    assert cloud.count("run") == 1


def test_another_model_in_the_middle_ends_the_run(cloud: RunpodEndpoint) -> None:
    texts = [f"{MARKER} one", f"{MARKER} two"]
    cloud.end_next(
        {"status": "COMPLETED", "output": reply()},
        {"status": "COMPLETED", "output": reply(model="m@2")},
    )
    with quick_engine(cloud) as engine:
        scored = engine.score([Chunk(0, texts), Chunk(1, texts)], lambda _rows: None)
        assert next(scored).model == "m@1"
        with pytest.raises(EngineError, match=r"its workers serve m@1 and m@2; wait until"):
            next(scored)


def test_an_endpoint_without_workers_ends_the_run(cloud: RunpodEndpoint) -> None:
    with quick_engine(cloud, limits=Limits(job=600, queue=1)) as engine:
        assert "no worker took a job in 1 s; look at its workers" in give_up(engine)
    (job,) = cloud.jobs.values()
    assert job.status == "CANCELLED"


def test_a_pause_that_is_asked_for_is_no_time_without_workers(cloud: RunpodEndpoint) -> None:
    cloud.fail("status", Fault(429, retry_after=2))
    with quick_engine(cloud, limits=Limits(job=600, queue=1)) as engine:
        assert "no worker took a job in 1 s" in give_up(engine)
    # After the pause it is asked for the whole of that second, not once.
    assert cloud.count("status") > 3


class PauseWhileSubmitting(RunpodEndpoint):
    """The second job is accepted while a pause goes on; both are taken up just after it."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: set[str] = set()

    async def _run(self, request: web.Request) -> web.Response:
        if self.jobs:
            self.fail("status", Fault(429, retry_after=PAUSE_SECONDS))
            asked = self.count("status")
            while self.count("status") == asked:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
        return await super()._run(request)

    async def _status(self, request: web.Request) -> web.Response:
        if len(self._asked) == 2:  # so a second time after the pause
            job = self._job(request)
            (text,) = job.input["texts"]
            job.finish({"output": reply(items=[reply()["items"][0] | {"text": text}])})
        self._asked.add(request.match_info["job"])
        return await super()._status(request)


def test_a_job_that_is_submitted_during_a_pause_is_not_given_up_after_it() -> None:
    chunks = [Chunk(index, [f"{MARKER} {index}"]) for index in range(2)]
    limits = Limits(job=600, queue=PAUSE_SECONDS - 2)
    with (
        PauseWhileSubmitting() as cloud,
        quick_engine(cloud, in_flight=2, limits=limits) as engine,
    ):
        scored = list(engine.score(chunks, lambda _rows: None))
    assert sorted(chunk.index for chunk in scored) == [0, 1]


def test_a_job_that_is_never_polled_ends_by_itself(cloud: RunpodEndpoint) -> None:
    cloud.end_all = {"status": "COMPLETED", "output": None}
    with quick_engine(cloud, limits=Limits(job=100, queue=500)) as engine:
        give_up(engine)
    (job,) = cloud.jobs.values()
    assert job.body["policy"] == {"executionTimeout": 100_000, "ttl": 600_000}


def test_closing_cancels_the_jobs_in_flight_and_no_chunk_is_read_before_it_is_needed(
    cloud: RunpodEndpoint,
) -> None:
    taken = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal taken
        for index in range(1000):
            taken += 1
            yield Chunk(index, [f"{MARKER} {index}.{row}" for row in range(3)])

    # No worker is there: the jobs stay in the queue. A chunk is two jobs.
    with quick_engine(cloud, in_flight=3) as engine, ThreadPoolExecutor(1) as consumer:
        run = consumer.submit(lambda: list(engine.score(chunks(), lambda _rows: None)))
        wait_until(lambda: cloud.count("status") > 10, "the jobs to be submitted")
        assert cloud.most_in_flight == 3
        assert taken <= 3
        engine.close()
        with pytest.raises(StoppedError):
            run.result(30)
    assert [job.status for job in cloud.jobs.values()] == ["CANCELLED"] * 3
    assert cloud.count("run") == 3


# The command line and the environment.


def options_of(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group("runpod"))
    return parser.parse_args(arguments)


def test_defaults_are_those_of_the_page() -> None:
    options = options_of("--endpoint", "abc")
    page = (ROOT / "docs/bulk.md").read_text("utf-8")
    assert options.job_texts is None
    for name, value in [
        ("in-flight", f"{options.in_flight}"),
        ("job-texts", f"{EngineSettings().max_texts_per_request}"),
        ("job-timeout", f"{options.job_timeout} s"),
        ("queue-timeout", f"{options.queue_timeout} s"),
    ]:
        assert f"| `--{name}` | {value} |" in page
    assert f"{JOB_BYTES / 1e6} MB" in page


@pytest.mark.parametrize("text", ["0", "201", "-1", "two", "1.5"])
def test_a_number_in_flight_outside_the_platforms_limits_is_refused(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options_of("--endpoint", "abc", f"--in-flight={text}")
    assert "--in-flight: must be a whole number from 1 to 200" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ([], {"RUNPOD_API_KEY": KEY}, "--endpoint is missing: the id of the Runpod endpoint"),
        (
            ["--endpoint", "abc/../def"],
            {"RUNPOD_API_KEY": KEY},
            "--endpoint: must be an endpoint's id, such as abc123def456",
        ),
        (["--endpoint", "abc"], {}, "RUNPOD_API_KEY is not set; the runpod engine needs it"),
        (
            ["--endpoint", "abc"],
            {"RUNPOD_API_KEY": "two words"},
            "RUNPOD_API_KEY may hold only visible ASCII characters",
        ),
        (
            ["--endpoint", "abc"],
            {"RUNPOD_API_KEY": KEY, BASE_URL_VARIABLE: "http://api.runpod.ai/v2"},
            f"{BASE_URL_VARIABLE}: must begin with https://, or the key would travel unencrypted",
        ),
    ],
)
def test_what_is_missing_or_unsafe_is_said_before_anything_is_sent(
    arguments: list[str],
    environment: Mapping[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RUNPOD_API_KEY", BASE_URL_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError) as caught:
        make_engine(options_of(*arguments), EngineSettings())
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1.example.org/v2",
        "http://localhost.example.org",
        "http://192.168.1.4:8000/v2",
        "http://[::2]/v2",
        "http://user@127.0.0.1/v2",
        "https://api.runpod.ai/v2?x=1",
        "ftp://api.runpod.ai",
        "api.runpod.ai/v2",
        "http://[",
        "https://host:port/v2",
    ],
)
def test_an_address_that_would_show_the_key_is_refused(base_url: str) -> None:
    with pytest.raises(EngineError, match=BASE_URL_VARIABLE):
        require_safe(base_url)


@pytest.mark.parametrize(
    "base_url",
    ["https://api.runpod.ai/v2", "http://127.0.0.2:80/v2", "http://[::1]:80", "http://localhost/"],
)
def test_a_safe_address_is_taken(base_url: str) -> None:
    assert require_safe(base_url) == base_url.rstrip("/")


def test_no_proxy_sees_what_goes_to_this_machine(
    cloud: RunpodEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    cloud.always["run"] = Fault(403)
    with quick_engine(cloud) as engine:
        assert "HTTP 403" in give_up(engine)
