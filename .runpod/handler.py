"""Where Runpod's Hub looks for a handler: starts the worker, ``app.py`` at the repository's root.

That one calls ``runpod.serverless.start``; arguments, environment and exit code are its own.
"""

import os
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent.parent / "app.py"

os.execv(sys.executable, [sys.executable, "-u", str(APP), *sys.argv[1:]])  # noqa: S606 - no shell is the point
