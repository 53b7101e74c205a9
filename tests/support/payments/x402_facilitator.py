"""A facilitator over PyPI's x402, which runs in an environment of its own, without this project.

    python x402_facilitator.py PORT RPC_URL        FACILITATOR_KEY in the environment

``POST /knobs`` sets how it misbehaves, each for ``verify`` and for ``settle``:

    settle_status    answer this status instead
    settle_before    wait so many seconds before the work
    settle_after     wait so many seconds after it
    settle_hangs_up  work, and close the connection without an answer
    settle_exits     answer, and end the process
    settle_times     how often to do so; always, if left out

``GET /calls`` returns and forgets what it was sent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from x402 import x402FacilitatorSync
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.mechanisms.evm.signers import FacilitatorWeb3Signer
from x402.schemas import PaymentPayload, PaymentRequirements

NETWORK = "eip155:84532"


class State:
    """What the handlers share."""

    knobs: ClassVar[dict[str, Any]] = {}
    calls: ClassVar[list[dict[str, Any]]] = []
    one_at_a_time = threading.Lock()  # transactions of one account have numbers in order


def main() -> None:
    port, rpc = int(sys.argv[1]), sys.argv[2]
    facilitator = x402FacilitatorSync()
    signer = FacilitatorWeb3Signer(private_key=os.environ["FACILITATOR_KEY"], rpc_url=rpc)
    register_exact_evm_facilitator(facilitator, signer, networks=NETWORK)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/calls":
                calls, State.calls = State.calls, []
                self.answer(200, calls)
            else:
                self.answer(200, facilitator.get_supported().model_dump(by_alias=True))

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length))
            question = self.path.rpartition("/")[2]
            if question == "knobs":
                State.knobs = body
                self.answer(200, {})
                return
            State.calls.append({"call": question, "body": body, "headers": dict(self.headers)})
            knobs = dict(State.knobs)
            if f"{question}_times" in knobs:
                if knobs[f"{question}_times"] <= 0:
                    knobs = {}
                else:
                    State.knobs[f"{question}_times"] -= 1
            status = knobs.get(f"{question}_status")
            if status:
                self.answer(status, {"error": "told to"})
                return
            time.sleep(knobs.get(f"{question}_before", 0))
            with State.one_at_a_time:
                done = getattr(facilitator, question)(
                    PaymentPayload.model_validate(body["paymentPayload"]),
                    PaymentRequirements.model_validate(body["paymentRequirements"]),
                )
            time.sleep(knobs.get(f"{question}_after", 0))
            if knobs.get(f"{question}_hangs_up"):
                self.close_connection = True
                return
            self.answer(200, done.model_dump(by_alias=True, exclude_none=True))
            if knobs.get(f"{question}_exits"):
                os._exit(0)

        def answer(self, status: int, body: Any) -> None:
            data = json.dumps(body, default=str).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # who asked has given up

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base's name
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
