"""Reads requests strictly: JSON bodies, query strings, and callers that hang up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import math
from collections.abc import Awaitable, Iterator
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from hatespeech.errors import ValidationError
from hatespeech.serving.http_errors import UnsupportedMediaError

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_QUERY_FIELDS = 16


async def read_json(request: Request) -> Any:
    """Read a JSON body.

    Raises :class:`UnsupportedMediaError` for another media type, and :class:`ValidationError` for
    invalid UTF-8, invalid JSON, or NaN and Infinity, which only Python accepts.
    """
    require_media_type(request, "application/json")
    return parse_json(await request.body())


def parse_json(raw: bytes) -> Any:
    """Parse JSON; raise :class:`ValidationError` as :func:`read_json` does."""
    try:
        with without_garbage_collection():
            return json.loads(raw.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError:
        raise ValidationError("is not UTF-8", field="body") from None
    except ValueError as exc:  # also for numbers with too many digits
        place = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise ValidationError(f"is not valid JSON{place}", field="body") from None
    except RecursionError:
        raise ValidationError("is nested too deeply", field="body") from None


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Turn garbage collection off while millions of objects are made.

    With it a large body takes four times as long, and blocks the event loop for all callers.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("JSON cannot hold it")
    return value


def require_media_type(request: Request, expected: str) -> None:
    """Raise :class:`UnsupportedMediaError` unless the body's declared type is ``expected``."""
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
    """Read ``true`` or ``false`` from a query string; raise :class:`ValidationError` for others."""
    if value not in ("true", "false"):
        raise ValidationError("must be true or false", field=name)
    return value == "true"


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
