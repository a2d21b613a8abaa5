"""Content read out of the store to be given away: proven while it is read, put away where it is not what it must be."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress

from mirror.config.values import count_text
from mirror.errors import Corrupt, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.offline.carrying import Carrying
from mirror.offline.here import Store
from mirror.offline.part_layout import Span
from mirror.store import files

_STEP = 1024 * 1024


class Bad(Corrupt):
    """Content in the store that is not what its name says. `why` continues a sentence that begins with its name.

    `unread`: it could not be read, which says nothing of what it holds.
    """

    def __init__(self, digest: Digest, why: str, *, unread: bool = False) -> None:
        super().__init__(f"the stored content of {digest} {why}")
        self.digest = digest
        self.why = why
        self.unread = unread


class Proven:
    """Spans of contents. What goes in several `spans` is hashed whole before the first of them is given out.

    For threads. Where content is bad it goes into quarantine, Bad is raised, and `bad` remembers it. What cannot be
    read stays, and is remembered there too.
    """

    def __init__(self, store: Store, spans: Iterable[Span], carrying: Carrying) -> None:
        self.bad: dict[Digest, str] = {}
        self._store = store
        self._carrying = carrying
        self._sums: dict[Span, str] = {}
        self._pieces: dict[Digest, list[Span]] = defaultdict(list)
        for span in spans:
            if not span.whole or span.digest.algorithm != "sha256":
                self._pieces[span.digest].append(span)

    def sums(self, spans: Iterable[Span]) -> dict[Span, str]:
        """Return the sha256 of each span that its digest does not give, leaving out those of bad content."""
        found = {}
        for span in spans:
            if span.digest in self._pieces and self._proven(span.digest):
                found[span] = self._sums[span]
        return found

    def read(self, span: Span) -> Iterator[bytes]:
        """Yield the bytes of a span; raise Bad, at its end at the latest. One in pieces was asked for in `sums`."""
        if span.digest in self.bad:
            raise Bad(span.digest, self.bad[span.digest])
        hasher = hashlib.sha256() if span in self._sums else span.digest.hasher()
        expected = self._sums.get(span, span.digest.hex)
        try:
            for content in self._bytes(span):
                hasher.update(content)
                yield content
            if hasher.hexdigest() != expected:
                raise Bad(span.digest, f"hashes to {hasher.hexdigest()}")
        except Bad as error:
            self._put_away(error)
            raise

    def _proven(self, digest: Digest) -> bool:
        """Hash a content that goes in pieces, once, and tell whether it is good."""
        spans = self._pieces[digest]
        if digest in self.bad or spans[0] in self._sums:
            return digest not in self.bad
        whole = digest.hasher()
        sums = {}
        try:
            for span in spans:
                hasher = hashlib.sha256()
                for content in self._bytes(span):
                    whole.update(content)
                    hasher.update(content)
                    self._carrying.move(0)
                sums[span] = hasher.hexdigest()
            if whole.hexdigest() != digest.hex:
                raise Bad(digest, f"hashes to {whole.hexdigest()}")
        except Bad as error:
            self._put_away(error)
            return False
        self._sums |= sums
        return True

    def _put_away(self, error: Bad) -> None:
        self.bad[error.digest] = error.why
        if not error.unread:
            with suppress(StoreUnreadable):
                self._store.blobs.reject(error.digest, error.why)

    def _bytes(self, span: Span) -> Iterator[bytes]:
        fd = self._open(span)
        try:
            position, stop = span.offset, span.offset + span.length
            while position < stop:
                content = self._read(span.digest, fd, position, min(_STEP, stop - position))
                yield content
                position += len(content)
        finally:
            os.close(fd)

    def _open(self, span: Span) -> int:
        try:
            found = self._store.blobs.open(span.digest)
        except StoreUnreadable as error:
            raise Bad(span.digest, f"cannot be read ({os.strerror(error.number)})", unread=True) from error
        if found is None:
            raise Bad(span.digest, "is not there any more")
        if found.size != span.total:
            os.close(found.fd)
            raise Bad(span.digest, f"has {count_text(found.size, 'byte')}, not {span.total}")
        return found.fd

    def _read(self, digest: Digest, fd: int, position: int, count: int) -> bytes:
        try:
            content = files.read_bytes(fd, position, position + count)
        except StoreUnreadable as error:
            raise Bad(digest, f"cannot be read ({os.strerror(error.number)})", unread=True) from error
        if not content:
            raise Bad(digest, "became shorter")
        return content
