"""How large a pass may be, told of passes on devices whose speed is made up."""

from __future__ import annotations

import pytest

from hatespeech.engine.pass_size import PASS_SECONDS, SMALLEST_BUDGET, SMALLEST_PASS, PassSize

LAUNCH_SECONDS = 0.004  # what any pass takes, however small


def run(pass_size: PassSize, speed: float, passes: int) -> float:
    """Tell of full passes on a device of this speed; return how long the last one took."""
    seconds = 0.0
    for _ in range(passes):
        tokens = pass_size.tokens
        seconds = LAUNCH_SECONDS + tokens / speed
        pass_size.passed(tokens, seconds)
    return seconds


@pytest.mark.parametrize("speed", [8_000, 40_000, 200_000])
def test_a_pass_comes_to_take_as_long_as_a_caller_may_wait(speed: float) -> None:
    assert run(PassSize(1_000_000), speed, 60) == pytest.approx(PASS_SECONDS, rel=0.02)


def test_a_device_that_becomes_slower_or_faster_is_followed() -> None:
    pass_size = PassSize(1_000_000)
    for speed in (40_000, 8_000, 90_000):
        assert run(pass_size, speed, 60) == pytest.approx(PASS_SECONDS, rel=0.02)


def test_a_fast_device_reads_no_more_than_the_maximum() -> None:
    pass_size = PassSize(16_384)
    run(pass_size, 10_000_000, 60)
    assert pass_size.tokens == 16_384


def test_a_slow_device_reads_enough_to_multiply_efficiently() -> None:
    pass_size = PassSize(16_384)
    run(pass_size, 300, 60)
    assert pass_size.tokens == SMALLEST_PASS


def test_the_first_pass_follows_the_warm_up() -> None:
    assert PassSize(16_384, speed=20_000).tokens == 20_000 * PASS_SECONDS
    assert PassSize(16_384).tokens == SMALLEST_PASS


def test_a_pass_of_little_work_says_nothing_of_a_full_one() -> None:
    pass_size = PassSize(16_384, speed=40_000)
    for _ in range(100):
        pass_size.passed(8, LAUNCH_SECONDS)
    assert pass_size.tokens == 40_000 * PASS_SECONDS


def test_a_pass_of_little_work_that_takes_long_makes_the_next_smaller() -> None:
    pass_size = PassSize(16_384, speed=40_000)
    pass_size.passed(600, 2 * PASS_SECONDS)
    assert pass_size.tokens < 40_000 * PASS_SECONDS


def test_one_slow_pass_among_many_changes_little() -> None:
    pass_size = PassSize(16_384, speed=40_000)
    pass_size.passed(pass_size.tokens, 5.0)
    assert pass_size.tokens > 40_000 * PASS_SECONDS / 2


def test_what_did_not_fit_is_not_tried_again_however_fast_the_device_is() -> None:
    pass_size = PassSize(16_384, speed=10_000_000)
    pass_size.out_of_memory(16_000)
    assert pass_size.tokens == 8_000
    pass_size.out_of_memory(8_000)
    pass_size.out_of_memory(8_000)  # the other half of the same batch
    assert pass_size.tokens == 4_000
    run(pass_size, 10_000_000, 20)
    assert pass_size.tokens == 4_000
    run(pass_size, 20_000, 60)
    assert SMALLEST_PASS < pass_size.tokens < 1_000
    for _ in range(20):
        pass_size.out_of_memory(pass_size.tokens)
    run(pass_size, 10_000_000, 60)
    assert pass_size.tokens == SMALLEST_BUDGET


@pytest.mark.parametrize(
    ("tokens", "of_two"),
    [(320, 160), (900, 450), (960, 480), (1_400, 480), (1_500, 960), (16_384, 17 * 480)],
)
def test_a_lane_reads_full_parts(tokens: int, of_two: int) -> None:
    pass_size = PassSize(16_384, speed=tokens / PASS_SECONDS)
    assert pass_size.tokens_of_lane(1) == tokens
    assert pass_size.tokens_of_lane(2) == of_two


def test_all_lanes_together_read_no_more_than_the_maximum() -> None:
    assert PassSize(1_500, speed=1e9).tokens_of_lane(2) == 480
