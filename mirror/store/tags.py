"""What a tag means: one small JSON file a tag, replaced by a rename, so every worker sees the same at once."""

from __future__ import annotations

import json
import time
from bisect import bisect_left, insort
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mirror.errors import DigestInvalid, RecordDamaged
from mirror.oci.digest import Digest
from mirror.oci.reference import TAG_CHARACTERS, TAG_LIMIT, is_tag
from mirror.store import files
from mirror.store.layout import Layout

_REMEDY = (
    "push the tag again, or say what it means: mirror rollback NAME:TAG DIGEST (mirror ls NAME shows what there is); "
    "one that is pulled through is asked for upstream, and written anew by that"
)
_FEW = 1000  # changes of a list, beyond which it is sorted anew
_LIMIT = 1024 * 1024  # a thousand earlier digests, each with a name of 255 characters


class Earlier(NamedTuple):
    """A digest that a tag had, until when (Unix time), and who had put it there: a user, or an upstream."""

    digest: str
    until: float
    who: str = ""


@dataclass(frozen=True, slots=True)
class TagRecord:
    """The digest of a tag, when it was last checked (Unix time), where it came from, and what it meant before.

    Of a tag that was pushed here `checked` is when, and `source` by whom.
    """

    digest: Digest
    media_type: str
    checked: float
    source: str = ""
    history: tuple[Earlier, ...] = ()  # the youngest first

    def moved_to(self, digest: Digest, media_type: str, now: float, source: str, keep: int) -> TagRecord:
        """Return the record of this tag checked at `now`, with `keep` earlier digests if it has moved."""
        if digest == self.digest:
            return replace(self, checked=now, media_type=media_type or self.media_type, source=source)
        history = (Earlier(str(self.digest), now, self.source), *self.history)[:keep]
        return TagRecord(digest, media_type, now, source, history)

    def without(self, digest: Digest) -> TagRecord:
        """Return the record of this tag with `digest` no longer among its earlier ones."""
        return replace(self, history=tuple(one for one in self.history if one.digest != str(digest)))

    def meant(self, digest: Digest) -> bool:
        """Tell whether `digest` is among the earlier ones."""
        return any(one.digest == str(digest) for one in self.history)

    def dump(self) -> bytes:
        """Return the file's content."""
        return json.dumps(
            {
                "digest": str(self.digest),
                "mediaType": self.media_type,
                "checked": self.checked,
                "source": self.source,
                "history": [one._asdict() for one in self.history],
            }
        ).encode()

    @classmethod
    def parse(cls, raw: bytes) -> TagRecord | None:
        """Return the record that `raw` holds, None if it is not whole."""
        try:
            found: Any = json.loads(raw)
            return cls(
                Digest.parse(found["digest"]),
                str(found["mediaType"]),
                float(found["checked"]),
                str(found.get("source", "")),
                tuple(
                    # Whoever wrote it last may have been a version that did not note who.
                    Earlier(str(entry["digest"]), float(entry["until"]), str(entry.get("who", "")))
                    for entry in found.get("history", ())
                ),
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, DigestInvalid):
            return None


@dataclass(frozen=True, slots=True)
class Listing:
    """The tags of a repository in lexical order, as long as its stamp is `stamp`; None: they may have changed already.

    `names` are the same tags, once somebody had to look one up.
    """

    stamp: tuple[int, int, int] | None
    tags: list[str]
    names: frozenset[str] | None = None

    def amended(self, found: list[str], stamp: tuple[int, int, int] | None) -> Listing | None:
        """Return the list that follows from what is `found` in the folder now; None where that takes sorting anew."""
        known = self.names if self.names is not None else frozenset(self.tags)
        strange = [name for name in found if name not in known]
        gone = known.difference(found) if len(found) - len(strange) < len(known) else frozenset()
        if len(strange) + len(gone) > _FEW:
            return None
        come = [name for name in strange if is_tag(name)]
        tags = self.tags.copy()
        for name in gone:
            del tags[bisect_left(tags, name)]
        for name in come:
            insort(tags, name)
        return Listing(stamp, tags, known.union(come).difference(gone) if come or gone else known)


class Tags:
    """The files under `repositories/<name>/_tags/`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def modified(self, name: str, tag: str) -> tuple[int, int, int] | None:
        """Return what changes when the tag does, None where it is not known. May run on the loop."""
        return files.modified(self._layout.tag(name, tag))

    def read(self, name: str, tag: str) -> TagRecord | None:
        """Return what the tag means, None where there is no such tag. May run on the loop.

        Raises StoreUnreadable, RecordDamaged where it makes no sense (a file system that lost power, say).
        """
        path = self._layout.tag(name, tag)
        return files.read_whole(path, _LIMIT, TagRecord.parse, f"the record of the tag {name}:{tag}", _REMEDY)

    def read_if_whole(self, name: str, tag: str) -> TagRecord | None:
        """Return what the tag means, None also where its record is damaged: for whoever may do without.

        May run on the loop. Raises StoreUnreadable.
        """
        try:
            return self.read(name, tag)
        except RecordDamaged:
            return None

    def write(self, name: str, tag: str, record: TagRecord, *, durable: bool) -> None:
        """Replace what the tag means. For threads only."""
        files.write_atomically(self._layout.tag(name, tag), record.dump(), durable=durable)

    def remove(self, name: str, tag: str, *, durable: bool = False) -> bool:
        """Forget a tag and say whether it was there. For threads only."""
        gone = files.remove(self._layout.tag(name, tag))
        if gone and durable:
            self.sync(name)
        return gone

    def sync(self, name: str) -> None:
        """Return when it is on disk which tags there are. For threads only. Raises OSError."""
        with suppress(FileNotFoundError):
            files.sync_folder(str(self._layout.tags(name)))

    def has_repository(self, name: str) -> bool:
        """Tell whether there is, or was, a tag or a manifest of the repository. For threads only."""
        return self._layout.tags(name).is_dir() or self._layout.manifests(name).is_dir()

    def list(self, name: str) -> list[str]:
        """Return the repository's tags in lexical order. For threads only. Raises StoreUnreadable."""
        return _tags(files.names(self._layout.tags(name)))

    def stamp(self, name: str) -> tuple[int, int, int] | None:
        """Return what changes when a tag comes or goes, or is moved; None where there are none. May run on the loop.

        Raises StoreUnreadable.
        """
        return files.stamp(str(self._layout.tags(name)))

    def listing(self, name: str, before: Listing | None = None) -> Listing:
        """Return the repository's tags, and what shows that they are others now. For threads only.

        Where they were listed `before`, only what came and went since is looked at. Raises StoreUnreadable.
        """
        looked, stamp = time.time_ns(), self.stamp(name)
        found = files.names(self._layout.tags(name))
        lasting = stamp if stamp is not None and looked - stamp[1] > files.TICK else None
        amended = before.amended(found, lasting) if before is not None else None
        return amended or Listing(lasting, _tags(found))


def _tags(names: list[str]) -> list[str]:
    """Return those that are tags, in lexical order; usually all are, which shows sooner in all of them together."""
    together = "".join(names)
    if not (
        together.isascii()
        and not together.encode("ascii").translate(None, TAG_CHARACTERS)
        and max(map(len, names), default=0) <= TAG_LIMIT
        and not {name[0] for name in names}.intersection(".-")
    ):
        names = list(filter(is_tag, names))
    return sorted(names)
