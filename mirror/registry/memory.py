"""What connections hold in memory, against what they may: heads, bodies, and what clients do not take."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

# What a worker takes without its connections: the program, what it remembers of manifests and tags, running downloads.
OWN = 128 * 2**20
_ENOUGH = 7 / 8  # of the limit is where cutting ends, so that it does not begin again at once
_TRIM = 32 * 2**20  # bytes that must have been let go of before the allocator is asked to give pages back


class Holder(Protocol):
    """A connection."""

    weighed: int

    def weigh(self) -> int:
        """Return how many bytes are held for it."""


class Memory:
    """The sum of what connections hold, and whether it is too much.

    `limit` is in bytes, for the whole worker, of which `OWN` is its own; infinity for none. Connections are weighed
    when they come by much, and all of them once a second, so that a request that holds little costs nothing. `over` is
    called as soon as the sum is above the limit: whoever sees all connections then cuts some.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._limit = max(limit - OWN, 0.0)
        self._most = 0  # since pages were given back
        self.held = 0
        self.full = False
        self.over: Callable[[], object] = lambda: None

    @property
    def enough(self) -> bool:
        """Whether nothing more must be cut."""
        return self.held <= self._limit * _ENOUGH

    def weigh(self, holder: Holder) -> None:
        """Count anew what one connection holds."""
        bytes_ = holder.weigh()
        self.held += bytes_ - holder.weighed
        holder.weighed = bytes_
        if self.held > self._limit:
            self.full = True
            self.over()

    def forget(self, holder: Holder) -> None:
        """Count what one connection holds no more."""
        self.held -= holder.weighed
        holder.weighed = 0

    def admit(self) -> None:
        """Take new work again if there is room for it."""
        self.full = self.full and not self.enough

    def give_back(self) -> None:
        """Give what was let go of back to the system."""
        self._most = max(self._most, self.held)
        if self._most - self.held > _TRIM:
            self._most = self.held
            # The allocator keeps what lies below something in use; only glibc's can be asked.
            with suppress(AttributeError):
                ctypes.CDLL(None).malloc_trim(0)


class Body:
    """An answer's body on its way to all who take it."""

    __slots__ = ("content", "takers")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.takers = 0

    @property
    def share(self) -> int:
        """Bytes of it that each of its takers answers for."""
        return len(self.content) // max(self.takers, 1)


class Bodies:
    """Large bodies under way: of those that are alike one is held, however many clients take them slowly."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[int, bytes], Body] = {}

    def take(self, content: bytes) -> Body:
        """Return the body to send for `content`; to be let go of with `release`."""
        body = self._bodies.setdefault(_key(content), Body(content))
        if body.content != content:
            body = Body(content)
        body.takers += 1
        return body

    def release(self, body: Body) -> None:
        """Say that one client takes it no more."""
        body.takers -= 1
        key = _key(body.content)
        if not body.takers and self._bodies.get(key) is body:
            del self._bodies[key]


def _key(content: bytes) -> tuple[int, bytes]:
    # Bodies of one length that differ do so in their ends mostly: digests, or the last names of a page.
    return len(content), content[-512:]
