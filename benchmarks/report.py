"""What every benchmark shares: taking turns, comparing, and printing the result.

A figure is a ratio of two things that were run in turn, round by round, on the same machine within
the same minutes. Such machines are noisy, so only what is measured together can be compared. The
ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

from hatespeech.cli import make_parser

# What both sides measured in each round: ours, theirs.
Pair = tuple[list[float], list[float]]

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


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rate(work: Callable[[str], object], texts: Sequence[str]) -> float:
    """Return the texts a second of a function that takes one text."""
    return len(texts) / seconds(lambda: deque(map(work, texts), maxlen=0))


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the value that so many percent of the values do not exceed."""
    ranked = sorted(values)
    return ranked[-(-len(ranked) * percent // 100) - 1]


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Pair:
    """Measure both, once each a round; the order alternates, so that neither is always first."""
    pair: Pair = ([], [])
    sides = [(ours, pair[0]), (theirs, pair[1])]
    for index in range(rounds):
        for measure, values in sides[:: 1 if index % 2 else -1]:
            values.append(measure())
    return pair


def at_least(
    name: str, against: str, pair: Pair, target: float | None = None, **raw: Any
) -> Figure:
    """Compare rates, where more is better: ``ours / theirs``."""
    return _compare(name, against, pair, "at least", target, raw)


def at_most(name: str, against: str, pair: Pair, target: float | None = None, **raw: Any) -> Figure:
    """Compare costs, where less is better: ``ours / theirs``."""
    return _compare(name, against, pair, "at most", target, raw)


def _compare(
    name: str, against: str, pair: Pair, words: str, target: float | None, raw: Mapping[str, Any]
) -> Figure:
    ratio = median(a / b for a, b in zip(*pair, strict=True))
    if target is None:
        return Figure(name, against, ratio, "", None, shown_raw(pair, **raw))
    met = ratio >= target if words == "at least" else ratio <= target
    return Figure(name, against, ratio, f"{words} {target:g}", met, shown_raw(pair, **raw))


def shown_raw(pair: Pair, **more: Any) -> dict[str, Any]:
    """Return what a figure shows beside its ratio: medians, ``more``, and all rounds."""
    ours, theirs = pair
    return {
        "ours": round(median(ours), 4),
        "theirs": round(median(theirs), 4),
        **more,
        "rounds": [[round(value, 4) for value in both] for both in zip(*pair, strict=True)],
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
    made = make_parser(None, description)
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
