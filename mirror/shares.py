"""What the workers of one `serve` share of their connections: how many each has, and what was said of a port.

A burst of connections is shared by the first, and what is to be said once is not said by each worker by the second.
"""

from __future__ import annotations

import mmap

# A worker takes no more than half again what the least busy one has, and so many: a burst of 64 ends within 2:1.
_AHEAD = 4
_ABSENT = -1
_PORTS = 1 << 16


class Shares:
    """Memory made before the fork, with a number for each worker."""

    def __init__(self, workers: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        for index in range(workers):
            self._counts[index] = _ABSENT
        self._said = mmap.mmap(-1, _PORTS)

    def is_first(self, port: int) -> bool:
        """Tell whether this was not asked of a port before, by any worker; two that ask at once may both be first."""
        first = not self._said[port]
        self._said[port] = 1
        return first

    def count(self, index: int, connections: int) -> None:
        """Say how many connections worker `index`, which accepts them, has open."""
        self._counts[index] = connections

    def leave(self, index: int) -> None:
        """Say that worker `index` accepts no connection, or has ended."""
        self._counts[index] = _ABSENT

    def room(self, index: int) -> int | None:
        """Return how many more worker `index` may take before its siblings have some, None where it has none."""
        counts = self._counts.tolist()
        mine, counts[index] = counts[index], _ABSENT
        least = min((count for count in counts if count != _ABSENT), default=None)
        return None if least is None else max(0, least + least // 2 + _AHEAD - mine)


class Share:
    """What one worker sees of its siblings."""

    def __init__(self, shares: Shares, index: int) -> None:
        self._shares = shares
        self._index = index

    def count(self, connections: int) -> None:
        """Say how many connections this worker has open."""
        self._shares.count(self._index, connections)

    def leave(self) -> None:
        """Say that this worker accepts no more."""
        self._shares.leave(self._index)

    def room(self) -> int | None:
        """Return how many more it may take before its siblings have some, None where it has none."""
        return self._shares.room(self._index)

    def is_first(self, port: int) -> bool:
        """Tell whether neither this worker nor a sibling asked this of a port before."""
        return self._shares.is_first(port)
