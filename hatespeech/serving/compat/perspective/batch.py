"""Many requests in one body: ``multipart/mixed``, each part a request of ``application/http``.

Google's Python client sends it so. Lines may end in LF or CRLF; parts are not searched for parts.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from hatespeech.errors import ValidationError
from hatespeech.serving.compat.perspective.errors import invalid_request

MOST_PARTS: Final = 1000  # as Google's client libraries send at most
# Clients need less: a boundary has 70 characters at most (RFC 2046), a key of Google's 2048 bytes.
# To read much longer heads would keep other callers waiting, and a batch may come from strangers.
CONTENT_TYPE_CHARS: Final = 256
PART_HEAD_BYTES: Final = 4096  # of a part, and again of the request in it
KEPT_HEADERS: Final = ("Content-Type", "Content-Length", "Retry-After")

_BLANK: Final = re.compile(rb"(?:\A|\n)\r?\n")
_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,8192}) HTTP/1\.[01]\r?\n")
_CONTENT_ID: Final = re.compile(r"<[ -;=?-~]{1,256}>")


@dataclass(frozen=True)
class BatchPart:
    """One request of a batch."""

    content_id: str | None
    method: str
    path: str
    scope: Scope  # with its own query and headers, and the connection of the batch
    body: bytes


def read_boundary(request: Request) -> bytes:
    """Return what separates the parts; raise :class:`CommentError` if the body has none."""
    header = request.headers.get("content-type", "")
    if len(header) > CONTENT_TYPE_CHARS:
        raise invalid_request(f"Content-Type is longer than {CONTENT_TYPE_CHARS} characters")
    # Starlette reads forms with it, too. email's parser takes time by the square of the length.
    kind, options = parse_options_header(header)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/mixed" or not boundary:
        raise invalid_request("A batch must be multipart/mixed, with a boundary")
    return boundary


def split_parts(raw: bytes, boundary: bytes) -> list[bytes]:
    """Return the parts of a body, also of its beginning alone; not many more than allowed."""
    line = rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r?\n|\Z)"
    found: list[bytes] = []
    start: int | None = None
    for mark in re.finditer(line, raw):
        if start is not None:
            found.append(raw[start : mark.start()])
        if mark[1] or len(found) > MOST_PARTS:
            return found
        start = mark.end()
    return [*found, raw[start:]] if start is not None else found


def read_part(raw: bytes, outer: Scope) -> BatchPart:
    """Read a part.

    Raises :class:`ValidationError` if it isn't an HTTP request, or a head is too large.
    """
    head, inner = _cut(raw)
    content_id = str(BytesHeaderParser().parsebytes(head).get("Content-ID", ""))
    line = _REQUEST_LINE.match(inner)
    if line is None:
        raise ValidationError("is not an HTTP request", field="part")
    inner_head, body = _cut(inner[line.end() :])
    target, _, query = line[2].partition(b"?")
    headers = [
        (name.lower().encode("latin-1", "replace"), str(value).encode("latin-1", "replace"))
        for name, value in BytesHeaderParser().parsebytes(inner_head).items()
    ]
    return BatchPart(
        content_id if _CONTENT_ID.fullmatch(content_id) else None,
        line[1].decode("ascii"),
        unquote(target.decode("ascii")),
        {**outer, "query_string": query, "headers": headers, "state": {}},
        body,
    )


def join_replies(replies: Iterable[tuple[str | None, Response]]) -> Response:
    """Return one reply made of many, each with the content id of its request."""
    boundary = f"batch_{secrets.token_hex(16)}"
    lines: list[bytes] = []
    for content_id, reply in replies:
        # Clients find the id of their request in that of the reply.
        named = f"Content-ID: <response-{content_id[1:]}\r\n" if content_id else ""
        extra = "".join(
            f"{name}: {reply.headers[name]}\r\n" for name in KEPT_HEADERS if name in reply.headers
        )
        status = f"{reply.status_code} {HTTPStatus(reply.status_code).phrase}"
        head = f"Content-Type: application/http\r\n{named}\r\nHTTP/1.1 {status}\r\n{extra}\r\n"
        lines += [f"--{boundary}\r\n".encode(), head.encode(), bytes(reply.body), b"\r\n"]
    lines.append(f"--{boundary}--\r\n".encode())
    return Response(b"".join(lines), media_type=f'multipart/mixed; boundary="{boundary}"')


def _cut(raw: bytes) -> tuple[bytes, bytes]:
    """Return the head, which ends at the first empty line, and what follows it.

    Raises :class:`ValidationError` for a head of more than ``PART_HEAD_BYTES``.
    """
    blank = _BLANK.search(raw, 0, PART_HEAD_BYTES)
    if blank is None and len(raw) > PART_HEAD_BYTES:
        raise ValidationError(f"has a head larger than {PART_HEAD_BYTES} bytes", field="part")
    return (raw, b"") if blank is None else (raw[: blank.start()], raw[blank.end() :])
