"""Scoring while the caller waits: one text, many, or a file."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hatespeech.errors import OverloadedError, TooLargeError, UnhealthyError, ValidationError
from hatespeech.labels import THRESHOLD_NAMES
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.openapi import (
    EXAMPLE_TEXT,
    SCORING,
    VISIBLE,
    ManyReply,
    OneReply,
    errors,
    json_body,
    score_input,
)
from hatespeech.serving.reading import read_json, read_query, until_gone
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings
from hatespeech.serving.uploads.upload import open_table, receive_upload, score_table


def score_routes(settings: ServerSettings, metrics: Metrics) -> APIRouter:
    """Return ``GET /score``, ``POST /score`` and ``POST /score/file``."""
    router = APIRouter(tags=["score"])

    async def answer(request: Request, body: Any) -> Response:
        model: ServedModel = request.app.state.model
        reply = await until_gone(request, model.score(body, wait_for_room=False))
        metrics.observe_reply(reply.items)
        return JSONResponse(reply.to_dict())

    text = {"type": "string", "minLength": 1, "maxLength": settings.max_text_chars}
    query = [
        {"in": "query", "name": "text", "required": True, "example": EXAMPLE_TEXT}
        | {"schema": {**text, "pattern": VISIBLE}},
        {"in": "query", "name": "explain", "schema": {"type": "boolean", "default": False}},
        {
            "in": "query",
            "name": "thresholds",
            "description": "The name of thresholds that the model recommends.",
            "schema": {"type": "string", "enum": list(THRESHOLD_NAMES)},
        },
    ]

    @router.get(
        "/score",
        operation_id="score_get",
        summary="Score one text",
        openapi_extra={"parameters": query},
        responses={
            200: {"model": OneReply},
            **errors(ValidationError, TooLargeError, OverloadedError, UnhealthyError),
        },
    )
    async def score_get(request: Request) -> Response:
        """URLs end up in logs and histories: `POST /score` is the better way for real texts.

        `prompt` may stand for `text`. Thresholds of your own are for `POST`.
        """
        names = ("text", "prompt", "explain", "thresholds")
        fields: dict[str, Any] = {**read_query(request, names)}
        if "explain" in fields:
            if fields["explain"] not in ("true", "false"):
                raise ValidationError("must be true or false", field="explain")
            fields["explain"] = fields["explain"] == "true"
        return await answer(request, fields)

    @router.post(
        "/score",
        operation_id="score",
        summary="Score one text or many",
        openapi_extra=json_body(
            score_input(settings),
            {
                "one": {"text": EXAMPLE_TEXT},
                "many": {"texts": [EXAMPLE_TEXT, "win a free phone now"]},
                "explained": {"text": EXAMPLE_TEXT, "explain": True, "thresholds": {"hate": 0.7}},
            },
        ),
        responses={200: {"model": OneReply | ManyReply}, **SCORING},
    )
    async def score(request: Request) -> Response:
        """Give exactly one of `text`, `prompt`, `texts` and `prompts`.

        A text among many that can't be scored gets its own `error` and costs the others nothing.
        """
        read_query(request, ())
        return await answer(request, await read_json(request))

    upload = {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {
            "file": {
                "type": "string",
                "format": "binary",
                "description": "Its name ends in .csv, .tsv, .jsonl or .parquet.",
            }
        },
    }

    @router.post(
        "/score/file",
        operation_id="score_file",
        summary="Score a file of texts",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {"schema": upload},
                },
            }
        },
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "The file, every column kept, with the four scores, `label`, "
                "`windows` and `error` added.",
                "content": {
                    "text/csv": {"schema": {"type": "string"}},
                    "text/tab-separated-values": {"schema": {"type": "string"}},
                    "application/jsonl": {"schema": {"type": "string"}},
                    "application/vnd.apache.parquet": {
                        "schema": {"type": "string", "format": "binary"}
                    },
                },
            },
            **SCORING,
        },
    )
    async def score_file(request: Request) -> Response:
        """CSV, TSV, JSONL or Parquet with a `text` column; it comes back in the same format.

        A row that can't be scored gets its `error`.
        """
        read_query(request, ())
        model: ServedModel = request.app.state.model
        model.require_ready()
        file = await receive_upload(request)
        try:
            table = open_table(file, settings)
            await asyncio.to_thread(table.check)
        except BaseException:
            await file.close()
            raise
        return StreamingResponse(
            score_table(table, model, metrics),
            media_type=table.media_type,
            headers={"Content-Disposition": f'attachment; filename="scored.{table.suffix}"'},
            # Also when the client goes away: the temporary file must not outlive the reply.
            background=BackgroundTask(file.close),
        )

    return router
