"""Hosted repositories: manifests that are pushed and deleted, and what their tags mean and meant.

Whoever pushes or deletes a manifest holds its lock, and the lock of each tag that it moves, one after the other. So two
pushes of one tag are one after the other, and the later one wins whole.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from mirror import logs
from mirror.content import pushed as pushing
from mirror.content.answers import Quota, Stored, Target
from mirror.content.deletions import Deletions
from mirror.content.immutable import Immutable
from mirror.content.locks import Locks
from mirror.content.manifest_store import ManifestStore
from mirror.content.pushed import Pushed
from mirror.content.quotas import Quotas
from mirror.content.receive import refusal
from mirror.errors import DigestMismatch, NotHere, RecordDamaged, StoreFull, TagImmutable, TooLarge
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.reference import check_tag
from mirror.store.deletions import Deletions as Notes
from mirror.store.layout import Layout
from mirror.store.space import Space
from mirror.store.tags import TagRecord, Tags
from mirror.store.threads import Threads
from mirror.store.upload import writing

_log = logs.get("content.hosted")


class Events(Protocol):
    """Who is told of pushes and deletions before they are acknowledged."""

    async def pushed(
        self,
        name: str,
        digest: Digest,
        media_type: str,
        size: int,
        tags: Sequence[str],
        who: str,
        references: Iterable[Descriptor] = (),
    ) -> None:
        """Tell of a manifest that was pushed, or that `tags` name now."""
        ...

    async def deleted(self, name: str, who: str, *, digest: Digest | None = None, tag: str = "") -> None:
        """Tell of a manifest or a tag that was deleted."""
        ...


class Hosted:
    """Writes to hosted repositories: every Target is one. `used(digest, size)` tells the index of what is here.

    `manifest_limit` is in bytes; `history` is how many earlier digests a tag keeps.
    """

    def __init__(
        self,
        manifests: ManifestStore,
        tags: Tags,
        locks: Locks,
        threads: Threads,
        deletions: Deletions,
        used: Callable[[Digest, int], None],
        *,
        manifest_limit: int,
        history: int,
        immutable: Immutable | None = None,
        events: Events | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self.deletions = deletions
        self._manifests = manifests
        self._tags = tags
        self._locks = locks
        self._threads = threads
        self._used = used
        self._limit = manifest_limit
        self._history = history
        self._immutable = immutable or Immutable()
        self._events = events
        self._quotas = quotas

    @classmethod
    def open(
        cls,
        layout: Layout,
        space: Space,
        threads: Threads,
        used: Callable[[Digest, int], None],
        *,
        manifest_limit: int,
        history: int,
        sparse: bool = False,
        immutable: Immutable | None = None,
        events: Events | None = None,
        quotas: Quotas | None = None,
    ) -> Hosted:
        """Return what writes to the hosted repositories of a store. `sparse`: what manifests name need not be here."""
        manifests, tags = ManifestStore(layout, space, sparse=sparse), Tags(layout)
        locks = Locks(layout, threads)
        return cls(
            manifests,
            tags,
            locks,
            threads,
            Deletions(Notes(layout), manifests, tags, locks, threads),
            used,
            manifest_limit=manifest_limit,
            history=history,
            immutable=immutable,
            events=events,
            quotas=quotas,
        )

    # -- manifests -------------------------------------------------------------------------------------------

    async def put_manifest(
        self,
        target: Target,
        reference: Digest | str,
        body: bytes,
        content_type: str,
        tags: Sequence[str],
        who: str,
        quota: Quota | None = None,
    ) -> Stored:
        """Take a manifest under its digest, or a tag, and let further `tags` name it too. It counts for a quota.

        When this returns all of it is on disk. Raises ManifestRefused, DigestMismatch, ManifestBlobUnknown, TooLarge,
        TagImmutable, TagInvalid, NotYet, StoreError.
        """
        if len(body) > self._limit:
            raise TooLarge(f"the manifest has {len(body)} bytes", f"limits.manifest allows {self._limit}")
        stated = reference if isinstance(reference, Digest) else None
        named = (reference, *tags) if isinstance(reference, str) else tags
        wanted = tuple(dict.fromkeys(check_tag(tag) for tag in named))
        algorithm = stated.algorithm if stated is not None else "sha256"
        pushed = await self._threads.complete(pushing.read, body, content_type, algorithm)
        digest = pushed.digest
        if stated not in (None, digest):
            raise DigestMismatch(f"the manifest hashes to {digest}, not to {reference}", "push it again")
        for tag in wanted:  # before anything is written; whoever moves it looks again
            self._check_mutable(target, tag, self._meaning(target, tag), digest)
        async with self._undeleted(target, digest):
            with _refusing(target):
                async with self._counted(target, digest, len(body), quota):
                    await self._threads.complete(self._manifests.put, target.name, pushed)
            if not wanted:
                await self._tell(target, pushed, (), who)
            for tag in wanted:
                async with self._tag(target, tag):
                    await self._move(target, tag, digest, pushed.manifest.media_type, who)
                    await self._tell(target, pushed, (tag,), who)
        self._used(digest, len(body))
        _log.info("manifest_pushed", name=target.name, digest=str(digest), tags=",".join(wanted), who=who)
        return Stored(digest, pushed.manifest.media_type, pushed.subject, wanted)

    async def delete_manifest(self, target: Target, digest: Digest, who: str, client: str = "") -> None:
        """Delete a manifest, with the tags that name it, and take it out of the history of the others.

        It is gone when this returns; of many tags some files may still be going. Raises NotHere, StoreError.
        """
        async with self._manifest(target, digest):
            if not await self._threads.complete(self._manifests.is_member, target.name, digest):
                raise NotHere(f"{target.name}@{digest} is not here")
            # No other tag comes to name it meanwhile: who lets one do so holds the same lock, and looks for the note.
            with _refusing(target):
                await self.deletions.begin(target.name, digest, who, client)
            if self._events is not None:
                await self._events.deleted(target.name, who, digest=digest)
        with _refusing(target):
            await self.deletions.wait(target.name, digest)
        _log.info("manifest_deleted", name=target.name, digest=str(digest), who=who)

    async def delete_blob(self, target: Target, digest: Digest, who: str) -> None:
        """Delete a blob that no manifest of the repository names. Raises NotHere, BlobNamed, NotYet, StoreError."""
        with _refusing(target):
            await self._threads.complete(self._manifests.remove_blob, target.name, digest)
        _log.info("blob_deleted", name=target.name, digest=str(digest), who=who)

    # -- tags ------------------------------------------------------------------------------------------------

    async def delete_tag(self, target: Target, tag: str, who: str) -> None:
        """Delete a tag and its history; what it named stays. Raises NotHere, StoreError."""
        async with self._tag(target, tag):
            with _refusing(target):
                gone = await self._threads.complete(lambda: self._tags.remove(target.name, tag, durable=True))
            if not gone:
                raise NotHere(f"there is no tag {target.name}:{tag} here")
            if self._events is not None:
                await self._events.deleted(target.name, who, tag=tag)
        _log.info("tag_deleted", name=target.name, tag=tag, who=who)

    async def history(self, target: Target, tag: str = "") -> list[tuple[str, TagRecord]]:
        """Return what a tag, or each tag of the repository whose record is whole, means and meant.

        Raises NotHere, RecordDamaged where it is the record of `tag`.
        """
        found = await self._threads.complete(self._read, target.name, tag)
        if not found and (tag or not await self.damaged(target)):
            raise NotHere(f"there is no tag {target.name}:{tag} here" if tag else f"{target.name} has no tags here")
        return found

    async def damaged(self, target: Target) -> list[RecordDamaged]:
        """Return what is wrong with the records of the repository's tags, of each that makes no sense."""
        return await self._threads.complete(self._damaged, target.name)

    async def rollback(self, target: Target, tag: str, digest: Digest, who: str) -> TagRecord:
        """Let a tag mean again what it meant before; return what is known of it now.

        Where its record is damaged, that may be any manifest of the repository. Raises NotHere where it never meant
        `digest`, or that is not here any more, TagImmutable, StoreError.
        """
        async with self._manifest(target, digest), self._tag(target, tag):
            record = self._meaning(target, tag)
            if record is None:
                if not await self._threads.complete(self._tags.modified, target.name, tag):
                    raise NotHere(f"there is no tag {target.name}:{tag} here")
            elif str(digest) not in (str(record.digest), *(one.digest for one in record.history)):
                raise NotHere(
                    f"{target.name}:{tag} never meant {digest}, as far as is remembered", "see mirror history"
                )
            row = await self._threads.complete(self._manifests.find, target.name, digest)
            if row is None:
                raise NotHere(f"{target.name}@{digest} is not here any more")
            moved = await self._move(target, tag, digest, row.media_type, who)
            if self._events is not None:
                await self._events.pushed(target.name, digest, row.media_type, row.size or 0, (tag,), who)
        _log.info("tag_rolled_back", name=target.name, tag=tag, digest=str(digest), who=who)
        return moved

    # -- steps -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _counted(self, target: Target, digest: Digest, size: int, quota: Quota | None) -> AsyncIterator[None]:
        """Count a manifest that the block makes the repository's. Raises TooLarge where the quota has no room."""
        quotas = self._quotas
        if quotas is None or await self._threads.complete(self._manifests.is_member, target.name, digest):
            yield
            return
        await quotas.take(target.name, size, quota)
        try:
            yield
        except BaseException:
            await quotas.give_back(target.name, size)
            raise

    async def _move(self, target: Target, tag: str, digest: Digest, media_type: str, who: str) -> TagRecord:
        """Let a tag, whose lock is held, mean `digest`: one rename."""
        record, now = self._meaning(target, tag), time.time()
        self._check_mutable(target, tag, record, digest)
        if record is None:
            record = TagRecord(digest, media_type, now, who)
        elif record.digest != digest:
            record = record.moved_to(digest, media_type, now, who, self._history)
        moved = record
        with _refusing(target):
            await self._threads.complete(lambda: self._tags.write(target.name, tag, moved, durable=True))
        return moved

    def _meaning(self, target: Target, tag: str) -> TagRecord | None:
        """Return what a tag means that may be moved, None also where its record is damaged, which a move mends.

        Raises TagImmutable where that is for whoever may delete it to decide; StoreUnreadable.
        """
        try:
            record = self._tags.read(target.name, tag)
        except RecordDamaged as error:
            if self._immutable.covers(target.name, tag):
                raise TagImmutable(
                    f"{target.name}:{tag} is immutable, and its record is damaged: what it means is not known",
                    "delete the tag, then push it again",
                ) from error
            return None
        return None if record is None or self.deletions.has(target.name, record.digest) else record

    def _check_mutable(self, target: Target, tag: str, record: TagRecord | None, digest: Digest) -> None:
        if record is not None and record.digest != digest and self._immutable.covers(target.name, tag):
            raise TagImmutable(
                f"{target.name}:{tag} is immutable and means {record.digest}", "push under another tag, or delete it"
            )

    async def _tell(self, target: Target, pushed: Pushed, tags: Sequence[str], who: str) -> None:
        if self._events is not None:
            found = pushed.manifest
            await self._events.pushed(
                target.name, pushed.digest, found.media_type, len(pushed.body), tags, who, found.named
            )

    def _read(self, name: str, tag: str) -> list[tuple[str, TagRecord]]:
        if tag:
            found = [(tag, self._tags.read(name, tag))]
        else:
            found = [(one, self._tags.read_if_whole(name, one)) for one in self._tags.list(name)]
        return [(one, record) for one, record in found if record is not None]

    def _damaged(self, name: str) -> list[RecordDamaged]:
        found = []
        for tag in self._tags.list(name):
            try:
                self._tags.read(name, tag)
            except RecordDamaged as error:
                found.append(error)
        return found

    @asynccontextmanager
    async def _undeleted(self, target: Target, digest: Digest) -> AsyncIterator[None]:
        """Hold the lock of a manifest whose last deletion is over: no tag of before means what is pushed now."""
        while True:
            async with self._manifest(target, digest):
                if not self.deletions.has(target.name, digest):
                    yield
                    return
            with _refusing(target):
                await self.deletions.finish(target.name, digest)

    @asynccontextmanager
    async def _manifest(self, target: Target, digest: Digest) -> AsyncIterator[None]:
        async with self._held(target, "hosted", f"{target.name}@{digest}"):
            yield

    @asynccontextmanager
    async def _tag(self, target: Target, tag: str) -> AsyncIterator[None]:
        async with self._held(target, "tag", f"{target.name}:{tag}"):
            yield

    @asynccontextmanager
    async def _held(self, target: Target, kind: str, key: str) -> AsyncIterator[None]:
        with _refusing(target):
            async with self._locks.hold(kind, key, required=True):
                yield


@contextmanager
def _refusing(target: Target) -> Iterator[None]:
    """Turn what the disk answers into an error of the tree; where there is no room, that is said of the push."""
    try:
        with writing(target.name):
            yield
    except StoreFull as error:
        raise refusal(error) from error
