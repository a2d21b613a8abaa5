"""Space that is promised to what is on its way: what notes in ingest/ and uploads/ say is still to come."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterator
from typing import NamedTuple

from mirror.errors import DigestInvalid, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

UNIT = 64 << 20  # bytes at a time for what does not say how large it will be
WHOLE = ".whole"  # content that comes from a file, in one go or in spans (intake.py)
SPANS = ".spans"
_BLOCK = 4096
_NOTE_LIMIT = 1024 * 1024  # that of a content in many spans


class Promised(NamedTuple):
    """`owed`: bytes that will still be written. `cached`: what downloads come to, written or not."""

    owed: int
    cached: int

    def plus(self, other: Promised) -> Promised:
        """Return the sum of both."""
        return Promised(self.owed + other.owed, self.cached + other.cached)

    def less(self, other: Promised) -> Promised:
        """Return this without `other`, never below nothing."""
        return Promised(max(0, self.owed - other.owed), max(0, self.cached - other.cached))


NOTHING = Promised(0, 0)


def allocated(path: str | os.PathLike[str]) -> int:
    """Return the bytes of disk that a file has by now, 0 if it is not there."""
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def owed(size: int | None, written: int) -> int:
    """Return what is still to be written of `size` bytes, in whole blocks; of an unknown size, up to the next UNIT."""
    if size is None:
        return UNIT - written % UNIT
    return max(0, -(-size // _BLOCK) * _BLOCK - written)


def grows_in(note: str) -> str:
    """Return the path of what the note at path `note` speaks of."""
    stem = note.removesuffix(".json")
    return stem if stem.endswith((WHOLE, SPANS)) else f"{stem}.part"


def promised(layout: Layout, pinned: Container[str] = ()) -> Promised:
    """Return the sum of all promises; `pinned` digests are not `cached`. Blocks, and walks all notes: for threads.

    A note `<name>.json` holds {"size": bytes or null} and its file is `<name>.part`; both folders keep that form. What
    comes from files has `<name>.whole` or `.spans` and a note of that name with `.json`. A note without a file counts
    in full, unless the content is committed and only its note is left.
    """
    total = NOTHING
    for one in promises(layout, pinned):
        total = total.plus(one)
    return total


def promises(layout: Layout, pinned: Container[str] = ()) -> Iterator[Promised]:
    """Yield what each note promises, as `promised` sums it."""
    for folder, is_cache in ((layout.ingest, True), (layout.uploads, False)):
        for name in files.names(folder):
            if name.endswith(".json"):
                one = promise_of(layout, os.path.join(folder, name), pinned)
                yield one if is_cache else Promised(one.owed, 0)


def promise_of(layout: Layout, note: str, pinned: Container[str] = ()) -> Promised:
    """Return what the note at path `note` promises by now; nothing where there is none."""
    stem = os.path.basename(note).removesuffix(".json").removesuffix(WHOLE).removesuffix(SPANS)
    written = allocated(grows_in(note))
    try:
        size = _size(note)
    except FileNotFoundError:
        return NOTHING
    if not written and _committed(layout, stem):
        return NOTHING
    still = owed(size, written)
    return Promised(still, 0 if stem.replace("-", ":", 1) in pinned else written + still)


def _size(path: str) -> int | None:
    """Return the total that a note gives; None if it gives none, or cannot be read. Raises FileNotFoundError."""
    try:
        content = files.read_small(path, _NOTE_LIMIT)
        if content is None:
            raise FileNotFoundError(path)
        size = json.loads(content)["size"]
    except FileNotFoundError:
        raise
    except (OSError, StoreUnreadable, ValueError, KeyError, TypeError, RecursionError):
        return None
    return size if type(size) is int and size >= 0 else None


def _committed(layout: Layout, stem: str) -> bool:
    algorithm, _, encoded = stem.partition("-")
    try:
        return os.path.lexists(layout.blob(Digest.parse(f"{algorithm}:{encoded}")))
    except DigestInvalid:
        return False
