"""When paired runs say that a row is slower: beyond their own spread, and beyond 3 % whatever the spread."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from bench import paired


@pytest.mark.parametrize(
    ("count", "cut"), [(0, 0), (1, 0), (7, 0), (8, 1), (11, 1), (12, 2), (14, 2), (15, 3), (18, 4)]
)
def test_the_interval_is_bounded_by_ratios_that_leave_one_in_a_hundred_outside(count, cut):
    assert paired.cut_off(count) == cut


def test_eight_sittings_are_the_fewest_that_have_an_interval():
    assert paired.cut_off(paired.FEWEST) > 0
    assert paired.cut_off(paired.FEWEST - 1) == 0


def test_an_interval_never_gets_wider_in_rank_with_more_sittings():
    cuts = [paired.cut_off(count) for count in range(200)]
    assert all(0 <= later - earlier <= 1 for earlier, later in pairwise(cuts))


def test_interval_and_median_do_not_depend_on_the_order():
    ratios = [1.01, 0.99, 1.02, 1.0, 0.98, 1.03, 1.0, 1.01]
    found = paired.judge(ratios)
    assert (found.low, found.median, found.high, found.sittings) == (0.98, 1.005, 1.03, 8)
    assert paired.judge(ratios[::-1]) == found


RISING = [1.006, 1.008, 1.009, 1.01, 1.011, 1.012, 1.013]


@pytest.mark.parametrize(
    ("ratios", "slower", "word"),
    [
        pytest.param([1.005, *RISING], True, "SLOWER", id="beyond the spread"),
        pytest.param([0.999, *RISING], False, "as fast", id="within the spread"),
        pytest.param(
            [0.9, 0.95, 1.03, 1.035, 1.035, 1.04, 1.1, 1.2], True, "SLOWER, or too noisy to tell", id="beyond 3 %"
        ),
        pytest.param([0.9, 0.95, 1.01, 1.02, 1.02, 1.04, 1.1, 1.2], False, "too noisy to tell", id="within a wide one"),
        pytest.param([2 - ratio for ratio in (1.005, *RISING)], False, "faster", id="faster"),
    ],
)
def test_a_row_fails_beyond_its_spread_and_beyond_three_per_cent(ratios, slower, word):
    found = paired.judge(ratios)
    assert (found.slower, found.word) == (slower, word)


@pytest.mark.parametrize(("ratio", "slower"), [(1.02, False), (1.04, True)])
def test_too_few_sittings_fail_only_beyond_three_per_cent(ratio, slower):
    found = paired.judge([ratio] * 7)
    assert (found.noisy, found.settled, found.slower) == (True, False, slower)


def test_a_narrow_row_is_settled_and_what_looks_slower_is_not():
    assert paired.judge([0.995, 0.996, 0.999, 1.0, 1.0, 1.001, 1.003, 1.004]).settled
    assert not paired.judge([1.001, 1.002, 1.002, 1.002, 1.002, 1.003, 1.003, 1.004]).settled
    assert not paired.judge([0.98, 0.996, 0.999, 1.0, 1.0, 1.001, 1.003, 1.004]).settled


def test_one_wild_sitting_of_twelve_moves_nothing():
    calm = [0.99, 0.992, 0.995, 0.998, 1.0, 1.0, 1.001, 1.002, 1.004, 1.006, 1.008, 1.01]
    wild = [*calm[:-1], 3.0]
    assert paired.judge(wild) == paired.judge(calm)


@pytest.mark.parametrize("sittings", [8, 12, 18])
def test_no_slowdown_fails_about_once_in_two_hundred(sittings):
    chance = random.Random(sittings)
    runs = [paired.judge([chance.gauss(1, 0.01) for _ in range(sittings)]) for _ in range(4000)]
    assert sum(found.slower for found in runs) / len(runs) < 0.0075


def test_five_per_cent_is_seen_through_twice_the_usual_noise():
    chance = random.Random(5)
    runs = [paired.judge([chance.gauss(1.05, 0.02) for _ in range(12)]) for _ in range(1000)]
    assert sum(found.slower for found in runs) / len(runs) > 0.99
