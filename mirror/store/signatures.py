"""OpenPGP signatures of releases: the bytes as their signer published them, under the names that clients ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mirror.errors import StoreError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.lock import held

SIZE_LIMIT = 64 * 1024  # bytes of a signature; real ones have less than one KiB
_COUNT_LIMIT = 99  # of one release; clients ask for the first nine
_PATIENCE = 30.0  # seconds for a lock that is held for a few file writes

_NAME = re.compile(r"signature-([1-9][0-9]?)")


class Signatures:
    """The files under `signatures/`. `path` and `read` may be called on the loop; `list` and `add` are for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, digest: Digest, number: int) -> Path:
        """Return where signature `number` of the release `digest` is, whether or not it is there."""
        return self._layout.signature(digest, number)

    def read(self, digest: Digest, number: int) -> bytes | None:
        """Return the bytes of a signature, None where there is none. Raises StoreUnreadable."""
        return files.read_record(str(self.path(digest, number)), SIZE_LIMIT)

    def list(self, digest: Digest) -> list[tuple[int, bytes]]:
        """Return every signature of the release `digest` that can be read with its number, in order.

        Raises StoreUnreadable where it is not known which there are.
        """
        found = []
        for number in self._numbers(digest):
            with suppress(StoreUnreadable):  # which is noted
                raw = self.read(digest, number)
                if raw is not None:
                    found.append((number, raw))
        return found

    def add(self, digest: Digest, raw: bytes) -> int:
        """Keep a signature durably and return its number: that of the same bytes where they are here already.

        Numbers have no gaps, because clients stop at the first that is missing. Raises OSError, StoreError.
        """
        if len(raw) > SIZE_LIMIT:
            raise StoreError(f"a signature of {digest} has {len(raw)} bytes", f"at most {SIZE_LIMIT} are kept")
        busy = StoreError("another process works on the signatures of this release", "try again")
        with held(self._layout.lock(f"signatures {digest}"), _PATIENCE, busy):
            kept = dict(self.list(digest))
            for number, body in kept.items():
                if body == raw:
                    return number
            taken = {*kept, *self._numbers(digest)}
            free = next((number for number in range(1, _COUNT_LIMIT + 1) if number not in taken), 0)
            if not free:
                raise StoreError(f"{_COUNT_LIMIT} signatures of {digest} are here already", "remove what is not needed")
            files.write_atomically(str(self.path(digest, free)), raw, durable=True)
            return free

    def _numbers(self, digest: Digest) -> Iterator[int]:
        names = files.names(self.path(digest, 1).parent)
        yield from sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))
