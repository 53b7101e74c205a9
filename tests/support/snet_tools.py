"""snet-cli and snet-sdk, each in an environment of its own that is kept between runs.

They pin many packages, so they have no place in the tests' own environment. The first run installs
them, which takes about two minutes; later runs find them in the user's cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

CLI: Final = "snet-cli==3.1.1"
SDK: Final = "snet-sdk==6.0.0"

CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hate-speech-detection-tests"
)


def installed(requirement: str) -> Path:
    """Return the Python of an environment that holds a requirement; install it if there is none.

    Runs beside each other wait for the first one. What a broken run left is made anew.
    """
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / f"{requirement.replace('==', '-')}-{python}"
    complete = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
            pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "install", "-q"]
            subprocess.run([*pip, requirement], check=True, timeout=600)
            complete.touch()
    return folder / "bin" / "python"
