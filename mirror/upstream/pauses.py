"""How long an endpoint wants to be left alone, for each sort of request: limits are counted for each."""

from __future__ import annotations

from collections.abc import Callable

_FIRST = 1.0
_LONGEST = 60.0


class Pauses:
    """Remembers 429 and Retry-After. Without a wish the pause is 1 s and doubles up to a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}
        self._next: dict[str, float] = {}

    def left(self, kind: str) -> float:
        """Return for how many seconds requests of `kind` have to wait: 0 is not at all."""
        return max(0.0, self._until.get(kind, 0.0) - self._clock())

    def begin(self, kind: str, wished: float) -> float:
        """Start a pause of `wished` seconds (0: as long as it takes) and return its length."""
        length = wished
        if not wished:
            length = self._next.get(kind, _FIRST)
            self._next[kind] = min(length * 2, _LONGEST)
        self._until[kind] = self._clock() + length
        return length

    def end(self, kind: str) -> None:
        """A request of `kind` was answered."""
        self._next.pop(kind, None)
