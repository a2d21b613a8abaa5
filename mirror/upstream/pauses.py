"""How long an endpoint wants to be left alone, for each sort of request: limits are counted for each.

A wish is the repository's that it was said of: registries limit single ones (Docker Hub keeps some that always answer
429, for tests), and one client's choice must not stop the others. What a second repository is told meanwhile is the
endpoint's, as is the limit of an account.
"""

from __future__ import annotations

from collections.abc import Callable

_FIRST = 1.0
_LONGEST = 60.0
_MOST = 1024  # repositories remembered

_Key = tuple[str, str | None]  # kind and repository; None: every repository


class Pauses:
    """Remembers 429 and Retry-After. Without a wish the pause is 1 s and doubles up to a minute."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[_Key, float] = {}
        self._next: dict[_Key, float] = {}

    def left(self, kind: str, repository: str) -> float:
        """Return for how many seconds requests of `kind` to `repository` have to wait: 0 is not at all."""
        until = max(self._until.get((kind, None), 0.0), self._until.get((kind, repository), 0.0))
        return max(0.0, until - self._clock())

    def begin(self, kind: str, repository: str, wished: float) -> float:
        """Start a pause of `wished` seconds (0: as long as it takes) and return its length."""
        now, length = self._clock(), wished
        if not wished:
            length = self._next.pop((kind, repository), _FIRST)
            self._next[kind, repository] = min(length * 2, _LONGEST)
        until = now + length
        agreeing = [
            other
            for (of, name), other in self._until.items()
            if of == kind and name is not None and name != repository and other > now
        ]
        if agreeing:
            self._until[kind, None] = max(self._until.get((kind, None), 0.0), min(until, *agreeing))
        self._until.pop((kind, repository), None)
        self._until[kind, repository] = until
        self._forget(now)
        return length

    def end(self, kind: str, repository: str) -> None:
        """A request of `kind` to `repository` was answered."""
        self._next.pop((kind, repository), None)

    def _forget(self, now: float) -> None:
        if len(self._until) > _MOST:
            self._until = {key: until for key, until in self._until.items() if until > now}
        for remembered in (self._until, self._next):
            while len(remembered) > _MOST:
                del remembered[next(iter(remembered))]
