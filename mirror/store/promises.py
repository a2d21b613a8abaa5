"""Space that is promised to what is on its way: what notes in ingest/ and uploads/ say is still to come."""

from __future__ import annotations

import json
import os
from collections.abc import Container
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


def promised(layout: Layout, besides: str = "", pinned: Container[str] = ()) -> Promised:
    """Return the sum of all promises but that of the note named `besides`; `pinned` digests are not `cached`.

    Blocks: for threads.

    A note `<name>.json` holds {"size": bytes or null} and its file is `<name>.part`; both folders keep that form. What
    comes from files has `<name>.whole` or `.spans` and a note of that name with `.json`. A note without a file counts
    in full, unless the content is committed and only its note is left.
    """
    total, cached = _sum(layout, layout.ingest, besides, pinned)
    return Promised(total + _sum(layout, layout.uploads, besides, pinned)[0], cached)


def _sum(layout: Layout, folder: os.PathLike[str], skip: str, pinned: Container[str]) -> tuple[int, int]:
    rest = whole = 0
    for name in files.names(folder):
        if not name.endswith(".json") or name == skip:
            continue
        path = os.path.join(folder, name)
        stem = name.removesuffix(".json").removesuffix(WHOLE).removesuffix(SPANS)
        written = allocated(grows_in(path))
        try:
            size = _size(path)
        except FileNotFoundError:
            continue
        if not written and _committed(layout, stem):
            continue
        still = owed(size, written)
        rest += still
        if stem.replace("-", ":", 1) not in pinned:
            whole += written + still
    return rest, whole


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
