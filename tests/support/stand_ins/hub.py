"""Hugging Face's hub as far as an upload and a download of a model need it.

Large files go by the protocol of Git LFS; the library must be told not to use Xet
(``HF_HUB_DISABLE_XET=1``).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from aiohttp import web

from tests.support.stand_ins.app_thread import AppThread

TOKEN: Final = "hf_TOKENOFTHETESTS0123456789"
LARGE_BYTES: Final = 100_000


class Hub(AppThread):
    """One hub, empty at first. What is public may be read by tests at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.private: dict[str, bool] = {}  # by repository
        self.files: dict[str, dict[str, bytes]] = {}  # by repository and name
        self.messages: list[str] = []
        self._objects: dict[str, bytes] = {}  # by SHA-256

    @property
    def environment(self) -> dict[str, str]:
        """What makes the hub's library use this one, and write to it."""
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=100_000_000, middlewares=[self._guard])
        app.router.add_post("/api/repos/create", self._create)
        app.router.add_post("/api/validate-yaml", self._validate)
        model = "/api/models/{org}/{name}"
        app.router.add_get(model + "/revision/{revision}", self._info)
        app.router.add_get(model + "/tree/{revision}", self._tree)
        app.router.add_post(model + "/preupload/{revision}", self._preupload)
        app.router.add_post(model + "/commit/{revision}", self._commit)
        app.router.add_post("/{org}/{name}.git/info/lfs/objects/batch", self._batch)
        app.router.add_put("/objects/{oid}", self._put)
        app.router.add_get("/{org}/{name}/resolve/{revision}/{file}", self._resolve)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        signed = request.path.startswith("/objects/")  # the URL is the permission
        if not signed and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"error": "Invalid credentials"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        repository = "/".join(filter(None, [body.get("organization"), body["name"]]))
        url = {"url": f"{self.url}/{repository}", "id": repository}
        if repository in self.private:
            return web.json_response(
                {"error": "You already created this model repo", **url}, status=409
            )
        self.private[repository] = body.get("visibility") == "private"
        self.files[repository] = {}
        return web.json_response(url)

    async def _validate(self, _request: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})

    def _repository(self, request: web.Request) -> str:
        return f"{request.match_info['org']}/{request.match_info['name']}"

    def _commit_of(self, repository: str) -> str:
        names = json.dumps(
            {
                name: hashlib.sha256(data).hexdigest()
                for name, data in self.files[repository].items()
            }
        )
        return hashlib.sha1(names.encode()).hexdigest()

    async def _info(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        siblings = [{"rfilename": name} for name in self.files[repository]]
        return web.json_response(
            {"id": repository, "sha": self._commit_of(repository), "siblings": siblings}
        )

    async def _tree(self, request: web.Request) -> web.Response:
        files = self.files[self._repository(request)].items()
        return web.json_response(
            [
                {
                    "type": "file",
                    "path": name,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for name, data in files
            ]
        )

    async def _preupload(self, request: web.Request) -> web.Response:
        body = await request.json()
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= LARGE_BYTES else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in body["files"]
        ]
        return web.json_response({"files": modes})

    async def _batch(self, request: web.Request) -> web.Response:
        body = await request.json()
        objects = [
            {
                **wanted,
                "actions": {
                    "upload": {"href": f"{self.url}/objects/{wanted['oid']}", "header": {}}
                },
            }
            for wanted in body["objects"]
        ]
        return web.json_response({"transfer": "basic", "objects": objects})

    async def _put(self, request: web.Request) -> web.Response:
        data = await request.read()
        oid = request.match_info["oid"]
        if hashlib.sha256(data).hexdigest() != oid:
            return web.Response(status=400)
        self._objects[oid] = data
        return web.Response()

    async def _commit(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        for line in (await request.text()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.messages.append(value["summary"])
            elif entry["key"] == "file":
                self.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                self.files[repository][value["path"]] = self._objects[value["oid"]]
        commit = self._commit_of(repository)
        url = f"{self.url}/{repository}/commit/{commit}"
        return web.json_response({"commitUrl": url, "commitOid": commit, "hookOutput": ""})

    async def _resolve(self, request: web.Request) -> web.Response:
        repository = self._repository(request)
        data = self.files[repository].get(request.match_info["file"])
        if data is None:
            return web.json_response(
                {"error": "Entry not found"}, status=404, headers={"X-Error-Code": "EntryNotFound"}
            )
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": self._commit_of(repository),
        }
        return web.Response(body=data, headers=headers)
