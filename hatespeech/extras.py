"""Packages that only a part of the program needs: what to say if they are missing.

No index has this project, so no advice names it there: anybody could register the name.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Final

from hatespeech.paths import IS_CHECKOUT, PACKAGE

DISTRIBUTION: Final = "hate-speech-detection"


def how_to_install(extra: str | None) -> str:
    """Return what installs an extra, or what everything needs."""
    if not IS_CHECKOUT:
        wanted = "." if extra is None else f"'.[{extra}]'"
        return f"pip install {wanted} in a checkout"
    name = f"requirements-{extra}.txt"  # server and worker have none: the first file holds both
    file = name if (PACKAGE.parent / name).is_file() else "requirements.txt"
    return f"pip install -r {file}"


def run_or_advise(work: Callable[[], int], prog: str, extra: str | None) -> int:
    """Run a program that needs an extra; return its exit code, 1 if something is not installed."""
    missing = missing_packages(extra)
    if not missing:
        try:
            return work()
        except ModuleNotFoundError as exc:
            if exc.name is None or exc.name.startswith("hatespeech"):
                raise
            missing = [exc.name]
    sys.stderr.write(f"error: {prog} needs {', '.join(missing)}: {how_to_install(extra)}\n")
    return 1


def missing_packages(extra: str | None) -> list[str]:
    """Return the packages of an extra that are not installed; a checkout can't tell."""
    try:
        requirements = [] if IS_CHECKOUT else metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    names = [
        re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        for requirement in requirements
        if extra and f'extra == "{extra}"' in requirement
    ]
    return [name for name in names if not is_installed(name)]


def is_installed(distribution: str) -> bool:
    """Say whether a distribution is installed, in whatever version."""
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
