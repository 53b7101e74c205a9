"""What the kernel says of this process's resident memory."""

from pathlib import Path


def resident(field: str) -> int:
    """Return `VmRSS` or its high-water mark `VmHWM`, in bytes; all kinds of pages count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status lacks {field}")


def reset_peak() -> int:
    """Lower the high-water mark to what is resident now, and return that, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")
