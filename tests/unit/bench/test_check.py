"""How long is measured, and what that comes to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import check, side
from bench.frame import Meanwhile
from bench.sitting import Course, Spent
from bench.works import WORKS


class FakeBed:
    """Sittings that take `seconds` and give each row the next of its ratios."""

    def __init__(self, clock: FakeClock, ratios: Callable[[str, int], float], seconds: float = 20.0) -> None:
        self.clock = clock
        self._ratios = ratios
        self._seconds = seconds
        self.sat: list[list[str]] = []

    def sit(self, works, share=1.0):
        names = [next(name for name, one in WORKS.items() if one is work) for work in works]
        self.sat.append(names)
        self.clock.seconds += self._seconds
        made = [self._ratios(name, len(self.sat)) for name in names]
        return [Course(Spent([1.0] * 4, [1.0] * 4, 0), Spent([one] * 4, [one] * 4, 0)) for one in made]


class FakeClock(Meanwhile):
    seconds = 0.0

    def __init__(self) -> None:
        self.seconds = 0.0


def measured(ratios: Callable[[str, int], float], *, quick: bool = False, seconds: float = 20.0):
    clock = FakeClock()
    bed = FakeBed(clock, ratios, seconds)
    rows = [check.Row(name, WORKS[name]) for name in ("tag", "push")]
    check._sit(bed, rows, clock, quick=quick)
    return rows, bed


def calm(_: str, number: int) -> float:
    return 1 + 0.002 * (-1) ** number


def test_settled_rows_end_the_run():
    rows, bed = measured(calm)
    assert len(bed.sat) == 8
    assert not any(row.finding.slower for row in rows)


def test_only_what_is_not_settled_goes_on_until_the_time_is_over():
    _, bed = measured(lambda name, number: calm(name, number) if name == "tag" else 1 + 0.02 * (-1) ** number)
    assert bed.sat == [["tag", "push"]] * 8 + [["push"]] * 13
    assert bed.clock.seconds == 420


def test_what_looks_slower_is_measured_for_as_long_as_there_is_time():
    rows, bed = measured(lambda _, number: 1.05)
    assert len(bed.sat) == 21
    assert [row.finding.word for row in rows] == ["SLOWER", "SLOWER"]


@pytest.mark.parametrize(("seconds", "sittings"), [(18.0, 8), (35.0, 6)])
def test_slow_sittings_get_more_time_until_there_are_enough(seconds, sittings):
    _, bed = measured(calm, quick=True, seconds=seconds)
    assert len(bed.sat) == sittings
    assert bed.clock.seconds <= 240


def test_what_would_fail_for_noise_gets_more_time():
    noisy = [1.1, 1.1, 0.9, 1.1, 1.1, 0.9, 1.1, 1.1]
    rows, bed = measured(lambda name, number: noisy[number % 8] if name == "push" else 1.0)
    assert bed.sat[-9:] == [["push"]] * 9
    assert bed.clock.seconds == 600
    assert rows[1].finding.word == "SLOWER, or too noisy to tell"


def test_the_table_and_the_document_say_the_same():
    rows, _ = measured(lambda name, _: 1.05 if name == "push" else 1.0)
    table = check._table(rows)
    assert "slower than the base: push of 4 MiB" in table
    told = rows[1].as_dict()
    assert told["slower"] is True
    assert told["median"] == pytest.approx(1.05)
    assert len(told["sittings"]) == 21
    assert told["sittings"][0][side.BASE]["slices"] == [1000.0] * 4


def test_few_sittings_have_no_interval():
    row = check.Row("tag", WORKS["tag"])
    row.courses = FakeBed(FakeClock(), calm).sit([WORKS["tag"]])
    assert "too few sittings" in str(row)
    assert row.as_dict()["interval"] is None
