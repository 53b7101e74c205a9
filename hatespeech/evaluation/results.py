"""What an evaluation finds, and how it is computed from truths and scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]  # scikit-learn ships no types
    average_precision_score,
    precision_recall_curve,
)

from hatespeech.evaluation.calibration import calibrate, expected_calibration_error
from hatespeech.evaluation.groups import Gap, GroupResult, find_gaps, group_results
from hatespeech.evaluation.intervals import Estimate, divide, estimate, resampled
from hatespeech.evaluation.labelled import Labelled
from hatespeech.evaluation.scoring import Scores
from hatespeech.evaluation.truths import (
    FLAG_BITS,
    NAMES,
    TRUTHS,
    Truths,
    decided,
    flags_decided,
    indices,
)
from hatespeech.labels import LABELS

CURVE_POINTS: Final = 200
WRONG_ROWS: Final = 20
SHOWN_CHARS: Final = 280
# What to say if no flag has texts that are of it, and texts that are not.
ALL_ALIKE: Final = "the labels are all alike, so precision and recall are not defined"
SMALLEST: Final = 1e-9  # a probability of 0 has no logarithm


@dataclass(frozen=True)
class Confusion:
    """How often texts of each truth get each label."""

    truths: list[str]
    counts: list[list[int]]  # [truths][labels]


@dataclass(frozen=True)
class FlagResult:
    """How well texts of a label, or toxic ones, are found by the most probable label."""

    flag: str
    texts: int  # whose truth decides the flag
    positives: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    average_precision: float | None  # the area under the precision-recall curve
    curve: tuple[list[float], list[float]]  # recall and precision


@dataclass(frozen=True)
class WrongRow:
    """A text about which the model is wrong."""

    file: str
    row: int
    truth: str
    label: str
    truth_score: float  # the probability that the model gives to the truth
    text: str | None  # only with --include-text


@dataclass(frozen=True)
class CalibrationResult:
    """How far scores are from shares; after: fitted on one half, measured on the other."""

    of: str  # "label", or the flag whose truth the texts have
    error: float  # expected calibration error of all texts
    half_before: float
    half_after: float
    temperature: float
    biases: dict[str, float]


@dataclass(frozen=True)
class Figures:
    """The figures of one set of labelled texts."""

    texts: int
    accuracy: Estimate
    macro_f1: Estimate  # over the labels that occur; undefined without the four labels
    confusion: Confusion
    flags: list[FlagResult]
    flag: str  # which groups are compared by
    groups: list[GroupResult]
    left_out_groups: dict[str, int]  # by column: groups too small to be shown
    gaps: list[Gap]
    calibration: CalibrationResult | None  # None if a half lacks a kind of text


def measure_all(labelled: Labelled, scores: Scores, group_columns: Sequence[str]) -> Figures:
    """Return the figures of labelled texts; every row has a truth and scores."""
    truths, predicted = labelled.truths, scores.argmax(axis=1)
    kinds = [bits for bits in TRUTHS.values() if (truths == bits).any()]
    counts = np.array(
        [np.bincount(predicted[truths == bits], minlength=len(LABELS)) for bits in kinds]
    )
    draws = resampled(counts)
    flags = flags_decided(truths)
    flag = main_flag(flags)
    single = indices(truths)
    groups, left_out = group_results(labelled, predicted, flag, group_columns)
    return Figures(
        len(truths),
        _accuracy(counts, draws, kinds),
        Estimate(None) if single is None else _macro_f1(counts, draws, kinds),
        Confusion([NAMES[bits] for bits in kinds], counts.tolist()),
        [_flag_result(name, kinds, counts, draws, truths, scores) for name in flags],
        flag,
        groups,
        left_out,
        find_gaps(labelled, predicted, flag, groups),
        calibration_of(labelled, scores, flag),
    )


def main_flag(flags: Sequence[str]) -> str:
    """Return the flag that groups are compared by: toxic, if the truths decide it."""
    return "toxic" if "toxic" in flags or not flags else flags[0]


def flag_scores(scores: Scores, flag: str) -> NDArray[np.float64]:
    """Return each text's score of a flag."""
    places = [index for index in range(len(LABELS)) if FLAG_BITS[flag] >> index & 1]
    total: NDArray[np.float64] = scores[:, places].sum(axis=1, dtype=np.float64)
    return np.minimum(total, 1.0)


def halves(labelled: Labelled) -> NDArray[np.bool_]:
    """Return which rows are in the first half: what is chosen there is measured on the other.

    Both have the same share of each truth. Copies of a text are in one half. The order of the rows
    does not count.
    """
    keys = [
        (int(truth), hashlib.sha256(json.dumps(text).encode()).hexdigest())
        for text, truth in zip(labelled.texts, labelled.truths, strict=True)
    ]
    side: dict[str, bool] = {}
    for _, text in sorted(set(keys)):
        side.setdefault(text, len(side) % 2 == 0)
    return np.array([side[text] for _, text in keys])


def _accuracy(counts: NDArray[np.int64], draws: NDArray[np.int64], kinds: list[int]) -> Estimate:
    """Return the share of texts whose label is one that their truth allows."""
    right = np.array([[bits >> index & 1 for index in range(len(LABELS))] for bits in kinds])
    total = counts.sum()
    drawn = (draws * right).sum(axis=(1, 2)) / total
    return estimate(float((counts * right).sum() / total), drawn, int(total))


