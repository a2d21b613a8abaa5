"""Threads for the calls that wait for a disk: one pool for reads, one for writes, so that neither starves the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class Threads:
    """A bounded pool of threads; `run` awaits a blocking call in one of them."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    def run(self, call: Callable[[*Arguments], Result], *arguments: *Arguments) -> asyncio.Future[Result]:
        """Start `call(*arguments)` in a thread and return the future of its result.

        Cancelling the future does not stop a call that has begun.
        """
        return asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    async def complete(self, call: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Return what `call(*arguments)` returns in a thread; a cancelled caller leaves only when it has ended."""
        return await settle(self.run(call, *arguments))

    def close(self) -> None:
        """Wait for what is running and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


async def settle(running: asyncio.Future[Result]) -> Result:
    """Return the result of a call that runs in a thread.

    A cancelled caller leaves only when the call has ended: what the call works on (a descriptor, a lock) is let go of
    by then, and a number that is free again would be given to another file.
    """
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
