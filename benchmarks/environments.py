"""Virtual environments for what others' software needs and this project does not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def interpreter(requirements: Path) -> Path:
    """Return the interpreter of an environment with these pins; make it if it does not exist.

    It lies in the temporary folder. Its name depends on the user and on the pins.
    """
    pins = requirements.read_bytes()
    what = requirements.stem.removeprefix("requirements-")
    name = f"benchmarks-{what}-{os.getuid()}-{hashlib.sha256(pins).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise SystemExit(f"error: {folder} belongs to somebody else")
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"Installing {what} into {folder} (may take minutes) ...", file=sys.stderr)
        pinned = [line for line in pins.decode().splitlines() if line.startswith("torch==")]
        index = os.environ.get("TORCH_INDEX_URL")
        from_index = ["--index-url", index] if index else []
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        commands = [[sys.executable, "-m", "venv", str(folder)]]
        if pinned:
            commands.append([*pip, *from_index, *pinned])
        for command in (*commands, [*pip, "-r", str(requirements)]):
            subprocess.run(command, check=True)
        complete.touch()
    return python
