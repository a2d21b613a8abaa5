"""What a tag means: one small JSON file a tag, replaced by a rename, so every worker sees the same at once."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

from mirror.errors import DigestInvalid, TagInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import check_tag
from mirror.store import files
from mirror.store.layout import Layout

_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class TagRecord:
    """The digest of a tag, when it was last checked (Unix time), where it came from, and what it meant before."""

    digest: Digest
    media_type: str
    checked: float
    source: str = ""
    history: tuple[tuple[str, float], ...] = ()  # (digest, when it was replaced), the youngest first

    def moved_to(self, digest: Digest, media_type: str, now: float, source: str, keep: int) -> TagRecord:
        """Return the record of this tag checked at `now`, with `keep` earlier digests if it has moved."""
        if digest == self.digest:
            return replace(self, checked=now, media_type=media_type or self.media_type, source=source)
        history = ((str(self.digest), now), *self.history)[:keep]
        return TagRecord(digest, media_type, now, source, history)

    def dump(self) -> bytes:
        """Return the file's content."""
        return json.dumps(
            {
                "digest": str(self.digest),
                "mediaType": self.media_type,
                "checked": self.checked,
                "source": self.source,
                "history": [{"digest": digest, "until": until} for digest, until in self.history],
            }
        ).encode()

    @classmethod
    def parse(cls, raw: bytes) -> TagRecord | None:
        """Return the record that `raw` holds, None if it is not whole: then upstream is asked anew."""
        try:
            found: Any = json.loads(raw)
            return cls(
                Digest.parse(found["digest"]),
                str(found["mediaType"]),
                float(found["checked"]),
                str(found.get("source", "")),
                tuple((str(entry["digest"]), float(entry["until"])) for entry in found.get("history", ())),
            )
        except (ValueError, LookupError, TypeError, RecursionError, DigestInvalid):
            return None


class Tags:
    """The files under `repositories/<name>/_tags/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def modified(self, name: str, tag: str) -> tuple[int, int, int] | None:
        """Return what changes when the tag does, None where it is not known. May run on the loop."""
        return files.modified(self._layout.tag(name, tag))

    def read(self, name: str, tag: str) -> TagRecord | None:
        """Return what the tag means, None where it is not known. May run on the loop."""
        raw = files.read_record(self._layout.tag(name, tag), _LIMIT)
        return TagRecord.parse(raw) if raw is not None else None

    def write(self, name: str, tag: str, record: TagRecord, *, durable: bool) -> None:
        """Replace what the tag means. For threads only."""
        files.write_atomically(self._layout.tag(name, tag), record.dump(), durable=durable)

    def remove(self, name: str, tag: str) -> bool:
        """Forget a tag and say whether it was there. For threads only."""
        return files.remove(self._layout.tag(name, tag))

    def list(self, name: str) -> list[str]:
        """Return the repository's tags in lexical order. For threads only."""
        try:
            entries = os.scandir(self._layout.tags(name))
        except FileNotFoundError:
            return []
        found = []
        with entries:
            for entry in entries:
                try:
                    found.append(check_tag(entry.name))
                except TagInvalid:  # a write under way
                    continue
        return sorted(found)
