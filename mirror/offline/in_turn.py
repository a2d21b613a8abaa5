"""Reading members of a part one after the other, although several are in work: a disk that turns need not jump."""

from __future__ import annotations

import threading
from collections.abc import Callable

from mirror.offline.carrying import Carrying
from mirror.offline.part import PartDamaged


class InTurn:
    """Reads `size` bytes of a member by `source`; from the first to the last nobody else with the lock `turn` reads.

    Counts them in `carrying`. Whoever reads calls `end`, having read all or not.
    """

    def __init__(self, source: Callable[[int], bytes], size: int, turn: threading.Lock, carrying: Carrying) -> None:
        self._source = source
        self._left = size
        self._turn = turn
        self._carrying = carrying
        self._ours = False

    def __call__(self, count: int) -> bytes:
        """Return up to `count` bytes. Raises PartDamaged, and Stopped where that is wanted."""
        if not self._ours:
            self._turn.acquire()
            self._ours = True
        try:
            content = self._source(count)
        except OSError as error:
            raise PartDamaged(f"it cannot be read ({error.strerror})") from error
        self._carrying.move(len(content))
        self._left -= len(content)
        if self._left <= 0:
            self.end()
        return content

    def end(self) -> None:
        """Let others read. Safe to call twice."""
        if self._ours:
            self._ours = False
            self._turn.release()
