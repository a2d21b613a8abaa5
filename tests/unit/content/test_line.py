"""Who waits for an upstream: in turn by client, bounded, and gone with its client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mirror.content.line import _WIDTH, FILLS, TAGS, Line, Lines
from mirror.errors import NotYet


class Queue:
    """A line whose only place is taken, and the work that waits in it, named as it was served."""

    def __init__(self, most: int = 100) -> None:
        self.line = Line(1, most)
        self.served: list[str] = []
        self.refused: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def fill(self, names: Sequence[str]) -> None:
        """Have work wait; its client is the name's first letter."""
        await self.line.enter("first")
        for name in names:
            self.tasks[name] = asyncio.create_task(self._wait(name))
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _wait(self, name: str) -> None:
        try:
            async with self.line.place(name[0]):
                self.served.append(name)
        except NotYet:
            self.refused.append(name)

    async def drain(self) -> list[str]:
        self.line.leave()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        return self.served


@pytest.mark.parametrize(
    ("waiting", "served"),
    [
        (["a1", "a2", "a3"], ["a1", "a2", "a3"]),
        (["a1", "a2", "a3", "b1"], ["a1", "b1", "a2", "a3"]),
        (["a1", "a2", "b1", "b2", "c1"], ["a1", "b1", "c1", "a2", "b2"]),
        (["a1", "b1", "a2", "a3", "b2"], ["a1", "b1", "a2", "b2", "a3"]),
    ],
)
async def test_a_line_is_served_in_turn_by_client(waiting: list[str], served: list[str]) -> None:
    queue = Queue()
    await queue.fill(waiting)
    assert await queue.drain() == served


@pytest.mark.parametrize(
    ("waiting", "refused"),
    [
        (["a1", "a2", "a3", "a4"], []),  # all of a line for one client
        (["a1", "a2", "a3", "a4", "a5"], ["a5"]),
        (["a1", "a2", "a3", "a4", "b1"], ["a4"]),
        (["a1", "a2", "a3", "b1", "b2"], ["a3"]),
        (["a1", "a2", "b1", "b2", "a3"], ["a3"]),
        (["a1", "a2", "b1", "b2", "c1"], ["a2"]),
        (["a1", "b1", "c1", "d1", "e1"], ["e1"]),
    ],
)
async def test_who_has_most_in_a_full_line_loses_what_it_came_with_last(waiting: list[str], refused: list[str]) -> None:
    queue = Queue(most=4)
    await queue.fill(waiting)
    assert queue.refused == refused
    assert sorted(await queue.drain()) == sorted(set(waiting) - set(refused))


async def test_who_leaves_the_line_takes_nothing_along() -> None:
    queue = Queue(most=3)
    await queue.fill(["a1", "a2", "b1"])
    queue.tasks["a1"].cancel()
    await asyncio.sleep(0)
    await queue_more(queue, "c1")
    assert queue.refused == []
    assert await queue.drain() == ["a2", "b1", "c1"]
    assert queue.line._waiting == {}
    assert queue.line._length == 0
    assert queue.line._free == 1


async def queue_more(queue: Queue, name: str) -> None:
    queue.tasks[name] = asyncio.create_task(queue._wait(name))
    await asyncio.sleep(0)


async def test_a_place_that_comes_just_when_its_client_leaves_goes_to_the_next() -> None:
    queue = Queue()
    await queue.fill(["a1", "b1"])
    queue.line.leave()  # to a1, which has not run yet
    queue.tasks["a1"].cancel()
    await asyncio.gather(*queue.tasks.values(), return_exceptions=True)
    assert queue.served == ["b1"]
    assert queue.line._free == 1


@pytest.mark.parametrize("left", [["a1"], ["a1", "b1"], ["b1"], ["a1", "a2", "b1", "c1"]])
async def test_who_leaves_at_that_very_moment_is_passed_over(left: list[str]) -> None:
    """Its future is cancelled, and it has had no turn yet to say so: the place was lost, and the line stood still."""
    queue = Queue()
    await queue.fill(["a1", "a2", "b1", "c1"])
    for name in left:
        queue.tasks[name].cancel()
    queue.line.leave()  # before any of them runs
    await asyncio.gather(*queue.tasks.values(), return_exceptions=True)
    assert sorted(queue.served) == sorted({"a1", "a2", "b1", "c1"} - set(left))
    async with asyncio.timeout(1):
        await queue.line.enter("later")


async def test_who_leaves_at_that_very_moment_makes_room() -> None:
    queue = Queue(most=3)
    await queue.fill(["a1", "a2", "a3"])
    queue.tasks["a3"].cancel()
    await queue_more(queue, "b1")
    assert queue.refused == []
    assert await queue.drain() == ["a1", "b1", "a2"]


async def test_every_upstream_and_every_sort_of_work_has_a_line_of_its_own() -> None:
    lines = Lines(16)
    for _ in range(_WIDTH):
        await lines.of("slow", TAGS).enter("a")
    async with asyncio.timeout(5):
        await lines.of("healthy", TAGS).enter("a")
        await lines.of("slow", FILLS).enter("a")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await lines.of("slow", TAGS).enter("a")
