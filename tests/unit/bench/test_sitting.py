"""What a course of slices comes to."""

from __future__ import annotations

import pytest

from bench.sitting import Course, Spent


def spent(*slices: float, later: float = 0.0) -> Spent:
    return Spent(list(slices), [2 * cost for cost in slices], later)


def test_a_drift_that_both_sides_see_is_no_difference():
    base, current = spent(10, 10, 20, 20, 40, 40), spent(11, 11, 22, 22, 44, 44)
    assert Course(base, current).ratio == pytest.approx(1.1)
    assert Course(base, current).clock_ratio == pytest.approx(1.1)


def test_a_disturbed_round_does_not_count():
    base = spent(*[10] * 10)
    current = spent(10, 10, 10, 90, 10, 10, 2, 2, 10, 10)
    assert Course(base, current).ratio == pytest.approx(1.0)


def test_what_is_done_between_slices_counts_as_much_as_what_is_done_in_them():
    at_once, deferred = spent(10, 10), spent(6, 6, later=4)
    assert Course(at_once, deferred).ratio == pytest.approx(1.0)
    assert Course(at_once, spent(10, 10, later=1)).ratio == pytest.approx(1.1)
    assert Course(spent(8, 8, later=2), spent(8, 8, later=4)).ratio == pytest.approx(1.2)


def test_a_slice_costs_what_is_usual_and_what_comes_later():
    assert spent(10, 11, 12, 13, 99, later=0.5).cost == 12.5
