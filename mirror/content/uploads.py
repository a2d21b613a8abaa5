"""What clients push: uploads that go on over several requests, and blobs that are mounted instead of sent.

A request that is refused leaves its upload as it was; one that breaks off leaves what it brought, so that the client
can go on from there. An upload whose bytes turn out to have another digest is dropped, as there is nothing in it to
go on with. What is acknowledged is on disk, a member of its repository, and marked as hosted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from mirror import logs
from mirror.content.answers import Quota, Target, UploadState
from mirror.content.hashes import Hashes
from mirror.content.members import Members
from mirror.content.mounts import Mounts
from mirror.content.quotas import REMEDY, Quotas, says
from mirror.content.receive import Bound, Receiver, refusal
from mirror.errors import DigestMismatch, NotYet, RangeOutOfOrder, StoreFull, TooLarge
from mirror.oci.digest import Digest
from mirror.store.blobs import OpenBlob
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests as Rows
from mirror.store.space import Space
from mirror.store.threads import Threads
from mirror.store.upload import Upload, writing
from mirror.store.uploads import Uploads as StoredUploads

if TYPE_CHECKING:
    from hashlib import _Hash

_PATIENCE = 5.0  # seconds for the request before, which may be at its end, to let go of an upload
_LOOK_AGAIN = 0.02

_log = logs.get("content.uploads")


class Uploads:
    """Pushes into hosted repositories: every Target is one. `used(digest, size)` tells the index of what is here.

    `here` opens content that is here and verified. The threads should be no others': a client that pushes keeps them
    busy hashing and waiting for the disk.
    """

    def __init__(
        self,
        layout: Layout,
        stored: StoredUploads,
        hosted: Hosted,
        rows: Rows,
        members: Members,
        space: Space,
        threads: Threads,
        here: Callable[[Digest], Awaitable[OpenBlob | None]],
        quotas: Quotas,
        used: Callable[[Digest, int], None],
        *,
        blob_limit: int,
    ) -> None:
        self._stored = stored
        self._hosted = hosted
        self._rows = rows
        self._members = members
        self._space = space
        self._threads = threads
        self._used = used
        self._blob_limit = blob_limit
        self._mounts = Mounts(layout, hosted, rows, members, threads, here)
        self._quotas = quotas
        self._hashes = Hashes(threads)

    # -- one upload over several requests --------------------------------------------------------------------

    async def begin(self, target: Target, who: str, algorithm: str = "sha256") -> UploadState:
        """Begin an upload. `algorithm` is that of the digest to come, where the client tells. Raises TooLarge."""
        upload = await self._begin(target, who, algorithm)
        upload.close()
        return UploadState(upload.identity, 0)

    async def append(
        self,
        target: Target,
        identity: str,
        chunks: AsyncIterator[bytes],
        start: int | None = None,
        length: int | None = None,
        quota: Quota | None = None,
    ) -> UploadState:
        """Append a body of `length` bytes (None: unknown) that belongs at `start` (None: at the end).

        When this returns what came is on disk. Raises UploadUnknown, RangeOutOfOrder, TooLarge, SizeMismatch, NotYet
        while another request is at it; and whatever `chunks` raises.
        """
        async with self._taken(target, identity) as upload:
            await self._receive(upload, upload.note.algorithm, chunks, start, length, quota)
            with _refusing():
                await self._threads.complete(upload.rest)
            return UploadState(identity, upload.size)

    async def finish(
        self,
        target: Target,
        identity: str,
        digest: Digest,
        chunks: AsyncIterator[bytes] | None = None,
        start: int | None = None,
        length: int | None = None,
        quota: Quota | None = None,
    ) -> int:
        """Append the last of the bytes, if there are any left to come, and make a blob of them; return its size.

        Raises DigestMismatch, after which the upload is gone; and what `append` raises.
        """
        async with self._taken(target, identity) as upload:
            return await self._finish(target, upload, digest, chunks, start, length, quota)

    async def state(self, target: Target, identity: str) -> UploadState:
        """Return how far an upload is. Raises UploadUnknown."""
        try:
            async with self._taken(target, identity) as upload:
                return UploadState(identity, upload.size)
        except NotYet:
            # Somebody is sending: then this is what is certain at the moment.
            return UploadState(identity, await self._threads.complete(self._stored.offset, identity, target.name))

    async def cancel(self, target: Target, identity: str) -> None:
        """Drop an upload. Raises UploadUnknown, NotYet."""
        async with self._taken(target, identity) as upload:
            await self._threads.complete(upload.drop)
        self._hashes.forget(identity)

    # -- in one request --------------------------------------------------------------------------------------

    async def put_whole(
        self,
        target: Target,
        digest: Digest,
        chunks: AsyncIterator[bytes],
        length: int | None,
        who: str,
        quota: Quota | None = None,
    ) -> int:
        """Take a whole blob and return its size; nothing stays of one that is not whole. Raises as `finish` does."""
        upload = await self._begin(target, who, digest.algorithm)
        try:
            return await self._finish(target, upload, digest, chunks, None, length, quota)
        except BaseException:
            await self._threads.complete(upload.drop)
            self._hashes.forget(upload.identity)
            raise
        finally:
            upload.close()

    async def mount(
        self,
        target: Target,
        digest: Digest,
        source: Target | None,
        may_pull: Callable[[str], bool],
        who: str,
        quota: Quota | None = None,
    ) -> bool:
        """Make a blob of another repository one of this one's too; False where that cannot be: it is to be sent.

        `source` is the other repository, None for any that the client may pull from: `may_pull` tells by the
        canonical name, in a thread too. Raises TooLarge, StoreError.
        """
        size = await self._mounts.find(digest, source, may_pull)
        if size is None:
            return False
        counted = await self._count(target, digest, size, quota)
        async with self._given_back(target, counted):
            with _refusing():
                adopted = await self._mounts.adopt(target, digest, size)
        if not adopted:
            await self._quotas.give_back(target.name, counted)
            return False
        self._note_stored("blob_mounted", target, digest, size, who)
        return True

    # -- steps -----------------------------------------------------------------------------------------------

    async def _begin(self, target: Target, who: str, algorithm: str) -> Upload:
        beginning = self._threads.run(self._stored.begin, target.name, algorithm, who)
        try:
            with _refusing():
                return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            beginning.add_done_callback(_close)
            raise

    async def _receive(
        self,
        upload: Upload,
        algorithm: str,
        chunks: AsyncIterator[bytes],
        start: int | None,
        length: int | None,
        quota: Quota | None,
    ) -> _Hash:
        """Append a body and return the hash of all that is there then."""
        offset = upload.size
        if start is not None and start != offset:
            raise RangeOutOfOrder(
                f"the upload has {offset} bytes, and this chunk begins at {start}", "continue where it ends", offset
            )
        bound = await self._bound(upload, offset, quota)
        receiver = Receiver(upload, await self._hashes.take(upload, algorithm), bound, self._space, self._threads)
        try:
            await receiver.run(chunks, length)
        finally:
            if receiver.hashed is not None:
                self._hashes.keep(upload, algorithm, receiver.hasher, receiver.hashed)
        return receiver.hasher

    async def _finish(
        self,
        target: Target,
        upload: Upload,
        digest: Digest,
        chunks: AsyncIterator[bytes] | None,
        start: int | None,
        length: int | None,
        quota: Quota | None,
    ) -> int:
        algorithm = digest.algorithm
        if chunks is not None:
            hasher = await self._receive(upload, algorithm, chunks, start, length, quota)
        else:
            hasher = await self._hashes.take(upload, algorithm)
            self._hashes.keep(upload, algorithm, hasher, upload.size)
        if hasher.hexdigest() != digest.hex:
            await self._threads.complete(upload.drop)
            self._hashes.forget(upload.identity)
            raise DigestMismatch(
                f"the {upload.size} bytes that came hash to {algorithm}:{hasher.hexdigest()}, not to {digest}",
                "none of them were kept: push the blob again",
            )
        size = upload.size
        try:
            counted = await self._count(target, digest, size, quota, upload)
        except TooLarge:
            # Others came first with what was left, and what waits here would only take more of it.
            await self._threads.complete(upload.drop)
            self._hashes.forget(upload.identity)
            raise
        async with self._given_back(target, counted):
            await self._threads.complete(self._commit, target, upload, digest, size)
        self._hashes.forget(upload.identity)
        self._note_stored("blob_pushed", target, digest, size, upload.note.who)
        return size

    def _commit(self, target: Target, upload: Upload, digest: Digest, size: int) -> None:
        """Make a blob of an upload: on disk, marked, a member, and only then under its name (DESIGN, 2.5)."""
        with _refusing(), writing(target.name):
            upload.rest()
            self._hosted.add(digest)
            self._rows.add_pushed(target.name, digest, size)
            upload.commit(digest)

    def _note_stored(self, event: str, target: Target, digest: Digest, size: int, who: str) -> None:
        self._used(digest, size)
        _log.info(event, name=target.name, digest=str(digest), bytes=size, who=who)

    async def _bound(self, upload: Upload, offset: int, quota: Quota | None) -> Bound:
        """Return how large an upload may become, of which `offset` bytes are here."""
        most = self._blob_limit
        bound = Bound(most, f"the blob has more than {most} bytes", "limits.blob in mirror.yaml allows no more")
        if quota is None:
            return bound

        def admit(size: int) -> int:
            return self._quotas.admit(quota, upload, size, offset)

        room = max(offset, await self._quotas.room(quota, upload.identity))
        if room >= most:
            return bound._replace(admit=admit)
        return Bound(room, says(upload.note.name, room - offset, quota), REMEDY, admit)

    async def _count(
        self, target: Target, digest: Digest, size: int, quota: Quota | None, upload: Upload | None = None
    ) -> int:
        """Count a blob that is about to be the repository's; return how much more that has by it. Raises TooLarge."""
        if self._members.now(target, digest):
            return 0
        with _refusing(), writing(target.name):
            await self._quotas.take(target.name, size, quota, upload)
        return size

    @asynccontextmanager
    async def _given_back(self, target: Target, counted: int) -> AsyncIterator[None]:
        """Take back what was counted where the block fails."""
        try:
            yield
        except BaseException:
            await self._quotas.give_back(target.name, counted)
            raise

    # -- one request at a time -------------------------------------------------------------------------------

    @asynccontextmanager
    async def _taken(self, target: Target, identity: str) -> AsyncIterator[Upload]:
        """Hold an upload alone while the block runs."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while (upload := await self._take(target, identity)) is None:
            if loop.time() > until:
                raise NotYet(
                    "another request is writing this upload", "wait for it to end, or begin an upload of your own"
                )
            await asyncio.sleep(_LOOK_AGAIN)
        try:
            yield upload
        finally:
            upload.close()

    async def _take(self, target: Target, identity: str) -> Upload | None:
        taking = self._threads.run(self._stored.take, identity, target.name)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_close)  # the thread may still get it after the caller has gone
            raise


def _close(taking: asyncio.Future[Upload] | asyncio.Future[Upload | None]) -> None:
    """Let go of an upload that nobody waits for any more."""
    upload = None if taking.cancelled() or taking.exception() is not None else taking.result()
    if upload is not None:
        upload.close()


@contextmanager
def _refusing() -> Iterator[None]:
    """Tell a client that its push has no room, where the store says that there is none."""
    try:
        yield
    except StoreFull as error:
        raise refusal(error) from error
