"""Manifests by digest and by tag: remembered, here, or fetched once for everybody, verified and kept."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from mirror import logs
from mirror.content.answers import OTHER_BYTES, ManifestAnswer, Target, not_here_and_offline, why_not_kept
from mirror.content.coalesce import Coalesced
from mirror.content.fetch import CLIENT_PATIENCE
from mirror.content.lines import MANIFESTS, Lines
from mirror.content.locks import Locks
from mirror.content.members import MayPull, Members, Membership, nobody
from mirror.content.tags import Tags
from mirror.errors import (
    Corrupt,
    ManifestInvalid,
    NotHere,
    NotYet,
    RecordDamaged,
    StoreFull,
    StoreUnreadable,
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
)
from mirror.oci import manifest, media_types
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.store import files, ingest
from mirror.store.blobs import Blobs as StoredBlobs
from mirror.store.deletions import Deletions
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests as Rows
from mirror.store.manifests import Row
from mirror.store.space import Space
from mirror.store.threads import Threads
from mirror.upstream.answers import ManifestBody, ManifestHead
from mirror.upstream.client import UpstreamClient

_REMEMBERED_SIZE = 256 * 1024  # bytes of one manifest; larger ones are read from the file
_MEMORY = 64 * 1024 * 1024  # bytes of all remembered ones, a worker

UNKNOWN_ALGORITHM = "unknown algorithm"  # why a manifest is not kept that names what could not be checked

_log = logs.get("content.manifests")

_Stamp = tuple[int, int, int] | None


class _Remembered(NamedTuple):
    """A manifest, and what its file and its membership looked like when it was read."""

    answer: ManifestAnswer
    file: _Stamp
    row: _Stamp


class Manifests:
    """Manifests of every repository. `tags` is set by whoever wires the two: each needs the other."""

    tags: Tags

    def __init__(
        self,
        layout: Layout,
        stored: StoredBlobs,
        rows: Rows,
        members: Members,
        locks: Locks,
        lines: Lines,
        space: Space,
        clients: Mapping[str, UpstreamClient],
        writers: Threads,
        used: Callable[[Digest, int], None],
        *,
        offline: bool,
    ) -> None:
        self._layout = layout
        self._stored = stored
        self._rows = rows
        self._members = members
        self._locks = locks
        self._lines = lines
        self._space = space
        self._clients = clients
        self._writers = writers
        self._used = used
        self._offline = offline
        self._deletions = Deletions(layout)
        self._memory: OrderedDict[tuple[str, Digest], _Remembered] = OrderedDict()
        self._memory_bytes = 0
        self._fetches: Coalesced[tuple[str, str], ManifestAnswer] = Coalesced()
        self._reading: Coalesced[Digest, bytes | None] = Coalesced()

    # -- what a client asks ----------------------------------------------------------------------------------

    def now(self, target: Target, reference: Digest | str) -> ManifestAnswer | None:
        """Return the manifest if it is remembered and nothing has changed on disk: no wait, at most three stats."""
        if isinstance(reference, str):
            state = self.tags.now(target, reference)
            if state is None:
                return None
            reference = state.digest
        found = self._memory.get((target.name, reference))
        try:
            if (
                found is None
                or found.file != self._stored.modified(reference)
                or found.row != self._rows.modified(target.name, reference)
            ):
                return None
        except StoreUnreadable:
            return None  # whoever waits may get it elsewhere
        self._used(reference, found.answer.size)
        return found.answer

    async def get(self, target: Target, reference: Digest | str, may_pull: MayPull = nobody) -> ManifestAnswer:
        """Return the manifest from wherever it is. Raises NotHere, NotYet, StoreUnreadable, UpstreamError."""
        if isinstance(reference, Digest):
            return await self._patiently(self.by_digest(target, reference, may_pull), f"{target.name}@{reference}")
        state = await self.tags.resolve(target, reference)
        if state.answer is not None:
            return state.answer
        answer = await self._patiently(self.by_digest(target, state.digest, may_pull), f"{target.name}:{reference}")
        cache = state.cache if state.cache is not None and answer.cache == "HIT" else answer.cache
        if state.cache == "STALE":
            cache = "STALE"
        if cache == answer.cache and not state.warning and not state.why:
            return answer
        return replace(answer, cache=cache, warning=state.warning, why=state.why)

    async def _patiently(self, work: Awaitable[ManifestAnswer], what: str) -> ManifestAnswer:
        try:
            async with asyncio.timeout(CLIENT_PATIENCE):
                return await work
        except TimeoutError:
            raise NotYet(f"{what} is being fetched and upstream has not answered yet", "ask again") from None

    async def by_digest(self, target: Target, digest: Digest, may_pull: MayPull = nobody) -> ManifestAnswer:
        """Return the manifest from here, else from upstream, kept from now on.

        Raises NotHere, NotYet, StoreUnreadable, UpstreamError.
        """
        try:
            found = await self._here(target, digest, may_pull)
            if found is not None:
                return found
            client = self._asked(target, f"{target.name}@{digest}")
            key = (target.name, str(digest))
            joined = self._fetches.running(key)
            line = self._lines.of(target, MANIFESTS)
            answer = await self._fetches.run(key, lambda: self._fetch(target, digest, client), line)
        except StoreUnreadable as error:
            return await self._around(target, digest, error)
        return replace(answer, cache="JOINED") if joined and answer.cache == "MISS" else answer

    # -- here ------------------------------------------------------------------------------------------------

    async def _here(self, target: Target, digest: Digest, may_pull: MayPull = nobody) -> ManifestAnswer | None:
        """Return the manifest if its bytes are here and the client may be given it, asking upstream for that once."""
        if target.hosted and self._deletions.has(target.name, digest):
            raise NotHere(f"{target.name}@{digest} is not here any more")
        content = await self._content(digest)
        if content is None:
            return None
        damaged: RecordDamaged | None = None
        try:
            row = self._rows.read_manifest(target.name, digest)
        except RecordDamaged as error:
            if target.hosted:
                raise
            row, damaged = None, error
        if row is None or not await self._members.admits(target, digest, row):
            try:
                media_type, member = await self._belongs(target, digest, content, row, may_pull)
            except (NotHere, UpstreamNotFound):
                if damaged is None or self._members.may_ask(target):
                    raise
                raise damaged from None  # it may have said that it is the repository's
            answer = ManifestAnswer(digest, media_type, len(content), content, "HIT", target.upstream)
            if member is not None and not member.own:
                return answer  # which is not for every client of the repository
            brought = member.brought if member is not None else True
            try:
                await self._writers.run(self._rows.add_manifest, target.name, digest, media_type, len(content), brought)
            except OSError as error:
                # Nothing may name what is not durably the repository's: so this is as good as not stored.
                _log.warning("row_not_written", name=target.name, digest=str(digest), error=error.strerror)
                return replace(answer, cache="BYPASS", why=why_not_kept(error))
        else:
            answer = ManifestAnswer(digest, row.media_type, len(content), content, "HIT", target.upstream)
        self._remember(target, answer)
        self._used(digest, len(content))
        return answer

    async def _content(self, digest: Digest) -> bytes | None:
        """Return the verified bytes of a manifest that is here; a bad file is put away. Raises StoreUnreadable."""
        found = self._stored.open(digest)
        if found is None:
            return None
        try:
            if not found.sealed:
                await self._writers.complete(self._stored.verify, digest, found.fd)
            if found.size > _REMEMBERED_SIZE:
                return await self._reading.run(digest, lambda: self._read(digest))
            return files.read_bytes(found.fd, 0, found.size)
        except Corrupt:
            return None
        finally:
            os.close(found.fd)

    async def _read(self, digest: Digest) -> bytes | None:
        """Return the bytes of a large manifest, which all who ask for it meanwhile share."""
        found = self._stored.open(digest)
        if found is None:
            return None
        try:
            return await self._writers.complete(files.read_bytes, found.fd, 0, found.size)
        finally:
            os.close(found.fd)

    async def _belongs(
        self, target: Target, digest: Digest, content: bytes, row: Row | None, may_pull: MayPull
    ) -> tuple[str, Membership | None]:
        """Return the media type of a manifest that the client may be given, and by which membership.

        `row` is that of an earlier release, of a manifest that may have been another repository's only.

        None: upstream has just confirmed that it is the repository's. Raises NotHere, UpstreamError.
        """
        try:
            # A blob that was pushed is no manifest by its form.
            find = self._members.named if target.hosted else self._members.find
            member = await find(target, digest, may_pull)
        except StoreUnreadable:
            if not self._members.may_ask(target):
                raise
            member = None
        if (
            member is None
            and row is not None
            and not target.hosted
            and await self._members.is_shared(digest, may_pull, target)
        ):
            member = Membership(row.media_type, row.size, False, row.brought)
        declared = member.media_type if member is not None else ""
        if member is None:
            client = self._asked(target, f"{target.name}@{digest}")
            try:
                declared = (await client.head_manifest(target.repository, str(digest))).media_type
            except UpstreamDenied as error:
                raise NotHere(error.what, error.remedy) from error
        try:
            return (await self._parse(content, declared)).media_type, member
        except ManifestInvalid as error:
            raise NotHere(f"{digest} is not a manifest of {target.name}: {error.what}") from error

    async def _around(self, target: Target, digest: Digest, error: StoreUnreadable) -> ManifestAnswer:
        """Return what upstream has of a manifest that cannot be read here; raise `error` where that is nothing."""
        client = self._clients.get(target.upstream)
        if client is None or self._offline:
            raise error
        try:
            body = await client.get_manifest(target.repository, str(digest))
            found = await self._verified(target, digest, body)
        except (NotHere, UpstreamError) as refused:
            raise error from refused
        size = len(body.body)
        return ManifestAnswer(
            digest, found.media_type, size, body.body, "BYPASS", target.upstream, why="store unreadable"
        )

    def _remember(self, target: Target, answer: ManifestAnswer) -> None:
        if answer.size > _REMEMBERED_SIZE:
            return
        key = (target.name, answer.digest)
        old = self._memory.pop(key, None)
        self._memory_bytes += answer.size - (old.answer.size if old else 0)
        file, row = self._stored.modified(answer.digest), self._rows.modified(*key)
        if target.hosted and self._deletions.has(*key):  # by now, so that what was asked just before is not for ever
            self._memory_bytes -= answer.size
            return
        self._memory[key] = _Remembered(replace(answer, cache="HIT", why=""), file, row)
        while self._memory_bytes > _MEMORY:
            _, dropped = self._memory.popitem(last=False)
            self._memory_bytes -= dropped.answer.size

    # -- fetched ---------------------------------------------------------------------------------------------

    async def fetch_tag(self, target: Target, tag: str, head: ManifestHead | None) -> ManifestAnswer:
        """Return the manifest that upstream gives for a tag, kept from now on; for registries without a usable HEAD.

        Where the question by HEAD brought the body already, upstream is not asked again.
        """
        client = self._asked(target, f"{target.name}:{tag}")
        got = head.got if head is not None else None
        if got is None:
            got = await client.get_manifest(target.repository, tag)
        digest = got.named
        if digest is None:
            return await self._misnamed(target, tag, got, client)
        return await self._keep(target, digest, got)

    async def _misnamed(self, target: Target, tag: str, got: ManifestBody, client: UpstreamClient) -> ManifestAnswer:
        """Return what a tag means whose bytes are not what upstream calls them.

        They were damaged on their way where upstream has what it names. Where it does not, the name is wrong.
        """
        assert got.digest is not None
        digest = Digest.of(got.body)
        await self._verified(target, digest, got)
        try:
            whole = await client.get_manifest(target.repository, str(got.digest))
        except (UpstreamNotFound, UpstreamDenied):
            _log.warning("tag_misnamed", name=f"{target.name}:{tag}", digest=str(digest), said=str(got.digest))
            return await self._keep(target, digest, got)
        return await self._keep(target, got.digest, whole)

    async def _fetch(self, target: Target, digest: Digest, client: UpstreamClient) -> ManifestAnswer:
        async with self._locks.hold("manifest", str(digest), upstream=target.upstream):
            found = await self._here(target, digest)
            if found is not None:
                return replace(found, cache="JOINED")
            return await self._keep(target, digest, await client.get_manifest(target.repository, str(digest)))

    async def _verified(self, target: Target, digest: Digest, body: ManifestBody) -> Manifest:
        """Return what upstream sent if it is the manifest `digest`; raise UpstreamInvalid if not."""
        try:
            found = await self._parse(body.body, body.media_type, passing=True)
            if not manifest.matches(body.body, found.media_type, digest):
                raise ManifestInvalid(f"its bytes hash to {Digest.of(body.body, digest.algorithm)}")
        except ManifestInvalid as error:
            raise UpstreamInvalid(
                f"what upstream sent for {target.name}@{digest} is not that manifest: {error.what}",
                OTHER_BYTES,
                body.endpoint,
            ) from error
        return found

    async def _keep(self, target: Target, digest: Digest, body: ManifestBody) -> ManifestAnswer:
        """Verify what upstream sent, keep it, and note what it names for the repository."""
        content = body.body
        found = await self._verified(target, digest, body)
        answer = ManifestAnswer(digest, found.media_type, len(content), content, "MISS", target.upstream)
        why = "schema1" if found.media_type in media_types.SCHEMA1 else UNKNOWN_ALGORITHM if found.unknown else ""
        if why:
            await self._writers.run(self._rows.add_named, target.name, found.named)
            return replace(answer, cache="BYPASS", why=why)
        try:
            if await self._writers.run(self._store, target, answer, found):
                answer = replace(answer, cache="HIT")
        except StoreUnreadable:
            return replace(answer, cache="BYPASS", why="store unreadable")
        except (StoreFull, OSError) as error:
            return replace(answer, cache="BYPASS", why=why_not_kept(error))
        self._remember(target, answer)
        self._used(digest, len(content))
        return answer

    def _store(self, target: Target, answer: ManifestAnswer, found: Manifest) -> bool:
        """Have the manifest here, and tell whether it was."""
        assert answer.body is not None
        here = files.look(self._layout.blob(answer.digest))
        row = self._rows.manifest(target.name, answer.digest)
        whole = here is not None and files.is_sealed(here) and here.st_size == answer.size
        was_here = whole and row == Row(answer.media_type, answer.size, True)
        if not was_here:
            self._space.reserve(answer.digest, answer.size)
            ingest.store_bytes(self._layout, answer.digest, answer.body)
            self._rows.add_manifest(target.name, answer.digest, answer.media_type, answer.size)
        self._rows.add_named(target.name, found.named)
        return was_here

    async def _parse(self, content: bytes, declared: str, *, passing: bool = False) -> Manifest:
        if len(content) <= _REMEMBERED_SIZE:
            return manifest.parse(content, declared, passing=passing)
        return await self._writers.run(lambda: manifest.parse(content, declared, passing=passing))

    def _asked(self, target: Target, what: str) -> UpstreamClient:
        client = self._clients.get(target.upstream)
        if client is None:
            raise NotHere(f"{what} is not here")
        if self._offline:
            raise not_here_and_offline(what)
        return client

    async def stop(self) -> None:
        """Cancel the fetches and reads under way."""
        await self._fetches.stop()
        await self._reading.stop()
