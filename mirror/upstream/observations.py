"""What is counted and remembered of one upstream's answers."""

from __future__ import annotations

import re
import time

from mirror import logs, metrics
from mirror.errors import (
    NotOffered,
    UpstreamDenied,
    UpstreamError,
    UpstreamInterrupted,
    UpstreamInvalid,
    UpstreamLoginRefused,
    UpstreamNotFound,
)
from mirror.metrics import Metrics

# `100;w=21600`: so many in so many seconds (Docker Hub; the form of the RateLimit drafts).
_RATE = re.compile(r"([0-9]{1,9})(?:;w=([0-9]{1,9}))?.*")
_LOW = 0.1
_DEFAULT_WINDOW = 21600.0

_KINDS = (
    (UpstreamNotFound, ""),
    (NotOffered, ""),
    (UpstreamDenied, "denied"),
    (UpstreamLoginRefused, "login"),
    (UpstreamInterrupted, "interrupted"),
    (UpstreamInvalid, "invalid"),
)


def _kind(error: UpstreamError) -> str:
    return next((kind for of, kind in _KINDS if isinstance(error, of)), "unavailable")


class Observations:
    """The metrics of one upstream (None counts nothing), and Docker Hub's budget as its answers state it."""

    def __init__(self, upstream: str, into: Metrics | None = None) -> None:
        self._upstream = upstream
        self._metrics = into
        self._refused = False
        self._away: set[str] = set()
        self._low_until = 0.0
        self.counts_pulls = False  # an answer carried a budget: every GET of a manifest costs a pull, HEAD costs none

    def answered(self, seconds: float) -> None:
        """An endpoint sent a response header after `seconds`."""
        if self._metrics is not None:
            self._metrics.observe(metrics.UPSTREAM_SECONDS, self._upstream, value=seconds)

    def failed(self, error: UpstreamError) -> None:
        """A request failed; what is only absent is no failure."""
        kind = _kind(error)
        if kind and self._metrics is not None:
            self._metrics.add(metrics.UPSTREAM_ERRORS, self._upstream, kind)

    def received(self, size: int) -> None:
        """A blob's body brought `size` bytes."""
        if size and self._metrics is not None:
            self._metrics.add(metrics.RECEIVED_BYTES, self._upstream, by=size)

    def login(self, refused: bool) -> None:
        """The credential is refused as such, or works (again)."""
        if refused == self._refused:
            return
        self._refused = refused
        if refused:
            logs.get(__name__).error("upstream_login_refused", upstream=self._upstream)
        else:
            logs.get(__name__).info("upstream_login_works", upstream=self._upstream)
        if self._metrics is not None:
            self._metrics.set(metrics.LOGIN_REFUSED, self._upstream, to=int(refused))

    def endpoint(self, name: str, away: bool, what: str) -> None:
        """The endpoint `name` is not asked for now, for the reason `what`; or it is asked again."""
        if away == (name in self._away):
            return
        if away:
            self._away.add(name)
            logs.get(__name__).warning("upstream_endpoint_away", upstream=self._upstream, endpoint=name, what=what)
        else:
            self._away.discard(name)
            logs.get(__name__).info("upstream_endpoint_back", upstream=self._upstream, endpoint=name)
        if self._metrics is not None:
            self._metrics.set(metrics.ENDPOINTS_AWAY, self._upstream, to=len(self._away))

    def budget(self, limit: str, remaining: str) -> None:
        """An answer carried `ratelimit-limit` and `ratelimit-remaining`."""
        most, left = _RATE.fullmatch(limit), _RATE.fullmatch(remaining)
        if most is None or left is None:
            return
        self.counts_pulls = True
        window = float(left[2] or most[2] or _DEFAULT_WINDOW)
        low = int(left[1]) < int(most[1]) * _LOW
        self._low_until = time.monotonic() + window if low else 0.0
        if self._metrics is not None:
            self._metrics.set(metrics.HUB_LIMIT, to=int(most[1]))
            self._metrics.set(metrics.HUB_REMAINING, to=int(left[1]))

    @property
    def budget_low(self) -> bool:
        """Whether less than a tenth of the budget was left when upstream last said, within its window."""
        return time.monotonic() < self._low_until
