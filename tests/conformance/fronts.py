"""The fronts of the service: how each is sent a case, and how its answer reads in the contract.

``exchange`` sends cases and returns what came back, in order; ``translate`` turns one of these into
``{"reply": …}`` or ``{"error": {"code", "message"}}``, and raises :class:`AssertionError` for what
breaks the front's own rules (exit code, status, shape).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from tests.conformance.suite import Case, Suite
from tests.paths import ROOT
from tests.support.http_client import BEARER
from tests.support.processes.server import HttpServer
from tests.support.processes.worker import (
    APP,
    WorkerProcess,
    clean_environment,
    wait_until,
)
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint

SECONDS: Final = 300.0  # more than anything here takes on a busy machine
JSON: Final = {"Content-Type": "application/json"}

Answer = dict[str, Any]


@dataclass(frozen=True)
class Front:
    """One way to the service; ``carrier`` is what the cases' ``not_over`` calls it."""

    carrier: str
    exchange: Callable[[Sequence[Case]], Sequence[Any]]
    translate: Callable[[Any, Case], Answer]
    in_turn: bool = True  # a case is answered before the next is sent


def read_error(line: Any) -> Answer:
    """Read ``<code>: <message>``."""
    assert isinstance(line, str), f"the error is no string: {line!r}"
    code, _, message = line.partition(": ")
    return {"error": {"code": code, "message": message}}


def read_job(job: Mapping[str, Any]) -> Answer:
    """Read a job that has ended, in Runpod's shape."""
    assert job["id"], "no id"
    if job["status"] == "FAILED":
        assert "output" not in job, "a failed job has output"
        return read_error(job["error"])
    assert job["status"] == "COMPLETED", f"status {job['status']}"
    assert "error" not in job, "a completed job has an error"
    return {"reply": job["output"]}


# python app.py


def local(folder: Path, environment: Mapping[str, str]) -> Front:
    """Local runs: those of marked cases by ``python app.py``, all others within one process.

    The latter call ``app.main`` with the same arguments; a start takes seconds, most of it imports.
    """
    settings = {**environment, "HOME": str(folder)}

    def own(case: Case) -> tuple[int, str, str]:
        home = Path(tempfile.mkdtemp(dir=folder))
        job, arguments = json.dumps({"input": case.input}), ["--test_input"]
        if case.own_process == "test_input.json":
            (home / "test_input.json").write_text(job)
            arguments = []
        else:
            arguments.append(job)
        done = subprocess.run(
            [sys.executable, APP, *arguments],
            cwd=home,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def within_one(cases: Sequence[Case]) -> list[tuple[int, str, str]]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.conformance.local_runs"],
            cwd=ROOT,
            env=settings,
            input="".join(
                json.dumps(["--test_input", json.dumps({"input": case.input})]) + "\n"
                for case in cases
            ),
            capture_output=True,
            timeout=SECONDS,
            check=False,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]

    def exchange(cases: Sequence[Case]) -> list[tuple[int, str, str]]:
        with ThreadPoolExecutor(2) as pool:
            shared = pool.submit(within_one, [case for case in cases if not case.own_process])
            apart = pool.map(own, [case for case in cases if case.own_process])
            rest = iter(shared.result())
        return [next(apart if case.own_process else rest) for case in cases]

    return Front("local", exchange, translate_local)


def translate_local(raw: tuple[int, str, str], case: Case) -> Answer:
    """Read exit code, standard output and standard error."""
    code, out, err = raw
    assert out, f"exit code {code}, nothing on standard output; standard error: {err[-300:]}"
    reply = json.loads(out)
    if code == 0:
        return {"reply": reply}
    assert code == 1, f"exit code {code}"
    assert reply.keys() == {"error"}, f"beside an error: {sorted(reply)}"
    return read_error(reply["error"])


# The SDK's loop over the platform's queue.


