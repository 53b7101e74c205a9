"""A column that has hardly any texts gets a warning, before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hatespeech.bulk import command as score
from hatespeech.bulk.text_sample import kind_of, what_is_there

pytestmark = pytest.mark.usefixtures("mini")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "empty"),
        (" \n", "empty"),
        (False, "not strings"),
        ("1234567890123456789", "numbers or dates"),
        ("-1.5e", "identifiers"),
        ("2024-02-29T12:00:00Z", "numbers or dates"),
        ("29/02/2024 12:00", "numbers or dates"),
        ("https://example.com/a?b=c", "links"),
        ("www.example.com", "links"),
        ("550e8400-e29b-41d4-a716-446655440000", "identifiers"),
        ("@user_1", "identifiers"),
        ("en", "single words"),
        ("spam!", "single words"),
        ("早上好", "text"),
        ("good morning", "text"),
        ("see https://example.com", "text"),
        # To look at all of these would take an hour.
        pytest.param("4AAQSkZJRg" * 100_000 + "==", "identifiers", id="a picture in Base64"),
        pytest.param("1" * 1_000_000 + "!", "numbers or dates", id="a million digits"),
    ],
)
def test_what_a_value_looks_like(value: object, kind: str) -> None:
    assert kind_of(value) == kind


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"empty": 96, "text": 4}, "of the first 100 rows looked at, 96% are empty"),
        (
            {"links": 70, "empty": 30},
            "of the first 100 rows looked at, 70% are links and 30% are empty",
        ),
        ({"empty": 89, "text": 11}, None),
        ({"numbers or dates": 4}, None),
        ({"single words": 49}, None),
        ({"single words": 50}, "of the first 50 rows looked at, 100% are single words"),
        ({}, None),
    ],
)
def test_what_a_sample_says(found: dict[str, int], said: str | None) -> None:
    assert what_is_there(Counter(found)) == said


def test_a_column_of_numbers_is_told_in_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    for number in range(3):
        lines = (f"{number}{row},good morning\n" for row in range(4))
        Path(f"in/{number}.csv").write_text("id,text\n" + "".join(lines))
    warning = (
        "the column id has hardly any texts: of the first 12 rows looked at, 100% are numbers or "
        "dates (--text-column)"
    )
    assert score.main(["in", "a.csv", "--text-column", "id"]) == 0
    said = capsys.readouterr().err
    assert said.count(warning) == 1
    assert said.index(warning) < said.index("serving mini@")
    assert score.main(["in", "b.csv"]) == 0
    assert "hardly any texts" not in capsys.readouterr().err
