"""The conformance suite: requests and what every front must answer, as data in ``cases.json``.

A case has a ``name``, the ``input`` of the contract, and the ``reply`` or the ``error`` it gives.
``not_over`` names the fronts that can't carry it, and why. All cases are sent with ``settings`` in
the service's environment. Replies must match exactly, the order of keys apart, but for

- numbers under the four labels and ``toxic``, which may differ by ``tolerance``;
- ``timing``, of which only the shape counts: two numbers that are not negative;
- ``versions``, three strings, which every reply has and the file leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from tests.paths import EMBEDDED

CASES: Final = Path(__file__).with_name("cases.json")
RECORD: Final = "python -m tests.conformance.record"

# By hand, not from hatespeech.contract, which is what is being tested.
LABELS: Final = ("hate", "abusing", "neutral", "spam")
SCORES: Final = (*LABELS, "toxic")

VERSIONS: Final = ("service", "checkpoint", "normaliser")

SHOWN_CHARS: Final = 100


@dataclass(frozen=True)
class Case:
    """One request; exactly one of ``reply`` and ``error`` is set (none before it is recorded)."""

    name: str
    input: Any
    reply: Mapping[str, Any] | None = None
    error: Mapping[str, str] | None = None  # code and message
    not_over: Mapping[str, str] = field(default_factory=dict)
    own_process: str | None = None  # how a local run of its own gets it; see fronts.py


@dataclass(frozen=True)
class Suite:
    """All cases and what they have in common."""

    model: str
    tolerance: float
    settings: Mapping[str, int]
    http_status: Mapping[str, int]
    cases: Sequence[Case]

    def environment(self) -> dict[str, str]:
        """Return the settings as environment variables."""
        return {name: str(value) for name, value in self.settings.items()}

    def case(self, name: str) -> Case:
        """Return the case of this name."""
        return next(case for case in self.cases if case.name == name)


def read_document() -> dict[str, Any]:
    """Return what ``cases.json`` holds."""
    document: dict[str, Any] = json.loads(CASES.read_text(encoding="utf-8"))
    return document


def load_suite(document: Mapping[str, Any]) -> Suite:
    """Return the suite of a document."""
    cases = [Case(**case) for case in document["cases"]]
    cases = [
        replace(case, reply={**case.reply, "versions": dict.fromkeys(VERSIONS, "any")})
        if case.reply
        else case
        for case in cases
    ]
    names = ("model", "tolerance", "settings", "http_status")
    return Suite(**{name: document[name] for name in names}, cases=cases)


def render(document: Mapping[str, Any]) -> str:
    """Return the text of ``cases.json``: a line for each field, whatever is not printable escaped.

    A lone surrogate, which no UTF-8 file can hold, is among what is escaped.
    """
    head = [f"  {_encode(key)}: {_encode(value)},\n" for key, value in document.items()][:-1]
    cases = [
        ",\n".join(f"      {_encode(key)}: {_encode(value)}" for key, value in case.items())
        for case in document["cases"]
    ]
    blocks = ",\n".join(f"    {{\n{case}\n    }}" for case in cases)
    return f'{{\n{"".join(head)}  "cases": [\n{blocks}\n  ]\n}}\n'


def thresholds_of(request: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Return the thresholds a request asks for; for a name, what the checkpoint's file says."""
    asked = request.get("thresholds")
    name = asked.get("name") if isinstance(asked, Mapping) else asked
    if not isinstance(name, str):
        thresholds: Mapping[str, float] | None = asked
        return thresholds
    config = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))
    named: Mapping[str, float] = config["thresholds"][name]
    return named


def _encode(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def differences(
    expected: Any, found: Any, tolerance: float, path: str = "reply", name: str = ""
) -> Iterator[str]:
    """Yield a line for each place where ``found`` is not what was expected."""
    if name == "timing":
        yield from _timing_faults(found, path)
    elif name == "versions":
        yield from _version_faults(found, path)
    elif name in SCORES and is_number(expected):
        if not is_number(found) or not abs(found - expected) <= tolerance:
            yield f"{path}: {shown(found)}, expected {expected} ± {tolerance}"
    elif type(found) is not type(expected):
        yield f"{path}: {shown(found)}, expected {shown(expected)}"
    elif isinstance(expected, Mapping):
        for key in sorted(expected.keys() - found.keys()):
            yield f"{path}: lacks {key}"
        for key in sorted(found.keys() - expected.keys()):
            yield f"{path}: has {key}, {shown(found[key])}, which was not expected"
        for key in expected.keys() & found.keys():
            yield from differences(expected[key], found[key], tolerance, f"{path}.{key}", key)
    elif isinstance(expected, list):
        if len(found) != len(expected):
            yield f"{path}: has {len(found)} elements, expected {len(expected)}"
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            yield from differences(one, other, tolerance, f"{path}[{index}]")
    elif found != expected:
        yield f"{path}: {shown(found)}, expected {shown(expected)}"


def _timing_faults(found: Any, path: str) -> Iterator[str]:
    if not isinstance(found, Mapping) or found.keys() != {"queue_ms", "compute_ms"}:
        yield f"{path}: {shown(found)}, expected queue_ms and compute_ms"
    elif not all(is_number(value) and 0 <= value < 1e9 for value in found.values()):
        yield f"{path}: {shown(found)}, expected two numbers that are not negative"


def _version_faults(found: Any, path: str) -> Iterator[str]:
    if not isinstance(found, Mapping) or found.keys() != set(VERSIONS):
        yield f"{path}: {shown(found)}, expected {', '.join(VERSIONS)}"
    elif not all(isinstance(value, str) and value for value in found.values()):
        yield f"{path}: {shown(found)}, expected strings"


def is_number(value: Any) -> bool:
    """Say whether this is a number to JSON; Python's ``bool`` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """Return a value as a failure shows it."""
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def report(found: Mapping[str, list[str]]) -> str:
    """Return a line for each case that failed, and what may help."""
    lines = [f"  {name}: {'; '.join(faults)}" for name, faults in found.items() if faults]
    if not lines:
        return ""
    hint = f"(if the change is meant: {RECORD})"
    return "\n".join([f"{len(lines)} of {len(found)} cases fail {hint}:", *lines])
