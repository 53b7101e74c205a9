"""The handler that Runpod's Hub looks for: starts the worker, ``app.py`` in the repository's root.

``app.py`` calls ``runpod.serverless.start``. It gets the arguments and the environment, and its
exit code becomes this process's.
"""

import os
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent.parent / "app.py"

os.execv(sys.executable, [sys.executable, "-u", str(APP), *sys.argv[1:]])  # noqa: S606 - no shell is the point
