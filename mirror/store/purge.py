"""Purge: drop what was pulled through of a repository, so that the next pull asks upstream for it again.

Tags go first; then manifests become mere content of the repository; then goes the content that no manifest left names,
and last its rows. So whatever stops it, what is left counts for the repository, and another purge takes it. Content
stays that another repository has, that is pinned, or that was pushed here. A pull that goes on meanwhile loses nothing
that it was promised: what it reads is open, and what it looks up anew it fetches anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from mirror.errors import Corrupt, NotYet
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.eviction import Eviction
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.lock import held
from mirror.store.manifests import Manifests
from mirror.store.references import References
from mirror.store.repositories import find_repositories
from mirror.store.sets import Pins, Sets
from mirror.store.tags import Tags

Gone = Callable[[Digest, int], None]

_PATIENCE = 60.0  # seconds for another purge
_FEW = 200  # digests that another repository is asked for one by one; for more, what it has is listed


@dataclass(slots=True)
class Purged:
    """What went, or would go: tags, manifests, contents and their bytes; and the contents that stay, by why."""

    tags: int = 0
    manifests: int = 0
    contents: int = 0
    bytes: int = 0
    pinned: int = 0  # or pushed here
    shared: int = 0  # another repository has them too


class Purger:
    """Drops what is cached of repositories. Everything blocks and is for threads.

    The caller sees to it that the repository is not one that is pushed to; `keep_pushed`: it may have been. `gone` is
    called with each content that goes, and its bytes; with `dry_run` nothing is changed. All raise NotYet where another
    purge takes long, StoreUnreadable, OSError: purging the repository again takes what is left then.
    """

    def __init__(self, layout: Layout, eviction: Eviction, *, keep_pushed: bool = False) -> None:
        self._layout = layout
        self._eviction = eviction
        self._keep_pushed = keep_pushed
        self._pins = Pins(layout)
        self._sets = Sets(layout)
        self._hosted = Hosted(layout)
        self._rows = Manifests(layout)
        self._tags = Tags(layout)
        self._references = References(layout)

    def repository(self, name: str, gone: Gone, *, dry_run: bool = False) -> Purged:
        """Drop all of a repository but what is pinned, with the tags that mean it."""
        tags = [tag for tag, digest in self._meanings(name).items() if not self._is_kept(digest)]
        every = set(self._rows.list(name))
        manifests = {digest for digest in every if not self._is_kept(digest)}
        return self._purge(name, tags, manifests, every.union(self._rows.list_blobs(name)), gone, dry_run)

    def tag(self, name: str, tag: str, gone: Gone, *, dry_run: bool = False) -> Purged:
        """Drop a tag, and what it means with all under it but for what another tag or manifest needs."""
        digest = self._meanings(name).get(tag)
        if digest is None:
            # A record that cannot be read goes too.
            there = files.modified(self._layout.tag(name, tag)) is not None
            return self._purge(name, [tag], set(), set(), gone, dry_run) if there else Purged()
        return self._tree(name, [tag], digest, gone, dry_run, asked=set())

    def digest(self, name: str, digest: Digest, gone: Gone, *, dry_run: bool = False) -> Purged:
        """Drop a manifest with the tags that mean it and all that it alone needs; or a blob."""
        if self._rows.modified(name, digest) is None:
            # The row of a blob stays where a manifest names it, as when it is evicted.
            return self._purge(name, [], set(), {digest}, gone, dry_run, {digest})
        kept = self._is_kept(digest)
        tags = [] if kept else [tag for tag, meant in self._meanings(name).items() if meant == digest]
        return self._tree(name, tags, digest, gone, dry_run, asked={digest})

    # -- what to drop ----------------------------------------------------------------------------------------

    def _tree(
        self, name: str, tags: list[str], root: Digest, gone: Gone, dry_run: bool, asked: Collection[Digest]
    ) -> Purged:
        """Drop `tags`, and of a manifest with all under it what nothing else needs, or what was `asked` for."""
        tree = self._under(name, (root,))
        meant = {digest for tag, digest in self._meanings(name).items() if tag not in tags}
        needed = {one for one in tree if one in meant or self._is_kept(one)}
        for other in self._rows.list(name):
            if other not in tree:
                needed.update(one for one in self._named(name, other) if one in tree)
        needed -= {one for one in asked if not self._is_kept(one)}
        kept = self._under(name, needed)
        dropped = tree - kept
        manifests = {one for one in dropped if self._rows.modified(name, one) is not None}
        return self._purge(name, tags, manifests, dropped, gone, dry_run, asked)

    def _under(self, name: str, roots: Iterable[Digest]) -> set[Digest]:
        """Return manifests with everything under them, as far as the manifests are here and the repository's."""
        found = set(roots)
        waiting = list(found)
        while waiting:
            one = waiting.pop()
            if self._rows.modified(name, one) is not None:
                new = set(self._named(name, one)) - found
                found |= new
                waiting += new
        return found

    def _named(self, name: str, digest: Digest) -> tuple[Digest, ...]:
        try:
            return self._references.named(name, digest)
        except Corrupt:
            return ()  # all of this is cache: what is dropped too much is fetched again

    def _meanings(self, name: str) -> dict[str, Digest]:
        records = {tag: self._tags.read_if_whole(name, tag) for tag in self._tags.list(name)}
        return {tag: record.digest for tag, record in records.items() if record is not None}

    # -- dropping it -----------------------------------------------------------------------------------------

    def _purge(
        self,
        name: str,
        tags: Collection[str],
        manifests: Collection[Digest],
        contents: set[Digest],
        gone: Gone,
        dry_run: bool,
        asked: Collection[Digest] = (),
    ) -> Purged:
        if dry_run:
            return self._take(name, Purged(len(tags), len(manifests)), manifests, contents, gone, asked, dry_run=True)
        # Two purges that leave to each other what they share would leave it to nobody.
        with held(self._layout.lock("purge"), _PATIENCE, NotYet("another purge is running", "wait for it")):
            total = Purged(len(tags), self._demote(name, tags, manifests))
            return self._take(name, total, (), contents, gone, asked)

    def _take(
        self,
        name: str,
        total: Purged,
        without: Collection[Digest],
        contents: set[Digest],
        gone: Gone,
        asked: Collection[Digest],
        *,
        dry_run: bool = False,
    ) -> Purged:
        """Take what of `contents` no manifest of the repository needs, but for those `without`; return the total."""
        # Asked now, because somebody may have pulled meanwhile.
        needed: set[Digest] = set()
        for other in self._rows.list(name):
            if other not in without:
                needed.update(one for one in (other, *self._named(name, other)) if one in contents)
        here = {one for one in contents - needed.difference(asked) if self._size(one) is not None}
        shared = self._shared(name, here)
        going = here - shared
        total.shared = len(shared)
        total.pinned = sum(1 for one in contents & needed - here if self._stays(one) and self._size(one) is not None)
        for digest in sorted(contents - needed.difference(asked)):
            size = self._size(digest) if digest in going else None
            if size is not None and (self._stays(digest) or not (dry_run or self._delete(digest))):
                total.pinned += 1
            elif size is not None:
                total.contents += 1
                total.bytes += size
                gone(digest, size)
            if not dry_run and digest not in needed:
                self._drop_member(name, digest, digest in shared)
        if not dry_run:
            # A manifest that came meanwhile may name some of it: this lets whoever misses a row derive them all anew.
            for folder in self._algorithms(name):
                with suppress(FileNotFoundError):
                    os.utime(folder)
        return total

    def _size(self, digest: Digest) -> int | None:
        found = files.modified(self._layout.blob(digest))
        return None if found is None else found[2]

    def _delete(self, digest: Digest) -> bool:
        self._eviction.delete((digest,))
        return self._size(digest) is None

    def _stays(self, digest: Digest) -> bool:
        return str(digest) in self._pins.digests() or self._hosted.has(digest)

    def _demote(self, name: str, tags: Collection[str], manifests: Collection[Digest]) -> int:
        """Drop tags, and let manifests be none, but for those that were pinned just now; return how many manifests."""
        for tag in tags:
            self._tags.remove(name, tag)
        _sync(self._layout.tags(name))
        dropped = 0
        for digest in manifests:
            with self._sets.pinning():
                if self._is_kept(digest) or not self._rows.demote(name, digest):
                    continue
            files.remove(self._layout.referrers(name, digest))
            dropped += 1
        # A pull that was under way may have made a tag mean what has just gone.
        for tag, digest in self._meanings(name).items():
            if digest in manifests and self._rows.modified(name, digest) is None:
                self._tags.remove(name, tag)
        for folder in (*self._algorithms(name, members=True), *self._algorithms(name)):
            _sync(folder)
        return dropped

    def _drop_member(self, name: str, digest: Digest, shared: bool) -> None:
        """Remove the row of what is not here, or stays for others. Nobody pins it meanwhile."""
        with self._sets.pinning():
            if not self._is_kept(digest) and (shared or self._stays(digest) or self._size(digest) is None):
                files.remove(self._layout.membership(name, digest))

    def _is_kept(self, digest: Digest) -> bool:
        """Tell whether a digest keeps its rows."""
        return str(digest) in self._pins.digests() or (self._keep_pushed and self._hosted.has(digest))

    def _algorithms(self, name: str, *, members: bool = False) -> tuple[str, ...]:
        folder = self._layout.members(name) if members else self._layout.manifests(name)
        return (str(folder / "sha256"), str(folder / "sha512"))

    def _shared(self, name: str, contents: Collection[Digest]) -> set[Digest]:
        """Return what of `contents` another repository has."""
        found: set[Digest] = set()
        left = set(contents)
        for other in find_repositories(self._layout):
            if other == name or not left:
                continue
            if len(left) <= _FEW:
                there = {one for one in left if self._has(other, one)}
            else:
                there = left.intersection((*self._rows.list(other), *self._rows.list_blobs(other)))
            found |= there
            left -= there
        return found

    def _has(self, name: str, digest: Digest) -> bool:
        return self._rows.is_member(name, digest) or self._rows.modified(name, digest) is not None


def _sync(folder: str | os.PathLike[str]) -> None:
    with suppress(FileNotFoundError):
        files.sync_folder(str(folder))
