"""Where a blob's bytes are: here, growing, or at an upstream; and what a client gets of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping

from mirror.content.ahead import Ahead
from mirror.content.answers import (
    BlobAnswer,
    BlobHead,
    ByteRange,
    Cache,
    RangeUnsatisfiable,
    Readable,
    Target,
    why_not_kept,
)
from mirror.content.coalesce import Coalesced
from mirror.content.fetch import CLIENT_PATIENCE, Fetcher, Joined
from mirror.content.fill import ELSEWHERE, HOLD_BACK, FillGoneError
from mirror.content.members import MayPull, Members, nobody, not_here
from mirror.content.readers import GrowingFile, WholeFile
from mirror.content.through import Chunks, pass_range, pass_whole
from mirror.content.workshop import Source
from mirror.errors import Corrupt, NotHere, NotYet, StoreFull, StoreUnreadable, UpstreamError
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.blobs import Blobs as StoredBlobs
from mirror.store.blobs import OpenBlob
from mirror.store.files import PageCache
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

_ATTEMPTS = 3  # to begin anew when what was joined ended for a reason that is not ours


class Blobs:
    """Blobs of every repository. `used(digest, size)` notes a use for the index."""

    def __init__(
        self,
        stored: StoredBlobs,
        members: Members,
        fetcher: Fetcher,
        clients: Mapping[str, UpstreamClient],
        readers: Threads,
        used: Callable[[Digest, int], None],
        *,
        offline: bool,
    ) -> None:
        self._stored = stored
        self._members = members
        self._fetcher = fetcher
        self._clients = clients
        self._readers = readers
        self._used = used
        self._offline = offline
        self._cache = PageCache()
        self._verifying: Coalesced[Digest, int] = Coalesced()

    # -- what is here ----------------------------------------------------------------------------------------

    def now(self, target: Target, digest: Digest) -> BlobAnswer | None:
        """Return the blob if it is here, sealed and known to be the repository's: no wait, four system calls."""
        try:
            found = self._stored.open(digest) if self._members.now(target, digest) else None
        except StoreUnreadable:
            return None  # whoever waits may get it elsewhere
        if found is None:
            return None
        if not found.sealed:
            os.close(found.fd)
            return None
        return self._hit(digest, found, target)

    def _hit(self, digest: Digest, found: OpenBlob, target: Target) -> BlobAnswer:
        self._used(digest, found.size)
        size = found.size
        file = WholeFile(found.fd, size, self._cache, self._readers)
        answer = BlobAnswer(size, 0, size, "HIT", file, upstream=target.upstream)
        # What leaves in one piece is read before its head: there is nothing to go on with.
        client = self._client(target) if size > HOLD_BACK and not self._offline else None
        if client is not None:
            answer.divert = lambda position: self._divert(
                Source(client, target, size, known=True), digest, file, size, position
            )
        return answer

    async def here(self, digest: Digest) -> OpenBlob | None:
        """Open a blob that is here and verified; one that is not sealed is hashed first, a bad one put away.

        Raises StoreUnreadable, NotYet.
        """
        for _ in range(_ATTEMPTS):
            found = self._stored.open(digest)
            if found is None or found.sealed:
                return found
            good = False
            try:
                async with asyncio.timeout(CLIENT_PATIENCE):
                    verified = await self._verifying.run(digest, lambda: self._verify(digest))
                good = verified == files.status(found.fd).st_ino
            except TimeoutError:
                raise NotYet(f"{digest} is being verified", "ask again: it goes on") from None
            finally:
                if not good:
                    os.close(found.fd)
            if good:
                return found  # sealed by now, or of a disk that takes no seal
        return None

    async def _verify(self, digest: Digest) -> int:
        """Hash what is here; return its inode, 0 where there is nothing or it was put away. Raises StoreUnreadable."""
        found = self._stored.open(digest)
        if found is None:
            return 0
        try:
            await self._readers.complete(self._stored.verify, digest, found.fd)
            return files.status(found.fd).st_ino
        except Corrupt:
            return 0
        finally:
            os.close(found.fd)

    # -- HEAD ------------------------------------------------------------------------------------------------

    async def head(self, target: Target, digest: Digest, may_pull: MayPull = nobody) -> BlobHead:
        """Return the blob's size, fetching nothing. Raises NotHere, NotYet, StoreUnreadable, UpstreamError."""
        try:
            found = await self.here(digest)
        except StoreUnreadable:
            if not self._members.may_ask(target):
                raise
            return await self._head_upstream(target, digest)
        if found is not None:
            os.close(found.fd)
            await self._admit(target, digest, may_pull)
            return BlobHead(found.size, "HIT", target.upstream)
        growing = await self._fetcher.growing(digest)
        if growing is not None:
            await self._admit(target, digest, may_pull)
            return BlobHead(growing.size, "HIT" if growing.verified else "JOINED", target.upstream)
        return await self._head_upstream(target, digest)

    async def _head_upstream(self, target: Target, digest: Digest) -> BlobHead:
        client = self._asked(target, digest)
        try:
            async with asyncio.timeout(CLIENT_PATIENCE):
                size = await self._members.prove(client, target, digest)
        except TimeoutError:
            raise NotYet(f"upstream has not answered for {digest} yet", "ask again") from None
        return BlobHead(size, "BYPASS", target.upstream)

    # -- GET -------------------------------------------------------------------------------------------------

    async def get(
        self, target: Target, digest: Digest, wanted: ByteRange | None, may_pull: MayPull = nobody
    ) -> BlobAnswer:
        """Return the blob, or the range of it, from wherever it is.

        Raises NotHere, NotYet, RangeUnsatisfiable, StoreUnreadable, UpstreamError.
        """
        for attempt in range(_ATTEMPTS):
            try:
                found = await self.here(digest)
            except StoreUnreadable as error:
                return await self.around(target, digest, wanted, error)
            if found is not None:
                return await self._prove_hit(target, digest, found, wanted, may_pull)
            client = self._asked(target, digest)
            try:
                member = await self._members.find(target, digest, may_pull)
            except StoreUnreadable:
                member = None  # upstream is asked anyway
            own = member is not None and member.own
            source = Source(client, target, member.size if member is not None else None, known=own)
            under_way = self._fetcher.find(digest)
            if not own and under_way is not None and under_way.source.place != source.place:
                await self._members.prove(client, target, digest)
            joined = self._fetcher.join(digest, source)
            elsewhere = joined.fill.source.place != source.place
            try:
                async with asyncio.timeout(ELSEWHERE if elsewhere else None):
                    return await self._from_fill(joined, source, wanted)
            except TimeoutError:
                return await self._pass_whole(source, digest, wanted, "another source is slow")
            except FillGoneError:
                continue
            except StoreFull as error:
                return await self._pass_whole(source, digest, wanted, why_not_kept(error))
            except StoreUnreadable as error:
                return await self.around(target, digest, wanted, error)
            except (UpstreamError, NotHere):
                # What ended somebody else's fetch, for their repository, does not end ours.
                if joined.began or not elsewhere or attempt == _ATTEMPTS - 1:
                    raise
        raise NotYet(f"{digest} cannot be had now", "ask again")

    async def around(
        self, target: Target, digest: Digest, wanted: ByteRange | None, error: StoreUnreadable
    ) -> BlobAnswer:
        """Return what upstream has of a blob that is here and cannot be read; raise `error` where that is nothing."""
        client = self._client(target)
        if client is None or self._offline:
            raise error
        try:
            return await self._pass_whole(Source(client, target), digest, wanted, "store unreadable")
        except (NotHere, UpstreamError) as refused:
            raise error from refused

    async def _admit(self, target: Target, digest: Digest, may_pull: MayPull) -> None:
        """Return if a repository may be given content that is here, asking upstream where that is not known."""
        try:
            if await self._members.find(target, digest, may_pull) is not None:
                return
        except StoreUnreadable:
            if not self._members.may_ask(target):
                raise
        await self._members.prove(self._client(target), target, digest)

    async def _prove_hit(
        self, target: Target, digest: Digest, found: OpenBlob, wanted: ByteRange | None, may_pull: MayPull
    ) -> BlobAnswer:
        try:
            await self._admit(target, digest, may_pull)
        except BaseException:
            os.close(found.fd)
            raise
        return cut(self._hit(digest, found, target), wanted)

    async def _from_fill(self, joined: Joined, source: Source, wanted: ByteRange | None) -> BlobAnswer:
        fill = joined.fill
        if wanted is None:
            await self._fetcher.opened(fill)
            return self._growing(joined, source)
        await self._fetcher.opened(fill, wanted)
        if fill.total is None:
            # Without a total there is no valid Content-Range (protocol: moby reads no `*`): send the whole.
            return self._growing(joined, source)
        span = wanted.resolve(fill.total)
        if span is None:
            raise RangeUnsatisfiable(fill.total)
        start, stop = span
        if start == 0 or stop <= fill.written:
            return self._growing_range(joined, source, start, stop)
        return self._ahead(joined, source, start, stop)

    def _growing_range(self, joined: Joined, source: Source, start: int, stop: int) -> BlobAnswer:
        # What is held back is what would make an answer the whole blob: a range may end at once.
        answer = self._growing(joined, source, held=(start, stop) == (0, joined.fill.total))
        answer.start, answer.stop = start, stop
        if stop != answer.total:
            answer.divert = None  # what is passed through is checked by its end, which is not asked for
        return answer

    def _ahead(self, joined: Joined, source: Source, start: int, stop: int) -> BlobAnswer:
        fill = joined.fill
        ahead = Ahead(fill, GrowingFile(fill, self._cache, self._readers, held=False), source, start, stop)
        cache: Cache = "BYPASS" if ahead.passes else joined.cache
        chunks = Chunks(ahead.pieces(), ahead.release)
        return BlobAnswer(fill.total, start, stop, cache, chunks=chunks, upstream=source.target.upstream, why="range")

    def _growing(self, joined: Joined, source: Source, *, held: bool = True) -> BlobAnswer:
        fill, cache = joined.fill, joined.cache
        if fill.whole:
            self._used(fill.digest, fill.written)
        # Without a total there is nothing to go on with.
        elsewhere = held and fill.total is not None and fill.source.place != source.place
        file = GrowingFile(fill, self._cache, self._readers, held=held, elsewhere=elsewhere)
        upstream = source.target.upstream
        if fill.total is None:

            async def release() -> None:
                file.close()

            chunks = Chunks(_unsized(file), release)
            return BlobAnswer(None, 0, None, cache, chunks=chunks, upstream=upstream, why="no length")
        total = fill.total
        return BlobAnswer(
            total, 0, total, cache, file, upstream=upstream,
            divert=lambda position: self._divert(source, fill.digest, file, total, position),
        )  # fmt: skip

    # -- bytes that are not stored -----------------------------------------------------------------------------

    async def _pass_range(self, source: Source, digest: Digest, total: int, start: int, stop: int) -> BlobAnswer:
        body = await source.client.get_blob(source.target.repository, digest, start, stop)
        chunks = Chunks(pass_range(source, digest, body, start, stop), body.close)
        return BlobAnswer(total, start, stop, "BYPASS", chunks=chunks, upstream=source.target.upstream, why="range")

    async def _pass_whole(self, source: Source, digest: Digest, wanted: ByteRange | None, why: str) -> BlobAnswer:
        """Pass the blob through, verified but not stored: a full store fails no pull."""
        repository, upstream = source.target.repository, source.target.upstream
        try:
            async with asyncio.timeout(CLIENT_PATIENCE):
                if wanted is not None:
                    total = source.expected or await source.client.head_blob(repository, digest)
                    span = wanted.resolve(total)
                    if span is None:
                        raise RangeUnsatisfiable(total)
                    return await self._pass_range(source, digest, total, *span)
                body = await source.client.get_blob(repository, digest)
        except TimeoutError:
            raise NotYet(f"upstream has not answered for {digest} yet", "ask again") from None
        total_or_none = body.total if body.total is not None else source.expected
        if total_or_none is None:
            total_or_none = await source.client.head_blob(repository, digest)
        self._members.grant(source.target, digest)
        chunks = Chunks(pass_whole(source, digest, body, total_or_none), body.close)
        return BlobAnswer(total_or_none, 0, total_or_none, "BYPASS", chunks=chunks, upstream=upstream, why=why)

    async def _divert(
        self, source: Source, digest: Digest, file: Readable, total: int, position: int
    ) -> AsyncGenerator[bytes]:
        """Go on from `position` without the store; what was sent before counts for the digest."""
        read = 0

        def prefix() -> bytes:
            nonlocal read
            piece = file.read(read, min(position, read + 1024 * 1024))
            read += len(piece)
            return piece

        body = await source.client.get_blob(source.target.repository, digest, position)
        async for content in pass_whole(source, digest, body, total, position, prefix):
            yield content

    # -- whom to ask -----------------------------------------------------------------------------------------

    def _client(self, target: Target) -> UpstreamClient | None:
        return self._clients.get(target.upstream)

    def _asked(self, target: Target, digest: Digest) -> UpstreamClient:
        """Return the upstream to ask for a blob that is not here; raise NotHere where none may be asked."""
        client = self._client(target)
        if client is None or self._offline:
            raise not_here(target, digest)
        return client


def cut(answer: BlobAnswer, wanted: ByteRange | None) -> BlobAnswer:
    """Narrow a whole-blob answer to a range; closes it and raises RangeUnsatisfiable where there is nothing to send."""
    if wanted is None or answer.total is None:
        return answer
    span = wanted.resolve(answer.total)
    if span is None:
        answer.close()
        raise RangeUnsatisfiable(answer.total)
    answer.start, answer.stop = span
    if answer.stop != answer.total:
        answer.divert = None  # what is passed through is checked by its end, which is not asked for
    return answer


async def _unsized(file: GrowingFile) -> AsyncGenerator[bytes]:
    """Yield a growing file whose size is not known; the last 64 KiB come when all is verified."""
    position = 0
    while (ready := await file.more(position)) > position:
        while position < ready:
            stop = min(ready, position + 4 * HOLD_BACK)
            await file.load(position, stop)
            yield file.read(position, stop)
            position = stop
