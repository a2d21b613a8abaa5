"""A machine of rules: pushes, deletions and garbage collection of two processes on one store, in any order and at once.

The model knows for each repository its blobs, its manifests with what they name, and its tags; and what was pushed or
named since everything was last made old. What is old and named by nothing may go, and goes; all else stays.
"""

from __future__ import annotations

import asyncio
import os

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from mirror.content.answers import Target
from mirror.content.manifest_store import BlobNamed
from mirror.errors import ManifestBlobUnknown, NotHere
from mirror.oci.digest import Digest
from tests.faults.invariants import broken
from tests.model.walking import Walk, step
from tests.peers.images import noise
from tests.unit.content.hosted_bed import Shelf, image, index

NAMES = ("team/a", "team/b")
TARGETS = {name: Target("", name, name, hosted=True) for name in NAMES}
BLOBS = [noise(300, seed) for seed in range(6)]
TAGS = ("v1", "v2")

names = st.sampled_from(NAMES)
blobs = st.integers(0, len(BLOBS) - 1)
layers = st.lists(blobs, min_size=1, max_size=3, unique=True).map(tuple)
tags = st.sampled_from((None, *TAGS))
which = st.integers(0, 1)


def body_of(chosen: tuple[int, ...]) -> bytes:
    """Return the image whose config and layers are these blobs."""
    first, *rest = (BLOBS[number] for number in chosen)
    return image(*rest, config=first)


def text(content: bytes) -> str:
    return str(Digest.of(content))


