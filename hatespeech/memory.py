"""How much memory this process holds."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024
_PAGES: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the process's resident memory; where the system doesn't tell, the most it has had."""
    try:
        return int(_PAGES.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
