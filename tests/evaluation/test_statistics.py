"""Intervals, agreement and halves, against values that are known."""

from __future__ import annotations

import random

import numpy as np
import pytest

from hatespeech.evaluation.agreement import agreement, krippendorff_alpha, majority
from hatespeech.evaluation.choices import Wish, best_threshold
from hatespeech.evaluation.intervals import Estimate, estimate, resampled, share
from hatespeech.evaluation.labelled import Labelled
from hatespeech.evaluation.results import halves, measure_all


def labelled(texts: list[str], truths: list[int]) -> Labelled:
    count = len(texts)
    none = np.zeros((count, 0), dtype=np.uint8)
    numbers = list(range(1, count + 1))
    truth = np.array(truths, dtype=np.uint8)
    return Labelled(["a"] * count, numbers, texts, truth, none, {}, "", None)


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    # Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units.
    rows = ["12332141200 0", "123322412503", "033323422510", "123324412510"]
    values = [[int(c) for c in row.replace(" ", "")] for row in rows]
    assert krippendorff_alpha(np.array(values, dtype=np.uint8).T) == pytest.approx(0.743, abs=5e-4)


def test_alpha_is_1_if_all_agree_and_nothing_if_there_is_but_one_label() -> None:
    assert krippendorff_alpha(np.array([[1, 1], [4, 4]], dtype=np.uint8)) == 1
    assert krippendorff_alpha(np.array([[1, 1], [1, 1]], dtype=np.uint8)) is None


def test_a_tie_is_no_majority() -> None:
    assert majority([1, 1, 4]) == 1
    assert majority([1, 4]) == 0
    assert majority([0, 0, 4]) == 4
    assert majority([0, 0]) == 0


def test_the_model_is_measured_by_the_majorities_that_an_annotator_is_measured_by() -> None:
    rows = np.array([[1, 1, 4], [4, 4, 4], [1, 4, 0]], dtype=np.uint8)
    found = agreement(rows, np.array([0, 2, 1]))
    assert found is not None
    assert (found.annotators, found.texts, found.ties) == (3, 3, 1)
    assert found.all_agree == pytest.approx(1 / 3)
    # Of the first text only the third annotator meets a majority, and misses it.
    assert found.annotator_and_others == pytest.approx(3 / 6)
    assert found.model_and_others == pytest.approx(4 / 6)


def test_a_share_has_wilsons_interval() -> None:
    found = share(8, 10)
    assert found.value == 0.8
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert share(0, 0) == Estimate(None)


def test_a_bootstrap_interval_agrees_with_the_normal_one_and_with_itself() -> None:
    counts = np.array([300, 700])
    draws = resampled(counts)
    found = estimate(0.3, draws[:, 0] / 1000, 1000)
    spread = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.3 - spread, 0.3 + spread), abs=0.005)
    assert np.array_equal(draws, resampled(counts))


def test_a_figure_without_an_error_says_how_few_texts_it_rests_on() -> None:
    neutral, abusing = 4, 2
    truths = [abusing] * 3 + [neutral] * 20
    scores = np.where(np.array(truths)[:, None] == [1, 2, 4, 8], 0.97, 0.01).astype(np.float32)
    found = measure_all(labelled([str(i) for i in range(23)], truths), scores, ())
    first = next(each for each in found.flags if each.flag == "abusing")
    assert first.precision == first.recall == first.f1 == share(3, 3)
    assert found.accuracy == share(23, 23)
    scores = scores[:, [0, 2, 1, 3]]  # everything is wrong
    found = measure_all(labelled([str(i) for i in range(23)], truths), scores, ())
    first = next(each for each in found.flags if each.flag == "abusing")
    assert (first.precision, first.recall) == (share(0, 20), share(0, 3))


def test_halves_keep_copies_together_and_have_the_same_share_of_each_truth() -> None:
    rng = random.Random(3)
    rows = [(f"text {i % 300}", 1 << (i % 300) % 4) for i in range(400)]
    rng.shuffle(rows)
    texts, truths = map(list, zip(*rows, strict=True))
    first = halves(labelled(texts, truths))
    for text in set(texts):
        assert len({bool(side) for side, one in zip(first, texts, strict=True) if one == text}) == 1
    unique = dict(zip(texts, zip(truths, first, strict=True), strict=True)).values()
    for truth in (1, 2, 4, 8):
        assert sum(side for one, side in unique if one == truth) in (37, 38)
    order = np.array(rng.sample(range(400), 400))
    again = halves(labelled([texts[i] for i in order], [truths[i] for i in order]))
    assert np.array_equal(again, first[order])


@pytest.mark.parametrize(
    ("wish", "threshold"),
    [
        (Wish(precision=0.9), 0.61),  # the lowest that is right so often
        (Wish(recall=0.5), 0.8),  # the highest that finds so many
        (Wish(reviews=0.25), 0.61),  # the lowest that flags no more
        (Wish(cost=(1, 0)), 0.61),  # a miss costs nothing
        (Wish(cost=(0, 1)), 0.01),  # a false alarm costs nothing
        (Wish(cost=(1, 1)), 0.61),
    ],
)
def test_each_wish_has_its_threshold(wish: Wish, threshold: float) -> None:
    scores = np.repeat([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 5)
    true = np.repeat([True, True, False, False, False, False, False, False], 5)
    assert best_threshold(scores, true, wish) == threshold


def test_a_precision_of_a_few_texts_is_not_believed() -> None:
    scores, true = np.array([0.9] * 9 + [0.2]), np.array([True] * 9 + [False])
    assert best_threshold(scores, true, Wish(precision=0.95)) is None
    assert best_threshold(scores, true, Wish(precision=0.9)) == 0.01


def test_a_wish_that_nothing_grants_has_no_threshold() -> None:
    none = np.array([False] * 20)
    assert best_threshold(np.full(20, 0.5), none, Wish(precision=0.5)) is None
