"""What paired runs say: how much slower one side is than the other, how sure that is, and whether it may be.

Each sitting gives one ratio, current to base: 1.02 is 2 % slower. The figure is their median. Its interval comes
from counting alone: with N sittings, the median of endless many lies between the smallest and the largest ratio
unless all N fell on one side of it, as N coins fall on one side; and likewise for the second smallest and second
largest. The innermost pair that leaves at most 1 in 100 outside is taken, so nothing is supposed about how the
ratios are spread, and one wild sitting moves nothing. Fewer than eight cannot give such an interval.

The spread is what lies between the interval's lower end and the median. A row is slower where its median is above 1
by more than the spread, that is, where the whole interval is above 1; and where it is above 1 by more than 3 %,
whatever the spread. Sittings go on for a time that does not depend on which side looks faster, but for rows that would
fail: those get all the time there is, so that what fails fails on the most evidence. So equal sides fail in about one
row of two hundred at the most, or more often where the spread is beyond 3 % even then, which the verdict says.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 8  # sittings
MOST_TOLERATED = 0.03  # of the base's cost
ENOUGH = 0.01  # a spread of which no more sittings are needed

_OUTSIDE = 0.01  # how often the interval may miss


@dataclass(frozen=True, slots=True)
class Finding:
    """What the ratios of some sittings say of one row: their median, and the interval around it."""

    sittings: int
    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """How far the median may be above 1 by chance."""
        return self.median - self.low

    @property
    def slower(self) -> bool:
        """Whether the row fails."""
        return self.median > 1 + min(self.spread, MOST_TOLERATED)

    @property
    def noisy(self) -> bool:
        """Whether a slowdown of the size that must be seen could hide in it."""
        return max(self.spread, self.high - self.median) > MOST_TOLERATED

    @property
    def settled(self) -> bool:
        """Whether more sittings would not say more. What looks slower is measured for as long as there is time."""
        return max(self.spread, self.high - self.median) <= ENOUGH and not self.slower

    @property
    def word(self) -> str:
        """The verdict in a word or some."""
        if self.slower:
            return "SLOWER, or too noisy to tell" if self.noisy else "SLOWER"
        if self.noisy:
            return "too noisy to tell"
        return "faster" if self.high < 1 else "as fast"


def judge(ratios: Sequence[float]) -> Finding:
    """Return what at least one ratio says; with fewer than FEWEST the interval has no ends."""
    ordered = sorted(ratios)
    cut = cut_off(len(ordered))
    low, high = (ordered[cut - 1], ordered[-cut]) if cut else (-math.inf, math.inf)
    return Finding(len(ordered), statistics.median(ordered), low, high)


def cut_off(count: int) -> int:
    """Return which of `count` ratios, from either end, bounds the interval; 0 where none does."""
    missed, cut = 0.0, 0
    while cut < count:
        missed += 2 * math.comb(count, cut) / 2**count
        if missed > _OUTSIDE:
            break
        cut += 1
    return cut
