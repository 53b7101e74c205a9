"""Receives a file of texts and streams the same file back with the scores."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePath
from typing import Any, Final, ParamSpec, TypeVar

from starlette.datastructures import UploadFile
from starlette.requests import Request

from hatespeech.contract import TextScore
from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.formats.names import COMPRESSIONS, FORMATS, Format
from hatespeech.serving.guards.limits import ByteBudget
from hatespeech.serving.http_errors import UnsupportedMediaError
from hatespeech.serving.reading import require_media_type
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings
from hatespeech.serving.uploads.fields import FIELDS, file_options, read_fields
from hatespeech.serving.uploads.form import read_form
from hatespeech.serving.uploads.table import WINDOWS, UploadLimits, UploadTable

MAX_FIELD_BYTES: Final = 4096
# Texts in one request to the model.
ROWS: Final = 256
# Blocks in the queue at a time: while one is scored, another is read or written.
AHEAD: Final = 2
# Files that are read or written at the same moment. They have threads of their own, so that a file
# that takes long holds up other files only.
THREADS: Final = 8
# Parquet files that are read at the same time. They share PARQUET_MEMORY_BYTES; half of them may be
# of one caller.
PARQUET_FILES: Final = 4
# Of the windows of all zstd and xz files that are read together; one caller may have half of them.
WINDOW_BYTES: Final = 256 * 1024 * 1024

# What errors of a row name, whatever its column is called.
TEXT: Final = "text"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

BY_MEDIA_TYPE: Final[Mapping[str, str]] = {
    "text/csv": "CSV",
    "text/tab-separated-values": "TSV",
    "application/jsonl": "JSONL",
    "application/x-ndjson": "JSONL",
    "application/vnd.apache.parquet": "Parquet",
}
# Of a reply: its media type, and how its file's name ends, before that of a compression.
REPLIES: Final[Mapping[str, tuple[str, str]]] = {
    "CSV": ("text/csv; charset=utf-8", ".csv"),
    "TSV": ("text/tab-separated-values; charset=utf-8", ".tsv"),
    "JSONL": ("application/jsonl", ".jsonl"),
    "JSON": ("application/json", ".json"),
    "Parquet": ("application/vnd.apache.parquet", ".parquet"),
}


async def receive_upload(request: Request) -> tuple[UploadFile, dict[str, str]]:
    """Read the form: its file, into a temporary file without a name on the disk, and its fields.

    Raises :class:`UnsupportedMediaError` if the body is not a form, or if this server has no
    pyarrow, which the lean image leaves out; and :class:`ValidationError` if the form does not hold
    exactly one file, or for a field.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise UnsupportedMediaError("this server was installed without pyarrow, and reads no files")
    require_media_type(request, "multipart/form-data")
    form = await read_form(request, max_fields=len(FIELDS), max_field_bytes=MAX_FIELD_BYTES)
    upload = form.get("file")
    try:
        if not isinstance(upload, UploadFile):
            raise ValidationError("is missing; send it as a form field named file", field="file")
        others = [(name, value) for name, value in form.multi_items() if value is not upload]
        return upload, read_fields(others)
    except BaseException:
        await form.close()
        raise


def choose_format(upload: UploadFile) -> Format:
    """Choose the format by the file's name, else by its declared type.

    Raises :class:`UnsupportedMediaError` if neither is known.
    """
    form = Format.of(PurePath(upload.filename or "").name)
    if form is not None and form.writable:
        return form
    declared = (upload.content_type or "").partition(";")[0].strip().lower()
    kind = BY_MEDIA_TYPE.get(declared)
    if kind is None:
        raise UnsupportedMediaError(f"its name must end in {FORMATS}", field="file")
    return Format(kind, None)


def reply_of(table: UploadTable) -> tuple[str, str]:
    """Return the media type of what comes back, and a name for it."""
    media_type, suffix = REPLIES[table.format.kind]
    packing = table.options.compression
    if packing is None:
        return media_type, f"scored{suffix}"
    ending = next(ending for ending, name in COMPRESSIONS.items() if name == packing)
    return f"application/{packing}", f"scored{suffix}{ending}"


