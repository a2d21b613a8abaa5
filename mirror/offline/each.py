"""The same work on many things, a bounded number of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def each(work: Callable[[T], Awaitable[R]], things: Sequence[T], at_once: int) -> list[R]:
    """Return what `work` returns for each of `things`, in their order, whatever the order in which they end.

    The first error of `work` cancels the rest and is raised as it is.
    """
    results: dict[int, R] = {}
    waiting = iter(enumerate(things))

    async def take() -> None:
        for place, thing in waiting:
            results[place] = await work(thing)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(things))):
                group.create_task(take())
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [results[place] for place in range(len(things))]


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
