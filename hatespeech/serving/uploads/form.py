"""Reads a form with one file, and says what is wrong with any other."""

from __future__ import annotations

from typing import Any, Final

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from typing_extensions import override

from hatespeech.errors import ValidationError
from hatespeech.serving.guards.limits import UNCOUNTED_BYTES

# What Starlette's messages begin with, and what ours say of the body.
REASONS: Final = {
    "Missing boundary": "its Content-Type names no boundary",
    "Too many files": "holds several files",
    "Too many fields": "holds too many fields",
    "Part exceeded": "holds a field that is too long",
    "The Content-Disposition header": "has a part without a name",
}


class _Form(MultiPartParser):
    """Starlette's parser, which takes a form that is cut short for a whole one."""

    spool_max_size = UNCOUNTED_BYTES  # of a file, in memory: no limit counts it there

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ended = False

    @override
    def on_end(self) -> None:
        self.ended = True

    def close(self) -> None:
        """Close all files, also one whose part has no end, which no form would hold."""
        for file in self._files_to_close_on_error:
            file.close()


async def read_form(request: Request, *, max_fields: int, max_field_bytes: int) -> FormData:
    """Read a form of at most one file, which goes into a temporary file without a name.

    Raises :class:`ValidationError` for any other body.
    """
    parser = _Form(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=max_fields,
        max_part_size=max_field_bytes,
    )
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        said = exc.message
        reason = next((ours for theirs, ours in REASONS.items() if said.startswith(theirs)), None)
        raise ValidationError(reason or "is not a form of this type", field="body") from None
    if not parser.ended:
        parser.close()
        raise ValidationError("ends before its last boundary", field="body")
    return form
