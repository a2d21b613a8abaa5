"""What a load may take for its own although it does not bring it: content that is here already.

A plan can name any digest, and whoever makes parts by hand can let a plan presume content that rules keep from the
readers of its names. So a plan presumes only what its own set had, what the same names had, and what a repository had
that no rule protects. Of all else the bytes must be in what is loaded, and are compared with what is here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

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
            f"{what} presumes content that it does not bring, and that only repositories here have which rules under"
            f" clients protect: {shown}{more}",
            "save it whole (without --have and --since); or, if you trust who made it, load it with --allow-presumed",
        )


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
        open_to_all: dict[Digest, bool] = {}
        for planned in plan.manifests:
            for digest in (planned.digest, *planned.blobs, *planned.manifests):
                if digest in lacking or digest in own or digest in found or digest not in sizes:
                    continue
                if digest not in open_to_all:
                    names, _ = brought.by(digest)
                    unprotected = [name for name in names if not self.readers.of(name)]
                    # What an earlier release noted may only have been named.
                    open_to_all[digest] = len(unprotected) == len(names) or any(
                        _has(rows, name, digest) for name in unprotected
                    )
                if not open_to_all[digest] and not _has(rows, planned.name, digest):
                    found[digest] = sizes[digest]
        return found

    def prove(self, plan: Plan, digest: Digest) -> None:
        """Note that a load brought `digest` under the names that its plan gives it. Raises StoreUnreadable, OSError."""
        rows = Manifests(self.layout)
        for planned in plan.manifests:
            if digest in (planned.digest, *planned.blobs, *planned.manifests):
                rows.add_brought(planned.name, digest)

    def _own(self, name: str) -> set[Digest]:
        """Return what complete generations of a set hold."""
        found: set[Digest] = set()
        for one in self.sets.current():
            if one.set == name:
                raw = self.sets.read(one.set, one.generation)
                try:
                    found.update(Plan.parse(raw).content if raw is not None else ())
                except PlanInvalid:
                    continue
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


def _has(rows: Manifests, name: str, digest: Digest) -> bool:
    found: Iterable[object] = (rows.manifest(name, digest), rows.member(name, digest))
    return any(getattr(row, "brought", False) for row in found)
