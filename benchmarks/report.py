"""What every benchmark shares: taking turns, comparing, and printing the result.

A figure is a ratio of two things that were run in turn, round by round, on the same machine within
the same minutes. Such machines are noisy, so only what is measured together can be compared. The
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

PACKAGES: Final = ("torch", "transformers", "tokenizers", "runpod")


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, against what, and the result."""

    name: str
    against: str
    ratio: float
    target: str  # such as "at least 2.2"; "" where there is none
    met: bool | None  # None where there is no target
    raw: Mapping[str, Any] = field(default_factory=dict)  # medians and rounds, with units in keys


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Measure both, once each a round; the order alternates, so that neither is always first."""
    left: list[float] = []
    right: list[float] = []
    for index in range(rounds):
        for measure, values in ((ours, left), (theirs, right))[:: 1 if index % 2 else -1]:
            values.append(measure())
    return left, right


def at_least(
    name: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    target: float | None,
    **raw: Any,
) -> Figure:
    """Compare rates, where more is better: ``ours / theirs``."""
    aim = ("at least", operator.ge, target)
    return _compare(name, against, ours, theirs, aim, raw)


def at_most(
    name: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    target: float | None,
    **raw: Any,
) -> Figure:
    """Compare costs, where less is better: ``ours / theirs``."""
    aim = ("at most", operator.le, target)
    return _compare(name, against, ours, theirs, aim, raw)


def _compare(
    name: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    aim: tuple[str, Callable[[float, float], bool], float | None],
    raw: Mapping[str, Any],
) -> Figure:
    words, reaches, target = aim
    ratio = median(a / b for a, b in zip(ours, theirs, strict=True))
    wanted = "" if target is None else f"{words} {target:g}"
    met = None if target is None else reaches(ratio, target)
    return Figure(name, against, ratio, wanted, met, _raw(ours, theirs, raw))


def _raw(ours: Sequence[float], theirs: Sequence[float], more: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "ours": round(median(ours), 4),
        "theirs": round(median(theirs), 4),
        **more,
        "rounds": [[round(value, 4) for value in pair] for pair in zip(ours, theirs, strict=True)],
    }


def machine() -> dict[str, str]:
    """Describe this machine."""
    return {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def processor() -> str:
    """Return the processor's name, as far as the system knows it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of what every benchmark takes."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--rounds", type=positive, default=rounds, metavar="N", help="of each (%(default)s)"
    )
    made.add_argument(
        "--json", type=Path, metavar="FILE", help="also write figures and machine to FILE"
    )
    return made


def positive(value: str) -> int:
    """Read a whole number of at least one."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def publish(figures: Sequence[Figure], path: Path | None) -> None:
    """Print the figures and the machine; also write them to ``path``, if given."""
    where = machine()
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    for figure in figures:
        print(f"\n{figure.name}\n  against {figure.against}")
        for key, value in figure.raw.items():
            print(f"  {key}: {value}")
        verdict = {None: "", True: ": met", False: ": NOT met"}[figure.met]
        print(f"  ratio {figure.ratio:.3f}" + (f" ({figure.target}{verdict})" if verdict else ""))
    if path is not None:
        document = {"machine": where, "figures": [asdict(figure) for figure in figures]}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
