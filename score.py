"""Score files of tweets: ``python score.py IN OUT``; see ``--help`` and docs/bulk.md."""

from __future__ import annotations

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
    if code == 130:
        # A thread may be in the middle of a pass, for which nobody has to wait: nothing is lost.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
