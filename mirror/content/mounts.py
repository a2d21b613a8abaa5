"""Blobs that a repository gets from another one, without being sent: found under access control, and kept."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from mirror.content.answers import Target
from mirror.content.members import Members
from mirror.errors import NotYet, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store.blobs import OpenBlob
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests as Rows
from mirror.store.threads import Threads
from mirror.store.upload import writing


class Mounts:
    """Finds what may be mounted, and mounts it. `here` opens content that is here and verified."""

    def __init__(
        self,
        layout: Layout,
        hosted: Hosted,
        rows: Rows,
        members: Members,
        threads: Threads,
        here: Callable[[Digest], Awaitable[OpenBlob | None]],
    ) -> None:
        self._layout = layout
        self._hosted = hosted
        self._rows = rows
        self._members = members
        self._threads = threads
        self._here = here

    async def find(self, digest: Digest, source: Target | None, may_pull: Callable[[str], bool]) -> int | None:
        """Return the size of a blob that is here and that the client may pull from `source`, or (None) from anywhere.

        `may_pull` is asked for canonical names, in a thread. None: there is no such blob, or no such right.
        """
        try:
            found = await self._here(digest)
            if found is None:
                return None
            os.close(found.fd)
            if source is None:
                granted = await self._members.is_shared(digest, may_pull, None)
            else:
                member = await self._members.find(source, digest, may_pull) if may_pull(source.name) else None
                granted = member is not None
        except (NotYet, StoreUnreadable):
            return None  # what stands in the way takes long; sending it may not
        return found.size if granted else None

    async def adopt(self, target: Target, digest: Digest, size: int) -> bool:
        """Keep content that is here for good, as a repository's; False where it has just been evicted.

        Raises StoreFull, StoreError.
        """
        return await self._threads.complete(self._adopt, target, digest, size)

    def _adopt(self, target: Target, digest: Digest, size: int) -> bool:
        with writing(target.name):
            if not self._hosted.keep(digest):
                return False
            self._rows.add_pushed(target.name, digest, size)
        return True
