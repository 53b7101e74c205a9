"""A file of texts in, the same file with scores beside them out, streamed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request

from hatespeech.errors import TooLargeError, UnsupportedMediaError, ValidationError
from hatespeech.serving.messages import require_media_type
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.model import Engine
from hatespeech.serving.settings import ServerSettings
from hatespeech.serving.uploads.parquet_table import Parquet
from hatespeech.serving.uploads.text_tables import Csv, Jsonl, Table, Tsv

ROWS: Final = 256
# Chunks in the queue at once: one is written and read while the other is scored.
AHEAD: Final = 2


BY_SUFFIX: Final[Mapping[str, type[Table]]] = {
    ".csv": Csv,
    ".tsv": Tsv,
    ".jsonl": Jsonl,
    ".ndjson": Jsonl,
    ".parquet": Parquet,
}
BY_MEDIA_TYPE: Final[Mapping[str, type[Table]]] = {
    "text/csv": Csv,
    "text/tab-separated-values": Tsv,
    "application/jsonl": Jsonl,
    "application/x-ndjson": Jsonl,
    "application/vnd.apache.parquet": Parquet,
}


async def receive_upload(request: Request) -> UploadFile:
    """Read the form's one file into a temporary file that has no name on the disk.

    Raises :class:`UnsupportedMediaError` and :class:`ValidationError` for anything else.
    """
    require_media_type(request, "multipart/form-data")
    form = await request.form(max_files=1, max_fields=0)
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        await form.close()
        raise ValidationError("file: is missing; send it as a form field named file")
    return upload


def choose_table(upload: UploadFile) -> type[Table]:
    """Tell the format by the file's name, else by its declared type.

    Raises :class:`UnsupportedMediaError` for any other.
    """
    suffix = PurePath(upload.filename or "").suffix.lower()
    declared = (upload.content_type or "").partition(";")[0].strip().lower()
    kind = BY_SUFFIX.get(suffix) or BY_MEDIA_TYPE.get(declared)
    if kind is None:
        raise UnsupportedMediaError("file: must be .csv, .tsv, .jsonl or .parquet")
    return kind


def open_table(upload: UploadFile, settings: ServerSettings) -> Table:
    """Return the file as a table; raise as :func:`choose_table`."""
    rows = min(ROWS, settings.max_texts_per_request)
    return choose_table(upload)(upload.file, rows, settings.max_file_bytes)


async def score_table(table: Table, engine: Engine, metrics: Metrics) -> AsyncIterator[bytes]:
    """Yield the table as it goes out. Unlike a request's texts, a file's wait for room."""
    chunks = table.chunks()
    pending: deque[tuple[Any, asyncio.Task[list[dict[str, Any]]]]] = deque()
    try:
        more = True
        while more or pending:
            while more and len(pending) < AHEAD:
                chunk = await asyncio.to_thread(next, chunks, None)
                more = chunk is not None
                if chunk is not None:
                    rows, texts = chunk
                    pending.append((rows, asyncio.create_task(score_rows(texts, engine))))
            if pending:
                rows, task = pending.popleft()
                items = await task
                if items:
                    metrics.observe_reply({"items": items})
                data = await asyncio.to_thread(table.write, rows, items)
                if data:
                    yield data
        yield await asyncio.to_thread(table.end)
    finally:
        for _, task in pending:
            task.cancel()
        table.close()


async def score_rows(texts: Sequence[Any], engine: Engine) -> list[dict[str, Any]]:
    """Score rows; what is too much for one request is scored in several."""
    if not texts:
        return []
    try:
        reply = await engine.score({"texts": list(texts)}, wait_for_room=True)
    except TooLargeError as error:
        if len(texts) == 1:
            return [{"error": str(error).replace("texts: ", "text: ", 1)}]
        middle = len(texts) // 2
        return [
            *await score_rows(texts[:middle], engine),
            *await score_rows(texts[middle:], engine),
        ]
    items: list[dict[str, Any]] = reply["items"]
    for index, item in enumerate(items):
        if "error" in item:
            item["error"] = item["error"].replace(f"texts[{index}]: ", "text: ", 1)
    return items
