"""Virtual environments that hold chosen packages of this one, without a download."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def with_requirements(texts: Iterable[str]) -> set[str]:
    """Return the names of all distributions that requirements need here, themselves included.

    Raises ``importlib.metadata.PackageNotFoundError`` if one is not installed.
    """
    closed: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in texts]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in closed:
                continue
            closed.add((name, extra))
            waiting += [
                needed
                for needed in map(Requirement, importlib.metadata.requires(name) or [])
                if needed.marker is None or needed.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in closed}


def make_environment(folder: Path, distributions: Iterable[str]) -> Path:
    """Make a virtual environment that holds these distributions as links; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    base = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=base))
    for name in distributions:
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}
        for top in tops:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    return folder / "bin" / "python"
