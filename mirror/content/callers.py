"""Who asks: for whom a piece of work is done, so that nobody works for a client that has left."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class Caller:
    """One request that waits. `who` is its client: a principal's name, else an address."""

    who: str
    left: bool = False  # the client has closed its connection


# Set by the face around what may wait; empty for what nobody asked for over HTTP.
caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def who_asks() -> str:
    """Return the client that the running task works for, empty for work of our own."""
    asking = caller.get()
    return asking.who if asking is not None else ""
