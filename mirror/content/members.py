"""Whether a repository may be given a digest: the ground on which cached content is served (CVE-2024-39897).

To be named is not to be had: a manifest of any repository can name any digest. A digest is served for a repository if

1. it was brought for it: pushed there, given or confirmed by upstream, loaded under its name; or
2. the repository names it, and the client may pull another repository that brought it; or
3. upstream confirms it for the repository, by one HEAD that is remembered.

Where everybody may pull everything (`Readers.everybody`) the second holds for all that is here. What an earlier release
noted counts as brought where all repositories that have the digest have the same readers.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mirror import logs
from mirror.config.access import Readers
from mirror.content.answers import Target, not_here_and_offline
from mirror.content.coalesce import Coalesced
from mirror.content.lines import PROOFS, Lines
from mirror.errors import NotHere, NotYet, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store.brought import Brought
from mirror.store.lacking import Lacking
from mirror.store.manifests import Manifests, Row
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

MayPull = Callable[[str], bool]  # of a repository, by its canonical name


class Membership(NamedTuple):
    """What a repository knows of a digest that it may be given: media type (or empty) and size in bytes, if known.

    `own`: every client of this repository may be given it, and not only one that may pull another repository, too.
    `brought` is what the row says.
    """

    media_type: str
    size: int | None
    own: bool
    brought: bool | None


_REBUILT = 10_000  # repositories whose last rebuild is remembered
_REMEMBERED = 50_000  # digests of repositories that are known to have been brought, a worker
_LOOKED_AT = 256  # repositories that brought a digest: of more, those that came first
_ADOPTED = 12.0  # seconds that a client waits for what earlier releases noted to be taken over
_LOOK_AGAIN = 0.1
_PATIENCE = 2.0  # seconds to look through the repositories

_log = logs.get("content.members")

_Stamp = tuple[int, int, int]


def nobody(_name: str) -> bool:
    """Stand for a client that may pull nothing: for whoever asks on nobody's behalf."""
    return False


def not_here(target: Target, digest: Digest) -> NotHere:
    """Return the error for a digest that a repository is not known to have and nobody can be asked for.

    It must not say whether another repository has brought the content.
    """
    if not target.upstream:
        return NotHere(f"{target.name} has no {digest} here")
    return not_here_and_offline(str(digest))


