"""Whose turn it is among the owners of jobs."""

from __future__ import annotations

import pytest

from hatespeech.serving.jobs.turns import Turns

PLACES, MOST = 10, 8

A, B, C, D = (name.encode() for name in "abcd")


@pytest.mark.parametrize(
    ("waiting", "running", "shared"),
    [
        ({A: 99}, {}, A * MOST),
        ({A: 99}, {A: MOST}, b""),
        ({A: 99, B: 99}, {}, (A + B) * 5),
        ({A: 99, B: 1}, {}, A + B + A * 7),
        ({A: 99, B: 99, C: 99}, {A: 5, B: 4}, C),
        ({A: 99, B: 2}, {A: 7}, B + B + A),
        ({B: 2}, {A: 10}, b""),
    ],
)
def test_each_place_goes_to_the_owner_who_has_the_fewest(
    waiting: dict[bytes, int], running: dict[bytes, int], shared: bytes
) -> None:
    places = PLACES - sum(running.values())
    assert b"".join(Turns().share(waiting, running, places, MOST)) == shared


def test_of_owners_with_as_few_the_one_who_waits_longest_is_next() -> None:
    turns = Turns()
    waiting = {A: 9, B: 9, C: 9, D: 9}
    assert [turns.share(waiting, {}, 1) for _ in range(6)] == [[A], [B], [C], [D], [A], [B]]


def test_without_a_limit_one_owner_has_every_place() -> None:
    assert Turns().share({A: 99}, {A: 5}, 3) == [A, A, A]
