"""Files that browsers may keep: scripts, styles and icons of the pages."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

CACHE_FOR_AN_HOUR = {"Cache-Control": "public, max-age=3600"}


def add_file(router: APIRouter, path: str, content: bytes | str, media_type: str) -> None:
    """Answer ``GET path`` with ``content``."""

    @router.get(path)
    async def static_file() -> Response:
        return Response(content, media_type=media_type, headers=CACHE_FOR_AN_HOUR)