def _macro_f1(counts: NDArray[np.int64], draws: NDArray[np.int64], kinds: list[int]) -> Estimate:
    def mean(tables: NDArray[np.int64]) -> NDArray[np.float64]:
        parts = [_prf(tables, kinds, bits)[2] for bits in kinds]
        return np.asarray(np.nan_to_num(np.stack(parts)).mean(axis=0))

    return estimate(float(mean(counts[None])[0]), mean(draws), int(counts.sum()))


def _prf(tables: NDArray[np.int64], kinds: list[int], flag: int) -> list[NDArray[np.float64]]:
    """Return precision, recall and F1 of a flag in each of ``[tables, truths, labels]``.

    Precision is 0 if nothing is called so, as a model card has it.
    """
    called = [index for index in range(len(LABELS)) if flag >> index & 1]
    of = [place for place, bits in enumerate(kinds) if not bits & ~flag]
    apart = [place for place, bits in enumerate(kinds) if not bits & flag]
    right = tables[:, of][:, :, called].sum(axis=(1, 2)).astype(np.float64)
    positives = tables[:, of].sum(axis=(1, 2))
    wrong = tables[:, apart][:, :, called].sum(axis=(1, 2))
    precision = np.nan_to_num(divide(right, right + wrong))
    return [
        np.where(positives > 0, precision, np.nan),
        divide(right, positives),
        divide(2 * right, right + wrong + positives),
    ]


def _flag_result(
    flag: str,
    kinds: list[int],
    counts: NDArray[np.int64],
    draws: NDArray[np.int64],
    truths: Truths,
    scores: Scores,
) -> FlagResult:
    bits = FLAG_BITS[flag]
    values, drawn = _prf(counts[None], kinds, bits), _prf(draws, kinds, bits)
    of, apart = decided(truths, flag)
    counted = of | apart
    true, score = of[counted], flag_scores(scores, flag)[counted]
    precision, recall, _ = precision_recall_curve(true, score)
    kept = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).astype(int))
    curve = ([float(x) for x in recall[kept]], [float(x) for x in precision[kept]])
    named = [index for index in range(len(LABELS)) if bits >> index & 1]
    known = [place for place, kind in enumerate(kinds) if not kind & ~bits or not kind & bits]
    called, positives = int(counts[known][:, named].sum()), int(of.sum())
    precise, found, f1 = (
        estimate(float(value[0]), draw, texts)
        for value, draw, texts in zip(values, drawn, (called, positives, positives), strict=True)
    )
    return FlagResult(
        flag,
        int(counted.sum()),
        positives,
        precise,
        found,
        f1,
        float(average_precision_score(true, score)),
        curve,
    )


def most_wrong(labelled: Labelled, scores: Scores, include_text: bool) -> list[WrongRow]:
    """Return the rows to whose truth the model gives the least, copies of a text once."""
    allowed = np.array([[bits >> i & 1 for i in range(len(LABELS))] for bits in labelled.truths])
    given = (scores * allowed).sum(axis=1)
    predicted = scores.argmax(axis=1)
    wrong = (1 << predicted) & labelled.truths == 0
    rows: list[WrongRow] = []
    seen = set()
    for index in np.argsort(given, kind="stable"):
        text = labelled.texts[index]
        if not wrong[index] or text in seen or len(rows) == WRONG_ROWS:
            continue
        seen.add(text)
        rows.append(
            WrongRow(
                labelled.files[index],
                labelled.rows[index],
                NAMES[int(labelled.truths[index])],
                LABELS[predicted[index]],
                float(given[index]),
                text[:SHOWN_CHARS] if include_text else None,
            )
        )
    return rows


def calibration_of(labelled: Labelled, scores: Scores, flag: str) -> CalibrationResult | None:
    """Return how far scores are from shares, of the labels or, without them, of a flag."""
    found = calibration_data(labelled, scores, flag)
    if found is None:
        return None
    of, logits, true, first = found
    fitted = calibrate(logits[first], true[first])
    after = fitted.apply(logits[~first])
    names = LABELS if of == "label" else (f"not {of}", of)
    return CalibrationResult(
        of,
        expected_calibration_error(logits, true),
        expected_calibration_error(logits[~first], true[~first]),
        expected_calibration_error(after, true[~first]),
        fitted.temperature,
        dict(zip(names, fitted.biases, strict=True)),
    )


def calibration_data(
    labelled: Labelled, scores: Scores, flag: str
) -> tuple[str, NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]] | None:
    """Return what is calibrated, its logits and truths, and which rows are in the first half.

    ``None`` if a half lacks a kind of text that the other has.
    """
    single = indices(labelled.truths)
    first = halves(labelled)
    if single is not None:
        of, true, values = "label", single, scores.astype(np.float64)
    else:
        positive, negative = decided(labelled.truths, flag)
        rows = positive | negative
        one = flag_scores(scores, flag)[rows]
        of, true, first = flag, positive[rows].astype(np.int64), first[rows]
        values = np.stack([1 - one, one], axis=1)
    if set(true[first]) != set(true[~first]) or len(set(true)) < 2:
        return None
    return of, np.log(np.maximum(values, SMALLEST)).astype(np.float32), true, first


def curves(flags: Sequence[FlagResult]) -> Iterator[tuple[str, tuple[list[float], list[float]]]]:
    """Yield the curve of each flag, with its name and area."""
    for each in flags:
        area = "–" if each.average_precision is None else f"{each.average_precision:.3f}"
        yield f"{each.flag} ({area})", each.curve
