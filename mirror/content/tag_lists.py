"""The tags of repositories as the store lists them: read once for all pages, and again when they have changed."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from mirror.content.coalesce import Coalesced
from mirror.store.tags import Listing, Tags
from mirror.store.threads import Threads

_MOST = 300_000  # tags that are remembered a worker, some 30 MB


class _List(NamedTuple):
    """What the store lists, what was listed beside that, and all of it in lexical order; when it was begun."""

    stored: Listing
    besides: Sequence[str]
    tags: list[str]
    began: float


class TagLists:
    """Lists of tags in lexical order. A list is one that was true at some time since it was asked for."""

    def __init__(self, stored: Tags, threads: Threads) -> None:
        self._stored = stored
        self._threads = threads
        self._known: OrderedDict[str, _List] = OrderedDict()
        self._count = 0
        self._reading: Coalesced[str, _List] = Coalesced()

    async def get(self, name: str, besides: Sequence[str] = ()) -> list[str]:
        """Return the tags of a repository that the store has, and those `besides`; nobody changes the list.

        Raises StoreUnreadable.
        """
        asked = asyncio.get_running_loop().time()
        known = self._known.get(name)
        if known is None or known.stored.stamp is None or known.stored.stamp != self._stored.stamp(name):
            known = await self._reading.run(name, lambda: self._read(name, besides))
            if known.began < asked:  # it was read for somebody who asked earlier, and may lack what came since
                known = await self._reading.run(name, lambda: self._read(name, besides))
        if known.besides is not besides:  # what sets hold is read anew
            known = await self._threads.run(_merged, known, besides)
            self._remember(name, known)
        return known.tags

    async def stop(self) -> None:
        """Cancel what is being read."""
        await self._reading.stop()

    async def _read(self, name: str, besides: Sequence[str]) -> _List:
        began = asyncio.get_running_loop().time()
        before = self._known.get(name)
        found = await self._threads.run(self._list, name, besides, before.stored if before is not None else None, began)
        self._remember(name, found)
        return found

    def _list(self, name: str, besides: Sequence[str], before: Listing | None, began: float) -> _List:
        stored = self._stored.listing(name, before)
        return _merged(_List(stored, (), stored.tags, began), besides)

    def _remember(self, name: str, found: _List) -> None:
        self._forget(name)
        if found.tags and len(found.tags) <= _MOST:
            self._known[name] = found
            self._count += len(found.tags)
        while self._count > _MOST:
            self._forget(next(iter(self._known)))

    def _forget(self, name: str) -> None:
        old = self._known.pop(name, None)
        self._count -= len(old.tags) if old is not None else 0


def _merged(found: _List, besides: Sequence[str]) -> _List:
    tags = sorted({*found.stored.tags, *besides}) if besides else found.stored.tags
    return found._replace(besides=besides, tags=tags)
