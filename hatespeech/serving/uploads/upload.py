"""Receives a file of texts and streams the same file back with the scores."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
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
from hatespeech.errors import OverloadedError, TooLargeError, ValidationError
from hatespeech.serving.http_errors import UnsupportedMediaError
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.reading import require_media_type
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings
from hatespeech.serving.uploads.parquet_table import Parquet
from hatespeech.serving.uploads.table import TEXT, UploadLimits, UploadTable
from hatespeech.serving.uploads.text_tables import Csv, Jsonl, Tsv

ROWS: Final = 256
# Chunks in the queue at once: while one is scored, another is read or written.
AHEAD: Final = 2
# Files that are read or written at the same moment. They have threads of their own, so that a file
# that takes long holds up other files only.
THREADS: Final = 8
# Parquet files at once, which share the memory of PARQUET_MEMORY_BYTES.
PARQUET_FILES: Final = 4

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

BY_SUFFIX: Final[Mapping[str, type[UploadTable]]] = {
    ".csv": Csv,
    ".tsv": Tsv,
    ".jsonl": Jsonl,
    ".ndjson": Jsonl,
    ".parquet": Parquet,
}
BY_MEDIA_TYPE: Final[Mapping[str, type[UploadTable]]] = {
    "text/csv": Csv,
    "text/tab-separated-values": Tsv,
    "application/jsonl": Jsonl,
    "application/x-ndjson": Jsonl,
    "application/vnd.apache.parquet": Parquet,
}


async def receive_upload(request: Request) -> UploadFile:
    """Read the form's file into a temporary file that has no name on the disk.

    Raises :class:`UnsupportedMediaError` if the body is not a form, and :class:`ValidationError` if
    the form does not hold exactly one file.
    """
    require_media_type(request, "multipart/form-data")
    form = await request.form(max_files=1, max_fields=0)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        await form.close()
        raise ValidationError("is missing; send it as a form field named file", field="file")
    return upload


def choose_table(upload: UploadFile) -> type[UploadTable]:
    """Choose the format by the file's name, else by its declared type.

    Raises :class:`UnsupportedMediaError` if neither is known.
    """
    suffix = PurePath(upload.filename or "").suffix.lower()
    declared = (upload.content_type or "").partition(";")[0].strip().lower()
    kind = BY_SUFFIX.get(suffix) or BY_MEDIA_TYPE.get(declared)
    if kind is None:
        raise UnsupportedMediaError("must be .csv, .tsv, .jsonl or .parquet", field="file")
    return kind


class UploadRoom:
    """Where all uploads of a server are read: their threads, and the memory they share."""

    def __init__(self, settings: ServerSettings) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._limits = UploadLimits(
            chunk_rows=min(ROWS, settings.max_texts_per_request),
            max_rows=settings.max_file_rows,
            process_bytes=settings.parquet_memory_bytes // PARQUET_FILES,
        )
        self._parquet: set[UploadTable] = set()
        # Python looks once for a folder that it can write to. A full disk later is another error.
        with contextlib.suppress(OSError):
            tempfile.gettempdir()

    def open(self, upload: UploadFile) -> UploadTable:
        """Return the file as a table; :meth:`close` it.

        Raises the errors of :func:`choose_table`, and :class:`OverloadedError` if as many Parquet
        files are open as there is memory for.
        """
        kind = choose_table(upload)
        table = kind(upload.file, self._limits)
        if kind is Parquet:
            if len(self._parquet) == PARQUET_FILES:
                raise OverloadedError(f"{PARQUET_FILES} Parquet files are being read; try again")
            self._parquet.add(table)
        return table

    def close(self, table: UploadTable) -> None:
        """Close a table, again if need be, and give its memory back."""
        table.close()
        self._parquet.discard(table)

    async def run(
        self, call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run what reads or writes a file in one of the threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(call, *args, **kwargs))


async def score_table(
    room: UploadRoom,
    table: UploadTable,
    model: ServedModel,
    metrics: Metrics,
    options: Mapping[str, bool],
) -> AsyncIterator[bytes]:
    """Yield the table with its scores; ``options`` are fields of the contract's request.

    Unlike a request's texts, a file's wait for room.
    """
    chunks = table.chunks()
    pending: deque[tuple[Any, asyncio.Task[list[TextScore]]]] = deque()
    try:
        more = True
        while more or pending:
            while more and len(pending) < AHEAD:
                chunk = await room.run(next, chunks, None)
                more = chunk is not None
                if chunk is not None:
                    rows, texts = chunk
                    pending.append((rows, asyncio.create_task(score_rows(texts, model, options))))
            if pending:
                rows, task = pending.popleft()
                items = await task
                metrics.observe_reply(items)
                data = await room.run(table.write, rows, items)
                if data:
                    yield data
        yield await room.run(table.end)
    finally:
        for _, task in pending:
            task.cancel()
        room.close(table)


async def score_rows(
    texts: Sequence[Any], model: ServedModel, options: Mapping[str, bool]
) -> list[TextScore]:
    """Score rows, in several requests if one would be too large. Errors name the column."""
    if not texts:
        return []
    try:
        reply = await model.score({"texts": list(texts), **options}, wait_for_room=True)
    except TooLargeError as error:
        if len(texts) == 1:
            return [TextScore(str(texts[0]), error=error.at(TEXT))]
        middle = len(texts) // 2
        return [
            *await score_rows(texts[:middle], model, options),
            *await score_rows(texts[middle:], model, options),
        ]
    return [
        item if item.error is None else dataclasses.replace(item, error=item.error.at(TEXT))
        for item in reply.items
    ]
