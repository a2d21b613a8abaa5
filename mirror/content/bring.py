"""What planning and syncing ask for: content in the store, whatever time that takes, by the same fetches as a pull.

A client is answered within its patience and served straight through where nothing can be stored. Here neither helps:
these questions wait, and what cannot be kept is an error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mirror import logs
from mirror.content.answers import ManifestAnswer, Target, not_here_and_offline
from mirror.content.blobs import Blobs
from mirror.content.fetch import Fetcher
from mirror.content.fill import FillDroppedError
from mirror.content.manifests import UNKNOWN_ALGORITHM, Manifests
from mirror.content.members import Members
from mirror.content.resolve import Resolver
from mirror.content.sets import ContentSets
from mirror.content.workshop import Source
from mirror.errors import (
    NotHere,
    NotYet,
    StoreError,
    StoreFull,
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
)
from mirror.oci import manifest
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.store.tags import Tags as StoredTags
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

_log = logs.get("content.bring")

_REMEDIES = {"store full": "give the store more room", "store read-only": "mount it writable"}
_ATTEMPTS = 4  # to begin anew when a fetch that was joined ended for a reason that is not ours


class Bring:
    """Brings content into the store. Methods raise NotHere, UpstreamError and StoreFull, and may be cancelled."""

    def __init__(
        self,
        resolver: Resolver,
        manifests: Manifests,
        blobs: Blobs,
        members: Members,
        fetcher: Fetcher,
        tags: StoredTags,
        sets: ContentSets,
        clients: Mapping[str, UpstreamClient],
        threads: Threads,
        *,
        offline: bool,
    ) -> None:
        self._resolver = resolver
        self._manifests = manifests
        self._blobs = blobs
        self._members = members
        self._fetcher = fetcher
        self._tags = tags
        self._sets = sets
        self._clients = clients
        self._threads = threads
        self._offline = offline

    def target(self, pullspec: Pullspec) -> Target:
        """Return what the pullspec's repository means here. Raises NameUnknown, Denied."""
        return self._resolver.resolve(pullspec.repository, pullspec.host)

    async def digest(self, target: Target, tag: str, *, rarely: bool = False) -> Digest:
        """Return what a tag means now: upstream is asked, unless there is none or we are offline.

        `rarely`: there is hardly ever such a tag. One GET says so; HEAD alone is not believed, so it takes both.
        """
        client = self._clients.get(target.upstream)
        if client is None or self._offline:
            known = (await self._sets.load()).tags.get((target.name, tag))
            record = None if known is not None else await self._threads.run(self._tags.read, target.name, tag)
            if known is None and record is None:
                what = f"{target.name}:{tag}"
                raise not_here_and_offline(what) if self._offline else NotHere(f"{what} is not here")
            return known if known is not None else record.digest  # type: ignore[union-attr] # one of the two is there
        try:
            head = None if rarely else await client.head_manifest(target.repository, tag)
            if head is not None and head.digest is not None:
                return head.digest
            return (await self._manifests.fetch_tag(target, tag, head)).digest
        except (UpstreamNotFound, UpstreamDenied) as error:
            raise NotHere(error.what, error.remedy) from error

    async def manifest(self, target: Target, digest: Digest) -> ManifestAnswer:
        """Return a verified manifest, with its bytes, that is kept in the store.

        Raises UpstreamNotFound where upstream says that there is none, NotHere where we may not have or ask for it.
        """
        try:
            answer = await self._manifests.by_digest(target, digest)
        except UpstreamDenied as error:
            raise NotHere(error.what, error.remedy) from error
        if answer.cache == "BYPASS":
            if answer.why == "store unreadable":
                raise StoreError(
                    f"the manifest {target.name}@{digest} is in the store and cannot be read", "see mirror status"
                )
            if answer.why == "schema1":
                raise UpstreamInvalid(
                    f"{target.name}@{digest} is a schema 1 image, which cannot be kept", "have it pushed again"
                )
            if answer.why == UNKNOWN_ALGORITHM and answer.body is not None:
                unknown = manifest.parse(answer.body, answer.media_type, passing=True).unknown
                raise UpstreamInvalid(
                    f"{target.name}@{digest} names {', '.join(unknown[:3])}, which cannot be checked and kept",
                    "have it pushed again with digests of sha256 or sha512",
                )
            remedy = _REMEDIES.get(answer.why, "look at the disk: mirror status")
            raise StoreFull(f"the manifest {target.name}@{digest} could not be stored ({answer.why})", remedy)
        return answer

    async def tags(self, target: Target, most: int) -> list[str]:
        """Return the tags of a repository, at most `most`: as many may have more behind them."""
        client = self._clients.get(target.upstream)
        if client is None or self._offline:
            stored = await self._threads.run(self._tags.list, target.name)
            return sorted({*stored, *(await self._sets.load()).names.get(target.name, ())})
        try:
            return await client.list_tags(target.repository, most)
        except (UpstreamNotFound, UpstreamDenied) as error:
            raise NotHere(error.what, error.remedy) from error

    async def referrers(self, target: Target, digest: Digest) -> bytes | None:
        """Return the index of what refers to `digest`, as upstream says it; None where it has no such API."""
        client = self._clients.get(target.upstream)
        if client is None or self._offline:
            return None
        try:
            answer = await client.list_referrers(target.repository, digest, None)
        except (UpstreamNotFound, UpstreamDenied, UpstreamInvalid):
            # Registries without the API answer in many ways (protocol.md 3.6).
            return None
        return answer.body if answer is not None else None

    async def blob(self, target: Target, digest: Digest, size: int) -> int:
        """Return a descriptor of a verified blob that is kept in the store; the caller closes it."""
        for _ in range(_ATTEMPTS):
            await self.keep(target, digest, size)
            found = await self._blobs.here(digest)
            if found is not None:
                return found.fd
        raise NotYet(f"{digest} cannot be kept", "give the store more room")

    async def keep(self, target: Target, digest: Digest, size: int) -> bool:
        """Have a blob that a verified manifest of the repository names in the store; say whether it had to be fetched.

        `size` is what the manifest says, in bytes.
        """
        for attempt in range(_ATTEMPTS):
            found = await self._blobs.here(digest)
            if found is not None:
                os.close(found.fd)
                if found.size != size:
                    raise UpstreamInvalid(
                        f"{digest} has {found.size} bytes, but the manifest that names it says {size}",
                        f"the image in {target.name} is broken at its source",
                    )
                await self.prove(target, digest)
                return attempt > 0
            client = self._clients.get(target.upstream)
            if client is None or self._offline:
                if self._offline:
                    raise not_here_and_offline(str(digest))
                raise NotHere(f"{digest} is not here, and no upstream takes {target.name}")
            source = Source(client, target, size, known=True)
            fill, began, _ = self._fetcher.join(digest, source)
            try:
                await fill.finished()
            except (UpstreamNotFound, UpstreamDenied) as error:
                if began or fill.source.place == source.place:
                    raise NotHere(error.what, error.remedy) from error
            except (UpstreamError, NotHere):
                if began or fill.source.place == source.place or attempt == _ATTEMPTS - 1:
                    raise
            except (NotYet, FillDroppedError):
                if attempt == _ATTEMPTS - 1:
                    raise
        raise NotYet(f"{digest} cannot be kept", "give the store more room")

    async def prove(self, target: Target, digest: Digest) -> None:
        """Have it noted that a blob, which is here, is the repository's own: upstream is asked where that is not known.

        Where it does not say so nothing is noted: clients are asked for their right, or upstream again.
        """
        if await self._members.stands(target, digest):
            return
        try:
            await self._members.prove(self._clients.get(target.upstream), target, digest)
        except (NotHere, UpstreamError) as error:
            _log.warning("blob_not_confirmed", name=target.name, digest=str(digest), why=error.what)

    def moving(self) -> dict[Digest, int]:
        """Return how many bytes of each download under way have come."""
        return self._fetcher.moving()
