"""Images that somebody pinned one by one: a record for each, of the same form as the content of a plan.

What a record names is pinned from the moment it is written; sets.Pins reads these records beside the generations.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mirror import logs
from mirror.errors import DigestInvalid, NameInvalid, NotHere
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.sets import Sets
from mirror.store.trees import grow

_LIMIT = 16 * 1024 * 1024  # bytes of a record: an index of ten thousand images is far below it
_SCHEMA = 1

_log = logs.get("store.pins")


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pinned image: its repository by canonical name, what it needs (bytes each), when (Unix time) and who said so.

    `manifests` are the image and what of its children is known, `blobs` the rest.
    """

    name: str
    digest: Digest
    manifests: Mapping[Digest, int]
    blobs: Mapping[Digest, int]
    pinned: float
    who: str

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}"

    @property
    def content(self) -> dict[Digest, int]:
        """Everything that the image needs, with its size in bytes."""
        return {**self.blobs, **self.manifests}

    def dump(self) -> bytes:
        """Return the record's content."""
        document = {
            "schema": _SCHEMA,
            "name": self.name,
            "digest": str(self.digest),
            "pinned": self.pinned,
            "who": self.who,
            "manifests": _entries(self.manifests),
            "blobs": _entries(self.blobs),
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Pinned | None:
        """Return what `raw` says, None where it is not whole."""
        try:
            found: Any = json.loads(raw)
            return cls(
                check_name(found["name"]),
                Digest.parse(found["digest"]),
                _sizes(found["manifests"]),
                _sizes(found["blobs"]),
                float(found["pinned"]),
                str(found["who"]),
            )
        except (ValueError, LookupError, TypeError, RecursionError, NameInvalid, DigestInvalid):
            return None


class ImagePins:
    """The files under `pins/`. Everything blocks and is for threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sets = Sets(layout)

    def list(self) -> list[Pinned]:
        """Return all that is pinned, by name. A damaged record is said and left out. Raises StoreUnreadable."""
        found = []
        for entry in files.names(self._layout.pins):
            if not entry.endswith(".json"):
                continue
            path = str(self._layout.pins / entry)
            raw = files.read_record(path, _LIMIT)
            pinned = Pinned.parse(raw) if raw is not None else None
            if pinned is None:
                _log.warning("pin_damaged", path=path)
            else:
                found.append(pinned)
        return sorted(found, key=lambda one: (one.name, one.digest))

    def read(self, name: str, digest: Digest) -> Pinned | None:
        """Return the pin of an image, None where there is none."""
        raw = files.read_record(str(self._layout.pin(name, digest)), _LIMIT)
        return Pinned.parse(raw) if raw is not None else None

    def write(self, pinned: Pinned) -> None:
        """Pin an image, durably: when this returns nothing of it is evicted any more. Raises OSError, StoreError."""
        with self._sets.pinning():
            path = str(self._layout.pin(pinned.name, pinned.digest))
            files.write_atomically(path, pinned.dump(), durable=True)

    def remove(self, name: str, digest: Digest) -> bool:
        """Give an image up, durably, and say whether it was pinned."""
        gone = files.remove(str(self._layout.pin(name, digest)))
        if gone:
            files.sync_folder(str(self._layout.pins))
        return gone


def pin_image(layout: Layout, name: str, digest: Digest, who: str) -> tuple[Pinned, set[Digest]]:
    """Pin an image with what is known of it; return that, and what of it is not here: the rest stays from now on.

    For threads. Raises NotHere where the image is not here, Corrupt where its manifest cannot be read, OSError,
    StoreError.
    """
    pins, rows = ImagePins(layout), Manifests(layout)
    before = pins.read(name, digest)
    if not _has(rows, name, digest):
        raise NotHere(f"{name} is not known to have {digest}", "pull it through this mirror first")
    tree = grow(layout, name, digest)
    pinned = Pinned(name, digest, tree.manifests, tree.blobs, time.time(), who)
    pins.write(pinned)
    # Something of it may have been evicted or purged before that.
    absent = {one for one in pinned.content if files.modified(layout.blob(one)) is None}
    if digest in absent or not _has(rows, name, digest):
        if before is None:
            pins.remove(name, digest)
        raise NotHere(f"{name}@{digest} is not here any more", "pull it through this mirror, then pin it again")
    return pinned, absent


def _has(rows: Manifests, name: str, digest: Digest) -> bool:
    return rows.modified(name, digest) is not None or rows.is_member(name, digest)


def _entries(content: Mapping[Digest, int]) -> list[dict[str, str | int]]:
    return [{"digest": str(digest), "size": size} for digest, size in sorted(content.items())]


def _sizes(entries: list[dict[str, Any]]) -> dict[Digest, int]:
    return {Digest.parse(one["digest"]): int(one["size"]) for one in entries}
