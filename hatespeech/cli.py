"""What the command lines share: parsers, numbers, lines past a progress bar, signals, exits."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import NoReturn


def make_parser(
    prog: str | None,
    description: str | None,
    epilog: str = "",
    kind: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Return a parser whose help keeps its line breaks.

    ``prog`` is how the program was called: a script such as ``score.py``, or ``hatespeech score``;
    ``None`` leaves it to ``argparse``. In the epilog ``COMMAND`` becomes what starts the program.
    """
    command = f"python {prog}" if prog and prog.endswith(".py") else str(prog)
    return kind(
        prog=prog,
        description=description,
        epilog=epilog.replace("COMMAND", command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def parse_one_source(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Read the command line of a program that takes one IN; exit with 2 if it makes no sense.

    A shell turns a glob without quotes into the names of all its files.
    """
    options, others = parser.parse_known_args(arguments)
    if others:
        advice = "" if others[0].startswith("-") else "; IN is one: put a glob in quotes"
        parser.error(f"unrecognized arguments: {' '.join(others)}{advice}")
    return options


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for ``argparse`` that takes whole numbers from ``least`` to ``most``."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(value: str) -> int:
        number = int(value) if value.isdecimal() else -1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {bounds}")
        return number

    return read


def say(message: str) -> None:
    """Write a line to standard error, past any progress bar."""
    from tqdm import tqdm  # not every command has a progress bar

    tqdm.write(message, file=sys.stderr)


@contextlib.contextmanager
def restored_signals(*numbers: signal.Signals) -> Iterator[Callable[[], None]]:
    """Put the handlers of these signals back at the end.

    Yields a function that puts them back immediately.
    """
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield restore
    finally:
        restore()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`KeyboardInterrupt` at Ctrl-C and SIGTERM, for what must be tidied up first."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with restored_signals(signal.SIGINT, signal.SIGTERM):
        signal.signal(signal.SIGTERM, interrupt)
        heed_interrupts()
        yield


def heed_interrupts() -> None:
    """Have Ctrl-C raise :class:`KeyboardInterrupt` again, unless a shell has it ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(code: int) -> NoReturn:
    """End the process.

    After a failure it does not wait for threads: one may be in the middle of a pass or a request,
    whose result nothing needs any more.
    """
    if code:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # the caller closed it
                with contextlib.suppress(OSError):
                    stream.flush()
        os._exit(code)
    sys.exit(0)