class UploadRoom:
    """Where all uploads of a server are read: their threads, and the memory they share."""

    def __init__(self, settings: ServerSettings) -> None:
        self.rows = min(ROWS, settings.max_texts_per_request)  # in one request to the model
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._limits = UploadLimits(
            max_rows=settings.max_file_rows,
            max_chars=settings.max_file_bytes,
            process_bytes=settings.parquet_memory_bytes // PARQUET_FILES,
        )
        self._parquet = ByteBudget(
            settings.parquet_memory_bytes, self._limits.process_bytes, "Parquet files"
        )
        self._windows = ByteBudget(WINDOW_BYTES, max(WINDOWS.values()), "zstd and xz files")
        self._callers: dict[UploadTable, str] = {}
        # Python looks once for a folder that it can write to. A full disk later is another error.
        with contextlib.suppress(OSError):
            tempfile.gettempdir()

    def open(self, upload: UploadFile, fields: Mapping[str, str], caller: str) -> UploadTable:
        """Return a caller's file as a table; :meth:`close` it.

        Raises the errors of :func:`choose_format` and :func:`file_options`, and
        :class:`OverloadedError` if as many files of Parquet, or of zstd and xz, are open as there
        is memory for, or half as many of this caller.
        """
        form = choose_format(upload)
        table = UploadTable(upload.file, form, file_options(fields, form), self._limits)
        self._budget(table).take(caller, table.shared_bytes)
        self._callers[table] = caller
        return table

    def close(self, table: UploadTable) -> None:
        """Close a table, again if need be, and give its memory back."""
        table.close()
        if table in self._callers:
            self._budget(table).give(self._callers.pop(table), table.shared_bytes)

    async def run(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run what reads or writes a file in one of the threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *args, **kwargs))

    def _budget(self, table: UploadTable) -> ByteBudget:
        return self._parquet if table.format.kind == "Parquet" else self._windows


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What scores the rows of a file, and how."""

    model: ServedModel
    options: Mapping[str, Any]  # fields of the contract's request
    caller: str | None  # whose turns on the device they share


async def score_table(
    room: UploadRoom, table: UploadTable, scoring: Scoring
) -> AsyncIterator[bytes]:
    """Yield the table with its scores.

    Unlike a request's texts, a file's wait for room.
    """
    pending: deque[asyncio.Task[list[TextScore]]] = deque()
    try:
        more = True
        while more or pending:
            while more and len(pending) < AHEAD:
                texts = await room.run(table.next)
                more = texts is not None
                if texts is not None:
                    pending.append(asyncio.create_task(score_block(texts, room.rows, scoring)))
            if pending:
                items = await pending.popleft()
                data = await room.run(table.write, items)
                if data:
                    yield data
        yield await room.run(table.end)
    finally:
        for task in pending:
            task.cancel()
        room.close(table)


async def score_block(texts: Sequence[Any], rows: int, scoring: Scoring) -> list[TextScore]:
    """Score a block in requests of so many rows, one after the other."""
    return [
        item
        for start in range(0, len(texts), rows)
        for item in await score_rows(texts[start : start + rows], scoring)
    ]


async def score_rows(texts: Sequence[Any], scoring: Scoring) -> list[TextScore]:
    """Score rows, in several requests if one would be too large. Errors name the field ``text``."""
    try:
        reply = await scoring.model.score(
            {"texts": list(texts), **scoring.options}, wait_for_room=True, caller=scoring.caller
        )
    except TooLargeError as error:
        if len(texts) == 1:
            item = TextScore(str(texts[0]), error=error.at(TEXT))
            scoring.model.refused(item)
            return [item]
        middle = len(texts) // 2
        return [
            *await score_rows(texts[:middle], scoring),
            *await score_rows(texts[middle:], scoring),
        ]
    return [
        item if item.error is None else dataclasses.replace(item, error=item.error.at(TEXT))
        for item in reply.items
    ]
