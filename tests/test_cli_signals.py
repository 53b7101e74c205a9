"""Handlers of signals that a command puts back."""

from __future__ import annotations

import signal

from hatespeech.cli import restored_signals


def test_handlers_are_put_back_at_the_end_or_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with restored_signals(signal.SIGTERM) as restore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        restore()
        assert signal.getsignal(signal.SIGTERM) is before
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before
