"""How workers share what connects: each sees how many connections its siblings have."""

from __future__ import annotations

import pytest

from mirror.shares import Share, Shares


@pytest.mark.parametrize(
    ("mine", "others", "room"),
    [
        (0, [], None),  # alone
        (40, [None, None], None),  # the others have left, or were never there
        (0, [0], 4),
        (4, [0], 0),
        (4, [1], 1),
        (40, [24], 0),
        (30, [24], 10),
        (0, [900], 1354),
        (20, [900, 2], 0),  # the least busy one counts
        (20, [900, None], 1334),
    ],
)
def test_a_worker_stays_near_the_least_busy_of_the_others(mine, others, room):
    shares = Shares(8)
    mirror = Share(shares, 0)
    mirror.count(mine)
    for index, count in enumerate(others, 1):
        shares.count(index, 7)
        shares.leave(index) if count is None else shares.count(index, count)
    assert mirror.room() == room


def test_two_that_take_what_they_may_end_within_two_to_one():
    shares = Shares(2)
    workers = [Share(shares, 0), Share(shares, 1)]
    taken = [0, 0]
    for worker in workers:
        worker.count(0)
    left = 64
    while left:
        for number, worker in enumerate(workers):  # the first always wakes first, and takes all that it may
            count = min(worker.room() or 0, 16, left)
            taken[number] += count
            left -= count
            worker.count(taken[number])
    assert max(taken) <= 2 * min(taken)


def test_what_one_worker_said_of_a_port_the_others_need_not_say():
    shares = Shares(2)
    workers = [Share(shares, 0), Share(shares, 1)]
    assert [worker.is_first(port) for port in (0, 5000, 65535) for worker in workers] == [True, False] * 3