class Members:
    """Membership of blobs and manifests. `clients`: the upstreams that may be asked, none of them if `offline`.

    `lacking`: what is pushed may name what its repository does not have.
    """

    def __init__(
        self,
        rows: Manifests,
        brought: Brought,
        readers: Readers,
        writers: Threads,
        clients: Mapping[str, UpstreamClient],
        lines: Lines,
        *,
        offline: bool,
        lacking: Lacking | None = None,
    ) -> None:
        self._rows = rows
        self._brought = brought
        self._lacking = lacking
        self._readers = readers
        self._writers = writers
        self._clients = clients
        self._lines = lines
        self._offline = offline
        self._proofs: Coalesced[tuple[str, Digest], int] = Coalesced()
        self._rebuilt: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._known: OrderedDict[tuple[str, Digest], tuple[_Stamp, _Stamp | None]] = OrderedDict()
        self._grants: set[asyncio.Future[None]] = set()

    # -- without upstream ------------------------------------------------------------------------------------

    def now(self, target: Target, digest: Digest) -> bool:
        """Tell without waiting, by two system calls, whether `digest` may be served for the repository to anybody."""
        stamp = self._rows.member_modified(target.name, digest)
        if stamp is None or self._readers.everybody:
            return stamp is not None
        known = self._known.get((target.name, digest))
        if known is None or known[0] != stamp:
            return False
        return known[1] is None or known[1] == self._brought.modified(digest)

    async def find(self, target: Target, digest: Digest, may_pull: MayPull = nobody) -> Membership | None:
        """Return what is known of a blob, or of a manifest that another one names, if this client may be given it.

        None: upstream has to confirm it. Rows are derived anew where manifests have come since. Raises StoreUnreadable,
        and NotYet where it cannot be said yet.
        """
        # Before the row: one that is replaced in between is read again the next time.
        stamp = self._rows.member_modified(target.name, digest)
        bringers = None if self._readers.everybody else self._brought.modified(digest)
        row = self._rows.member(target.name, digest)
        if row is None and target.hosted:
            return await self.named(target, digest, may_pull)
        row = row or await self._derived(target, digest)
        if row is None:
            return None
        if await self.admits(target, digest, row):
            # What an earlier release noted, or another repository brought, is good until somebody else brings it.
            if stamp is not None and (row.brought is True or bringers is not None):
                self._remember((target.name, digest), (stamp, None if row.brought is True else bringers))
            return Membership(row.media_type, row.size, True, row.brought)
        shared = await self.is_shared(digest, may_pull, target)
        return Membership(row.media_type, row.size, False, row.brought) if shared else None

    async def named(self, target: Target, digest: Digest, may_pull: MayPull) -> Membership | None:
        """Return what a hosted repository has of a digest that a manifest of it names and that was not pushed there.

        None where this client may not be given it. Nothing is noted: naming makes nothing of it the repository's.
        Raises StoreUnreadable.
        """
        if self._lacking is None or not await self.is_shared(digest, may_pull, target):
            return None
        named = await self._writers.run(self._lacking.names, target.name, digest)
        return Membership("", None, False, False) if named else None

    async def admits(self, target: Target, digest: Digest, row: Row) -> bool:
        """Tell whether every client of a repository may be given what this is the row of.

        It was brought there, or by a repository from which everybody may pull. Raises StoreUnreadable, NotYet.
        """
        return await self._is_brought(target, digest, row) or await self.is_shared(
            digest, self._readers.anybody, target
        )

    async def stands(self, target: Target, digest: Digest) -> bool:
        """Tell whether the repository will be given a blob whatever becomes of others, and of the rules.

        Raises StoreUnreadable, NotYet.
        """
        row = self._rows.member(target.name, digest)
        return row is not None and (row.brought is True or await self._is_old_and_good(target, digest, row))

    async def is_shared(self, digest: Digest, may_pull: MayPull, target: Target | None) -> bool:
        """Tell whether the client may pull a repository that brought `digest`: a bounded look-up.

        `target` is for whom that is asked. Raises NotYet where it is not known yet: see `_adopted`.
        """
        if may_pull is nobody:
            return False
        if self._readers.everybody and not self._brought.is_kept:
            return await self._writers.run(self._is_anywhere, digest, may_pull)
        if await self._is_bringers(digest, may_pull):
            return True
        if self._brought.is_complete:
            return False
        return await self._adopted(target) and await self._is_bringers(digest, may_pull)

    def _is_anywhere(self, digest: Digest, may_pull: MayPull) -> bool:
        """Tell whether any repository that the client may pull has a digest: where nobody notes who brought it."""
        until = time.monotonic() + _PATIENCE
        for name in self._rows.repositories():
            if self._has(name, digest) and may_pull(name):
                return True
            if time.monotonic() > until:
                _log.warning("search_given_up", digest=str(digest))
                break
        return False

    async def _is_bringers(self, digest: Digest, may_pull: MayPull) -> bool:
        names, every = await self._writers.run(self._brought.by, digest)
        # One of them brought it, whatever an earlier release noted.
        if every and 0 < len(names) <= _LOOKED_AT and self._brought.is_complete and all(map(may_pull, names)):
            return True
        for name in names[:_LOOKED_AT]:
            if may_pull(name) and await self._writers.run(self._has, name, digest):
                return True
        return False

    async def _is_brought(self, target: Target, digest: Digest, row: Row) -> bool:
        return row.brought is True or self._readers.everybody or await self._is_old_and_good(target, digest, row)

    async def _is_old_and_good(self, target: Target, digest: Digest, row: Row) -> bool:
        """Tell whether a row of an earlier release counts as one of what was brought."""
        if row.brought is not None:
            return False
        # What an earlier release has of hosted repositories was pushed to them.
        return self._readers.everybody or target.hosted or await self._is_open(target, digest)

    async def _is_open(self, target: Target, digest: Digest) -> bool:
        """Tell whether all repositories that have `digest` have the same readers: then an old row tells nothing new."""
        name = target.name
        if not await self._adopted(target):
            return False
        names, every = await self._writers.run(self._brought.by, digest)
        if every and name not in names and self._brought.is_here(digest):
            # The earlier release has served this store again meanwhile, and noted of nobody what it brought.
            await self._writers.run(self._brought.begin_anew)
            if not await self._adopted(target):
                return False
            names, every = await self._writers.run(self._brought.by, digest)
        return every and name in names and len({self._readers.of(one) for one in names}) == 1

    async def _adopted(self, target: Target | None) -> bool:
        """Tell whether what earlier releases noted is taken over, which is housekeeping's, waiting for it.

        Where an upstream says the same of `target` nobody waits: it is asked as for what is not here, so that nothing
        tells the two apart. Raises NotYet after a while, without a target at once.
        """
        until = time.monotonic() + (_ADOPTED if target is not None else 0)
        while not self._brought.is_complete:
            if target is not None and self.may_ask(target):
                return False
            if time.monotonic() > until:
                raise NotYet("what an earlier release noted of repositories is being taken over", "ask again")
            await asyncio.sleep(_LOOK_AGAIN)
        return True

    def _has(self, name: str, digest: Digest) -> bool:
        """Tell whether a repository surely brought a digest."""
        try:
            rows = (self._rows.manifest(name, digest), self._rows.member(name, digest))
        except StoreUnreadable:
            return False
        good = (True, None) if self._readers.everybody else (True,)
        return any(row is not None and row.brought in good for row in rows)

    def _remember(self, key: tuple[str, Digest], stamps: tuple[_Stamp, _Stamp | None]) -> None:
        self._known[key] = stamps
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _derived(self, target: Target, digest: Digest) -> Row | None:
        try:
            stamp = self._rows.stamp(target.name)
            if self._rebuilt.get(target.name) == stamp:
                return self._rows.member(target.name, digest)
            row, complete = await self._writers.run(self._rows.rebuild, target.name, digest)
        except (OSError, StoreUnreadable) as error:
            _log.warning("rows_not_derived", name=target.name, error=str(error))
            return None
        if complete:
            self._rebuilt[target.name] = stamp
            if len(self._rebuilt) > _REBUILT:
                self._rebuilt.popitem(last=False)
        return row or self._rows.member(target.name, digest)

    # -- by upstream -----------------------------------------------------------------------------------------

    def may_ask(self, target: Target) -> bool:
        """Tell whether there is an upstream that can be asked about a repository."""
        return target.upstream in self._clients and not self._offline

    async def prove(self, client: UpstreamClient | None, target: Target, digest: Digest) -> int:
        """Ask upstream whether the repository has `digest` and remember it; return its size in bytes.

        Raises NotHere where nobody can be asked, UpstreamError.
        """
        if client is None or self._offline:
            raise not_here(target, digest)
        line = self._lines.of(target, PROOFS)
        return await self._proofs.run((target.name, digest), lambda: self._ask(client, target, digest), line)

    async def _ask(self, client: UpstreamClient, target: Target, digest: Digest) -> int:
        # Upstream's own words, as for what is not here: others would tell that another repository has brought it.
        size = await client.head_blob(target.repository, digest)
        try:
            await self._writers.run(self._rows.add_brought, target.name, digest)
        except (OSError, StoreUnreadable) as error:
            _log.warning("row_not_written", name=target.name, digest=str(digest), error=str(error))
        return size

    def grant(self, target: Target, digest: Digest) -> None:
        """Remember that upstream gave `digest` for this repository; does not wait."""
        done = self._writers.run(self._rows.add_brought, target.name, digest)
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
