"""How many requests a second one client makes: above it a request waits its turn, and never gets a 429."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

from mirror.errors import NotYet

_PATIENCE = 18.0
_CLIENTS = 10_000
_BURST = 4  # seconds' worth that a client may ask for at once


class Pace:
    """One bucket a client, kept as the time at which it will be empty again. `rate` is in requests a second."""

    def __init__(self, rate: float, clock: Callable[[], float], patience: float = _PATIENCE) -> None:
        self._interval = 1 / rate
        self._clock = clock
        self._patience = patience
        self._empty_at: dict[str, float] = {}

    async def wait(self, client: str) -> None:
        """Return when it is the client's turn; raise NotYet after 18 s if that is later still.

        Waiting also slows down who does not listen: a client that would be told at once would ask again at once.
        """
        delay = self._take(client)
        if delay is None:
            await asyncio.sleep(self._patience)
            raise NotYet("this client sends more requests than it may", "send fewer at once")
        if delay > 0:
            await asyncio.sleep(delay)

    def _take(self, client: str) -> float | None:
        """Return in how many seconds it is this request's turn, or None, taking nothing, if nobody waits so long."""
        now = self._clock()
        key = _network(client)
        empty_at = max(self._empty_at.pop(key, now), now)
        delay = max(empty_at + self._interval - now - _BURST, 0.0)
        refused = delay > self._patience
        if len(self._empty_at) >= _CLIENTS:
            self._forget(now)
        self._empty_at[key] = empty_at if refused else empty_at + self._interval
        return None if refused else delay

    def _forget(self, now: float) -> None:
        """Drop whose buckets are empty, or else who came longest ago."""
        self._empty_at = {key: at for key, at in self._empty_at.items() if at > now}
        if len(self._empty_at) >= _CLIENTS:
            del self._empty_at[next(iter(self._empty_at))]


def _network(client: str) -> str:
    """Return what one client holds: its IPv4 address, or the /64 of its IPv6 address."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(int(address) >> 64)
