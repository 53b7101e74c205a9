"""Records the expected replies of ``cases.json`` anew, from the embedded checkpoint.

To be run when the checkpoint, the normaliser or the suite's settings have changed, and for new
cases (``"reply": null``). Everything but numbers, labels, flags and windows is written by hand: a
reply that is built otherwise than the one in the file, another error, or a reply that breaks an
invariant is refused, and nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler
from tests.conformance.fronts import read_error
from tests.conformance.invariants import WINDOWS, error_faults, reply_faults
from tests.conformance.suite import (
    CASES,
    LABELS,
    SCORES,
    Case,
    Suite,
    differences,
    load_suite,
    read_document,
    render,
    shown,
    thresholds_of,
)
from tests.paths import EMBEDDED

DIGITS: Final = 6

# The least distance between two numbers of which the larger decides something, so that another
# machine's rounding, of both within the tolerance, does not decide otherwise.
LEAST_MARGIN: Final = 3e-4

# What another checkpoint may change.
MODELS_OWN: Final = (
    *SCORES,
    "label",
    "flagged",
    "windows",
    "window",
    "words",
    "read_as",
    "model",
    "timing",
    "thresholds",
    "versions",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.record",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    before = read_document()
    document = copy.deepcopy(before)
    faults = record(document)
    if faults:
        sys.stderr.write("".join(f"error: {fault}\n" for fault in faults))
        sys.stderr.write(f"{CASES.name} is left as it was\n")
        return 1
    changed = sum(old != new for old, new in zip(before["cases"], document["cases"], strict=True))
    CASES.write_text(render(document), encoding="utf-8")
    print(f"{document['model']}: {changed} of {len(document['cases'])} cases changed")
    return 0


def record(document: dict[str, Any]) -> list[str]:
    """Put what the checkpoint answers into ``document``; return what is wrong with it."""
    suite = load_suite(document)
    fields = {name.lower(): value for name, value in suite.settings.items()}
    settings = EngineSettings(model_dir=EMBEDDED, device="cpu", dtype="float32", **fields)
    classifier = Predictor.from_settings(settings)
    faults = []
    for case, raw in zip(suite.cases, document["cases"], strict=True):
        answer = asyncio.run(answer_once(classifier, settings, case.input))
        faults += [f"{case.name}: {fault}" for fault in put(case, raw, answer, suite)]
        faults += [f"{case.name}: {fault}" for fault in close_calls(classifier, case, answer)]
    document["model"] = classifier.model_id
    return faults


async def answer_once(
    classifier: Predictor, settings: EngineSettings, job_input: Any
) -> dict[str, Any]:
    """Answer one input as the worker does."""
    scorer = Scorer(classifier, settings)
    handler = JobHandler(scorer)
    try:
        return await handler({"input": job_input})
    finally:
        scorer.close()


def put(case: Case, raw: dict[str, Any], answer: dict[str, Any], suite: Suite) -> Iterator[str]:
    """Put an answer in its place, unless it is the one that stands there within the tolerance."""
    if "error" in answer:
        error = read_error(answer["error"])["error"]
        yield from error_faults(case.input, error)
        if case.error is None or mask_windows(case.error) != mask_windows(error):
            yield f"{shown(answer['error'])}, the file has {shown(case.error or 'a reply')}"
        raw["error"] = error
        return
    if "reply" not in raw:
        yield "a reply, where the file has an error"
        return
    reply = rounded(answer)
    yield from reply_faults(case.input, reply, suite.settings)
    if case.reply is not None:
        yield from differences(by_hand(case.reply), by_hand(reply), 0)
        if not list(differences(case.reply, reply, suite.tolerance)):
            return
    del reply["versions"]
    raw["reply"] = {**reply, "timing": {"queue_ms": 0.0, "compute_ms": 0.0}}


def mask_windows(error: Mapping[str, str]) -> str:
    """Return an error; how many windows a text is too long for depends on the tokeniser."""
    line = f"{error['code']}: {error['message']}"
    return re.sub(r"needs \d+", "needs N", line) if WINDOWS.fullmatch(line) else line


def by_hand(reply: Mapping[str, Any]) -> Any:
    """Return the part of a reply that no checkpoint has a say in."""
    kept = {name: value for name, value in reply.items() if name not in MODELS_OWN}
    if "items" in reply:
        kept["items"] = [by_hand(item) for item in reply["items"]]
    if "error" in kept:
        code, _, message = kept["error"].partition(": ")
        kept["error"] = mask_windows({"code": code, "message": message})
    return kept


def rounded(value: Any) -> Any:
    """Round every float in a reply."""
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def close_calls(classifier: Predictor, case: Case, answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield where rounding might decide: two labels, a threshold, or two windows that are close."""
    if "error" in answer:
        return
    thresholds = (thresholds_of(case.input) or {}) if isinstance(case.input, Mapping) else {}
    for item in answer.get("items", [answer]):
        if "error" in item:
            continue
        first, second = sorted((item[label] for label in LABELS), reverse=True)[:2]
        margins = [first - second]
        # The ends of the range decide by themselves.
        margins += [abs(item[flag] - value) for flag, value in thresholds.items() if 0 < value < 1]
        if item["windows"] > 1:
            rows = classifier.probabilities(classifier.encode(item["text"]).windows)
            first, second = sorted(row[LABELS.index("neutral")] for row in rows)[:2]
            margins.append(second - first)
        if min(margins) < LEAST_MARGIN:
            yield f"a margin of {min(margins):.1g}: choose another text or threshold"


if __name__ == "__main__":
    sys.exit(main())
