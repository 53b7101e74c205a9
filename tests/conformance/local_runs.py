"""Local runs of the worker, one after another in one process.

Each line of standard input is a JSON list of arguments of ``app.py``; the line of standard output
in its place is ``[exit code, standard output, standard error]``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from hatespeech.worker import command as app


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Run ``app.main``, which writes to ``sys.stdout.buffer``."""
    raw, err = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(raw, encoding="utf-8")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.main(arguments)
    out.flush()
    return code, raw.getvalue().decode("utf-8"), err.getvalue()


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(json.loads(line))) + "\n")
