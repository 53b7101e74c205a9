"""Read requests strictly: JSON bodies, query strings, and callers that hang up."""

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

from hatespeech.errors import (
    ValidationError,
)
from hatespeech.serving.http_errors import (
    UnsupportedMediaError,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_QUERY_FIELDS = 16


async def read_json(request: Request) -> Any:
    """Read a JSON body.

    Raises :class:`UnsupportedMediaError` for another type, :class:`ValidationError` for what is no
    UTF-8, no JSON, or JSON only to Python (NaN, Infinity).
    """
    require_media_type(request, "application/json")
    raw = await request.body()
    try:
        with collecting_no_garbage():
            return json.loads(raw.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError:
        raise ValidationError("is not UTF-8", field="body") from None
    except ValueError as exc:  # also: numbers of too many digits
        place = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise ValidationError(f"is not valid JSON{place}", field="body") from None
    except RecursionError:
        raise ValidationError("is nested too deeply", field="body") from None


@contextlib.contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Keep Python from looking for garbage again and again among millions of new objects.

    It made a large body take four times as long, for everybody who waits for this event loop.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("no JSON reply could hold it")
    return value


def require_media_type(request: Request, expected: str) -> None:
    """Raise :class:`UnsupportedMediaError` unless the body is declared to be ``expected``."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != expected:
        raise UnsupportedMediaError(f"must be {expected}", field="body")


def read_query(request: Request, names: tuple[str, ...]) -> dict[str, str]:
    """Read the query string; each name at most once, and none but ``names``.

    Raises :class:`ValidationError`, also for percent-encoded bytes that are no UTF-8.
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
            raise ValidationError("give it once", field=name)
        fields[name] = value
    return fields


async def until_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """Await ``work``, and cancel it if the client hangs up: nobody would read the answer.

    Raises ``ClientDisconnect`` then.
    """

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
