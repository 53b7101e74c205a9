"""Standard input as IN and standard output as OUT, by way of files in a temporary folder.

A run reads its input more than once: it finds a bad row before it scores the first one. So standard
input is copied to a file first. Standard output gets OUT when it is complete: what follows in a
pipe never works on half a file, and a run that fails writes nothing. There is nothing to resume
from, because the folder ends with the process; if OUT is a file, OUT.partial is beside it as ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hatespeech.bulk import RunError
from hatespeech.bulk.places import Place
from hatespeech.formats.names import Format

STANDARD: Final = "-"
COPIED_BYTES: Final = 1024 * 1024
LARGEST_TIME: Final = 2**60  # nanoseconds: a date before 2007


@contextlib.contextmanager
def standard_streams(
    source: str, out: str, input_format: Format | None, output_format: Format | None
) -> Iterator[tuple[str, str]]:
    """Yield IN and OUT with files in place of ``-``; at the end, copy OUT to standard output.

    Raises :class:`RunError` if a format is missing, or is given where a name says it.
    """
    if output_format is not None and out != STANDARD:
        raise RunError("--output-format: is for standard output; OUT's name says its format")
    if STANDARD not in (source, out):
        yield source, out
        return
    # A shell can close them (<&- and >&-), as can what starts this program.
    if source == STANDARD and sys.stdin is None:
        raise RunError("standard input: is closed")
    if out == STANDARD and sys.stdout is None:
        raise RunError("standard output: is closed")
    if source == STANDARD and input_format is None:
        raise RunError("IN is standard input, which has no name: --input-format says its format")
    with tempfile.TemporaryDirectory(prefix="hatespeech-") as name:
        folder = Path(name)
        if source == STANDARD:
            source = str(folder / "standard input")
            _copy_input(Path(source))
        if out == STANDARD:
            form = output_format or input_format or Format.of(Place.of(source).name)
            ending = form and form.output("")[1].ending
            if ending is None:
                raise RunError(
                    "OUT is standard output, which has no name: --output-format says its format"
                )
            yield source, str(folder / f"standard output{ending}")
            _copy_output(folder / f"standard output{ending}")
        else:
            yield source, out


def _copy_input(copy: Path) -> None:
    """Copy standard input; equal content gives an equal time, so that the same input resumes."""
    content = hashlib.sha256()
    with copy.open("wb") as file:
        while data := sys.stdin.buffer.read(COPIED_BYTES):
            content.update(data)
            file.write(data)
    os.utime(copy, ns=(0, int.from_bytes(content.digest()[:8]) % LARGEST_TIME))


def _copy_output(file: Path) -> None:
    try:
        with file.open("rb") as done:
            shutil.copyfileobj(done, sys.stdout.buffer, COPIED_BYTES)
        sys.stdout.buffer.flush()
    except OSError as exc:  # what follows in the pipe has ended, or the disk is full
        raise RunError(f"standard output: {exc.strerror}") from None
