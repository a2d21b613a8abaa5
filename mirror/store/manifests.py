"""Which manifests and blobs a repository has: membership, the ground on which cached content is served.

A manifest's row is written durably before a tag names it. A blob's row is derived from the manifests that name it,
so it is not synced and can be rebuilt (`rebuild`); only where the blob was pushed is the row durable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mirror.errors import DigestInvalid, ManifestInvalid
from mirror.oci import manifest
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

_ROW_LIMIT = 4096
_MANIFEST_LIMIT = 8 * 1024 * 1024


class Row(NamedTuple):
    """What a repository knows of a member: its media type (empty: unknown) and its size in bytes (None: unknown)."""

    media_type: str
    size: int | None


class Manifests:
    """The rows under `repositories/<name>/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def manifest(self, name: str, digest: Digest) -> Row | None:
        """Return the row of a manifest, None where it is no member. May run on the loop."""
        return _read(self._layout.manifest(name, digest))

    def modified(self, name: str, digest: Digest) -> tuple[int, int, int] | None:
        """Return what changes when the row of a manifest does. May run on the loop."""
        return files.modified(self._layout.manifest(name, digest))

    def is_member(self, name: str, digest: Digest) -> bool:
        """Tell whether there is a row of a blob, without reading it. May run on the loop."""
        return files.modified(self._layout.membership(name, digest)) is not None

    def member(self, name: str, digest: Digest) -> Row | None:
        """Return the row of a blob, or of a manifest that another one names. May run on the loop."""
        return _read(self._layout.membership(name, digest))

    def add_manifest(self, name: str, digest: Digest, media_type: str, size: int) -> None:
        """Make `digest` a manifest of the repository, durably. For threads only."""
        files.write_atomically(self._layout.manifest(name, digest), _dump(media_type, size), durable=True)

    def add_members(self, name: str, descriptors: Iterable[Descriptor]) -> None:
        """Make what a verified manifest names members of the repository. For threads only."""
        for descriptor in descriptors:
            if descriptor.foreign:
                continue
            path = self._layout.membership(name, descriptor.digest)
            row, found = _row(descriptor), _read(path)
            if found is None or (found.size is None and row.size is not None):
                files.write_atomically(path, _dump(*row), durable=False)

    def add_blob(self, name: str, digest: Digest) -> None:
        """Make `digest` a blob of the repository because upstream gave it there. For threads only.

        Without the size that upstream announced: only a verified manifest's is one to hold later answers against.
        """
        path = self._layout.membership(name, digest)
        if files.modified(path) is None:
            files.write_atomically(path, _dump("", None), durable=False)

    def add_pushed(self, name: str, digest: Digest, size: int) -> None:
        """Make `digest` a blob of the repository because it was pushed there, durably. For threads only.

        There may be no manifest yet that names it, and nobody to ask: so this row is the truth.
        """
        path = self._layout.membership(name, digest)
        found = _read(path)
        media_type = found.media_type if found is not None else ""
        files.write_atomically(path, _dump(media_type, size), durable=True)

    def remove_manifest(self, name: str, digest: Digest) -> bool:
        """Let `digest` be no manifest of the repository, durably; say whether it was one. For threads only."""
        return _remove(self._layout.manifest(name, digest))

    def remove_blob(self, name: str, digest: Digest) -> bool:
        """Let `digest` be no blob of the repository, durably; say whether it was one. For threads only."""
        return _remove(self._layout.membership(name, digest))

    def rebuild(self, name: str, wanted: Digest) -> tuple[Row | None, bool]:
        """Derive the blobs' rows from the manifests of the repository that are here. For threads only.

        Return the row of `wanted`, if one of them names it, and whether all rows could be written: what is known is
        known on a full disk too. Raises OSError where the manifests cannot be listed.
        """
        found, complete = None, True
        for digest in self.list(name):
            row = self.manifest(name, digest)
            body = files.read_record(self._layout.blob(digest), _MANIFEST_LIMIT)
            if row is None or body is None:
                continue
            try:
                named = manifest.parse(body, row.media_type).named
            except ManifestInvalid:
                continue
            for one in named:
                if one.digest == wanted and not one.foreign:
                    found = _row(one)
            try:
                self.add_members(name, named)
            except OSError:
                complete = False
        return found, complete

    def stamp(self, name: str) -> tuple[int, ...]:
        """Return what changes when a manifest is added: tells whether a rebuild could find more. For threads only."""
        folder = self._layout.manifests(name)
        found = (files.modified(str(folder / algorithm)) for algorithm in ("sha256", "sha512"))
        return tuple(status[1] if status else 0 for status in found)

    def list(self, name: str) -> Iterator[Digest]:
        """Yield the digests of the repository's manifests. For threads only."""
        return _list(self._layout.manifests(name))

    def list_blobs(self, name: str) -> Iterator[Digest]:
        """Yield the digests of the repository's blobs, and of manifests that others name. For threads only."""
        return _list(self._layout.members(name))


def _list(folder: Path) -> Iterator[Digest]:
    for algorithm in ("sha256", "sha512"):
        try:
            entries = os.scandir(folder / algorithm)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                try:
                    yield Digest.parse(f"{algorithm}:{entry.name}")
                except DigestInvalid:
                    continue


def _remove(path: str) -> bool:
    gone = files.remove(path)
    if gone:
        files.sync_folder(os.path.dirname(path))
    return gone


def _row(descriptor: Descriptor) -> Row:
    # Schema 1 gives no sizes; a zero of its is not a size.
    size = descriptor.size if descriptor.media_type or descriptor.size else None
    return Row(descriptor.media_type, size)


def _dump(media_type: str, size: int | None) -> bytes:
    return json.dumps({"mediaType": media_type, "size": size}).encode()


def _read(path: str) -> Row | None:
    raw = files.read_record(path, _ROW_LIMIT)
    if raw is None:
        return None
    try:
        found: Any = json.loads(raw)
        media_type, size = found["mediaType"], found["size"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return Row(str(media_type), size if isinstance(size, int) else None)
