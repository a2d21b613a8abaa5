"""Content as the face sees it: one object over names, manifests, blobs, tags and referrers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from mirror.config import Config
from mirror.config.access import Readers
from mirror.content.answers import (
    BlobAnswer,
    BlobHead,
    ByteRange,
    ManifestAnswer,
    ReferrersAnswer,
    TagPage,
    Target,
)
from mirror.content.blobs import Blobs
from mirror.content.bring import Bring
from mirror.content.catalog import Catalog
from mirror.content.courtesy import Courtesy
from mirror.content.events import Events
from mirror.content.fetch import Fetcher
from mirror.content.hosted import Hosted
from mirror.content.immutable import Immutable
from mirror.content.lines import Lines
from mirror.content.locks import Locks
from mirror.content.manifests import Manifests
from mirror.content.members import MayPull, Members, nobody
from mirror.content.quotas import Quotas
from mirror.content.referrers import Referrers
from mirror.content.releases import Releases
from mirror.content.resolve import Resolver
from mirror.content.sets import ContentSets, Known
from mirror.content.tags import Tags
from mirror.content.uploads import Uploads
from mirror.content.workshop import Workshop
from mirror.errors import MirrorError, NameUnknown, NotHere, StoreError, StoreUnreadable
from mirror.metrics import CORRUPT, Metrics
from mirror.oci.digest import Digest
from mirror.store.blobs import Blobs as StoredBlobs
from mirror.store.brought import Brought
from mirror.store.hosted import Hosted as Markers
from mirror.store.index import Index
from mirror.store.ingest import boot_id
from mirror.store.lacking import Lacking
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests as Rows
from mirror.store.quarantine import Quarantine
from mirror.store.referrers import Referrers as StoredReferrers
from mirror.store.sets import Sets
from mirror.store.space import Space
from mirror.store.tags import Tags as StoredTags
from mirror.store.threads import Threads
from mirror.store.uploads import Uploads as StoredUploads
from mirror.upstream.client import UpstreamClient

_READY_PATIENCE = 3.0  # seconds for the store to answer a readiness question


@dataclass(frozen=True, slots=True)
class Rooms:
    """What content is built on; app.py makes these."""

    layout: Layout
    index: Index
    space: Space
    quarantine: Quarantine
    readers: Threads
    writers: Threads
    takers: Threads  # for what clients push
    clients: Mapping[str, UpstreamClient]
    metrics: Metrics
    events: Events
    who: str
    courteous: bool = False  # gives way to what others download


class Content:
    """The face's one way in. `uploads`, `hosted` and `catalog` are what is pushed, deleted and listed here."""

    def __init__(self, config: Config, rooms: Rooms) -> None:
        layout, writers, clients = rooms.layout, rooms.writers, rooms.clients
        used = rooms.index.note

        def discard(path: str, why: str) -> None:
            rooms.metrics.add(CORRUPT, "read")
            rooms.quarantine.take(path, why)

        self._layout = layout
        self._writers = writers
        self._releases = Releases(layout, rooms.readers)
        self._sets = ContentSets(Sets(layout), writers)
        self._resolver = Resolver(config, lambda: self._sets.known.spaces)
        self._locks = Locks(layout, writers)
        lines = Lines(config.limits.fetches_per_upstream)
        stored = StoredBlobs(layout, discard)
        rows = Rows(layout)
        readers = Readers(config.clients.anonymous, config.clients.rules)
        lacking = Lacking(layout) if config.storage.sparse_indexes else None
        self._members = Members(
            rows, Brought(layout), readers, writers, clients, lines, offline=config.offline, lacking=lacking
        )
        self._fetcher = Fetcher(
            Workshop(
                layout,
                stored,
                lines,
                rooms.space,
                writers,
                rooms.metrics,
                boot_id(),
                rooms.who,
                config.limits.blob,
                used,
                self._members.grant,
                self._members.prove,
                discard,
                Courtesy(layout, rooms.readers) if rooms.courteous else None,
            )
        )
        self._blobs = Blobs(stored, self._members, self._fetcher, clients, rooms.readers, used, offline=config.offline)
        self._manifests = Manifests(
            layout,
            stored,
            rows,
            self._members,
            self._locks,
            lines,
            rooms.space,
            clients,
            writers,
            used,
            offline=config.offline,
        )
        self._tags = Tags(
            StoredTags(layout),
            self._locks,
            lines,
            writers,
            clients,
            config.upstreams,
            rooms.metrics,
            self._manifests.by_digest,
            self._manifests.fetch_tag,
            self._sets,
            rooms.events.on_moved,
            offline=config.offline,
            history=config.storage.tag_history,
        )
        self._manifests.tags = self._tags
        self.bring = Bring(
            self._resolver,
            self._manifests,
            self._blobs,
            self._members,
            self._fetcher,
            StoredTags(layout),
            self._sets,
            clients,
            writers,
            offline=config.offline,
        )
        self._referrers = Referrers(
            StoredReferrers(layout),
            writers,
            clients,
            config.upstreams,
            lines,
            self._manifests.get,
            offline=config.offline,
        )
        uploads = StoredUploads(layout, boot_id())
        quotas = Quotas(layout, uploads, rooms.takers)
        self.uploads = Uploads(
            layout,
            uploads,
            Markers(layout),
            rows,
            self._members,
            rooms.space,
            rooms.takers,
            self._blobs.here,
            quotas,
            used,
            blob_limit=config.limits.blob,
        )
        self.hosted = Hosted.open(
            layout,
            rooms.space,
            rooms.takers,
            used,
            manifest_limit=config.limits.manifest,
            history=config.storage.tag_history,
            sparse=config.storage.sparse_indexes,
            immutable=Immutable(config.storage.immutable_tags),
            events=rooms.events,
            quotas=quotas,
        )
        self.catalog = Catalog(layout, rooms.readers)

    @property
    def settled(self) -> bool:
        """Whether what is remembered of image sets is what the store says: one system call."""
        return self._sets.fresh

    async def settle(self) -> None:
        """Read anew what image sets say."""
        await self._sets.load()

    @property
    def known(self) -> Known:
        """What complete image sets hold."""
        return self._sets.known

    def resolve(self, name: str, ns: str | None, prefix: str | None) -> Target:
        """Return what a client's name means. Raises NameUnknown, Denied, StoreUnreadable."""
        try:
            return self._resolver.resolve(name, ns, prefix)
        except NameUnknown as error:
            raise self._sets.known.lacking or error from error

    def decide(self, name: str, ns: str | None) -> tuple[Target, str]:
        """Return what a client's name means, whether it may be pulled or not, and what decided that, in words.

        Raises NameUnknown, StoreUnreadable.
        """
        try:
            return self._resolver.decide(name, ns)
        except NameUnknown as error:
            raise self._sets.known.lacking or error from error

    def manifest_now(self, target: Target, reference: Digest | str) -> ManifestAnswer | None:
        """Return a manifest that is remembered and still true, without waiting."""
        return self._manifests.now(target, reference)

    async def manifest(
        self,
        target: Target,
        reference: Digest | str,
        head: bool,  # noqa: ARG002 - HEAD fetches and stores too (DESIGN 2.4)
        may_pull: MayPull = nobody,
    ) -> ManifestAnswer:
        """Return a manifest from wherever it is, to a client that may pull the repositories of `may_pull`."""
        try:
            return await self._manifests.get(target, reference, may_pull)
        except NotHere as error:
            raise self._explained(error, target, reference) from error

    def blob_now(self, target: Target, digest: Digest) -> BlobAnswer | None:
        """Return a blob that is here, without waiting."""
        return self._blobs.now(target, digest)

    async def blob(
        self,
        target: Target,
        digest: Digest,
        range: ByteRange | None,  # noqa: A002 - HTTP's word
        may_pull: MayPull = nobody,
    ) -> BlobAnswer:
        """Return a blob, or the range of it, from wherever it is."""
        try:
            return await self._blobs.get(target, digest, range, may_pull)
        except NotHere as error:
            raise self._explained(error, target, digest) from error

    async def blob_around(
        self,
        target: Target,
        digest: Digest,
        range: ByteRange | None,  # noqa: A002 - HTTP's word
        error: StoreUnreadable,
    ) -> BlobAnswer:
        """Return from upstream what is here and cannot be read; raise `error` where that cannot be."""
        return await self._blobs.around(target, digest, range, error)

    def _explained(self, error: NotHere, target: Target, reference: Digest | str) -> MirrorError:
        """Say of content that should be here which set needs it, and what finds out more."""
        known = self._sets.known
        if known.lacking is not None and not self._members.may_ask(target):
            return known.lacking  # it may be here, by what could not be read
        if target.hosted:
            return error  # sets hold nothing of what is pushed here, and what they hold is not for everybody to know
        digest = reference if isinstance(reference, Digest) else known.tags.get((target.name, reference))
        holder = known.holder(target.name, digest) if digest is not None else ""
        if not holder:
            return error
        return NotHere(f"{error.what}; it is part of set {holder}", f"mirror verify {holder}")

    async def blob_head(self, target: Target, digest: Digest, may_pull: MayPull = nobody) -> BlobHead:
        """Return a blob's size, fetching nothing."""
        return await self._blobs.head(target, digest, may_pull)

    async def tags(self, target: Target, count: int | None, last: str) -> TagPage:
        """Return a page of tags."""
        return await self._tags.page(target, count, last)

    async def referrers(
        self, target: Target, digest: Digest, artifact_type: str | None, last: str = ""
    ) -> ReferrersAnswer:
        """Return who refers to a digest."""
        return await self._referrers.get(target, digest, artifact_type, last)

    async def graph(self, channel: str, architecture: str) -> bytes:
        """Return what complete sets know of a channel, as Cincinnati's JSON."""
        return await self._releases.graph(channel, architecture)

    async def signature(self, digest: Digest, number: int) -> bytes | None:
        """Return the OpenPGP signature `number` of a release; None where it is not here."""
        return await self._releases.signature(digest, number)

    async def ready(self) -> None:
        """Exercise what a pull by tag needs of the store: its format, a lock, a tag's file. Raises StoreError."""
        try:
            async with asyncio.timeout(_READY_PATIENCE):
                if not await self._writers.run(self._layout.format.exists):
                    raise StoreError("the store is gone", "mount it again, or restart the mirror to make a new one")
                async with self._locks.hold("ready", "", required=True):
                    self._tags.now(Target("", "ready", "ready"), "ready")
        except TimeoutError:
            raise StoreError("the store does not answer", "see whether its disk does") from None
        except OSError as error:
            raise StoreError(f"the store cannot be used ({error.strerror})") from error

    async def stop(self) -> None:
        """End what is under way; parts stay and are resumed by whoever asks next."""
        await self.hosted.deletions.stop()
        await self._fetcher.stop()
        await self._tags.stop()
        await self._manifests.stop()
        await self._referrers.stop()
        await self._members.stop()