@contextlib.contextmanager
def sdk_loop(folder: Path, environment: Mapping[str, str]) -> Iterator[Front]:
    """``app.py`` in the SDK's job loop, all cases waiting at once."""
    with RunpodEndpoint() as endpoint:
        settings = {**environment, **endpoint.environment()}
        with WorkerProcess([APP], settings, folder) as worker:

            def exchange(cases: Sequence[Case]) -> list[Any]:
                ids = endpoint.submit(*(case.input for case in cases))
                wait_until(
                    lambda: endpoint.all_answered(ids),
                    f"answers to {len(ids)} jobs",
                    watch=worker.require_running,
                )
                assert endpoint.problems == []
                return [endpoint.answer(job_id) for job_id in ids]

            yield Front("sdk_loop", exchange, translate_queue, in_turn=False)


def translate_queue(raw: Mapping[str, Any], case: Case) -> Answer:
    """Read what the worker posted for a job."""
    if "error" in raw:
        assert raw.keys() == {"error"}, f"beside an error: {sorted(raw)}"
        return read_error(raw["error"])
    assert raw.keys() == {"output"}, f"beside the output: {sorted(raw)}"
    return {"reply": raw["output"]}


# server.py


def http_score(server: HttpServer, suite: Suite) -> Front:
    """``POST /score``, whose body is the input itself."""

    def exchange(cases: Sequence[Case]) -> list[requests.Response]:
        url = server.url + "/score"
        return [post_json(url, case.input, BEARER) for case in cases]

    def translate(raw: requests.Response, case: Case) -> Answer:
        body = raw.json()
        if raw.status_code == 200:
            return {"reply": body}
        assert body.keys() == {"error", "error_type"}, f"an error with {sorted(body)}"
        status = suite.http_status[body["error_type"]]
        assert raw.status_code == status, f"{body['error_type']} with status {raw.status_code}"
        return {"error": {"code": body["error_type"], "message": body["error"]}}

    return Front("http_score", exchange, translate)


def http_runsync(server: HttpServer) -> Front:
    """``POST /runsync``."""

    def exchange(cases: Sequence[Case]) -> list[requests.Response]:
        url = server.url + "/runsync"
        return [post_json(url, {"input": case.input}, BEARER) for case in cases]

    return Front("http_runsync", exchange, translate_runsync)


def http_run(server: HttpServer) -> Front:
    """``POST /run`` for all cases, then ``GET /status`` until each is answered."""

    def exchange(cases: Sequence[Case]) -> list[dict[str, Any]]:
        url = server.url + "/run"
        replies = [post_json(url, {"input": case.input}, BEARER) for case in cases]
        for reply in replies:
            assert reply.status_code == 200, reply.text[:300]
            assert reply.json().keys() == {"id", "status"}
        return [server.finished(reply.json()["id"]) for reply in replies]

    def translate(raw: Mapping[str, Any], case: Case) -> Answer:
        return read_job(raw)

    return Front("http_run", exchange, translate, in_turn=False)


def translate_runsync(raw: requests.Response, case: Case) -> Answer:
    """Read the reply of a ``/runsync``; a failed job has status 200, as Runpod answers it."""
    assert raw.status_code == 200, f"status {raw.status_code}: {raw.text[:300]}"
    return read_job(raw.json())


def post_json(url: str, body: Any, token: Mapping[str, str] | None = None) -> requests.Response:
    """POST ``body``; lone surrogates go as escapes, ``null`` as a body of its own."""
    headers = {**JSON, **(token or {})}
    return requests.post(url, data=json.dumps(body), headers=headers, timeout=SECONDS)


# app.py --rp_serve_api


def serve_api_front(url: str) -> Front:
    """Its ``POST /runsync``."""

    def exchange(cases: Sequence[Case]) -> list[requests.Response]:
        return [post_json(f"{url}/runsync", {"input": case.input}) for case in cases]

    return Front("serve_api", exchange, translate_runsync)


def front_environment(folder: Path, model_dir: Path, suite: Suite) -> dict[str, str]:
    """Return the environment of every front: the suite's settings, float32 on the CPU."""
    return {**clean_environment(folder, model_dir), **suite.environment(), "LOG_LEVEL": "WARNING"}
