"""The same blocking work on many things in a few threads, for what waits for a disk rather than for a processor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def work_through(work: Callable[[T], None], things: Iterable[T], at_once: int) -> None:
    """Do `work` on each of `things`, begun in their order, on at most `at_once` at a time. For threads.

    After an error nothing more is begun; it is raised when what was begun has ended.
    """
    running: set[Future[None]] = set()
    with ThreadPoolExecutor(at_once, thread_name_prefix="crew") as pool:
        for thing in things:
            if len(running) >= at_once:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for one in ended:
                    one.result()
            running.add(pool.submit(work, thing))
        for one in running:
            one.result()
