"""When to ask again: bounded tries with backoff and jitter, as long as upstream wishes, within one time budget."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mirror.errors import UpstreamUnavailable
from mirror.upstream.failures import Lasting

TRIES = 3
BUDGET_SECONDS = 15.0
# A server's wish counts up to so long: faults.md 2.1, 429 (cap 15 min).
LONGEST_WAIT = 900.0

ResultT = TypeVar("ResultT")


def parse_retry_after(value: str, now: float | None = None) -> float:
    """Return the seconds that `Retry-After` asks for (RFC 9110, 10.2.3: a number or a date), at most 900; 0 if none.

    `now` is Unix time, for a date.
    """
    text = value.strip()
    if text.isascii() and text.isdecimal():
        return float(min(int(text[:10]), LONGEST_WAIT))
    try:
        wait = email.utils.parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, math.ceil(wait)), LONGEST_WAIT)


class RetryAllowance:
    """Bounds retries to a tenth of the requests, so that ours do not keep a struggling upstream down."""

    def __init__(self, share: float = 0.1, reserve: float = 10.0) -> None:
        self._share = share
        self._most = reserve
        self._left = reserve

    def note_request(self) -> None:
        """A first try is made."""
        self._left = min(self._most, self._left + self._share)

    def take(self) -> bool:
        """Tell whether a retry may be made, and count it."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Retry:
    """Repeats a question that failed with UpstreamUnavailable, at most twice and within 15 s."""

    def __init__(
        self,
        allowance: RetryAllowance,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        budget: float = BUDGET_SECONDS,
    ) -> None:
        self._allowance = allowance
        self._sleep = sleep
        self._jitter = jitter
        self._budget = budget

    async def run(self, ask: Callable[[], Awaitable[ResultT]]) -> ResultT:
        """Return what `ask` returns; raise its last error."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._budget
        self._allowance.note_request()
        for number in range(TRIES):
            try:
                return await ask()
            except Lasting:
                raise
            except UpstreamUnavailable as error:
                wait = self._pause(number, error.retry_after)
                last = number == TRIES - 1 or clock() + wait >= until
                if last or not self._allowance.take():
                    raise
            await self._sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _pause(self, number: int, wished: float) -> float:
        # Full jitter over an exponential step: clients that failed together do not come back together.
        step = 0.5 * 2.0**number * (0.5 + self._jitter())
        return max(step, wished * (1 + 0.1 * self._jitter()))
