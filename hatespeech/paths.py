"""Where the package finds its own files and the published checkpoint; hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parent
IS_CHECKOUT: Final = (PACKAGE.parent / "test_input.json").is_file()
# The checkout that holds the package or, if the package is installed, the current folder.
ROOT: Final = PACKAGE.parent if IS_CHECKOUT else Path.cwd()

EMBEDDED: Final = PACKAGE / "checkpoints" / "mini"
PUBLISHED: Final = ROOT / "checkpoints" / "bertweet-large"  # download.py writes it


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
