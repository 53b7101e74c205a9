"""A file server on 127.0.0.1 that can be told to misbehave, and to answer as the model hub does.

It counts what it sent. Answers are scripted by path: each GET takes the next, and the last stays;
a HEAD gets the last.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Answer:
    """How one GET is answered; by default the file, with Range and If-Range honoured."""

    status: int | None = None  # an error instead of the file
    headers: Mapping[str, str] = field(default_factory=dict)  # on top of the usual ones
    cut: int | None = None  # close the connection after so many bytes of body
    stall: int | None = None  # go silent after so many bytes of body
    announce: int | None = None  # added to the true Content-Length
    ignore_range: bool = False
    ignore_if_range: bool = False
    etag: str | None = '"one"'
    last_modified: str | None = None
    content: bytes | None = None  # instead of the file


@dataclass
class Request:
    """A request that came in; ``sent`` counts the bytes of body that went out."""

    method: str
    path: str  # with its query string
    headers: dict[str, str]
    sent: int = 0


@dataclass
class _File:
    content: bytes
    answers: list[Answer]


class FileServer:
    """Serves files from memory until the ``with`` block ends."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._files: dict[str, _File] = {}
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.block_on_close = True
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def serve(self, path: str, content: bytes, *answers: Answer) -> str:
        """Put a file at ``path``; return its URL."""
        self._files[path] = _File(content, list(answers) or [Answer()])
        return f"http://{self.address}{path}"

    def serve_hub(
        self, repository: str, revision: str, commit: str, files: Mapping[str, bytes]
    ) -> str:
        """Put a model repository in the hub's URL form; return the value for ``HF_ENDPOINT``."""
        listing = {
            "id": repository,
            "sha": commit,
            "siblings": [{"rfilename": name} for name in files],
        }
        for name in (revision, commit):
            self.serve(
                f"/api/models/{repository}/revision/{name}",
                json.dumps(listing).encode(),
                Answer(headers={"Content-Type": "application/json"}),
            )
        for name, content in files.items():
            etag = f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'
            self.serve(
                f"/{repository}/resolve/{commit}/{name}",
                content,
                Answer(etag=etag, headers={"X-Repo-Commit": commit}),
            )
        return f"http://{self.address}"

    def content(self, path: str) -> bytes:
        """Return what is at a path."""
        return self._files[path].content

    def seen(self, path: str, method: str = "GET") -> list[Request]:
        """Return the requests for a path, query string aside."""
        return [
            request
            for request in self.requests
            if request.method == method and urlsplit(request.path).path == path
        ]

    def _next_answer(self, path: str, method: str) -> tuple[bytes, Answer]:
        with self._lock:
            file = self._files.get(path)
            if file is None:
                return b"", Answer(status=404)
            answer = file.answers[0 if method == "GET" else -1]
            if method == "GET" and len(file.answers) > 1:
                file.answers.pop(0)
        return file.content if answer.content is None else answer.content, answer


def _handler(files: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, *_args: Any) -> None:
            """Tests read ``requests``."""

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers)
            files.requests.append(request)
            path = unquote(urlsplit(self.path).path)
            content, answer = files._next_answer(path, self.command)
            status, body, extra = 200, content, dict(answer.headers)
            if answer.status is not None:
                status, body = answer.status, b"this is not the file"
            elif "range" in headers and not answer.ignore_range and self._applies(headers, answer):
                found = re.fullmatch(r"bytes=(\d+)-(\d*)", headers["range"])
                assert found
                start = int(found[1])
                if start >= len(content):
                    status, body = 416, b""
                    extra["Content-Range"] = f"bytes */{len(content)}"
                else:
                    status, body = 206, content[start:]
                    extra["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + (answer.announce or 0)))
            self.send_header("Connection", "close")
            if answer.status is None and answer.etag:
                self.send_header("ETag", answer.etag)
            if answer.status is None and answer.last_modified:
                self.send_header("Last-Modified", answer.last_modified)
            for name, value in extra.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            if self.command == "HEAD":
                return
            limits = [n for n in (answer.cut, answer.stall) if n is not None]
            body = body[: min(limits, default=len(body))]
            try:
                for begin in range(0, len(body), 65_536):
                    chunk = body[begin : begin + 65_536]
                    # Counted first: a client that has them all may be done before this thread is.
                    request.sent += len(chunk)
                    self.wfile.write(chunk)
            except OSError:  # the client has gone
                request.sent -= len(chunk)
                return
            if answer.stall is not None:
                files._closing.wait(60)

        @staticmethod
        def _applies(headers: Mapping[str, str], answer: Answer) -> bool:
            condition = headers.get("if-range")
            return (
                condition is None
                or answer.ignore_if_range
                or condition in (answer.etag, answer.last_modified)
            )

    return Handler
