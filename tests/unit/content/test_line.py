"""Who waits for an upstream: in turn by client, bounded, and gone with its client."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest

from mirror.content.answers import Target
from mirror.content.lines import _WIDTH, FILLS, TAGS, Lines
from mirror.errors import NotYet
from mirror.line import Line


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


def of(upstream: str, repository: str = "team/app") -> Target:
    return Target(upstream, repository, f"{upstream}/{repository}")


async def test_every_upstream_and_every_sort_of_work_has_a_line_of_its_own() -> None:
    lines = Lines(16)
    async with AsyncExitStack() as held:
        for number in range(_WIDTH):
            await held.enter_async_context(lines.of(of("slow", f"team/{number}"), TAGS).place("a"))
        async with asyncio.timeout(5):
            for line in (lines.of(of("healthy"), TAGS), lines.of(of("slow"), FILLS)):
                await held.enter_async_context(line.place("a"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), lines.of(of("slow"), TAGS).place("a"):
                pass


async def test_one_repository_leaves_places_to_the_others() -> None:
    """One that answers nothing had all places, and the tags of all others were stale."""
    line = Line(8, spare=2)
    for _ in range(6):
        await line.enter("a", "silent")
    silent = [asyncio.create_task(line.enter("a", "silent")) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await line.enter("a", "well")
        await line.enter("b", "well")
    waits = asyncio.create_task(line.enter("a", "well"))
    await asyncio.sleep(0)
    assert not any(task.done() for task in (*silent, waits))
    line.leave("well")
    await asyncio.sleep(0)
    assert waits.done(), "it goes before those whose repository has enough"
    line.leave("silent")
    await asyncio.sleep(0)
    assert [task.done() for task in silent] == [True, False, False]
    for task in silent:
        task.cancel()


async def test_a_client_is_served_in_turn_by_repository() -> None:
    line, served = Line(1), []

    async def wait(name: str) -> None:
        async with line.place("client", name[0]):
            served.append(name)

    await line.enter("first")
    tasks = [asyncio.create_task(wait(name)) for name in ("x1", "x2", "x3", "y1", "y2")]
    await asyncio.sleep(0)
    line.leave()
    await asyncio.gather(*tasks)
    assert served == ["x1", "y1", "x2", "y2", "x3"]
