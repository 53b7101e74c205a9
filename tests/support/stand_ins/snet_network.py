"""Stands in for what snet-cli and snet-sdk reach over the network when metadata are made.

An IPFS node that keeps what it is given, under the content ids that a real one gives, and an
Ethereum node whose registry is empty. Both answer on one port of this machine.
"""

from __future__ import annotations

import hashlib
import json
import threading
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

SEPOLIA: Final = 11155111
BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# What the contract returns for an organization that is not registered: false, no id, and empty
# bytes, owner and lists.
NO_ORGANIZATION: Final = "".join(f"{word:064x}" for word in (0, 0, 0xC0, 0, 0xE0, 0x100, 0, 0, 0))


class SnetNetwork:
    """The running stand-in. ``files`` holds what was added, by content id."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.blocks: dict[str, bytes] = {}
        network = self

        class Handler(_Handler):
            """Answers for this network."""

            kept = network

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.port: int = self._server.server_address[1]
        self.rpc_url = f"http://127.0.0.1:{self.port}"
        self.ipfs_address = f"/ip4/127.0.0.1/tcp/{self.port}/http"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, content: bytes) -> str:
        """Keep a file; return its content id."""
        block = file_block(content)
        name = content_id(block)
        self.files[name], self.blocks[name] = content, block
        return name


class _Handler(BaseHTTPRequestHandler):
    kept: SnetNetwork

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = self._read_chunks()
        url = urlsplit(self.path)
        asked = parse_qs(url.query).get("arg", [""])[0]
        match url.path:
            case "/api/v0/version":
                self._send_json({"Version": "0.4.23"})
            case "/api/v0/add":
                content = first_part(self.headers["Content-Type"], body)
                name = self.kept.add(content)
                self._send_json({"Name": name, "Hash": name, "Size": str(len(content))})
            case "/api/v0/cat":
                self._send(self.kept.files[asked], "application/octet-stream")
            case "/api/v0/block/get":
                self._send(self.kept.blocks[asked], "application/octet-stream")
            case _:
                call = json.loads(body)
                result = {
                    "net_version": str(SEPOLIA),
                    "eth_chainId": hex(SEPOLIA),
                    "eth_call": f"0x{NO_ORGANIZATION}",
                }[call["method"]]
                self._send_json({"jsonrpc": "2.0", "id": call["id"], "result": result})

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send_json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Keep quiet."""


def first_part(content_type: str, body: bytes) -> bytes:
    """Return the content of the first part of a multipart body."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    message: Message = BytesParser(policy=HTTP).parsebytes(head + body)
    (part, *_) = message.iter_parts()  # type: ignore[attr-defined]
    content: bytes = part.get_payload(decode=True)
    return content


def file_block(content: bytes) -> bytes:
    """Return the block that IPFS makes of a file that fits into one: UnixFS within a DAG node."""
    size = varint(len(content))
    unixfs = b"\x08\x02\x12" + size + content + b"\x18" + size
    return b"\x0a" + varint(len(unixfs)) + unixfs


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def content_id(block: bytes) -> str:
    """Return a block's content id, version 0: its SHA-256 as a multihash, in base 58."""
    number = int.from_bytes(b"\x12\x20" + hashlib.sha256(block).digest())
    text = ""
    while number:
        number, rest = divmod(number, 58)
        text = BASE58[rest] + text
    return text
