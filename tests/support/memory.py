"""What the kernel says of a process's resident memory."""

from pathlib import Path


def resident(field: str, process: Path = Path("/proc/self")) -> int:
    """Return `VmRSS` or its high-water mark `VmHWM`, in bytes; all kinds of pages count.

    Raises :class:`LookupError` for a process that is ending, which has neither.
    """
    for line in (process / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{process}/status lacks {field}")


def reset_peak() -> int:
    """Lower the high-water mark to what is resident now, and return that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")
