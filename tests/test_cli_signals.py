"""Handlers of signals that a command puts back."""

from __future__ import annotations

import signal

import pytest

from hatespeech.cli import interruptible, restored_signals


def test_handlers_are_put_back_at_the_end_or_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with restored_signals(signal.SIGTERM) as restore:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        restore()
        assert signal.getsignal(signal.SIGTERM) is before
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_must_be_tidied_up_first_is_interrupted_by_an_exception(
    number: signal.Signals,
) -> None:
    with restored_signals(signal.SIGINT, signal.SIGTERM):

        def of_the_door(_number: int, _frame: object) -> None:
            raise AssertionError("this would end the process")

        signal.signal(number, of_the_door)
        with pytest.raises(KeyboardInterrupt), interruptible():
            signal.raise_signal(number)
        assert signal.getsignal(number) is of_the_door


def test_what_a_shell_has_ignored_stays_ignored() -> None:
    with restored_signals(signal.SIGINT):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with interruptible():
            signal.raise_signal(signal.SIGINT)
