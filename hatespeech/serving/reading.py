"""Reads requests strictly: JSON bodies, query strings, and callers that hang up."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from hatespeech.collector import without_garbage_collection
from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.serving.http_errors import UnsupportedMediaError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_QUERY_FIELDS = 16
SWITCHES: Final = {"true": True, "True": True, "false": False, "False": False}
# The codings of bodies that clients use.
CODINGS: Final = ("gzip", "deflate", "br", "zstd", "compress", "x-gzip")

# Strings, brackets and commas of a body together. A request needs a few for each of its texts;
# millions of them would stop the event loop for seconds.
MAX_JSON_PARTS: Final = 250_000
# A larger body is read in a thread.
LARGE_BODY: Final = 64 * 1024
# The bytes of a body that are looked at in one step, while other threads wait.
PIECE: Final = 256 * 1024
_OUTSIDE_STRINGS: Final = re.compile(rb'[^"\[{,]*+')
_INSIDE_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


async def read_json(request: Request) -> Any:
    """Read a JSON body.

    A byte order mark in front is ignored, as RFC 8259 allows: some editors and languages write one.

    Raises :class:`UnsupportedMediaError` for another media type and for a compressed body,
    :class:`TooLargeError` for more than ``MAX_JSON_PARTS``, and :class:`ValidationError` for
    invalid UTF-8, invalid JSON, or NaN and Infinity, which only Python accepts.
    """
    require_media_type(request, "application/json")
    raw = await request.body()
    return await parse_any_size(parse_json, raw)


async def parse_any_size(parse: Callable[[bytes], Answer], raw: bytes) -> Answer:
    """Return what ``parse`` makes of a body, in a thread if that is large."""
    return parse(raw) if len(raw) <= LARGE_BODY else await asyncio.to_thread(parse, raw)


def parse_json(raw: bytes) -> Any:
    """Parse a body; raises the errors of :func:`read_json`."""
    if has_too_many_parts(raw):
        raise TooLargeError(f"has more than {MAX_JSON_PARTS} values and brackets", field="body")
    try:
        # With it a large body takes four times as long, and blocks the event loop for all callers.
        with without_garbage_collection():
            return json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError:
        raise ValidationError("is not UTF-8", field="body") from None
    except ValueError as exc:  # also for numbers with too many digits
        place = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise ValidationError(f"is not valid JSON{place}", field="body") from None
    except RecursionError:
        raise ValidationError("is nested too deeply", field="body") from None


def has_too_many_parts(raw: bytes) -> bool:
    """Return whether a body that may be JSON has more than ``MAX_JSON_PARTS``.

    The parser would not let any other thread run until it is done, so this looks first.
    """
    place = parts = 0
    inside = False
    while place < len(raw) and parts <= MAX_JSON_PARTS:
        pattern = _INSIDE_STRING if inside else _OUTSIDE_STRINGS
        end = place + PIECE
        found = pattern.match(raw, place, end)
        place = end if found is None else found.end()
        if place in (end, len(raw)):
            continue
        if raw[place : place + 1] == b'"':
            inside = not inside
            parts += inside
        elif not inside:
            parts += 1
        elif place + 1 == end:  # a backslash, whose character is in the next piece
            continue
        place += 1
    return parts > MAX_JSON_PARTS


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("JSON cannot hold it")
    return value


def require_media_type(request: Request, expected: str) -> None:
    """Raise :class:`UnsupportedMediaError` unless a body is ``expected``, and not compressed."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        # A small body could hold a large one; and the name of a coding is the caller's own text.
        known = f"{coding} is" if coding in CODINGS else "codings are"
        raise UnsupportedMediaError(
            f"Content-Encoding: {known} not read; send it uncompressed", field="body"
        )
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != expected:
        raise UnsupportedMediaError(f"must be {expected}", field="body")


def read_query(request: Request, names: tuple[str, ...]) -> dict[str, str]:
    """Read the query string, in which each of ``names`` may occur once.

    Raises :class:`ValidationError` for other names, and for percent-encoded bytes that are not
    UTF-8.
    """
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except UnicodeDecodeError:
        raise ValidationError("is not UTF-8", field="query") from None
    except ValueError:
        raise ValidationError(f"holds more than {MAX_QUERY_FIELDS} fields", field="query") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            allowed = ", ".join(names) or "nothing"
            raise ValidationError(f"holds an unknown field; known: {allowed}", field="query")
        if name in fields:
            raise ValidationError("must be given only once", field=name)
        fields[name] = value
    return fields


def read_switch(value: str, name: str) -> bool:
    """Read ``true`` or ``false`` from a query string, also as Python writes them.

    Raises :class:`ValidationError` for others.
    """
    if value not in SWITCHES:
        raise ValidationError("must be true or false", field=name)
    return SWITCHES[value]


def read_whole_number(value: str, name: str, least: int, most: int) -> int:
    """Read a whole number in this range; raise :class:`ValidationError` for anything else."""
    digits = len(str(most))
    if not re.fullmatch(rf"[0-9]{{1,{digits}}}", value) or not least <= int(value) <= most:
        raise ValidationError(f"must be a whole number from {least} to {most}", field=name)
    return int(value)


async def until_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """Await ``work``; if the client hangs up, cancel it and raise ``ClientDisconnect``."""

    async def hang_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        gone.result()  # a body that breaks a limit
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
