"""Which manifests and blobs a repository has: membership, the ground on which cached content is served.

A manifest's row is written durably before a tag names it. A blob's row is derived from the manifests that name it,
so it is not synced and can be rebuilt (`rebuild`); only where the blob was pushed is the row durable.

To be named is not to be had: anybody can write a manifest that names any digest. A row says whether its digest was
brought: pushed here, given or confirmed by upstream for this repository, or loaded under this name.
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
from mirror.store.brought import Brought
from mirror.store.layout import Layout
from mirror.store.repositories import find_repositories

_REMEDY = "push that manifest again; one that is pulled through is asked for upstream, and written anew by that"
_ROW_LIMIT = 4096
# How a row ends, as long in both cases: the one becomes the other in place.
_NAMED, _BROUGHT = b', "brought": false}', b', "brought": true }'
_MANIFEST_LIMIT = 8 * 1024 * 1024


class Row(NamedTuple):
    """What a repository knows of a digest: its media type (empty: unknown) and its size in bytes (None: unknown).

    `brought` is None where a release before this one wrote the row, which did not note it.
    """

    media_type: str
    size: int | None
    brought: bool | None = None


class Manifests:
    """The rows under `repositories/<name>/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._brought = Brought(layout)

    def manifest(self, name: str, digest: Digest) -> Row | None:
        """Return the row of a manifest, None where it is none of the repository, and where its row is damaged.

        May run on the loop. Raises StoreUnreadable.
        """
        return _read(self._layout.manifest(name, digest))

    def read_manifest(self, name: str, digest: Digest) -> Row | None:
        """Return the row of a manifest, None where it is none of the repository. May run on the loop.

        Raises StoreUnreadable, RecordDamaged where the row makes no sense: whether it is one is not known then.
        """
        path = self._layout.manifest(name, digest)
        return files.read_whole(path, _ROW_LIMIT, _parse, f"what {name} noted of its manifest {digest}", _REMEDY)

    def modified(self, name: str, digest: Digest) -> tuple[int, int, int] | None:
        """Return what changes when the row of a manifest does. May run on the loop."""
        return files.modified(self._layout.manifest(name, digest))

    def is_member(self, name: str, digest: Digest) -> bool:
        """Tell whether there is a row of a blob, without reading it. May run on the loop."""
        return self.member_modified(name, digest) is not None

    def member_modified(self, name: str, digest: Digest) -> tuple[int, int, int] | None:
        """Return what changes when the row of a blob does, None where there is none. May run on the loop."""
        return files.modified(self._layout.membership(name, digest))

    def member(self, name: str, digest: Digest) -> Row | None:
        """Return the row of a blob, or of a manifest that another one names. May run on the loop.

        Raises StoreUnreadable.
        """
        return _read(self._layout.membership(name, digest))

    def add_manifest(self, name: str, digest: Digest, media_type: str, size: int, brought: bool | None = True) -> None:
        """Make `digest` a manifest of the repository, durably; see Row for `brought`. For threads only."""
        self._write(self._layout.manifest(name, digest), name, digest, Row(media_type, size, brought), durable=True)

    def add_named(self, name: str, descriptors: Iterable[Descriptor]) -> None:
        """Note what a verified manifest of the repository names. For threads only. Raises StoreUnreadable, OSError."""
        for descriptor in descriptors:
            if descriptor.foreign:
                continue
            path = self._layout.membership(name, descriptor.digest)
            row = _row(descriptor)
            if files.begin(path, _dump(row._replace(brought=False))):
                continue
            found = _read(path)
            if found is None or (found.size is None and row.size is not None):
                brought = found.brought if found is not None else False
                files.write_atomically(path, _dump(row._replace(brought=brought)), durable=False)

    def add_brought(self, name: str, digest: Digest) -> None:
        """Note that `digest` was brought for the repository: upstream gave or confirmed it there, or it was loaded.

        Without the size that upstream announced: only a verified manifest's is one to hold later answers against. For
        threads only. Raises StoreUnreadable, OSError.
        """
        path = self._layout.membership(name, digest)
        noted = self._brought.note_before(name, digest)  # also again: forgotten where the content was gone for long
        raw = files.amend(path, _ROW_LIMIT, _as_brought)
        if raw is None or not raw.endswith((_NAMED, _BROUGHT)):
            row = (_parse(raw) if raw is not None else None) or Row("", None)
            files.write_atomically(path, _dump(row._replace(brought=True)), durable=False)
        self._brought.note_after(name, digest, noted)

    def add_pushed(self, name: str, digest: Digest, size: int) -> None:
        """Make `digest` a blob of the repository because it was pushed there, durably. For threads only.

        There may be no manifest yet that names it, and nobody to ask: so this row is the truth.
        """
        path = self._layout.membership(name, digest)
        found = _read(path)
        media_type = found.media_type if found is not None else ""
        self._write(path, name, digest, Row(media_type, size, True), durable=True)

    def _write(self, path: str, name: str, digest: Digest, row: Row, *, durable: bool) -> None:
        noted = not row.brought or self._brought.note_before(name, digest)
        files.write_atomically(path, _dump(row), durable=durable)
        self._brought.note_after(name, digest, noted)

    def remove_manifest(self, name: str, digest: Digest) -> bool:
        """Let `digest` be no manifest of the repository, durably; say whether it was one. For threads only."""
        return _remove(self._layout.manifest(name, digest))

    def demote(self, name: str, digest: Digest) -> bool:
        """Let `digest` be no manifest of the repository, but content that it has; say whether it was one.

        At no moment is it neither. For threads only. Raises OSError.
        """
        path, member = self._layout.manifest(name, digest), self._layout.membership(name, digest)
        if files.modified(member) is not None:
            return files.remove(path)  # some manifest names it
        files.make_folders(os.path.dirname(member))
        try:
            os.rename(path, member)
        except FileNotFoundError:
            return False
        return True

    def remove_blob(self, name: str, digest: Digest) -> bool:
        """Let `digest` be no blob of the repository, durably; say whether it was one. For threads only."""
        return _remove(self._layout.membership(name, digest))

    def rebuild(self, name: str, wanted: Digest) -> tuple[Row | None, bool]:
        """Derive the rows of what is named from the manifests of the repository that are here. For threads only.

        Return the row of `wanted`, if one of them names it, and whether all rows could be written: what is known is
        known on a full disk too. Raises StoreUnreadable.
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
                    found = _row(one)._replace(brought=False)
            try:
                self.add_named(name, named)
            except OSError:
                complete = False
        return found, complete

    def repositories(self) -> Iterator[str]:
        """Yield the names of all repositories, lazily and in no order. For threads only. Raises StoreUnreadable."""
        return find_repositories(self._layout)

    def stamp(self, name: str) -> tuple[int, ...]:
        """Return what changes when a manifest is added: tells if a rebuild could find more. May run on the loop."""
        return _stamp(self._layout.manifests(name))

    def stamp_blobs(self, name: str) -> tuple[int, ...]:
        """Return what changes when a blob's row is written. May run on the loop."""
        return _stamp(self._layout.members(name))

    def list(self, name: str) -> Iterator[Digest]:
        """Yield the digests of the repository's manifests. For threads only."""
        return _list(self._layout.manifests(name))

    def list_blobs(self, name: str) -> Iterator[Digest]:
        """Yield the digests of the repository's blobs, and of manifests that others name. For threads only."""
        return _list(self._layout.members(name))


def _list(folder: Path) -> Iterator[Digest]:
    for algorithm in ("sha256", "sha512"):
        for entry in files.entries(folder / algorithm):
            try:
                yield Digest.parse(f"{algorithm}:{entry.name}")
            except DigestInvalid:
                continue


def _stamp(folder: Path) -> tuple[int, ...]:
    found = (files.modified(str(folder / algorithm)) for algorithm in ("sha256", "sha512"))
    return tuple(status[1] if status else 0 for status in found)


def _remove(path: str) -> bool:
    gone = files.remove(path)
    if gone:
        files.sync_folder(os.path.dirname(path))
    return gone


def _row(descriptor: Descriptor) -> Row:
    # Schema 1 gives no sizes; a zero of its is not a size.
    size = descriptor.size if descriptor.media_type or descriptor.size else None
    return Row(descriptor.media_type, size)


def _dump(row: Row) -> bytes:
    document: dict[str, Any] = {"mediaType": row.media_type, "size": row.size}
    raw = json.dumps(document).encode()
    return raw if row.brought is None else raw[:-1] + (_BROUGHT if row.brought else _NAMED)


def _as_brought(raw: bytes) -> bytes | None:
    """Return the row of what was only named as that of what was brought, None for any other."""
    return raw.removesuffix(_NAMED) + _BROUGHT if raw.endswith(_NAMED) else None


def _read(path: str) -> Row | None:
    raw = files.read_record(path, _ROW_LIMIT)
    return None if raw is None else _parse(raw)


def _parse(raw: bytes) -> Row | None:
    try:
        found: Any = json.loads(raw)
        media_type, size, brought = found["mediaType"], found["size"], found.get("brought")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return Row(str(media_type), size if isinstance(size, int) else None, brought if isinstance(brought, bool) else None)
