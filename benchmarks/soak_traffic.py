"""What a soak sends: every route of the server, every kind of job, bad input and hang-ups."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import requests

from benchmarks import models
from hatespeech import paths
from hatespeech.serving.settings import PROTOCOLS
from tests.support.bad_inputs import BAD_INPUTS
from tests.support.http_client import BEARER, TOKEN, HttpClient
from tests.support.ports import free_port
from tests.support.processes.server import http_server
from tests.support.processes.worker import APP, WorkerProcess, clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import FINAL, LOST, RESET, Fault

SECONDS: Final = 300.0  # that an answer may take, also on a busy machine
ROWS: Final = 40  # of a file
# How an input is answered that breaks the contract, over HTTP and over gRPC.
REFUSED: Final = (413, 422)
REFUSALS: Final = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
JSON_TYPE: Final = {**BEARER, "Content-Type": "application/json"}
LIMIT: Final = "100000/minute"  # so that the limiter counts, and refuses nothing


class UnexpectedError(Exception):
    """A reply is not what it must be; the message names its status."""


@dataclass(frozen=True)
class Action:
    """Something that a client does; ``act`` returns the outcome in a word."""

    weight: float
    act: Callable[[random.Random], object]


@dataclass
class Traffic:
    """What clients do to a process, and what became of it."""

    process: WorkerProcess
    database: Path | None  # the job file, if the front has one
    actions: Mapping[str, Action]
    end_round: Callable[[], None]  # while no client does anything
    end: Callable[[], None] = lambda: None  # before the process is told to stop
    replies: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


class Inputs:
    """Inputs of the contract, good and bad."""

    def __init__(self) -> None:
        self._texts = models.sample_texts()

    def texts(self, chance: random.Random, most: int) -> list[str]:
        """Return up to so many texts."""
        count = chance.randint(1, most)
        return [" ".join(chance.sample(self._texts, chance.randint(1, 3))) for _ in range(count)]

    def good(self, chance: random.Random) -> dict[str, Any]:
        """Return an input that is scored."""
        texts = self.texts(chance, 16)
        found: dict[str, Any] = {"prompts": texts} if chance.random() < 0.5 else {}
        found = found or {"prompt": texts[0]}
        if chance.random() < 0.2:
            found["robust"] = True
        if chance.random() < 0.2:
            found["thresholds"] = chance.choice(("balanced", "strict", {"spam": 0.5}))
        return found

    def explained(self, chance: random.Random) -> dict[str, Any]:
        """Return an input with a short text to explain."""
        words = " ".join(self.texts(chance, 1)).split()[:20]
        return {"prompt": " ".join(words), "explain": chance.choice((True, "leave_one_out"))}

    def bad(self, chance: random.Random) -> Any:
        """Return an input that is refused."""
        return chance.choice(BAD_INPUTS).input

    def file(self, chance: random.Random, kind: str) -> bytes:
        """Return a file of texts."""
        texts = [*self.texts(chance, ROWS), ""]
        if kind == "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), sink)
            return sink.getvalue()
        if kind == "jsonl":
            return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        mark = '"' if kind == "csv" else ""
        cells = [text.replace('"', '""' if mark else "'").replace("\t", " ") for text in texts]
        return ("text\n" + "".join(f"{mark}{cell}{mark}\n" for cell in cells)).encode()


@contextmanager
def http_traffic(folder: Path, seconds: float) -> Iterator[Traffic]:
    """Start the HTTP server, with gRPC if that is installed."""
    has_grpc = importlib.util.find_spec("grpc") is not None
    environment = {
        "RATE_LIMIT": LIMIT,
        "COMPAT": ",".join(PROTOCOLS),
        # Jobs expire within the warm-up, so that the job file no longer grows after it.
        "JOB_TTL": str(int(max(5, min(120, seconds / 12)))),
        **({"GRPC": f"127.0.0.1:{free_port()}"} if has_grpc else {}),
    }
    with http_server(folder, paths.EMBEDDED, environment) as server:
        server.ready()
        client = HttpActions(server)
        actions = client.actions()
        if has_grpc:
            actions |= grpc_actions(int(environment["GRPC"].rpartition(":")[2]), client.inputs)
        yield Traffic(server, folder / "jobs.sqlite3", actions, lambda: None)


class HttpActions:
    """What a client does to the HTTP server."""

    def __init__(self, server: HttpClient) -> None:
        self.inputs = Inputs()
        self._server = server
        self._kinds = itertools.cycle(("csv", "tsv", "jsonl", "parquet"))

    def actions(self) -> dict[str, Action]:
        """Return them by name."""
        pages = ("/", "/ping", "/health", "/metrics", "/docs", "/openapi.json", "/demo")
        return {
            "POST /score": Action(6, self._score),
            "POST /score, explained": Action(1, self._explain),
            "POST /score, bad input": Action(2, self._bad_score),
            "GET /score": Action(2, self._get_score),
            "POST /score/file": Action(3, self._file),
            "POST /score/file, bad": Action(1, self._bad_file),
            "POST /run, GET /status": Action(3, self._job),
            "POST /run, bad input": Action(1, self._bad_job),
            "POST /run, POST /cancel": Action(1, self._cancelled),
            "POST /runsync": Action(3, self._runsync),
            **{f"GET {path}": Action(0.3, self._page(path)) for path in pages},
            "requests of other services": Action(2, self._other_service),
            "bad requests": Action(2, self._bad_request),
            "hang-ups": Action(3, self._hang_up),
        }

    def _score(self, chance: random.Random) -> object:
        reply = self._server.post("/score", json=self.inputs.good(chance))
        return status(reply, 200)

    def _explain(self, chance: random.Random) -> object:
        return status(self._server.post("/score", json=self.inputs.explained(chance)), 200)

    def _bad_score(self, chance: random.Random) -> object:
        data = json.dumps(self.inputs.bad(chance)).encode()
        return status(self._server.post("/score", data=data, headers=JSON_TYPE), *REFUSED)

    def _get_score(self, chance: random.Random) -> object:
        (text,) = self.inputs.texts(chance, 1)
        more = chance.choice(({}, {"robust": "true"}, {"thresholds": "strict"}))
        return status(self._server.get("/score", params={"text": text, **more}), 200)

    def _file(self, chance: random.Random) -> object:
        kind = next(self._kinds)
        data = self.inputs.file(chance, kind)
        rows = chance.choice(("", "?robust=true"))
        files = {"file": (f"tweets.{kind}", data)}
        reply = self._server.post(f"/score/file{rows}", files=files)
        return f"{kind} {status(reply, 200, *crowded(kind))}"

    def _bad_file(self, chance: random.Random) -> object:
        kind = next(self._kinds)
        whole = self.inputs.file(chance, kind)
        data = chance.choice((b"", whole[: len(whole) // 2], chance.randbytes(2000), b"id\n1\n"))
        reply = self._server.post("/score/file", files={"file": (f"tweets.{kind}", data)})
        # Half a file of lines may be a whole one.
        return status(reply, 200, *REFUSED, *crowded(kind))

    def _job(self, chance: random.Random) -> object:
        job_id = self._server.run(self.inputs.good(chance))
        return self._ended(job_id, ("COMPLETED",))

    def _bad_job(self, chance: random.Random) -> object:
        job_id = self._server.run(self.inputs.bad(chance))
        return self._ended(job_id, ("FAILED",))

    def _ended(self, job_id: str, statuses: Sequence[str]) -> str:
        found = ""

        def ended() -> bool:
            nonlocal found
            found = self._server.status(job_id)["status"]
            return found in FINAL

        wait_until(ended, "a job", seconds=SECONDS, watch=lambda: time.sleep(0.05))
        if found not in statuses:
            raise UnexpectedError(found)
        return found

    def _cancelled(self, chance: random.Random) -> object:
        job_id = self._server.run(self.inputs.good(chance))
        status(self._server.post(f"/cancel/{job_id}"), 200)
        return self._ended(job_id, ("COMPLETED", "CANCELLED"))

    def _runsync(self, chance: random.Random) -> object:
        path = chance.choice(("/runsync", "/runsync?wait=30000", "/v2/any/runsync"))
        body = {"input": self.inputs.good(chance)}
        reply = self._server.post(path, json=body)
        status(reply, 200)
        return reply.json()["status"]

    def _page(self, path: str) -> Callable[[random.Random], object]:
        return lambda _chance: status(self._server.get(path), 200)

    def _other_service(self, chance: random.Random) -> object:
        texts = self.inputs.texts(chance, 8)
        attributes: dict[str, Any] = {"TOXICITY": {}}
        perspective = {"comment": {"text": texts[0]}, "requestedAttributes": attributes}
        path, body = chance.choice(
            (
                ("/v1alpha1/comments:analyze", perspective),
                ("/v1/moderations", {"input": texts}),
                ("/predict", {"inputs": texts[0]}),
                ("/beta/litellm_basic_guardrail_api", {"texts": texts}),
            )
        )
        return f"{path} {status(self._server.post(path, json=body), 200)}"

    def _bad_request(self, chance: random.Random) -> object:
        post, get = self._server.post, self._server.get
        reply = chance.choice(
            (
                lambda: post("/score", data=b'{"text": ', headers=JSON_TYPE),
                lambda: post("/score", data=b"[" * 5000, headers=JSON_TYPE),
                lambda: post("/score", data=b"text", headers=BEARER),
                lambda: post("/score", json={"text": "good morning"}, headers={}),
                lambda: get("/metrics", headers={"X-API-Key": "wrong"}),
                lambda: get(f"/{chance.randbytes(8).hex()}"),
                lambda: get(f"/status/{chance.randbytes(16).hex()}"),
                lambda: post("/health"),
                lambda: post("/run", json={"input": {}, "webhook": "x"}),
                lambda: post("/runsync?wait=1", json={"input": {}}),
                lambda: post("/score", data=b"a" * 9_000_000, headers=JSON_TYPE),
            )
        )()
        return status(reply, 401, 404, 405, 413, 415, 422)

    def _hang_up(self, chance: random.Random) -> object:
        body = json.dumps({"texts": self.inputs.texts(chance, 16)}).encode()
        head = request_head("POST /score", "application/json", len(body))
        edge = b"--edge\r\nContent-Disposition: form-data; name=file; filename=a.csv\r\n\r\n"
        upload = edge + self.inputs.file(chance, "csv") + b"\r\n--edge--\r\n"
        kind = "multipart/form-data; boundary=edge"
        uploaded = request_head("POST /score/file", kind, len(upload)) + upload
        name, sent, read = chance.choice(
            (
                ("says nothing", b"", 0),
                ("half a head", head[: len(head) // 2], 0),
                ("half a body", head + body[: len(body) // 2], 0),
                ("reads nothing", head + body, 0),
                ("half an upload", uploaded[: len(uploaded) - len(upload) // 2], 0),
                ("reads half a reply", uploaded, 500),
                ("not HTTP", chance.randbytes(500), 65_536),
            )
        )
        hang_up(self._server.connect(), sent, read, resets=chance.random() < 0.5)
        return name


def request_head(line: str, content_type: str, size: int) -> bytes:
    """Return the head of a request with a body."""
    return (
        f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {TOKEN}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {size}\r\n\r\n"
    ).encode()


def hang_up(connection: socket.socket, sent: bytes, read: int, *, resets: bool) -> None:
    """Send, read at most so many bytes, and close the connection, or reset it."""
    with connection:
        if resets:
            off = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
        connection.sendall(sent)
        if read:
            connection.recv(read)


def crowded(kind: str) -> tuple[int, ...]:
    """Return the status of a Parquet file too many: the server reads two of one caller together."""
    return (429,) if kind == "parquet" else ()


def grpc_actions(port: int, inputs: Inputs) -> dict[str, Action]:
    """Return what a client does over gRPC, each time on a connection of its own."""
    from tests.support.grpc_client import GrpcClient

    def call(job_input: Any, *codes: str) -> str:
        with GrpcClient(port) as client:
            name = client.score(job_input).name
        if name not in codes:
            raise UnexpectedError(name)
        return name

    def good(chance: random.Random) -> object:
        given = inputs.good(chance)
        given.pop("robust", None)
        given.pop("thresholds", None)
        return call(given, "OK")

    def bad(chance: random.Random) -> object:
        return call(chance.choice(({"prompt": " "}, {"prompt": "a" * 20_000}, {})), *REFUSALS)

    def cancelled(chance: random.Random) -> object:
        with GrpcClient(port) as client:
            begun = client.begin({"prompts": inputs.texts(chance, 16)})
            time.sleep(chance.random() / 100)
            begun.cancel()
        return "cancelled"

    return {
        "gRPC": Action(3, good),
        "gRPC, bad input": Action(1, bad),
        "gRPC, cancelled": Action(1, cancelled),
    }


def status(reply: requests.Response, *statuses: int) -> int:
    """Return the status; raise :class:`UnexpectedError` if it is another one."""
    if reply.status_code not in statuses:
        raise UnexpectedError(str(reply.status_code))
    return reply.status_code


@contextmanager
def worker_traffic(folder: Path, _seconds: float) -> Iterator[Traffic]:
    """Start the queue worker, with the SDK's own loop, in front of a stand-in of Runpod."""
    with RunpodEndpoint() as endpoint:
        environment = {
            **clean_environment(folder, paths.EMBEDDED),
            **endpoint.environment(),
            "MAX_CONCURRENCY": "16",
        }
        with WorkerProcess([APP], environment, folder) as worker:
            client = WorkerActions(endpoint)
            ready = endpoint.submit({"prompt": "good morning"})
            wait_until(
                lambda: endpoint.all_answered(ready), "the worker", watch=worker.require_running
            )
            # A worker that is told to stop waits for its last poll; the platform ends it here.
            yield Traffic(worker, None, client.actions(), client.end_round, endpoint.drain)