class Collecting(Walk):
    """Two processes on one store."""

    def __init__(self) -> None:
        super().__init__()
        self.shelves: list[Shelf] = []
        self.members: dict[str, set[str]] = {name: set() for name in NAMES}
        self.manifests: dict[str, dict[str, set[str]]] = {name: {} for name in NAMES}
        self.bodies: dict[str, bytes] = {}
        self.meant: dict[tuple[str, str], str] = {}
        self.young: set[str] = set()

    async def open(self) -> Shelf:
        return Shelf(self.folder)

    @property
    def named(self) -> set[str]:
        """All that may not go: manifests, and what they name."""
        return {
            digest
            for found in self.manifests.values()
            for manifest, parts in found.items()
            for digest in (manifest, *parts)
        }

    @property
    def stored(self) -> set[str]:
        return self.shelves[0].stored()

    # -- the world -----------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.shelves = [self.do(self.open()) for _ in range(2)]

    @step(number=which)
    def restart(self, number: int) -> None:
        self.do(self.shelves[number].close())
        self.shelves[number] = self.do(self.open())

    @step()
    def grow_old(self) -> None:
        self.shelves[0].age()
        self.young = set()

    # -- one after the other -------------------------------------------------------------------------------------

    @step(number=which, name=names, blob=blobs)
    def push_blob(self, number: int, name: str, blob: int) -> None:
        self.do(self.shelves[number].blob(BLOBS[blob], TARGETS[name]))
        self.pushed_blob(name, blob)

    def pushed_blob(self, name: str, blob: int) -> None:
        self.members[name].add(text(BLOBS[blob]))
        self.young.add(text(BLOBS[blob]))

    @step(number=which, name=names, source=names, blob=blobs)
    def mount(self, number: int, name: str, source: str, blob: int) -> None:
        digest = Digest.of(BLOBS[blob])
        done = self.do(
            self.shelves[number].pushes.uploads.mount(TARGETS[name], digest, TARGETS[source], lambda _: True, "ci")
        )
        assert done == (str(digest) in self.members[source])
        if done:
            self.pushed_blob(name, blob)

    @step(number=which, name=names, chosen=layers, tag=tags)
    def push_image(self, number: int, name: str, chosen: tuple[int, ...], tag: str | None) -> None:
        whole = {text(BLOBS[blob]) for blob in chosen} <= self.members[name]
        self.push(number, name, body_of(chosen), tag, {text(BLOBS[blob]) for blob in chosen}, whole)

    @step(number=which, name=names, picks=st.lists(st.integers(0, 20), max_size=2), tag=tags)
    def push_index(self, number: int, name: str, picks: list[int], tag: str | None) -> None:
        known = sorted(self.bodies)
        children = sorted({known[pick % len(known)] for pick in picks}) if known else []
        body = index(*(self.bodies[child] for child in children))
        self.push(number, name, body, tag, set(children), set(children) <= set(self.manifests[name]))

    def push(self, number: int, name: str, body: bytes, tag: str | None, parts: set[str], whole: bool) -> None:
        try:
            self.do(self.shelves[number].manifest(body, tag, TARGETS[name]))
        except ManifestBlobUnknown:
            assert not whole, "a whole manifest was refused"
            self.young |= parts & self.stored
            return
        assert whole, "a manifest was taken that is not whole"
        self.took(name, body, tag, parts)

    def took(self, name: str, body: bytes, tag: str | None, parts: set[str]) -> None:
        digest = text(body)
        self.bodies[digest] = body
        self.manifests[name][digest] = parts
        self.young |= {digest, *parts}
        if tag is not None:
            self.meant[name, tag] = digest

    @step(number=which, name=names, tag=st.sampled_from(TAGS))
    def delete_tag(self, number: int, name: str, tag: str) -> None:
        try:
            self.do(self.shelves[number].hosted.delete_tag(TARGETS[name], tag, "ci"))
        except NotHere:
            assert (name, tag) not in self.meant
        self.meant.pop((name, tag), None)

    @step(number=which, name=names, pick=st.integers(0, 20))
    def delete_manifest(self, number: int, name: str, pick: int) -> None:
        known = sorted(self.bodies)
        if not known:
            return
        digest = known[pick % len(known)]
        try:
            self.do(self.shelves[number].hosted.delete_manifest(TARGETS[name], Digest.parse(digest), "ci"))
        except NotHere:
            assert digest not in self.manifests[name]
        self.manifests[name].pop(digest, None)
        for tag in TAGS:
            if self.meant.get((name, tag)) == digest:
                del self.meant[name, tag]

    @step(number=which, name=names, blob=blobs)
    def delete_blob(self, number: int, name: str, blob: int) -> None:
        digest = text(BLOBS[blob])
        is_named = any(digest in parts for parts in self.manifests[name].values())
        try:
            self.do(self.shelves[number].hosted.delete_blob(TARGETS[name], Digest.parse(digest), "ci"))
        except NotHere:
            assert digest not in self.members[name]
        except BlobNamed:
            assert is_named, "a blob stays that nothing names"
        else:
            assert not is_named, "a blob went that a manifest names"
            self.members[name].discard(digest)

    @step(number=which, dry_run=st.booleans())
    def collect(self, number: int, dry_run: bool) -> None:
        self.collected(number, dry_run=dry_run)

    def collected(self, number: int, *, dry_run: bool = False) -> None:
        before, dead = self.stored, self.stored - self.named - self.young
        _, gone = self.do(asyncio.to_thread(lambda: self.shelves[number].collect(dry_run=dry_run)))
        assert set(gone) == dead
        if dry_run:
            assert self.stored == before
            return
        assert self.stored == before - dead
        for name in NAMES:
            self.members[name] -= dead
            rows = self.shelves[0].pushes.rows
            assert set(map(str, rows.list_blobs(name))) == self.members[name]
            assert set(map(str, rows.list(name))) == set(self.manifests[name])

    # -- all at once ---------------------------------------------------------------------------------------------

    @step(
        images=st.lists(st.tuples(names, layers, tags), min_size=1, max_size=4),
        again=st.lists(st.tuples(names, blobs), max_size=2),
        first=st.booleans(),
    )
    def at_once(
        self, images: list[tuple[str, tuple[int, ...], str | None]], again: list[tuple[str, int]], first: bool
    ) -> None:
        """Manifests and blobs are pushed while garbage is collected."""
        doomed = self.stored - self.named - self.young
        certain = {name: self.members[name] - doomed for name in NAMES}
        results = self.do(self._at_once(images, again, first))
        for name, blob in again:
            self.pushed_blob(name, blob)
        moved: dict[tuple[str, str], set[str]] = {}
        for (name, chosen, tag), taken in zip(images, results, strict=True):
            parts = {text(BLOBS[blob]) for blob in chosen}
            if taken:
                self.took(name, body_of(chosen), None, parts)
                if tag is not None:
                    moved.setdefault((name, tag), set()).add(text(body_of(chosen)))
            else:
                assert not parts <= certain[name], "a whole manifest was refused"
                self.young |= parts & self.stored  # as for one that is refused while nothing else is done
        for (name, tag), may_mean in moved.items():
            found = str(self.do(self.shelves[0].pull(tag, TARGETS[name])).digest)
            assert found in may_mean
            self.meant[name, tag] = found
        lost = (self.named | self.young) - self.stored
        assert not lost, f"lost: {lost}"
        self.young |= doomed & self.stored  # named by a push, though perhaps by one that was refused
        rows = self.shelves[0].pushes.rows
        for name in NAMES:
            kept = {digest for digest in doomed if rows.is_member(name, Digest.parse(digest))}
            pushed = {text(BLOBS[blob]) for one, blob in again if one == name}
            self.members[name] -= doomed - (kept & self.stored) - pushed

    async def _at_once(
        self, images: list[tuple[str, tuple[int, ...], str | None]], again: list[tuple[str, int]], first: bool
    ) -> list[bool]:
        async def push(number: int, name: str, chosen: tuple[int, ...], tag: str | None) -> bool:
            try:
                await self.shelves[number % 2].manifest(body_of(chosen), tag, TARGETS[name])
            except ManifestBlobUnknown:
                return False
            return True

        collecting = asyncio.create_task(asyncio.to_thread(self.shelves[0].collect))
        if first:
            await asyncio.sleep(0.002)
        pushing = [push(number, *one) for number, one in enumerate(images)]
        others = [self.shelves[1].blob(BLOBS[blob], TARGETS[name]) for name, blob in again]
        taken = await asyncio.gather(*pushing, *others)
        await collecting
        return [bool(one) for one in taken[: len(images)]]

    # -- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def nothing_live_is_lost(self) -> None:
        if not self.shelves:
            return
        shelf = self.shelves[0]
        with self.explained():
            assert broken(shelf.layout) == []
            assert self.named | self.young <= self.stored
            assert self.stored <= shelf.marked()
            for name, found in self.manifests.items():
                for digest in found:
                    assert os.path.exists(shelf.layout.manifest(name, Digest.parse(digest)))
                for digest in self.members[name]:
                    assert os.path.exists(shelf.layout.membership(name, Digest.parse(digest)))

    def teardown(self) -> None:
        try:
            if self.shelves:
                with self.explained():
                    self.end()
        finally:
            for shelf in self.shelves:
                self.do(shelf.close())
            self.leave()

    def end(self) -> None:
        """All that should be here is pulled; then all is deleted, and everything must be free."""
        for (name, tag), digest in self.meant.items():
            for shelf in self.shelves:
                assert self.do(shelf.pull(tag, TARGETS[name])).body == self.bodies[digest]
        for name, found in self.manifests.items():
            for digest, parts in found.items():
                assert self.do(self.shelves[1].pull(Digest.parse(digest), TARGETS[name])).body == self.bodies[digest]
                for part in parts & self.members[name]:
                    self.do(self.shelves[1].content.blob_head(TARGETS[name], Digest.parse(part)))
        self.grow_old_now()
        self.collected(0)
        assert self.stored == self.shelves[0].marked() == self.named
        for name in NAMES:
            for digest in list(self.manifests[name]):
                self.do(self.shelves[1].hosted.delete_manifest(TARGETS[name], Digest.parse(digest), "ci"))
            self.manifests[name] = {}
        self.collected(1)
        assert self.stored == self.shelves[0].marked() == set()

    def grow_old_now(self) -> None:
        self.shelves[0].age()
        self.young = set()
