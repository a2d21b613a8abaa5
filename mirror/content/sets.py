"""What complete image sets say: which tags mean what, and which names this store has loaded or synced.

Remembered a process, and read anew when `sets/current` changes: one stat a question. What cannot be read changes
nothing of what is remembered, and is tried again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mirror import logs
from mirror.errors import DigestInvalid, MirrorError, RecordDamaged, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.sets import Complete, Sets
from mirror.store.threads import Threads

_AGAIN = 0.5  # seconds between tries to read what could not be read

# Of a generation: name, digest and tags of every image, and all digests that each name needs, as bytes.
_Plan = tuple[list[tuple[str, Digest, list[str]]], dict[str, frozenset[bytes]]]

_log = logs.get("content.sets")


@dataclass(frozen=True, slots=True)
class Known:
    """What the complete generations hold: the digest of each (name, tag), all tags of a name, and where names begin."""

    stamp: tuple[int, int, int] | None = None
    tags: dict[tuple[str, str], Digest] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)  # repository -> its tags, sorted
    spaces: frozenset[str] = frozenset()  # the first components of the names
    # Generations, with the digests that each of their names needs, as bytes.
    holders: tuple[tuple[str, Mapping[str, frozenset[bytes]]], ...] = ()
    # Why sets are missing here that the store has: what says what they are cannot be read, is damaged or lost.
    lacking: StoreUnreadable | None = None
    # The same where it could not be read: that passes, and until then nobody knows what a set says of a tag.
    unreadable: StoreUnreadable | None = None
    # Files that are damaged or lost, as they were: this is for good until they change.
    ill: tuple[tuple[str, tuple[int, int, int] | None], ...] = ()

    def holder(self, name: str, digest: Digest) -> str:
        """Return a complete generation that needs `digest` for a repository, as `set@n`; empty where none does.

        What it needs for other repositories is not for everybody to know.
        """
        wanted = bytes.fromhex(digest.hex)
        return next((one for one, needed in self.holders if wanted in needed.get(name, ())), "")


class ContentSets:
    """The complete generations of a store as names and tags."""

    def __init__(self, sets: Sets, threads: Threads) -> None:
        self._sets = sets
        self._threads = threads
        self._known = Known()
        self._loading = asyncio.Lock()
        self._again = 0.0

    @property
    def fresh(self) -> bool:
        """Whether what is remembered is what the store says, or will not be better known in a moment: one stat."""
        if self._again and time.monotonic() < self._again:
            return True
        try:
            known = self._known
            if self._sets.modified() != known.stamp or known.unreadable is not None:
                return False
            return not known.ill or all(files.modified(path) == before for path, before in known.ill)
        except StoreUnreadable:
            self._again = time.monotonic() + _AGAIN
            return True

    @property
    def known(self) -> Known:
        """What is remembered."""
        return self._known

    async def load(self) -> Known:
        """Return what the store says, read anew where that has changed."""
        if not self.fresh:
            async with self._loading:
                if not self.fresh:
                    found = await self._threads.run(self._read)
                    if found.unreadable is not None:
                        self._again = time.monotonic() + _AGAIN
                        if self._known.stamp is not None and self._known.unreadable is None:
                            return self._known  # which is the last that was whole
                    self._known = found
        return self._known

    def _read(self) -> Known:
        """Read every complete generation. A later completed one goes before, but within a set the newest does.

        Nothing is known of a set of which a generation cannot be read: an older one must not pass for it.
        """
        tags: dict[tuple[str, str], Digest] = {}
        names: dict[str, set[str]] = {}
        unreadable: StoreUnreadable | None = None
        lacking: StoreUnreadable | None = None
        ill: list[tuple[str, tuple[int, int, int] | None]] = []
        complete: tuple[Complete, ...] = ()
        stamp = None
        try:
            stamp = self._sets.modified()
            complete = self._sets.current()
        except StoreUnreadable as error:
            return Known(lacking=error, unreadable=error)
        except MirrorError as error:
            _log.error("sets_unreadable", why=error.what, remedy=error.remedy)
        plans = {}
        for one in complete:
            path, before = self._sets.path(one.set, one.generation), None
            try:
                before = files.modified(path)
                plans[one] = self._plan(one)
            except RecordDamaged as error:
                lacking = error
                ill.append((path, before))
            except StoreUnreadable as error:
                lacking = unreadable = error
        unknown = {one.set for one in complete if one not in plans}
        holders: list[tuple[str, Mapping[str, frozenset[bytes]]]] = []
        for one in precedence(tuple(one for one in complete if one.set not in unknown)):
            images, digests = plans[one]
            holders.append((str(one), digests))
            for name, digest, marked in images:
                names.setdefault(name, set()).update(marked)
                for tag in marked:
                    tags.setdefault((name, tag), digest)
        listed = {name: sorted(found) for name, found in names.items()}
        spaces = frozenset(name.partition("/")[0] for name in listed)
        return Known(stamp, tags, listed, spaces, tuple(holders), lacking, unreadable, tuple(ill))

    def _plan(self, one: Complete) -> _Plan:
        found = self._sets.read_whole(one.set, one.generation, _parse)
        if found is None:
            self._sets.check_plan(one)
        return found or ([], {})


def _parse(raw: bytes) -> _Plan | None:
    try:
        plan: Any = json.loads(raw)
        images = [
            (image["name"], Digest.parse(image["image"].rpartition("@")[2]), list(image["tags"]))
            for image in plan["images"]
        ]
        needed: defaultdict[str, set[bytes]] = defaultdict(set)
        for entry in plan["manifests"]:
            named = (entry["digest"], *entry.get("manifests", ()), *entry.get("blobs", ()))
            needed[entry.get("name", "")].update(bytes.fromhex(Digest.parse(digest).hex) for digest in named)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, DigestInvalid):
        return None
    return images, {name: frozenset(digests) for name, digests in needed.items()}


def precedence(complete: tuple[Complete, ...]) -> list[Complete]:
    """Return complete generations in the order in which a tag is looked for.

    The newest of each set, the set completed last first; then the older ones (DESIGN 1, the store on disk).
    """
    newest: dict[str, Complete] = {}
    for one in complete:
        if one.set not in newest or one.generation > newest[one.set].generation:
            newest[one.set] = one
    first = [one for one in reversed(complete) if newest[one.set] is one]
    return first + sorted((one for one in complete if newest[one.set] is not one), key=lambda one: -one.generation)
