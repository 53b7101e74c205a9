"""Facilitators as processes of their own, and how tests make them slow or broken."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import requests

from tests.support.cached_tools import python_of
from tests.support.payments.payment_chain import PaymentChain
from tests.support.ports import free_port, listens
from tests.support.processes.worker import wait_until

X402: Final = "x402[evm,extensions,httpx,requests]==2.25.0"
SCRIPT: Final = Path(__file__).with_name("x402_facilitator.py")


class X402Facilitator:
    """PyPI's x402 on a chain, until the ``with`` block ends."""

    def __init__(self, chain: PaymentChain, folder: Path) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._errors = folder / "facilitator.err"
        self._command = [str(python_of(X402)), "-W", "ignore", str(SCRIPT), str(self._port)]
        self._command.append(chain.url)
        self._key = chain.facilitator.key

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, on the port that it has had before."""
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                self._command,
                env={"PATH": os.environ["PATH"], "FACILITATOR_KEY": self._key},
                stderr=errors,
                stdout=errors,
            )
        wait_until(lambda: listens(self._port), "the facilitator", watch=self._require_running)

    def stop(self) -> None:
        """End it, so that connections are refused."""
        self._process.terminate()
        self.wait()

    def wait(self) -> None:
        """Return once it has ended."""
        self._process.wait(30)

    def _require_running(self) -> None:
        assert self._process.poll() is None, self._errors.read_text()[-4000:]

    @contextlib.contextmanager
    def knobs(self, **knobs: Any) -> Iterator[None]:
        """Let it misbehave."""
        self.turn(**knobs)
        try:
            yield
        finally:
            self.turn()

    def turn(self, **knobs: Any) -> None:
        """Let it misbehave until told otherwise."""
        requests.post(f"{self.url}/knobs", json=knobs, timeout=60).raise_for_status()

    def calls(self) -> list[dict[str, Any]]:
        """Return what it was sent since the last time, and forget it."""
        reply = requests.get(f"{self.url}/calls", timeout=60)
        calls: list[dict[str, Any]] = json.loads(reply.text)
        return calls
