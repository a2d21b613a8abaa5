"""Blocking work in a few threads: bounded, stopped by an error; and members of a part that are read one by one."""

from __future__ import annotations

import threading
import time

import pytest

from mirror.offline.carrying import Carrying, Stopped
from mirror.offline.crew import work_through
from mirror.offline.in_turn import InTurn
from mirror.offline.part import PartDamaged


def test_all_is_done_and_no_more_at_once_than_was_allowed() -> None:
    lock = threading.Lock()
    now, most, done = 0, 0, []

    def work(thing: int) -> None:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.002)
        with lock:
            now -= 1
            done.append(thing)

    work_through(work, range(50), 4)
    assert sorted(done) == list(range(50))
    assert 2 <= most <= 4


def test_after_an_error_nothing_more_is_begun() -> None:
    begun = []

    def work(thing: int) -> None:
        begun.append(thing)
        time.sleep(0.002)
        if thing == 5:
            raise ValueError(thing)

    with pytest.raises(ValueError, match="5"):
        work_through(work, range(1_000), 3)
    assert len(begun) < 20


def test_an_error_of_the_last_is_raised() -> None:
    def work(thing: int) -> None:
        if thing == 2:
            raise ValueError(thing)

    with pytest.raises(ValueError, match="2"):
        work_through(work, range(3), 8)


def test_members_are_read_one_after_the_other() -> None:
    turn, carrying, order = threading.Lock(), Carrying(), []

    def member(name: int) -> None:
        def source(count: int) -> bytes:
            order.append(name)
            time.sleep(0.0005)
            return bytes(count)

        read = InTurn(source, 50, turn, carrying)
        try:
            for _ in range(5):
                read(10)
        finally:
            read.end()

    work_through(member, range(20), 4)
    assert [order[at : at + 5] for at in range(0, 100, 5)] == [[order[at]] * 5 for at in range(0, 100, 5)]
    assert carrying.done == 1_000


@pytest.mark.parametrize("how", ["unreadable", "stopped", "left"])
def test_whoever_stops_in_the_middle_lets_others_read(how: str) -> None:
    turn, carrying = threading.Lock(), Carrying()

    def broken(count: int) -> bytes:
        if how == "unreadable":
            raise OSError(5, "Input/output error")
        carrying.stop = how == "stopped"
        return bytes(count)

    read = InTurn(broken, 50, turn, carrying)
    if how == "unreadable":
        with pytest.raises(PartDamaged, match="Input/output error"):
            read(10)
    elif how == "stopped":
        with pytest.raises(Stopped):
            read(10)
    else:
        read(10)
    assert turn.locked()
    read.end()
    read.end()
    carrying.stop = False
    assert InTurn(bytes, 10, turn, carrying)(10) == bytes(10)
    assert not turn.locked()
