"""Stands in for an IPFS node: its HTTP API, as far as snet-cli and both SDKs use it.

Content ids are those of IPFS for files that fit into one block.
"""

from __future__ import annotations

import hashlib
from typing import Final

from aiohttp import BodyPartReader, web
from typing_extensions import override

from tests.support.stand_ins.app_thread import AppThread

VERSION: Final = "0.4.23"  # the Python client refuses 0.5 and later
MAX_BLOCK_BYTES: Final = 256 * 1024
SHA256: Final = b"\x12\x20"  # the hash function and the length of its digests
BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
REGULAR_FILE: Final = b"\x08\x02"


class IpfsNode(AppThread):
    """Keeps files in memory until the ``with`` block ends."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, bytes] = {}

    @property
    def multiaddress(self) -> str:
        """Where the node is, in the form that the Python client takes."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return f"/ip4/{host}/tcp/{port}/http"

    def add(self, content: bytes) -> str:
        """Keep a file; return its content id."""
        content_id = encode_base58(SHA256 + hashlib.sha256(block(content)).digest())
        self._files[content_id] = content
        return content_id

    @override
    def make_app(self) -> web.Application:
        app = web.Application()
        for name, answer in (
            ("version", self._version),
            ("add", self._add),
            ("cat", self._cat),
            ("block/get", self._get_block),
        ):
            app.router.add_route("*", f"/api/v0/{name}", answer)
        return app

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"Version": VERSION})

    async def _add(self, request: web.Request) -> web.Response:
        part = await (await request.multipart()).next()
        if not isinstance(part, BodyPartReader):
            raise web.HTTPBadRequest
        content_id = self.add(bytes(await part.read()))
        return web.json_response({"Name": content_id, "Hash": content_id})

    async def _cat(self, request: web.Request) -> web.Response:
        return web.Response(body=self._find(request))

    async def _get_block(self, request: web.Request) -> web.Response:
        return web.Response(body=block(self._find(request)))

    def _find(self, request: web.Request) -> bytes:
        try:
            return self._files[request.query["arg"].removeprefix("/ipfs/")]
        except KeyError:
            raise web.HTTPNotFound from None


def block(content: bytes) -> bytes:
    """Return the block that holds a file: two protocol buffers, one in the other.

    Raises ``ValueError`` if the file needs more than one block.
    """
    if len(content) > MAX_BLOCK_BYTES:
        raise ValueError("the file needs more than one block")
    size = encode_varint(len(content))
    file = REGULAR_FILE + b"\x12" + size + content + b"\x18" + size
    return b"\x0a" + encode_varint(len(file)) + file


def encode_varint(number: int) -> bytes:
    """Return a protocol buffer's variable-length integer."""
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def encode_base58(data: bytes) -> str:
    """Return Bitcoin's base-58 text of bytes that do not start with zero."""
    number, text = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, len(BASE58))
        text = BASE58[digit] + text
    return text
