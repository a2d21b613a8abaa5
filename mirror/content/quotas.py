"""How much of a quota is used: what repositories hold, each content counted once, and what is on its way to them."""

from __future__ import annotations

import time
from collections import OrderedDict

from mirror.content.answers import Quota, Target
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests as Rows
from mirror.store.repositories import find_repositories
from mirror.store.threads import Threads
from mirror.store.uploads import Uploads as StoredUploads

_LASTS = 5.0  # seconds that a count is believed; other processes push too
_LASTS_SHARE = 20  # of the time that counting takes, at least this many times it is believed
_REMEMBERED = 256


class _Count:
    """What was counted, and until when that is believed."""

    __slots__ = ("quota", "size", "until")

    def __init__(self, quota: Quota, size: int, until: float) -> None:
        self.quota = quota
        self.size = size
        self.until = until


class Quotas:
    """Counts what quotas speak of, now and then; between two counts it adds what this process stores."""

    def __init__(self, layout: Layout, uploads: StoredUploads, threads: Threads) -> None:
        self._layout = layout
        self._rows = Rows(layout)
        self._uploads = uploads
        self._threads = threads
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    async def used(self, quota: Quota) -> int:
        """Return how many bytes of a quota are used. Raises OSError."""
        known = self._counts.get(quota.key)
        if known is not None and time.monotonic() < known.until:
            return known.size
        began = time.monotonic()
        size = await self._threads.complete(self._count, quota)
        ended = time.monotonic()
        self._counts[quota.key] = _Count(quota, size, ended + max(_LASTS, _LASTS_SHARE * (ended - began)))
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        return size

    def grown(self, target: Target, size: int) -> None:
        """Add what has just come to a repository to what is counted."""
        for count in self._counts.values():
            if count.quota.covers(target.name):
                count.size += size

    def _count(self, quota: Quota) -> int:
        digests: set[Digest] = set()
        for name in find_repositories(self._layout):
            if quota.covers(name):
                digests.update(self._rows.list(name))
                digests.update(self._rows.list_blobs(name))
        sizes = (files.modified(self._layout.blob(digest)) for digest in digests)
        return sum(found[2] for found in sizes if found is not None) + self._uploads.held(quota.covers)
