"""Where every program starts and ends.

Importing this loads nothing that Python itself has not loaded. So from nearly the first line of
ours on, Ctrl-C ends the process without a traceback.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended


def enter(program: Callable[[], int], prog: str, extra: str | None = None) -> NoReturn:
    """Run a program, and end the process with its exit code.

    ``program`` imports what it runs, and may need an ``extra``. Ctrl-C ends the process in silence,
    unless the program sets a handler of its own.
    """
    try:
        import signal

        # A shell has a job in the background ignore it.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end)

        from hatespeech.cli import leave
        from hatespeech.extras import run_or_advise

        leave(run_or_advise(program, prog, extra))
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)


def end(_number: int, _frame: FrameType | None) -> None:
    """End the process; an exception could come up inside a library, which swallows or prints it."""
    os._exit(INTERRUPTED)
