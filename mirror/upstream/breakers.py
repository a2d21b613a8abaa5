"""The breakers of one endpoint: its own, and one for each repository that fails there."""

from __future__ import annotations

from collections.abc import Callable

from mirror.upstream.endpoints import WINDOW_SECONDS, Breaker

_MOST = 256  # repositories remembered


class Breakers:
    """Whom a failure counts against.

    That no connection comes about is the endpoint's failure. An answer that is an error, late or broken off is the
    repository's, so that nobody can stop an upstream by asking for one that always fails; it is the endpoint's too
    as soon as another repository has failed within the same 30 s.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.endpoint = Breaker(clock)
        self._clock = clock
        self._repositories: dict[str, Breaker] = {}
        self._failed: dict[str, float] = {}  # when, the latest last

    def wait(self, repository: str) -> float:
        """Return the seconds until `repository` may be asked for, as far as its own failures go: 0 is now."""
        breaker = self._repositories.get(repository)
        return breaker.wait() if breaker is not None else 0.0

    def begin(self, repository: str) -> None:
        """A request starts; of a half-open breaker it is the probe."""
        self.endpoint.begin()
        if (breaker := self._repositories.get(repository)) is not None:
            breaker.begin()

    def succeeded(self, repository: str) -> None:
        """The endpoint answered, whatever it said."""
        self.endpoint.succeeded()
        self._repositories.pop(repository, None)
        self._failed.pop(repository, None)

    def unreachable(self, repository: str) -> None:
        """No connection to the endpoint came about."""
        self.endpoint.failed()
        if (breaker := self._repositories.get(repository)) is not None:
            breaker.abandoned()

    def failed(self, repository: str) -> None:
        """The endpoint was too slow, answered 5xx or broke off, asked for `repository`."""
        now = self._clock()
        if any(name != repository and now - at <= WINDOW_SECONDS for name, at in self._failed.items()):
            self.endpoint.failed()
        else:
            self.endpoint.abandoned()
        self._failed.pop(repository, None)
        self._failed[repository] = now
        self._repositories.setdefault(repository, Breaker(self._clock)).failed()
        if len(self._failed) > _MOST:
            oldest = next(iter(self._failed))
            del self._failed[oldest], self._repositories[oldest]

    def abandoned(self, repository: str) -> None:
        """The request ended without a verdict."""
        self.endpoint.abandoned()
        if (breaker := self._repositories.get(repository)) is not None:
            breaker.abandoned()
