"""How much of a quota is used: what repositories hold, each content counted once, and what is on its way to them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from mirror.content.answers import Quota
from mirror.errors import TooLarge
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.ledger import Ledger, Place
from mirror.store.manifests import Manifests as Rows
from mirror.store.repositories import find_repositories
from mirror.store.threads import Threads
from mirror.store.upload import Upload
from mirror.store.uploads import Uploads as StoredUploads

_LASTS = 5.0  # seconds that a count is believed; what is deleted meanwhile is not seen
_LASTS_SHARE = 20  # of the time that counting takes, at least this many times it is believed
_REMEMBERED = 256
_SHARE = 16  # of what is left, this part is given to a body of unknown length before it asks again

REMEDY = "delete what is not needed, or ask for a larger quota"


def refused(name: str, left: int, quota: Quota) -> TooLarge:
    """Return what to tell of a quota that has no room."""
    return TooLarge(says(name, left, quota), REMEDY)


def says(name: str, left: int, quota: Quota) -> str:
    """Return what is left of a quota, in words."""
    return f"the quota for {name} has {max(left, 0)} of {quota.limit} bytes left"


class _Count:
    """What was counted, until when that is believed, and up to which place what came since is in it."""

    __slots__ = ("place", "stored", "until")

    def __init__(self, stored: int, place: Place, until: float) -> None:
        self.stored = stored
        self.place = place
        self.until = until


class Quotas:
    """Counts what quotas speak of, now and then; between two counts it adds what any process has stored.

    What uploads hold is looked at each time: only their notes know what every process is about to write.
    """

    def __init__(self, layout: Layout, uploads: StoredUploads, threads: Threads) -> None:
        self._layout = layout
        self._rows = Rows(layout)
        self._uploads = uploads
        self._threads = threads
        self._ledger = Ledger(layout)
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._lock = threading.Lock()

    async def room(self, quota: Quota, upload: str) -> int:
        """Return how large an upload may become beside all that is stored and under way. Raises OSError."""
        return await self._threads.complete(self._room, quota, upload)

    def admit(self, quota: Quota, upload: Upload, size: int, before: int) -> int:
        """Return how large an upload, which had `before` bytes, may become before it asks again: `size` or more.

        Raises TooLarge, OSError. Blocks; whoever calls this and then promises that much must be alone at it.
        """
        most = self._room(quota, upload.identity)
        if size > most:
            raise refused(upload.note.name, most - before, quota)
        return size + (most - size) // _SHARE

    async def take(self, name: str, size: int, quota: Quota | None, upload: Upload | None = None) -> None:
        """Count a blob that a repository is about to have: whoever comes to this later, in any process, sees it.

        Raises TooLarge where the quota has no room for it, OSError. It is made of `upload`, which counts no more.
        """
        await self._threads.complete(self._take, name, size, quota, upload)

    async def give_back(self, name: str, size: int) -> None:
        """Take back what was counted of a blob that the repository did not get."""
        if size:
            await self._threads.complete(self._ledger.add, name, -size)

    def _take(self, name: str, size: int, quota: Quota | None, upload: Upload | None) -> None:
        if upload is not None:
            upload.count()
        if quota is None:
            self._ledger.add(name, size)
            return
        with self._lock:
            known = self._known(quota)
            self._ledger.add(name, size)
            if not self._read_on(quota, known):
                known.stored += size  # begun anew by just this line
            left = quota.limit - (known.stored - size)
        left -= self._uploads.held(quota.covers, "" if upload is None else upload.identity)
        if left < size:
            self._ledger.add(name, -size)
            raise refused(name, left, quota)

    def _room(self, quota: Quota, upload: str) -> int:
        with self._lock:
            stored = self._known(quota).stored
        # Afterwards: what becomes a blob meanwhile is in neither for a moment, rather than in both.
        return quota.limit - stored - self._uploads.held(quota.covers, upload)

    def _known(self, quota: Quota) -> _Count:
        """Return a count that has all that came until now."""
        known = self._counts.get(quota.key)
        if known is None or time.monotonic() > known.until or not self._read_on(quota, known):
            known = self._counts[quota.key] = self._count_anew(quota)
            if len(self._counts) > _REMEMBERED:
                self._counts.popitem(last=False)
        return known

    def _read_on(self, quota: Quota, known: _Count) -> bool:
        """Add what came since to a count; False where that is not known any more."""
        found = self._ledger.since(known.place)
        if found is None:
            return False
        lines, known.place = found
        known.stored += sum(size for name, size in lines if quota.covers(name))
        return True

    def _count_anew(self, quota: Quota) -> _Count:
        began = time.monotonic()
        place = self._ledger.end()  # what comes while this counts may be counted twice, and not never
        stored = self._count(quota)
        ended = time.monotonic()
        return _Count(stored, place, ended + max(_LASTS, _LASTS_SHARE * (ended - began)))

    def _count(self, quota: Quota) -> int:
        digests: set[Digest] = set()
        for name in find_repositories(self._layout):
            if quota.covers(name):
                digests.update(self._rows.list(name))
                digests.update(self._rows.list_blobs(name))
        sizes = (files.modified(self._layout.blob(digest)) for digest in digests)
        return sum(found[2] for found in sizes if found is not None)
