"""One piece of work for everybody who asks for the same thing at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Generic, TypeVar

from mirror.content.callers import caller, who_asks
from mirror.content.lines import Turn
from mirror.errors import RETRY_AFTER

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

# Seconds for which who was told to ask again keeps its place: as long as that, and some for the way.
_HELD = RETRY_AFTER + 5.0


class Interest:
    """Who still wants a piece of work; `drop` is called when nobody does and it has not begun.

    Work that has begun goes on whatever its clients do: the next one finds its fruit.
    """

    def __init__(self, drop: Callable[[], object]) -> None:
        self.begun = False
        self._drop = drop
        self._count = 0

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Count one who waits, while the block runs; one whose patience ended is counted until it may ask again."""
        self._count += 1
        is_held = False
        try:
            yield
        except asyncio.CancelledError:
            asking = caller.get()
            is_held = not self.begun and asking is not None and not asking.left
            raise
        finally:
            if is_held:
                asyncio.get_running_loop().call_later(_HELD, self._leave)
            else:
                self._leave()

    def _leave(self) -> None:
        self._count -= 1
        if not self._count and not self.begun:
            self._drop()


class _Work(Generic[Result]):
    """The work of one key: its task, and who wants it."""

    def __init__(self, call: Callable[[], Awaitable[Result]], line: Turn | None) -> None:
        self._call = call
        self._line = line
        self.task = asyncio.create_task(self._run())
        self.interest = Interest(self.task.cancel)

    async def _run(self) -> Result:
        async with self._line.place(who_asks()) if self._line is not None else nullcontext():
            self.interest.begun = True
            return await self._call()


class Coalesced(Generic[Key, Result]):
    """Detached tasks by key: no waiter's leaving cancels the work of the others."""

    def __init__(self) -> None:
        self._works: dict[Key, _Work[Result]] = {}

    def running(self, key: Key) -> bool:
        """Tell whether the work of `key` is under way, or waits in its line."""
        return self._under_way(key) is not None

    async def run(self, key: Key, call: Callable[[], Awaitable[Result]], line: Turn | None = None) -> Result:
        """Return what `call` returns, or raise what it raises, joining the run of `key` that is under way.

        It begins when `line` has a place for it; where that has too many, NotYet is raised.
        """
        work = self._under_way(key)
        if work is None:
            work = self._works[key] = _Work(call, line)
            work.task.add_done_callback(lambda done: self._ended(key, done))
        with work.interest.wanted():
            return await asyncio.shield(work.task)

    async def stop(self) -> None:
        """Cancel what is under way."""
        tasks = [work.task for work in self._works.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _under_way(self, key: Key) -> _Work[Result] | None:
        work = self._works.get(key)
        # One that has ended and is not taken off yet is not joined: who finds its answer too old asks again, and would
        # be given that same answer, at once, for ever. One that is being cancelled is wanted by nobody any more.
        return work if work is not None and not work.task.done() and not work.task.cancelling() else None

    def _ended(self, key: Key, done: asyncio.Task[Result]) -> None:
        work = self._works.get(key)
        if work is not None and work.task is done:
            del self._works[key]
        # Where every waiter has left, nobody takes the exception; it is not news then.
        done.cancelled() or done.exception()
