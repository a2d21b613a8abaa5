"""Whether a repository may be given a digest: the ground on which cached content is served (CVE-2024-39897).

A digest is a member when a verified manifest of the repository names it, or upstream has given it there. Content
that other repositories brought is not served on its digest alone: upstream is asked once, by HEAD.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from mirror import logs
from mirror.content.answers import Target
from mirror.content.coalesce import Coalesced
from mirror.errors import NotHere, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.store.manifests import Manifests, Row
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

_REBUILT = 10_000  # repositories whose last rebuild is remembered

_log = logs.get("content.members")


def not_here(target: Target, digest: Digest) -> NotHere:
    """Return the error for a digest that a repository is not known to have and nobody can be asked for.

    It must not say whether another repository has brought the content.
    """
    if not target.upstream:
        return NotHere(f"{target.name} has no {digest} here")
    return NotHere(f"{digest} is not here and the mirror is offline", "fetch it while online")


class Members:
    """Membership of blobs, and of manifests that another manifest names."""

    def __init__(self, rows: Manifests, writers: Threads, *, offline: bool) -> None:
        self._rows = rows
        self._writers = writers
        self._offline = offline
        self._proofs: Coalesced[tuple[str, Digest], int] = Coalesced()
        self._rebuilt: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._grants: set[asyncio.Future[None]] = set()

    def now(self, target: Target, digest: Digest) -> bool:
        """Tell without waiting, by one system call, whether `digest` is known to be a member."""
        return self._rows.is_member(target.name, digest)

    async def find(self, target: Target, digest: Digest) -> Row | None:
        """Return the row of `digest`, deriving the rows anew where manifests have come since; None: not a member."""
        row = self._rows.member(target.name, digest)
        # What was pushed has its row, and a manifest that was pushed proves nothing: anybody can name any digest.
        if row is not None or target.hosted:
            return row
        try:
            stamp = await self._writers.run(self._rows.stamp, target.name)
            if self._rebuilt.get(target.name) == stamp:
                return self._rows.member(target.name, digest)
            row, complete = await self._writers.run(self._rows.rebuild, target.name, digest)
        except OSError as error:
            _log.warning("rows_not_derived", name=target.name, error=error.strerror)
            return None
        if complete:
            self._rebuilt[target.name] = stamp
            if len(self._rebuilt) > _REBUILT:
                self._rebuilt.popitem(last=False)
        return row or self._rows.member(target.name, digest)

    async def prove(self, client: UpstreamClient | None, target: Target, digest: Digest) -> int:
        """Ask upstream whether the repository has `digest` and remember it; return its size in bytes.

        Raises NotHere where nobody can be asked, UpstreamError.
        """
        if client is None or self._offline:
            raise not_here(target, digest)
        return await self._proofs.run((target.name, digest), lambda: self._ask(client, target, digest))

    async def _ask(self, client: UpstreamClient, target: Target, digest: Digest) -> int:
        try:
            size = await client.head_blob(target.repository, digest)
        except UpstreamNotFound as error:
            raise NotHere(f"{target.name} has no blob {digest}") from error
        try:
            await self._writers.run(self._rows.add_blob, target.name, digest)
        except OSError as error:
            _log.warning("row_not_written", name=target.name, digest=str(digest), error=error.strerror)
        return size

    def grant(self, target: Target, digest: Digest) -> None:
        """Remember that upstream gave `digest` for this repository; does not wait."""
        done = self._writers.run(self._rows.add_blob, target.name, digest)
        self._grants.add(done)
        done.add_done_callback(self._granted)

    async def stop(self) -> None:
        """Cancel the questions under way and let the rows be written."""
        await self._proofs.stop()
        await asyncio.gather(*self._grants, return_exceptions=True)

    def _granted(self, done: asyncio.Future[None]) -> None:
        self._grants.discard(done)
        # A row that could not be written costs one more question to upstream, nothing else.
        done.cancelled() or done.exception()
