"""Manifests that are being deleted: noted before anything goes, so that a deletion which was cut off is carried out.

    deletions/<hash>.json   of which repository, which manifest, who wanted it, from where, and how many tags meant it

As long as there is the note, the manifest and the tags that mean it are gone for everybody, although their files are
here; its row goes after all of them, and the note after the row.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mirror.errors import DigestInvalid
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.layout import Layout

_LIMIT = 64 * 1024
_OTHER = 1_000_000_000  # nanoseconds: every file system tells times apart that are a second apart


@dataclass(frozen=True, slots=True)
class Deletion:
    """A manifest of repository `name` that `who` deletes from the address `client`.

    `tags` is how many meant it, None until they are counted.
    """

    name: str
    digest: Digest
    who: str = ""
    client: str = ""
    tags: int | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Deletion | None:
        """Return what a note says; None where it makes no sense."""
        try:
            found: Any = json.loads(raw)
            tags = found["tags"]
            return cls(
                str(found["name"]),
                Digest.parse(found["digest"]),
                str(found["who"]),
                str(found["client"]),
                None if tags is None else int(tags),
            )
        except (ValueError, LookupError, TypeError, RecursionError, DigestInvalid):
            return None


class Deletions:
    """The notes under `deletions/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def has(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest of a repository is being deleted: one system call. May run on the loop."""
        return files.is_there(self._layout.deletion(name, digest))

    def read(self, name: str, digest: Digest) -> Deletion | None:
        """Return what is noted of the deletion of a manifest; None where there is none. Raises StoreUnreadable.

        Of a note that makes no sense only that it is there is known.
        """
        raw = files.read_record(self._layout.deletion(name, digest), _LIMIT)
        return None if raw is None else Deletion.parse(raw) or Deletion(name, digest)

    def write(self, deletion: Deletion) -> None:
        """Note a deletion, durably. For threads only. Raises OSError."""
        content = {**asdict(deletion), "digest": str(deletion.digest)}
        path = self._layout.deletion(deletion.name, deletion.digest)
        files.write_atomically(path, json.dumps(content).encode(), durable=True)

    def remove(self, deletion: Deletion) -> None:
        """Let a deletion be over. For threads only. Raises OSError."""
        path = self._layout.deletion(deletion.name, deletion.digest)
        if files.remove(path):
            files.sync_folder(os.path.dirname(path))

    def list(self) -> list[Deletion]:
        """Return all that is noted and makes sense. For threads only. Raises StoreUnreadable."""
        found = []
        for entry in files.names(self._layout.deletions):
            if entry.endswith(".json"):
                raw = files.read_record(str(self._layout.deletions / entry), _LIMIT)
                deletion = Deletion.parse(raw) if raw is not None else None
                if deletion is not None:
                    found.append(deletion)
        return found

    def hide(self, deletion: Deletion) -> None:
        """Let whoever remembers the manifest, in any process, look at it again: and find the note. Raises OSError."""
        path = self._layout.manifest(deletion.name, deletion.digest)
        with suppress(FileNotFoundError):
            found = os.stat(path)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + _OTHER))
