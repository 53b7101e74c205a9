"""Reads bodies as other services do: JSON whatever the header says of its type."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import Scope

from hatespeech.errors import ValidationError
from hatespeech.serving.reading import MAX_JSON_PARTS, parse_any_size, parse_json

MAX_QUERY_FIELDS: Final = 64

# A string, which is left as it is, or a key without quotes. It takes linear time: a string that
# does not end is one match, and a key begins where a word does.
_BARE_KEY: Final = re.compile(
    rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)|(?<![A-Za-z0-9_])([A-Za-z_][A-Za-z0-9_]*+)(?=\s*+:)', re.DOTALL
)


async def read_any_json(request: Request) -> dict[str, Any]:
    """Read a body that holds a JSON object; raises the errors of :func:`parse_object`."""
    return await read_object(await request.body())


async def read_object(raw: bytes) -> dict[str, Any]:
    """Parse an object, in a thread if it is large; raises the errors of :func:`parse_object`."""
    return await parse_any_size(parse_object, raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; nothing stands for an empty object.

    Its keys may lack quotes, as in Google's own examples. Raises :class:`ValidationError` if it is
    anything else, and :class:`TooLargeError` for more than ``MAX_JSON_PARTS``.
    """
    if not raw.strip():
        return {}
    try:
        value = parse_json(raw)
    except ValidationError:
        # A body that is not too large has no more strings and keys than that.
        most = 2 * MAX_JSON_PARTS
        quoted = _BARE_KEY.sub(lambda key: b'"%s"' % key[1] if key[1] else key[0], raw, most)
        if quoted == raw:
            raise
        value = parse_json(quoted)
    if not isinstance(value, dict):
        raise ValidationError("must be a JSON object", field="body")
    return value


def query_values(scope: Scope, name: str) -> list[str]:
    """Return the values of one field of the query string; others are ignored."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("latin-1"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except ValueError:
        return []
    return [value for key, value in pairs if key == name]
