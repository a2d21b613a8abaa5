"""Garbage collection: what was pushed here and is named by nothing any more goes, beside a running service.

Gone are: content that carries the marker of what was pushed, older than a grace period, that no manifest of any
repository names and no image set pins; markers without content; rows of hosted repositories whose content is gone;
uploads that nobody goes on with. Not touched: manifests that have their row, with or without a tag; what has no marker,
which is cache and eviction's; and whatever a manifest names, even where it names it among much that cannot be read.

What is taken is decided in four steps (see gc_lock.py for why nothing falls between them): the markers are looked at;
the lock is had alone for a moment; all manifests are read; and each marker that nothing named is looked at again under
the locks, because it may have been renewed meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass

from mirror import logs
from mirror.errors import CollectionStopped, Corrupt, NotYet, RecordDamaged, StoreError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.brake import FEW, SHARE, Amount, Brake
from mirror.store.gc_lock import GcLock
from mirror.store.hosted import Hosted
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.manifests import Manifests
from mirror.store.marked import Marked
from mirror.store.promises import allocated
from mirror.store.references import References
from mirror.store.referrers import PushedReferrers
from mirror.store.repositories import find_repositories
from mirror.store.scrub import UNREADABLE_IN_A_ROW
from mirror.store.sets import Pins, Sets
from mirror.store.tags import Tags
from mirror.store.uploads import AGE

GRACE = 86400.0  # seconds since a push, in which its manifest comes; never less than finishing an upload takes

_HOLD = 0.2  # seconds that pushes wait for removals at most, but for the last of them
_PATIENCE = 60.0  # seconds for a push that is under way
_SHARE = 200_000  # markers remembered at a time; where there are more, manifests are read several times

_log = logs.get("gc")


@dataclass(slots=True)
class Freed:
    """What was removed, or would be: contents and their bytes, markers without content, rows, bytes of uploads."""

    contents: int = 0
    bytes: int = 0
    markers: int = 0
    rows: int = 0
    uploads: int = 0


class Collector:
    """Collects garbage. Everything blocks, for minutes where there is much, and is for threads.

    `is_hosted` tells by the canonical name which repositories are pushed to; `remove_leftovers` removes uploads that
    nobody goes on with and returns the bytes (Space.remove_leftovers). `grace` is in seconds.
    """

    def __init__(
        self,
        layout: Layout,
        index: Index,
        is_hosted: Callable[[str], bool],
        remove_leftovers: Callable[[], int],
        grace: float = GRACE,
    ) -> None:
        self._layout = layout
        self._index = index
        self._is_hosted = is_hosted
        self._remove_leftovers = remove_leftovers
        self._grace = grace
        self._lock = GcLock(layout)
        self._hosted = Hosted(layout)
        self._marked = Marked(layout)
        self._rows = Manifests(layout)
        self._tags = Tags(layout)
        self._referrers = PushedReferrers(layout)
        self._references = References(layout)
        self._pins = Pins(layout)
        self._sets = Sets(layout)
        self._brake = Brake(layout)

    def collect(
        self, freed: Callable[[Digest, int], None] | None = None, *, dry_run: bool = False, yes: bool = False
    ) -> Freed:
        """Remove what nothing names, or only say what that is; `freed` is called with each digest and its bytes.

        Raises CollectionStopped where that is more than a tenth of the store, unless `yes`; NotYet where somebody else
        is at it, StoreUnreadable, StoreError, OSError: what is removed by then is garbage all the same, and running it
        again goes on.
        """
        alone = FileLock(self._layout.lock("gc run"))
        if not alone.try_acquire():
            raise NotYet("garbage is being collected by another process", "wait for it")
        try:
            return self._collect(freed or (lambda *_: None), dry_run, yes)
        finally:
            alone.release()

    def _collect(self, freed: Callable[[Digest, int], None], dry_run: bool, yes: bool) -> Freed:
        total = Freed()
        total.uploads = self._abandoned() if dry_run else self._remove_leftovers()
        stock = self._brake.stock()
        if not dry_run:
            self._check_presence(yes)
        self._marked.check()
        shares = -(-sum(1 for _ in self._hosted.walk()) // _SHARE)
        for share in range(shares):
            dead = self._unnamed(share, shares)
            if not dry_run:
                # Digests are spread evenly, so one share stands for all.
                sizes = [size for digest in dead if (size := self._size(digest)) is not None]
                self._brake.check("gc", Amount(len(sizes) * shares, sum(sizes) * shares), yes=yes, stock=stock)
            with self._marked.fewer(len(dead)) if dead and not dry_run else nullcontext():
                self._take(dead, total, freed, dry_run)
            if not dry_run:
                total.rows += self._take_dead_rows(dead)
        for name in find_repositories(self._layout):
            if self._is_hosted(name):
                total.rows += self._take_blob_rows(name, dry_run) + self._take_manifest_rows(name, dry_run)
        if not dry_run:
            _log.info("garbage_collected", **asdict(total))
        return total

    def _check_presence(self, yes: bool) -> None:
        """Raise CollectionStopped where much of what was pushed is not here: more likely a disk is not."""
        if yes:
            return
        names = (name for name in find_repositories(self._layout) if self._is_hosted(name))
        rows = (digest for name in names for digest in self._rows.list(name))
        marked = (marker.digest for marker in self._hosted.walk())
        for kind, digests in (("manifests of hosted repositories", rows), ("contents that were pushed", marked)):
            every = gone = 0
            for digest in digests:
                every += 1
                gone += self._size(digest) is None
            if (gone >= FEW and gone * SHARE > every) or gone == every > 1:
                what = f"{gone} of {every} {kind} are not here"
                self._brake.stop("gc", what)
                raise CollectionStopped(
                    f"nothing was taken: {what}",
                    "see whether all of the store is mounted (mirror scrub lists them); if they are lost, use --yes",
                )

    # -- content ---------------------------------------------------------------------------------------------

    def _unnamed(self, share: int, shares: int) -> dict[Digest, float]:
        """Return what is marked and named by nothing, with the time of its marker: one of several shares of it all."""
        until = time.time() - self._grace
        found = {
            marker.digest: marker.pushed
            for marker in self._hosted.walk()
            if marker.pushed < until and int(marker.digest.hex[:8], 16) % shares == share
        }
        with self._lock.removing(_PATIENCE):
            pass  # what was being pushed when the markers were looked at has its row now
        for text in self._pins.digests():
            found.pop(Digest.parse(text), None)
        for name in find_repositories(self._layout):
            if not found:
                break
            for digest in self._named(name):
                found.pop(digest, None)
        return found

    def _named(self, name: str) -> Iterator[Digest]:
        """Yield the manifests of a repository and what they name; all that it has, where one cannot be read or is lost.

        What was pushed is not evicted: where its content is not here, a disk has lost it, and a push may bring it back.
        """
        hosted = self._is_hosted(name)
        tagged = self._tagged(name) if hosted else set()
        unreadable, in_a_row = tagged is None, 0
        without_row = tagged or set()
        for digest in self._rows.list(name):
            yield digest
            without_row.discard(digest)
            unreadable = unreadable or (hosted and self._size(digest) is None)
            try:
                yield from self._references.named(name, digest)
                in_a_row = 0
            except (Corrupt, StoreUnreadable) as error:
                _log.warning("manifest_unreadable", name=name, digest=str(digest), why=error.what)
                unreadable = True
                in_a_row += isinstance(error, StoreUnreadable)
                if in_a_row >= UNREADABLE_IN_A_ROW:
                    raise
        for digest in without_row:  # which is lost: a tag goes before the row of its manifest
            yield digest
            with suppress(Corrupt, StoreUnreadable):
                yield from self._references.named(name, digest)
        if unreadable or without_row:
            yield from self._rows.list_blobs(name)

    def _take(
        self, dead: Mapping[Digest, float], total: Freed, freed: Callable[[Digest, int], None], dry_run: bool
    ) -> None:
        waiting = deque(dead.items())
        while waiting:
            began = time.monotonic()
            gone: list[tuple[Digest, int | None]] = []
            with self._lock.removing(_PATIENCE):
                while waiting and time.monotonic() < began + _HOLD:
                    digest, pushed = waiting.popleft()
                    size = self._size(digest)
                    if dry_run or self._remove(digest, pushed):
                        gone.append((digest, size))
            for digest, size in gone:
                if size is None:
                    total.markers += 1
                else:
                    total.contents += 1
                    total.bytes += size
                    freed(digest, size)
            if not dry_run:
                self._forget([digest for digest, _ in gone])
                time.sleep(time.monotonic() - began)  # the pushes that waited go first

    def _size(self, digest: Digest) -> int | None:
        found = files.modified(self._layout.blob(digest))
        return None if found is None else found[2]

    def _remove(self, digest: Digest, pushed: float) -> bool:
        """Remove content and marker, unless it was pushed, named or pinned since it was looked at; say whether."""
        # Nobody marks or pins anything meanwhile; a push marks before its content gets its name.
        with self._sets.pinning():
            marker = files.look(self._layout.marker(digest))
            if marker is None or marker.st_mtime != pushed or str(digest) in self._pins.digests():
                return False
            files.remove(self._layout.blob(digest))
            self._hosted.remove(digest)
            return True

    def _forget(self, digests: list[Digest]) -> None:
        try:
            self._index.forget(digests)
        except StoreError:
            _log.debug("rows_left", count=len(digests))  # housekeeping finds them

    # -- rows ------------------------------------------------------------------------------------------------

    def _take_blob_rows(self, name: str, dry_run: bool) -> int:
        """Remove the rows of blobs that are neither here nor being pushed; return how many."""
        count = 0
        for digest in self._rows.list_blobs(name):
            if not self._is_gone(digest):
                continue
            if dry_run:
                count += 1
                continue
            with self._sets.pinning():  # a push marks before it writes the row
                if self._is_gone(digest):
                    count += files.remove(self._layout.membership(name, digest))
        return count

    def _take_dead_rows(self, dead: Mapping[Digest, float]) -> int:
        """Remove the rows of blobs that were taken, where a pull has brought them again meanwhile; return how many.

        They are cache now, and no repository's that is pushed to: it would have a purge of that cache leave them.
        """
        back = [digest for digest in dead if self._size(digest) is not None and not self._hosted.has(digest)]
        if not back:
            return 0
        count = 0
        for name in find_repositories(self._layout):
            for digest in back if self._is_hosted(name) else ():
                # Nobody pushes a manifest meanwhile that claims it, nor the blob.
                with self._lock.removing(_PATIENCE), self._sets.pinning():
                    if not self._hosted.has(digest):
                        count += files.remove(self._layout.membership(name, digest))
        return count

    def _is_gone(self, digest: Digest) -> bool:
        return self._size(digest) is None and not self._hosted.has(digest)

    def _take_manifest_rows(self, name: str, dry_run: bool) -> int:
        """Remove the rows of manifests that are not here and have no tag, and of referrers that have no row."""
        dead = [digest for digest in self._rows.list(name) if self._size(digest) is None]
        if dead:
            tagged = self._tagged(name)
            dead = [digest for digest in dead if tagged is not None and digest not in tagged]
        count = 0
        for digest in dead:
            # A push has the content here before it writes the row, and shares the lock from before that.
            with self._lock.removing(_PATIENCE):
                if dry_run:
                    count += 1
                elif self._size(digest) is None:
                    count += files.remove(self._layout.manifest(name, digest))
        for subject, digest in self._referrers.walk(name):
            if dry_run or self._rows.modified(name, digest) is not None:
                continue
            with self._lock.removing(_PATIENCE):
                if self._rows.modified(name, digest) is None:
                    count += self._referrers.remove(name, subject, digest)
        return count

    def _tagged(self, name: str) -> set[Digest] | None:
        """Return what the tags of a repository mean, None where one of them does not say."""
        try:
            records = [self._tags.read(name, tag) for tag in self._tags.list(name)]
        except RecordDamaged as error:
            _log.warning("rows_kept", name=name, why=error.what, remedy=error.remedy)
            return None
        return {record.digest for record in records if record is not None}

    def _abandoned(self) -> int:
        """Return the bytes of uploads that nobody has gone on with."""
        size = 0
        for name in files.names(self._layout.uploads):
            path = str(self._layout.uploads / name)
            found = files.look(path)
            if name.endswith(".part") and found and max(found.st_mtime, found.st_ctime) < time.time() - AGE:
                size += allocated(path)
        return size
