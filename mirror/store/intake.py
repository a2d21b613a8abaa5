"""Content that comes from files, not from an upstream: whole, or in spans of which some come now and some later.

What comes grows in ingest/, in a file that is flocked by who writes it, beside a note that promises its space:

    ingest/<alg>-<hex>.whole, .whole.json    a content that comes in one go; begun anew by whoever comes next
    ingest/<alg>-<hex>.spans, .spans.json    a sparse file; the note lists the spans that surely are on disk

Any number of processes may bring the same content at once, beside downloads and clients: one writes, the others wait
for it. All of this blocks and is for threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mirror.errors import Corrupt, DigestInvalid, NotYet, StoreError
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.blobs import Blobs
from mirror.store.growing import Growing, Waiting, read_note, writing
from mirror.store.layout import Layout
from mirror.store.promises import SPANS, WHOLE
from mirror.store.quarantine import Quarantine
from mirror.store.space import Space

Read = Callable[[int], bytes]

SPANS_LIMIT = 10_000  # of one content: a part holds at most one span of it, or a few
STEP = 1024 * 1024  # bytes read at a time
_PATIENCE = 60.0  # seconds without growth, before whoever writes the same content is given up on
_LOOK_AGAIN = 0.02


class Intake:
    """Brings bytes from files into the store. `used(digest, size)` tells the index of what was committed.

    What is received should be pinned before (`Sets.write`): what is not is cache, bounded by cache_size and evictable.
    """

    def __init__(self, layout: Layout, space: Space, used: Callable[[Digest, int], None]) -> None:
        self._layout = layout
        self._space = space
        self._used = used
        self._quarantine = Quarantine(layout)
        self._blobs = Blobs(layout, self._discard)

    def has(self, digest: Digest, size: int) -> bool:
        """Tell whether the content of `digest` is here, verified and of `size` bytes.

        A file that is not sealed is hashed first: sealed, or put into quarantine. Raises StoreError where it cannot be
        opened.
        """
        found = self._blobs.open(digest)
        if found is None:
            return False
        try:
            if not found.sealed:
                self._blobs.verify(digest, found.fd)
        except Corrupt:
            return False
        finally:
            os.close(found.fd)
        return found.size == size

    def receive(self, digest: Digest, size: int, read: Read) -> None:
        """Bring in the whole content; `read(n)` returns up to n bytes of it, none at its end, and may raise.

        Reads `size` bytes and no more, or nothing where the content is here. Raises Corrupt where they are others or
        fewer, StoreFull, StoreError, NotYet where another process brings the same and does not get on, and what `read`
        raises; nothing is kept then.
        """
        if self.has(digest, size):
            return
        with self._held(digest, WHOLE) as growing:
            if self.has(digest, size):
                growing.drop()
                return
            try:
                self._promise(growing, digest, Waiting(size, ()))
                hasher = digest.hasher()
                growing.truncate(0)
                for position, content in _bytes(digest, size, read):
                    growing.write(content, position)
                    hasher.update(content)
                if hasher.hexdigest() != digest.hex:
                    raise Corrupt(f"what came as {digest} hashes to {hasher.hexdigest()}")
                self._commit(growing, size)
            except BaseException:
                growing.drop()
                raise
        self.forget(digest)

    def receive_range(self, digest: Digest, size: int, offset: int, length: int, read: Read) -> bool:
        """Bring in bytes offset..offset+length of a content of `size` bytes, in any order, by this run or a later one.

        True when the content is whole, verified and committed. A span counts from when it surely is on disk; where
        `read` raises it does not. Nothing is read of a span that is here. Raises as `receive` does: on Corrupt by
        the whole content's digest all spans are dropped, otherwise those that were here stay.
        """
        if offset < 0 or length < 1 or offset + length > size:
            raise Corrupt(f"bytes {offset} to {offset + length} of {digest} are not within its {size}")
        if self.has(digest, size):
            self.forget(digest)
            return True
        with self._held(digest, SPANS) as growing:
            if self.has(digest, size):
                growing.drop()
                return True
            here = growing.note()
            if here is None or here.size != size:
                # Somebody said another size: one of them lied, and only the digest will tell who.
                growing.truncate(0)
                here = Waiting(size, ())
                growing.forget_note()
            if not here.covers(offset, offset + length):
                here = self._add(growing, digest, here, offset, length, read)
            if not here.whole:
                return False
            self._verify(growing, digest, size)
        return True

    def complete(self, digest: Digest) -> bool:
        """Commit a content all of whose spans are here; False where some are missing. Raises as `receive` does."""
        with self._held(digest, SPANS) as growing:
            here = growing.note()
            if here is None or not here.whole:
                if here is None:
                    growing.drop()
                return False
            self._verify(growing, digest, here.size)
        return True

    def waiting(self) -> dict[Digest, Waiting]:
        """Return the contents of which some spans are here."""
        found = {}
        for name in sorted(files.names(self._layout.ingest)):
            path = self._layout.ingest / name
            algorithm, _, encoded = name.removesuffix(SPANS).partition("-")
            note = read_note(f"{path}.json", files.look(str(path))) if name.endswith(SPANS) else None
            if note is not None and note.spans:
                try:
                    found[Digest.parse(f"{algorithm}:{encoded}")] = note
                except DigestInvalid:
                    continue
        return found

    def forget(self, digest: Digest) -> bool:
        """Drop the spans of a content, unless somebody is just writing some; say whether there were any."""
        growing = Growing.open(self._layout, digest, SPANS, create=False)
        if growing is None:
            return False
        try:
            if not growing.lock():
                return False
            growing.drop()
            return True
        finally:
            growing.close()

    def _discard(self, path: str, why: str) -> None:
        self._quarantine.take(path, why)

    def _add(self, growing: Growing, digest: Digest, here: Waiting, offset: int, length: int, read: Read) -> Waiting:
        """Write a span, and note it when it is on disk; return what is here then."""
        more = here.with_span(offset, offset + length)
        if len(more.spans) > SPANS_LIMIT:
            raise StoreError(f"{digest} comes in too many pieces", "bring its larger parts first")
        try:
            if not here.spans:
                self._promise(growing, digest, here)
            for position, content in _bytes(digest, length, read):
                growing.write(content, offset + position)
            growing.sync()
        except BaseException:
            # What was written of the span is not counted; where nothing follows it, it need not take room either.
            growing.truncate(here.spans[-1][1] if here.spans else 0)
            if not here.spans:
                growing.drop()
            raise
        growing.write_note(more, durable=True)
        return more

    def _verify(self, growing: Growing, digest: Digest, size: int) -> None:
        """Commit what is whole if it hashes to its name; else drop it and raise Corrupt."""
        hasher = digest.hasher()
        growing.truncate(size)
        with writing(digest):
            files.hash_file(growing.fd, hasher.update)
        if hasher.hexdigest() != digest.hex:
            growing.drop()
            raise Corrupt(f"what came in pieces as {digest} hashes to {hasher.hexdigest()}")
        self._commit(growing, size)

    def _promise(self, growing: Growing, digest: Digest, note: Waiting) -> None:
        """Promise the room of a content, unless whoever began it did."""
        old = growing.note()
        if old is None or old.size != note.size:
            self._space.reserve(digest, note.size, lambda: growing.write_note(note, durable=False))

    def _commit(self, growing: Growing, size: int) -> None:
        growing.commit()
        self._used(growing.digest, size)

    @contextmanager
    def _held(self, digest: Digest, kind: str) -> Iterator[Growing]:
        """Hold the file that `digest` grows in, alone; wait for whoever holds it as long as it grows."""
        until, stamp = time.monotonic() + _PATIENCE, (0, 0)
        while True:
            with writing(digest):
                growing = Growing.open(self._layout, digest, kind, create=True)
            assert growing is not None
            try:
                with writing(digest):
                    ours = growing.lock()
                if ours:
                    yield growing
                    return
                if growing.stamp != stamp:
                    until, stamp = time.monotonic() + _PATIENCE, growing.stamp
            finally:
                growing.close()
            if time.monotonic() > until:
                raise NotYet(f"another process is bringing {digest} and does not get on", "try again later")
            time.sleep(_LOOK_AGAIN)


def _bytes(digest: Digest, length: int, read: Read) -> Iterator[tuple[int, bytes]]:
    """Yield (position, bytes) of `length` bytes; raise Corrupt where there are fewer."""
    position = 0
    while position < length:
        content = read(min(STEP, length - position))
        if not content or len(content) > length - position:
            raise Corrupt(f"what came as {digest} has {position} of {length} bytes")
        yield position, content
        position += len(content)
