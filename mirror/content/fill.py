"""One download of one digest, shared by everybody who reads it: in this process, and over the part file in others.

A fill either downloads (it holds the part's lock) or follows (another process does). When the other one dies, the
lock falls free and the fill goes on where the file ends. It is a task of its own: no client's leaving or slowness
touches it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mirror import logs, metrics
from mirror.content.answers import OTHER_BYTES, ByteRange
from mirror.content.beside import Beside
from mirror.content.callers import who_asks
from mirror.content.coalesce import Interest
from mirror.content.lines import FILLS, SMALL_FILLS, Turn
from mirror.content.pull import PROGRESS_LIMIT, Pull
from mirror.content.workshop import Source, Workshop
from mirror.errors import (
    Corrupt,
    MirrorError,
    NotYet,
    StoreError,
    StoreFull,
    UpstreamInvalid,
)
from mirror.oci.digest import Digest
from mirror.store.ingest import Part, PartNote
from mirror.upstream.client import SMALL_BLOB

if TYPE_CHECKING:
    from hashlib import _Hash

HOLD_BACK = 64 * 1024  # bytes at the end that nobody gets before the digest agrees
ELSEWHERE = 5.0  # seconds for which who has a source of its own waits for the bytes of another one
_SLOW = 16 * 1024  # bytes a second below which they come too slowly for it
GROWING = 15.0  # seconds within which a part must have grown to count as being filled
_POLL = 0.004  # seconds between looks at a part that another process fills
_POLL_QUIET = 0.05
_TRY_LOCK_AFTER = 0.25  # seconds without growth before a follower tries the lock
_RATE_FLOOR = 0.05  # seconds of downloading before a rate means anything

_log = logs.get("content.fill")


class FillGoneError(NotYet):
    """The fill ended and was closed before this reader came: look again, what it brought is in the store."""


class FillDroppedError(StoreFull):
    """Whoever downloads could not keep it, or is too slow: what a reader still lacks is to be had from upstream."""


class Fill:
    """The shared download of `digest`. Made by Fetcher alone; `task` runs `run()`."""

    def __init__(self, digest: Digest, source: Source, shop: Workshop) -> None:
        self.digest = digest
        self.source = source
        self.total: int | None = None
        self.error: MirrorError | None = None
        self.ours = False  # this process downloads, or did
        self.was_whole = False  # all bytes were here and verified before it began
        self.task: asyncio.Task[None] | None = None
        self._shop = shop
        self._permitted = source.known
        self._part: Part | None = None
        self._readers = 0
        self._waiting = 0  # for headers: each is a reader in a moment
        self._written = 0
        self._marked = False
        self._opened = False  # headers may go out
        self._ended = False
        self._touched = False  # somebody may have been sent bytes of this part
        self._changed = asyncio.Event()
        self._moved = 0.0  # when anything changed last, by the loop's clock
        self._alarm: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._base = 0
        self.beside = Beside()
        self._interest = Interest(self._drop)

    # -- what readers ask ------------------------------------------------------------------------------------

    @property
    def visible(self) -> int:
        """How many bytes from the start may be sent now of an answer that becomes the whole blob."""
        if self._marked:
            return self._written
        if self.total is None:
            return max(0, self._written - HOLD_BACK)
        return min(self._written, max(0, self.total - HOLD_BACK))

    @property
    def written(self) -> int:
        """How many bytes have come."""
        return self._written

    @property
    def opened(self) -> bool:
        """Whether an upstream has answered, or the part is being filled by somebody: headers may go out."""
        return self._opened

    @property
    def ended(self) -> bool:
        """Whether the task is over, for better or worse: nobody may join any more."""
        return self._ended

    @property
    def dropped(self) -> bool:
        """Whether everybody had left before it began."""
        return not self._interest.begun and self.task is not None and self.task.cancelling() > 0

    @property
    def whole(self) -> bool:
        """Whether all bytes are here and verified."""
        return self._marked

    @property
    def rate(self) -> float:
        """The measured speed of this download in bytes a second, 0 while none is known."""
        spent = time.monotonic() - self._began if self._began else 0.0
        return (self._written - self._base) / spent if spent > _RATE_FLOOR else 0.0

    def attach(self) -> int:
        """Count a reader in and return the descriptor that it reads."""
        if self._part is None:
            raise FillGoneError(f"the download of {self.digest} has ended", "ask again")
        self._touched = True
        self._readers += 1
        return self._part.fd

    def detach(self) -> None:
        """Count a reader out; the last one closes the file."""
        self._readers -= 1
        self._close_idle()

    async def headers(self, wanted: ByteRange | None = None) -> None:
        """Wait until headers may go out; with `wanted`, also when that range is here already. Raises what ended it.

        A blob that is held back whole (64 KiB) is waited for until it is verified, so that a bad one is an error.
        """
        self._waiting += 1
        try:
            with self._interest.wanted():
                while not (self._opened and (self._marked or self.total is None or self.total > HOLD_BACK)):
                    if wanted is not None and self._has(wanted):
                        return
                    self.check()
                    await self._changed.wait()
        finally:
            self._waiting -= 1
            # In a turn of the loop, so that the file is still open for whoever returns from here.
            asyncio.get_running_loop().call_soon(self._close_idle)

    def _has(self, wanted: ByteRange) -> bool:
        if self._part is None or self.total is None:
            return False
        span = wanted.resolve(self.total)
        return span is not None and span[1] <= (self.visible if span == (0, self.total) else self._written)

    async def more(self, position: int, *, held: bool = True) -> int:
        """Wait until more than `position` bytes may be sent and return how many; not `held`: have come."""
        while (ready := self.visible if held else self._written) <= position:
            if self._marked:
                return ready
            self.check()
            await self._progress()
        return ready

    async def _progress(self) -> None:
        """Wait until anything has changed; raise NotYet where nothing has for two minutes."""
        loop = asyncio.get_running_loop()
        if self._alarm is None:
            self._alarm = loop.call_later(PROGRESS_LIMIT, self._look)
        await self._changed.wait()
        if loop.time() - self._moved >= PROGRESS_LIMIT:
            raise NotYet(f"no byte of {self.digest} came for two minutes")

    def _look(self) -> None:
        """Wake who waits for progress if there was none: one timer for all readers, set once and not at each wait."""
        loop = asyncio.get_running_loop()
        self._alarm = None
        if (quiet := loop.time() - self._moved) < PROGRESS_LIMIT:
            self._alarm = loop.call_later(PROGRESS_LIMIT - quiet, self._look)
        else:
            self._wake()

    async def more_for_another(self, position: int, waited: float) -> int:
        """Wait as `more` does, for a reader of another source that has done so for `waited` seconds.

        Raises FillDroppedError where that comes to nothing: the reader is better off with its own source.
        """
        try:
            async with asyncio.timeout(ELSEWHERE):
                ready = await self.more(position)
        except TimeoutError:
            ready = position
        if ready <= position or (waited > ELSEWHERE and 0 < self.rate < _SLOW and not self._marked):
            raise FillDroppedError(f"{self.digest} comes too slowly from {self.source.target.name}")
        return ready

    async def change(self) -> None:
        """Wait until anything has changed: bytes came, it ended, or a place beside it fell free."""
        await self._changed.wait()

    async def finished(self) -> None:
        """Wait until the content is committed. Raises what ended the download without it."""
        with self._interest.wanted():
            while not self._ended:
                await self._changed.wait()
        self.check()

    def check(self) -> None:
        """Raise what ended the download without its content."""
        if self.error is not None:
            raise self.error
        if self._ended and not self._marked:
            raise NotYet(f"the download of {self.digest} has ended", "ask again")

    def wake(self) -> None:
        """Something has changed: have everybody who waits look again."""
        self._moved = asyncio.get_running_loop().time()
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _close_idle(self) -> None:
        if self._ended and self._readers <= 0 and self._waiting <= 0 and self._part is not None:
            self._part.close()
            self._part = None

    # -- the task --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring the digest into the store. Never raises but CancelledError: readers get `error`."""
        try:
            async with self._line().place(who_asks()):
                self._interest.begun = True
                while not await self._attempt():
                    self._drop_part()
        except asyncio.CancelledError:
            self.error = NotYet("the mirror is stopping", "ask again", 2)
            raise
        except MirrorError as error:
            self.error = error
        except OSError as error:
            self.error = self._store_error(error)
        except Exception:  # noqa: BLE001 - nobody awaits this task: whatever it is must reach the readers
            _log.exception("fill_failed", digest=str(self.digest))
            self.error = NotYet(f"the download of {self.digest} failed inside the mirror", "see its log")
        finally:
            if self._interest.begun:
                outcome = "done" if self._marked else "failed"
                self._shop.metrics.add(metrics.FETCHES, self.source.target.upstream, outcome)
            self._ended = True
            if self._alarm is not None:
                self._alarm.cancel()
            self._close_idle()
            if self._part is not None and self._part.locked:
                with suppress(OSError):  # closing it gives the lock back as well
                    self._part.unlock()
            self.wake()

    def _line(self) -> Turn:
        """Return where it waits: what is a round trip and hardly any bytes stands in no line with large blobs."""
        expected = self.source.expected
        sort = SMALL_FILLS if expected is not None and expected <= SMALL_BLOB else FILLS
        return self._shop.lines.of(self.source.target, sort)

    def _drop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    def _drop_part(self) -> None:
        """Begin anew with another part; those who hold this one's descriptor cannot go on with that."""
        if self._readers:
            if self._part is not None and self._part.dropped:
                raise FillDroppedError(f"{self.digest} could not be kept by the process that fetched it")
            raise UpstreamInvalid(f"what came for {self.digest} had other bytes", "ask again")
        if self._part is not None:
            self._part.close()
            self._part = None
        self._written = 0
        self._began = 0.0
        self._opened = False

    async def _attempt(self) -> bool:
        """Download or follow one part to its end; False if it went away and another must be begun."""
        part = await self._shop.writers.complete(self._open_part)
        self._part = part
        if not part.try_lock() and not await self._follow(part):
            return self._finished(part)
        if part.moved:
            return self._finished(part) or await self._adopt()
        self.ours = True
        return await self._download(part)

    def _open_part(self) -> Part:
        part = Part.open(self._shop.layout, self.digest, create=True)
        if part is None:
            raise StoreError(f"the download of {self.digest} cannot be started")
        return part

    async def _permit(self, note: PartNote | None) -> None:
        """Ask upstream once whether our repository has what was brought for another one, before anybody is given it."""
        if not self._permitted and (note is None or (note.upstream, note.repository) != self.source.place):
            await self._shop.prove(self.source.client, self.source.target, self.digest)
        self._permitted = True

    async def _adopt(self) -> bool:
        """The part became a blob between looking for the one and opening the other: read that.

        False where there is none, and where somebody reads the part.
        """
        found = self._shop.blobs.open(self.digest)
        if found is None:
            return False
        try:
            await self._permit(None)
            if not found.sealed:
                await self._shop.writers.complete(self._shop.blobs.verify, self.digest, found.fd)
        except Corrupt:
            os.close(found.fd)
            return False
        except BaseException:
            os.close(found.fd)
            raise
        if self._readers:
            os.close(found.fd)
            return False  # they hold the part's descriptor, and have bytes of it
        if self._part is not None:
            self._part.close()
        self._part = Part(self._shop.layout, self.digest, found.fd)
        self.total = self._written = found.size
        self._marked = self._opened = True
        self.wake()
        return True

    # -- following another process ---------------------------------------------------------------------------

    async def _follow(self, part: Part) -> bool:
        """Watch a part that another process fills. True: its lock is ours now. False: it ended, or it went away."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        waited = False
        while True:
            size, marked, grown = part.status
            now = loop.time()
            if self.total is None or not self._opened:
                await self._learn(part, size, grown)
            if size != self._written:
                if size < self._written and self._touched:
                    raise UpstreamInvalid(f"the download of {self.digest} was started again", "ask again")
                self.grow(size)
                quiet_since = now
            if marked and self._finished(part) and not waited:
                self.was_whole = True
            if now - quiet_since > _TRY_LOCK_AFTER or marked:
                if part.try_lock():
                    return True
                if part.moved:
                    return False
                quiet_since = now
            await asyncio.sleep(_POLL if now - quiet_since < _TRY_LOCK_AFTER / 2 and not marked else _POLL_QUIET)
            waited = True

    async def _learn(self, part: Part, size: int, grown: float) -> None:
        """Read the note of another process's download: a part of another boot is not read before it is recovered."""
        note = part.note()
        if note is None or note.boot != self._shop.boot:
            return
        await self._permit(note)
        self.total = note.size
        if not self._opened and (time.time() - grown < GROWING or size == note.size):
            self._opened = True
            self._base, self._began = size, time.monotonic()
            self.wake()

    def _finished(self, part: Part) -> bool:
        """Tell whether the part was verified: then it is read to its end, whatever became of its name."""
        size, marked, _ = part.status
        if marked and self._opened and not self._marked:
            self.total = self._written = size
            self._marked = True
            self.wake()
        return self._marked

    # -- downloading -----------------------------------------------------------------------------------------

    async def _download(self, part: Part) -> bool:
        """Fill a part whose lock is held, from where it ends; commit it. False if there was nothing to fill."""
        shop = self._shop
        if await self._adopt():
            self.was_whole = True
            await shop.writers.complete(self._drop_stray)
            return True
        size, marked, note = 0, False, None
        if not part.fresh:
            size, marked, note = await shop.writers.complete(part.recover, shop.boot)
        if note is not None and note.size is not None and size > note.size:
            await shop.writers.complete(self._reject, part, f"{size} bytes of {note.size}")
            return False
        if size:
            await self._permit(note)
        self.total = note.size if note is not None else None
        hasher = self.digest.hasher()
        if marked:
            self.total = self._written = size
            self._opened = self._marked = self.was_whole = True
            self.wake()
        else:
            if size:
                await shop.writers.complete(part.hash_existing, hasher, size)
            self.grow(size)
            if note is not None and (note.upstream, note.repository) == self.source.place:
                shop.granted(self.source.target, self.digest)
            pull = Pull(self, part, hasher, shop)
            try:
                await pull.run()
            except (StoreFull, UpstreamInvalid, OSError):
                await shop.writers.complete(part.drop)
                raise
            except MirrorError:
                if part.status[0] == 0:
                    await shop.writers.complete(part.drop)
                raise
            try:
                if hasher.hexdigest() == self.digest.hex:
                    await self._mark(part)
            finally:
                await pull.synced()
            if not self._marked:
                await self._refuse(part, hasher)
        await self._commit(part)
        return True

    def _drop_stray(self) -> None:
        """Remove the empty part that was opened beside a blob that is here."""
        stray = Part.open(self._shop.layout, self.digest, create=False)
        if stray is None:
            return
        try:
            if stray.try_lock() and not stray.moved:
                stray.drop()
        finally:
            stray.close()

    async def _mark(self, part: Part) -> None:
        """Let everybody who reads have the rest: the digest agrees."""
        await self._shop.writers.complete(part.mark)
        self._opened = self._marked = True
        self.wake()

    async def _refuse(self, part: Part, hasher: _Hash) -> None:
        """Put the part away as bad content; raises UpstreamInvalid."""
        self._shop.metrics.add(metrics.FAULTS, "digest_mismatch")
        _log.error(
            "digest_mismatch",
            want=str(self.digest),
            got=f"{self.digest.algorithm}:{hasher.hexdigest()}",
            bytes=self._written,
            name=self.source.target.name,
        )
        await self._shop.writers.complete(self._reject, part, f"hashes to {hasher.hexdigest()}")
        raise UpstreamInvalid(f"what upstream sent for {self.digest} has other bytes", OTHER_BYTES)

    def _reject(self, part: Part, why: str) -> None:
        self._shop.discard(part.give_away(), f"{self.source.target.name} {self.digest}: {why}")

    async def _commit(self, part: Part) -> None:
        try:
            await self._shop.writers.complete(part.commit)
        except OSError as error:
            # The readers' bytes are verified and their file is open: only the store goes without.
            _log.error("commit_failed", digest=str(self.digest), error=os.strerror(error.errno or 0))
            with suppress(OSError):
                await self._shop.writers.complete(part.drop)
            return
        self._shop.stored(self.digest, self._written)

    # -- what a pull reports ---------------------------------------------------------------------------------

    def open_for(self, total: int | None) -> None:
        """An upstream has answered: headers may go out."""
        self.total = total
        if not self._began:
            self._base, self._began = self._written, time.monotonic()
        self._opened = True
        self.wake()

    def grow(self, written: int) -> None:
        """So many bytes have come; whoever waits is woken where that is news."""
        if written != self._written:
            self._written = written
            self.wake()

    def _store_error(self, error: OSError) -> MirrorError:
        kind = errno.errorcode.get(error.errno or 0, "EIO")
        self._shop.metrics.add(metrics.FAULTS, f"store_{kind.lower()}")
        _log.error("store_failed", digest=str(self.digest), error=kind)
        remedy = "mount it writable" if error.errno == errno.EROFS else ""
        full = StoreFull(f"the store cannot take {self.digest} ({os.strerror(error.errno or 0)})", remedy)
        full.__cause__ = error
        return full
