"""One piece of work for everybody who asks for the same thing at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class Coalesced(Generic[Key, Result]):
    """Detached tasks by key: no waiter's leaving cancels the work of the others."""

    def __init__(self) -> None:
        self._tasks: dict[Key, asyncio.Task[Result]] = {}

    def running(self, key: Key) -> bool:
        """Tell whether the work of `key` is under way."""
        return key in self._tasks

    async def run(self, key: Key, work: Callable[[], Awaitable[Result]]) -> Result:
        """Return what `work` returns, or raise what it raises, joining the run of `key` that is under way."""
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(_await(work))
            self._tasks[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: Key, done: asyncio.Task[Result]) -> None:
        self._tasks.pop(key, None)
        # Where every waiter has left, nobody takes the exception; it is not news then.
        done.cancelled() or done.exception()


async def _await(work: Callable[[], Awaitable[Result]]) -> Result:
    return await work()
