"""What a load may take for its own although it does not bring it: content that is here already.

A plan can name any digest, and whoever makes parts by hand can let a plan presume content that rules keep from the
readers of its names. So a plan presumes only what the same names had, what its own set had under names that are open to
no fewer, and what a repository had that no rule protects. Of all else the bytes must be in what is loaded, and are
compared with what is here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mirror.config.access import Readers
from mirror.errors import MirrorError
from mirror.oci.digest import Digest
from mirror.offline.plan import Plan, PlanInvalid
from mirror.store import files
from mirror.store.adopt import adopt_all
from mirror.store.brought import Brought
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.sets import Sets

_STEP = 1024 * 1024


class PresumedRefused(MirrorError):
    """A load counts on content that only repositories have which rules protect."""

    def __init__(self, what: str, digests: Collection[Digest]) -> None:
        shown = ", ".join(str(digest) for digest in sorted(digests)[:3])
        more = f" and {len(digests) - 3} more" if len(digests) > 3 else ""
        super().__init__(
            f"{what} presumes content that it does not bring, and that only repositories protected by rules under"
            f" clients have here: {shown}{more}",
            "save it whole (without --have and --since); or, if you trust who made it, load it with --allow-presumed",
        )


class _Had(NamedTuple):
    """Whether a digest was had where no rule protects it, and whether all that had it have the same readers."""

    by_all: bool
    alike: bool


@dataclass(frozen=True, slots=True)
class Presumptions:
    """What plans may presume in a store. For threads."""

    layout: Layout
    sets: Sets
    readers: Readers

    def foreign(self, plan: Plan, lacking: Collection[Digest]) -> dict[Digest, int]:
        """Return what of a plan is here, beside what is `lacking`, and is not its own to presume; with sizes in bytes.

        Raises StoreUnreadable, OSError.
        """
        if self.readers.everybody:
            return {}
        adopt_all(self.layout)
        own = self._own(plan.set)
        rows, brought = Manifests(self.layout), Brought(self.layout)
        sizes = plan.content
        found: dict[Digest, int] = {}
        had: dict[Digest, _Had] = {}
        for planned in plan.manifests:
            for digest in (planned.digest, *planned.blobs, *planned.manifests):
                if digest in lacking or digest in found or not sizes.get(digest):
                    continue  # what is empty is no secret
                if any(self.readers.no_more(planned.name, name) for name in own.get(digest, ())):
                    continue
                if digest not in had:
                    had[digest] = self._had(rows, *brought.by(digest), digest)
                if not had[digest].by_all and not _has(rows, planned.name, digest, old=had[digest].alike):
                    found[digest] = sizes[digest]
        return found

    def _had(self, rows: Manifests, names: Sequence[str], every: bool, digest: Digest) -> _Had:
        unprotected = [name for name in names if not self.readers.of(name)]
        alike = every and len({self.readers.of(name) for name in names}) == 1
        # What an earlier release noted may only have been named, where others have it too.
        by_all = (every and len(unprotected) == len(names)) or any(_has(rows, name, digest) for name in unprotected)
        return _Had(by_all, alike)

    def prove(self, plan: Plan, digest: Digest) -> None:
        """Note that a load brought `digest` under the names that its plan gives it. Raises StoreUnreadable, OSError."""
        rows = Manifests(self.layout)
        for planned in plan.manifests:
            if digest in (planned.digest, *planned.blobs, *planned.manifests):
                rows.add_brought(planned.name, digest)

    def _own(self, name: str) -> dict[Digest, set[str]]:
        """Return what complete generations of a set hold, and under which names.

        By the set alone nothing is given: whoever makes a part by hand can call it by the name of any set.
        """
        found: dict[Digest, set[str]] = {}
        for one in self.sets.current():
            if one.set == name:
                raw = self.sets.read(one.set, one.generation)
                try:
                    manifests = Plan.parse(raw).manifests if raw is not None else ()
                except PlanInvalid:
                    continue
                for planned in manifests:
                    for digest in (planned.digest, *planned.blobs, *planned.manifests):
                        found.setdefault(digest, set()).add(planned.name)
        return found

    def is_same(self, digest: Digest, offset: int, length: int, read: Callable[[int], bytes]) -> bool:
        """Tell whether `read` gives bytes offset..offset+length of the content of `digest` that is here.

        Raises StoreUnreadable, and what `read` raises.
        """
        fd = files.open_content(self.layout.blob(digest))
        if fd is None:
            return False
        try:
            position, stop = offset, offset + length
            while position < stop:
                content = read(min(_STEP, stop - position))
                if not content or files.read_bytes(fd, position, position + len(content)) != content:
                    return False
                position += len(content)
        finally:
            os.close(fd)
        return True


def _has(rows: Manifests, name: str, digest: Digest, *, old: bool = False) -> bool:
    """Tell whether a repository brought a digest; `old`: what an earlier release noted counts as brought."""
    good = (True, None) if old else (True,)
    return any(
        row is not None and row.brought in good for row in (rows.manifest(name, digest), rows.member(name, digest))
    )
