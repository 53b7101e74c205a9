"""``POST /score/file``: a file of texts in, the same file with scores out."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hatespeech.contract import COLUMNS
from hatespeech.formats.names import FORMATS
from hatespeech.named_thresholds import read_thresholds
from hatespeech.serving.guards.auth import caller_of
from hatespeech.serving.openapi import ROBUST_PARAMETER, SCORING
from hatespeech.serving.reading import read_query, read_switch, until_gone
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings
from hatespeech.serving.uploads.fields import FIELDS
from hatespeech.serving.uploads.upload import (
    Scoring,
    UploadRoom,
    receive_upload,
    reply_of,
    score_table,
)

UPLOAD: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": f"Its name ends in {FORMATS}.",
        },
        **FIELDS,
    },
}
UPLOAD_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": UPLOAD}}}
}
SCORED_FILE: Final[dict[str, Any]] = {
    "description": f"The file with all its columns, and `{'`, `'.join(COLUMNS)}`; with thresholds "
    "also `flagged`.",
    "content": {
        "text/csv": {"schema": {"type": "string"}},
        "text/tab-separated-values": {"schema": {"type": "string"}},
        "application/jsonl": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
        "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
    },
}


def file_routes(settings: ServerSettings) -> APIRouter:
    """Return ``POST /score/file``."""
    router = APIRouter(tags=["score"])
    room = UploadRoom(settings)

    @router.post(
        "/score/file",
        operation_id="score_file",
        summary="Score a file of texts",
        openapi_extra={**UPLOAD_BODY, "parameters": [ROBUST_PARAMETER]},
        response_class=StreamingResponse,
        responses={200: SCORED_FILE, **SCORING},
    )
    async def score_file(request: Request) -> Response:
        """Send CSV, TSV, JSONL, JSON or Parquet with a column `text`; it comes back in its format.

        A row that cannot be scored gets an `error`.
        """
        options: dict[str, Any] = {
            name: read_switch(value, name)
            for name, value in read_query(request, ("robust",)).items()
        }
        model: ServedModel = request.app.state.model
        caller = caller_of(request)
        model.require_ready()
        file, fields = await receive_upload(request)
        try:
            if "thresholds" in fields:
                options["thresholds"] = read_thresholds(fields["thresholds"])
            model.read({"text": "any", **options})  # thresholds are refused before a reply begins
            table = room.open(file, fields, caller.name)
        except BaseException:
            await file.close()
            raise
        try:
            rows = await until_gone(request, room.run(table.check, model.made_by(options)))
            await request.app.state.rates.charge_texts(caller, rows)
        except BaseException:
            room.close(table)  # which also ends a check that still runs
            raise
        media_type, name = reply_of(table)
        return StreamingResponse(
            score_table(room, table, Scoring(model, options, caller.share)),
            media_type=media_type,
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
            # This runs even if the client hangs up, so the temporary file never outlives the reply.
            background=BackgroundTask(room.close, table),
        )

    return router
