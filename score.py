"""Score files of tweets: ``python score.py IN OUT``; see ``--help`` and docs/bulk.md."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    from utils.libraries import set_library_defaults

    set_library_defaults(os.environ)
    from bulk.command import main as command

    return command(arguments)


if __name__ == "__main__":
    code = main()
    if code:
        # The engine is closed, but a thread may be in the middle of a pass or a request, for which
        # an interpreter on its way out would wait; nobody has to: nothing is lost.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by the caller
                with contextlib.suppress(OSError):
                    stream.flush()
        os._exit(code)
