"""The path of a request as the routes know it, without the prefix at which a proxy serves us."""

from __future__ import annotations

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """Return the path without ``root_path``.

    uvicorn puts ``ROOT_PATH`` in front of every path, because the ASGI standard wants it there. So
    a proxy that leaves the prefix in place makes it stand there twice: then both are removed.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    while root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :]
    return path or "/"
