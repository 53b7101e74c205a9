"""What the labels of other systems say, and what they leave open."""

from __future__ import annotations

import numpy as np
import pytest

from hatespeech.evaluation.truths import (
    FLAG_BITS,
    LAYOUTS,
    TRUTHS,
    decided,
    flags_decided,
    indices,
    read_map,
    truth_of,
)
from hatespeech.labels import FLAGS


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        ("Hate", "hate"),
        (" hate_speech ", "hate"),
        ("hatespeech", "hate"),
        ("abusive", "abusing"),
        ("offensive language", "abusing"),
        ("normal", "neutral"),
        ("OFF", "toxic"),
        ("NOT", "not-toxic"),
        (1, "toxic"),
        (1.0, "toxic"),
        ("1.0", "toxic"),
        ("0.00", "not-toxic"),
        (0, "not-toxic"),
        (False, "not-toxic"),
        ("0.5", "toxic"),
        (0.49, "not-toxic"),
        ("non-hateful", "not-hate"),
        ("ham", "not-spam"),
    ],
)
def test_usual_names_of_labels_are_known(value: object, truth: str) -> None:
    assert truth_of(value, {}) == TRUTHS[truth]


@pytest.mark.parametrize("value", ["rude", "1.5", "-1", "nan", "a whole text"])
def test_other_names_are_not_guessed(value: str) -> None:
    assert truth_of(value, {}) is None


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_label_is_no_label(value: object) -> None:
    assert truth_of(value, {}) == 0


def test_a_map_comes_before_the_known_names_and_may_leave_labels_out() -> None:
    names = read_map("Off=abusing, who knows=skip,a=b=spam")
    assert truth_of("OFF", names) == TRUTHS["abusing"]
    assert truth_of("who knows", names) == 0
    assert truth_of("a=b", names) == TRUTHS["spam"]
    assert truth_of("4.0", read_map("4=hate")) == TRUTHS["hate"]


@pytest.mark.parametrize("value", ["", "rude", "rude=bad", "rude=hate,,", "=nothing"])
def test_a_map_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="not NAME=LABEL"):
        read_map(value)


def test_a_truth_decides_only_the_flags_that_it_says_something_about() -> None:
    names = ["hate", "toxic", "not-toxic", "not-hate", "spam"]
    truths = np.array([TRUTHS[name] for name in names], dtype=np.uint8)
    assert [list(part) for part in decided(truths, "toxic")] == [
        [True, True, False, False, False],
        [False, False, True, False, True],
    ]
    positive, negative = decided(truths, "hate")
    assert list(positive) == [True, False, False, False, False]
    assert list(negative) == [False, False, True, True, True]
    assert flags_decided(truths) == ["hate", "spam", "toxic"]
    assert indices(truths) is None


def test_a_text_without_a_label_decides_nothing() -> None:
    truths = np.array([0], dtype=np.uint8)
    assert not any(part.any() for flag in FLAGS for part in decided(truths, flag))


def test_every_flag_is_a_set_of_labels() -> None:
    assert FLAG_BITS.keys() == set(FLAGS)


def test_no_two_data_sets_have_the_same_columns() -> None:
    assert len({frozenset(layout.columns) for layout in LAYOUTS}) == len(LAYOUTS)
