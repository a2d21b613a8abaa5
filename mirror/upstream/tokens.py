"""Tokens that are still good: bounded, by endpoint, login and scope, fetched once for everybody who waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from aiocache import SimpleMemoryCache
from aiocache.serializers import JsonSerializer

from mirror.errors import UpstreamError
from mirror.upstream.auth import Grant
from mirror.upstream.secret import Secret

# aiocache's memory cache grows without end (50 000 client-chosen names took 102 MB), so the number is held here.
MOST_TOKENS = 1024
_REFRESH_SHARE = 0.8
# A token that ends while its request is on the way costs a 401 more.
_USABLE_SHARE = 0.95

Obtain = Callable[[], Awaitable[Grant]]


class TokenCache:
    """Authorization headers by key. Must be closed."""

    def __init__(self, most: int = MOST_TOKENS) -> None:
        self._cache = SimpleMemoryCache(serializer=JsonSerializer())
        self._keys: OrderedDict[str, None] = OrderedDict()
        self._most = most
        self._running: dict[str, asyncio.Task[Secret]] = {}

    async def get(self, key: str, obtain: Obtain, refused: Secret | None = None) -> Secret:
        """Return the header under `key`, obtained by `obtain` if there is none or only the `refused` one.

        Concurrent callers share one `obtain`, and nobody's cancellation touches it. Near its end a header is renewed
        while the old one goes on being used.
        """
        entry = await self._cache.get(key)
        if entry is not None and not (refused is not None and entry["header"] == refused.reveal()):
            self._keys.move_to_end(key)
            if asyncio.get_running_loop().time() >= entry["refresh_at"]:
                _ = self._start(key, obtain)
            return Secret(entry["header"])
        return await asyncio.shield(self._start(key, obtain))

    async def close(self) -> None:
        """Stop what runs and forget everything."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for key in list(self._keys):
            await self._cache.delete(key)  # cancels its timer, which clear() would leave behind
        self._keys.clear()

    def __len__(self) -> int:
        return len(self._keys)

    def _start(self, key: str, obtain: Obtain) -> asyncio.Task[Secret]:
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._obtain(key, obtain))
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: str, task: asyncio.Task[Secret]) -> None:
        self._running.pop(key, None)
        # Who waits gets the error from the task; of a renewal ahead of time nobody needs to know.
        with contextlib.suppress(asyncio.CancelledError, UpstreamError):
            task.result()

    async def _obtain(self, key: str, obtain: Obtain) -> Secret:
        grant = await obtain()
        usable = grant.lifetime * _USABLE_SHARE
        entry = {
            "header": grant.header.reveal(),
            "refresh_at": asyncio.get_running_loop().time() + grant.lifetime * _REFRESH_SHARE,
        }
        await self._cache.set(key, entry, ttl=usable)
        self._keys[key] = None
        self._keys.move_to_end(key)
        while len(self._keys) > self._most:
            oldest, _ = self._keys.popitem(last=False)
            await self._cache.delete(oldest)
        return grant.header