class WorkerActions:
    """What callers do to an endpoint, and the platform to its worker."""

    def __init__(self, endpoint: RunpodEndpoint) -> None:
        self._endpoint = endpoint
        self._inputs = Inputs()

    def actions(self) -> dict[str, Action]:
        """Return them by name."""
        return {
            "/run, /status": Action(6, self._job),
            "/run, bad input": Action(2, self._bad_job),
            "/run, explained": Action(1, self._explained),
            "/run, /cancel": Action(2, self._cancelled),
            "/runsync": Action(4, self._runsync),
            "/runsync, hung up": Action(1, self._hung_up),
            "many at once": Action(0.3, self._many),
            "/health": Action(0.3, self._health),
            "faults of the platform": Action(1, self._fault),
        }

    def end_round(self) -> None:
        """Wait until every job is answered, and begin anew."""
        jobs = self._endpoint.jobs
        try:
            wait_until(
                lambda: all(job.status in FINAL for job in list(jobs.values())),
                "every job to end",
                seconds=SECONDS,
            )
        except TimeoutError:
            raise UnexpectedError("a job without an answer") from None
        found = [problem.partition(": ")[2] for problem in self._endpoint.problems]
        self._endpoint.problems.clear()
        self._endpoint.forget()
        # The SDK can stop a job only once it runs. One that is cancelled on its way is answered.
        problems = [problem for problem in found if problem != "answered after it was stopped"]
        if problems:
            raise UnexpectedError(f"the platform: {problems[0]}")

    def _call(self, method: str, operation: str, **options: Any) -> dict[str, Any]:
        reply = requests.request(
            method,
            f"{self._endpoint.base_url}/{ENDPOINT_ID}/{operation}",
            headers={"Authorization": f"Bearer {KEY}"},
            **{"timeout": SECONDS, **options},
        )
        status(reply, 200)
        found: dict[str, Any] = reply.json()
        return found

    def _run(self, job_input: Any, statuses: Sequence[str]) -> str:
        job_id = self._call("POST", "run", json={"input": job_input})["id"]
        return self._ended(job_id, statuses)

    def _ended(self, job_id: str, statuses: Sequence[str]) -> str:
        deadline = time.monotonic() + SECONDS
        while (found := self._call("GET", f"status/{job_id}")["status"]) not in FINAL:
            if time.monotonic() > deadline:
                raise UnexpectedError(found)
            time.sleep(0.05)
        if found not in statuses:
            raise UnexpectedError(found)
        return str(found)

    def _job(self, chance: random.Random) -> object:
        return self._run(self._inputs.good(chance), ("COMPLETED",))

    def _bad_job(self, chance: random.Random) -> object:
        return self._run(self._inputs.bad(chance), ("FAILED",))

    def _explained(self, chance: random.Random) -> object:
        return self._run(self._inputs.explained(chance), ("COMPLETED",))

    def _cancelled(self, chance: random.Random) -> object:
        job_id = self._call("POST", "run", json={"input": self._inputs.good(chance)})["id"]
        time.sleep(chance.random() / 10)
        self._call("POST", f"cancel/{job_id}")
        return self._ended(job_id, ("COMPLETED", "CANCELLED"))

    def _runsync(self, chance: random.Random) -> object:
        found = self._call("POST", "runsync", json={"input": self._inputs.good(chance)})["status"]
        if found != "COMPLETED":
            raise UnexpectedError(found)
        return found

    def _hung_up(self, chance: random.Random) -> object:
        try:
            self._call("POST", "runsync", json={"input": self._inputs.good(chance)}, timeout=0.005)
        except requests.Timeout:
            return "hung up"
        return "answered"

    def _many(self, chance: random.Random) -> object:
        job_ids = self._endpoint.submit(*(self._inputs.good(chance) for _ in range(64)))
        wait_until(lambda: self._endpoint.all_answered(job_ids), "many jobs", seconds=SECONDS)
        return "answered"

    def _health(self, _chance: random.Random) -> object:
        self._call("GET", "health")
        return "answered"

    def _fault(self, chance: random.Random) -> object:
        fault = chance.choice((RESET, LOST, Fault(500), Fault(502), Fault(429)))
        operation = chance.choice(("job-done", "job-done", "job-take", "ping"))
        # What a lost poll hands out comes back only if the worker falls silent.
        if operation == "job-take" and fault.lose:
            fault = RESET
        self._endpoint.fail(operation, fault)
        return operation
