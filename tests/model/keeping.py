"""A machine of rules: pulls, pushes, pins, purges, evictions, gc and scrubs by two processes, many of them at once.

The model knows what must be here: what is pinned and was here when it was, what was pushed and is named or young. All
of that stays, whatever is done at once; and whoever pulls gets the right bytes, whatever is taken away meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant

from mirror.admin.scrub import Scrubber
from mirror.content.answers import Target
from mirror.content.garbage import hosted_by
from mirror.content.heal import Healer
from mirror.errors import MirrorError, NotHere, StoreUnreadable
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.store.faults import DISK_FAULTS
from mirror.store.marked import Marked
from mirror.store.marking import mark_if_lost
from mirror.store.pins import ImagePins, pin_image
from mirror.store.purge import Purged, Purger
from mirror.store.sets import Sets
from tests.faults.invariants import downloads_can_go_on, sealed_files_hash_to_their_names, tags_name_what_is_a_manifest
from tests.model.universe import ALL_BLOBS, IMAGES, MANIFESTS, REPOSITORIES, TRUTH, parts
from tests.model.walking import Result, Walk, step
from tests.peers.images import Image
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import read
from tests.unit.content.hosted_bed import Shelf, image

APPS = ("apps/a", "apps/b")
ATTEMPTS = 4  # a pull may join a download that another one's end ends

names = st.sampled_from(REPOSITORIES)
numbers = st.integers(0, 1)
apps = st.sampled_from(APPS)
which = st.integers(0, 1)
layers = st.lists(st.sampled_from(ALL_BLOBS), min_size=1, max_size=3, unique=True).map(tuple)
generations = st.integers(1, 2)
# What `purge` is given: the repository, a tag, a manifest, or a blob.
purges = st.tuples(names, st.sampled_from(["all", "tag", "manifest", "blob"]), numbers)


def tag_of(number: int) -> str:
    return f"v{number}"


def target_of(name: str) -> Target:
    return Target("lab", name, f"lab/{name}")


def hosted(name: str) -> Target:
    return Target("", name, name, hosted=True)


def needs(one: Image) -> set[str]:
    return {one.digest, *parts(one)}


class Keeping(Walk):
    """Two processes on one store, one upstream that is always well."""

    def __init__(self) -> None:
        super().__init__()
        self.upstream = ScriptedRegistry()
        self.shelves: list[Shelf] = []
        self.pins: dict[str, set[str]] = {}  # what pins: the digests that were here when it was written
        self.manifests: dict[str, dict[str, set[str]]] = {name: {} for name in APPS}
        self.bodies: dict[str, bytes] = {}
        self.young: set[str] = set()
        self.spoilt: set[str] = set()  # damaged, until a scrub
        self.lost: set[str] = set()  # damaged, and nobody can give it again
        self.nobodys: set[str] = set()  # was deleted and lost its marker while something pinned it: no purge knows it

    # -- what the rules are made of ------------------------------------------------------------------------------

    @property
    def layout(self):
        return self.shelves[0].layout

    @property
    def stored(self) -> set[str]:
        return self.shelves[0].stored()

    @property
    def named(self) -> set[str]:
        """All that was pushed and may not go."""
        return {
            digest for found in self.manifests.values() for manifest, of in found.items() for digest in (manifest, *of)
        }

    @property
    def live(self) -> set[str]:
        """All that must be here."""
        return (set().union(*self.pins.values()) | self.named | self.young) - self.spoilt - self.lost

    def why_live(self, digest: str) -> str:
        pins = [pin for pin, found in self.pins.items() if digest in found]
        named = [
            f"{name}@{one}" for name, known in self.manifests.items() for one in known if digest in (one, *known[one])
        ]
        here = f"pinned {digest in self.known_pins()}, marked {digest in self.shelves[0].marked()}"
        return f"pins {pins}, named by {named}, young {digest in self.young}; in the store it is {here}"

    async def open(self) -> Shelf:
        document = {
            "upstreams": {"lab": {"endpoints": [self.upstream.url], "tags": {"fresh_for": "0s"}}},
            "hosted": ["apps/**"],
        }
        return Shelf(self.folder, document)

    def purger(self, number: int) -> Purger:
        return Purger(self.layout, self.shelves[number].room.space.eviction)

    # -- the world -----------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.do(self.upstream.start())
        for name in REPOSITORIES:
            for number, one in enumerate(IMAGES[name]):
                for blob in (one.config, *one.layers):
                    self.upstream.add_blob(name, blob)
                self.upstream.add_manifest(name, one.manifest, one.media_type, tag_of(number))
        self.shelves = [self.do(self.open()) for _ in range(2)]

    @step(number=which)
    def restart(self, number: int) -> None:
        self.do(self.shelves[number].close())
        self.shelves[number] = self.do(self.open())

    @step()
    def grow_old(self) -> None:
        self.shelves[0].age()
        self.young = set()

    @step(pick=st.integers(0, 20), how=st.sampled_from(["flip", "delete"]))
    def damage(self, pick: int, how: str) -> None:
        stored = sorted(self.stored - self.spoilt)
        if not stored:
            return
        digest = stored[pick % len(stored)]
        path = Path(self.layout.blob(Digest.parse(digest)))
        before = path.stat()
        if how == "delete" or not before.st_size:
            path.unlink()
        else:
            content = path.read_bytes()
            path.chmod(0o600)
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
            path.chmod(0o440)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.spoilt.add(digest)
        # Nothing is read before it is scrubbed: a sealed file is believed, which is not what is tried here.
        self.scrubbed(0)

    # -- one after the other -------------------------------------------------------------------------------------

    @step(number=which, name=names, which_image=numbers)
    def pull(self, number: int, name: str, which_image: int) -> None:
        self.do(self.pulled(number, name, which_image))
        one = IMAGES[name][which_image]
        assert needs(one) <= self.stored
        self.lost -= self.stored
        for pin, digests in self.pins.items():
            if pin.startswith((f"lab/{name}@{one.digest}", f"set {one.digest}")):
                digests |= needs(one)

    async def pulled(self, number: int, name: str, which_image: int) -> None:
        """Pull an image as a node does; every byte of it must come and be right."""
        one = IMAGES[name][which_image]
        answer = await self.asked(lambda: self.shelves[number].pull(tag_of(which_image), target_of(name)))
        assert answer.body == one.manifest
        for digest in parts(one):
            assert await self.asked(lambda digest=digest: self.blob(number, name, digest)) == TRUTH[digest]
        await self.settled(number)

    async def blob(self, number: int, name: str, digest: str) -> bytes:
        content = self.shelves[number].content
        target, parsed = target_of(name), Digest.parse(digest)
        answer = content.blob_now(target, parsed) or await content.blob(target, parsed, None)
        await asyncio.sleep(0)  # whoever purges now takes it from under a reader
        return await read(answer)

    async def asked(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        for attempt in range(ATTEMPTS):
            try:
                return await ask()
            except MirrorError:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.02)
        raise AssertionError

    async def settled(self, number: int) -> None:
        room = self.shelves[number].room
        while room.content._fetcher._fills or room.content._members._grants:
            await asyncio.sleep(0.002)

    @step(number=which, name=apps, chosen=layers)
    def push(self, number: int, name: str, chosen: tuple[str, ...]) -> None:
        self.do(self.pushed(number, name, chosen))
        self.took(name, chosen)

    async def pushed(self, number: int, name: str, chosen: tuple[str, ...]) -> None:
        shelf = self.shelves[number]
        for digest in chosen:
            await shelf.blob(TRUTH[digest], hosted(name))
        await shelf.manifest(body_of(chosen), "latest", hosted(name))

    def took(self, name: str, chosen: tuple[str, ...]) -> None:
        digest = str(Digest.of(body_of(chosen)))
        self.bodies[digest] = body_of(chosen)
        self.manifests[name][digest] = set(chosen)
        self.young |= {digest, *chosen}
        self.lost -= {digest, *chosen}

    @step(number=which, name=apps, pick=st.integers(0, 20))
    def delete(self, number: int, name: str, pick: int) -> None:
        self.delete_one(number, name, pick)

    def delete_one(self, number: int, name: str, pick: int) -> None:
        known = sorted(self.manifests[name])
        if known:
            digest = known[pick % len(known)]
            self.do(self.shelves[number].hosted.delete_manifest(hosted(name), Digest.parse(digest), "ci"))
            del self.manifests[name][digest]

    @step(number=which)
    def abandon(self, number: int) -> None:
        """All that was pushed is deleted, and collected once it is old: what is pinned or cached otherwise stays."""
        for name in APPS:
            for _ in list(self.manifests[name]):
                self.delete_one(number, name, 0)
        self.shelves[0].age()
        self.young = set()
        self.collected(number)

    @step(name=names, which_image=numbers)
    def pin(self, name: str, which_image: int) -> None:
        self.pinned(name, which_image)

    def pinned(self, name: str, which_image: int) -> None:
        one = IMAGES[name][which_image]
        key = f"lab/{name}@{one.digest}"
        try:
            made, absent = pin_image(self.layout, f"lab/{name}", Digest.parse(one.digest), "model")
        except NotHere:
            return
        assert {str(digest) for digest in made.content} == needs(one)
        self.pins[key] = needs(one) - {str(digest) for digest in absent}

    @step(name=names, which_image=numbers)
    def unpin(self, name: str, which_image: int) -> None:
        one = IMAGES[name][which_image]
        gone = ImagePins(self.layout).remove(f"lab/{name}", Digest.parse(one.digest))
        assert gone == (self.pins.pop(f"lab/{name}@{one.digest}", None) is not None)

    @step(name=names, which_image=numbers, generation=generations)
    def keep_set(self, name: str, which_image: int, generation: int) -> None:
        """A sync begins: its plan pins all of an image, here or not."""
        self.give_up_set(generation)
        one = IMAGES[name][which_image]
        entries = [{"digest": digest, "size": len(TRUTH[digest])} for digest in sorted(needs(one))]
        plan = json.dumps({"manifests": entries[:1], "blobs": entries[1:]}).encode()
        Sets(self.layout).write("prod", generation, plan)
        self.pins[f"set {one.digest} {generation}"] = needs(one) & self.stored

    @step(generation=generations)
    def drop_set(self, generation: int) -> None:
        self.give_up_set(generation)

    def give_up_set(self, generation: int) -> None:
        Sets(self.layout).remove("prod", generation)
        self.pins = {key: found for key, found in self.pins.items() if not key.endswith(f" {generation}")}

    @step(number=which, what=purges, dry_run=st.booleans())
    def purge(self, number: int, what: tuple[str, str, int], dry_run: bool) -> None:
        before, live = self.stored, self.live
        total, gone = self.purged(number, what, dry_run=dry_run)
        assert total.contents == len(gone)
        assert not gone & live, "what is live is said to go"
        if dry_run:
            assert self.stored == before
            again, really = self.purged(number, what)
            assert (again, really) == (total, gone), "a dry run says something else than what is done"
        assert self.stored == before - gone
        name, kind, _ = what
        others = {digest for other in REPOSITORIES if other != name for digest in self.known(other)}
        if kind == "all":
            left = self.known(name) & self.stored
            kept = set().union(*self.pins.values()) | self.known_pins()
            assert left <= kept | others | self.shelves[0].marked(), "something stays that nothing keeps"

    def known_pins(self) -> set[str]:
        return {str(digest) for one in ImagePins(self.layout).list() for digest in one.content} | {
            str(entry["digest"])
            for number in Sets(self.layout).generations("prod")
            for kind in ("manifests", "blobs")
            for entry in json.loads(Sets(self.layout).read("prod", number) or b"")[kind]
        }

    def known(self, name: str, upstream: str = "lab/") -> set[str]:
        rows = self.shelves[0].pushes.rows
        return {*map(str, rows.list(f"{upstream}{name}")), *map(str, rows.list_blobs(f"{upstream}{name}"))}

    @property
    def of_repositories(self) -> set[str]:
        """What the repositories that are pulled through have."""
        return {digest for name in REPOSITORIES for digest in self.known(name)}

    def purged(self, number: int, what: tuple[str, str, int], *, dry_run: bool = False) -> tuple[Purged, set[str]]:
        """Purge, in this thread; return what was said."""
        name, kind, which_image = what
        one, canonical = IMAGES[name][which_image], f"lab/{name}"
        gone: set[str] = set()

        def say(digest: Digest, size: int) -> None:
            assert size == len(TRUTH[str(digest)])
            gone.add(str(digest))

        purger = self.purger(number)
        if kind == "all":
            return purger.repository(canonical, say, dry_run=dry_run), gone
        if kind == "tag":
            return purger.tag(canonical, tag_of(which_image), say, dry_run=dry_run), gone
        digest = one.digest if kind == "manifest" else parts(one)[-1]
        return purger.digest(canonical, Digest.parse(digest), say, dry_run=dry_run), gone

    @step(number=which, what=purges, after=st.integers(0, 20))
    def kill_purge(self, number: int, what: tuple[str, str, int], after: int) -> None:
        """A purge ends before one of its changes; what is left goes at the end as if it had not been begun."""
        with killed_after(after), contextlib.suppress(KilledError):
            self.purged(number, what)

    @step(number=which, needed=st.sampled_from([1, 100_000, 10**9]))
    def evict(self, number: int, needed: int) -> None:
        self.shelves[number].room.space.eviction.free(needed)

    @step(number=which)
    def collect(self, number: int) -> None:
        self.collected(number)

    def collected(self, number: int) -> None:
        before = self.stored
        _, gone = self.do(asyncio.to_thread(self.shelves[number].collect))
        assert not set(gone) & self.live
        assert self.stored == before - set(gone)

    @step(number=which)
    def scrub(self, number: int) -> None:
        self.scrubbed(number)

    def scrubbed(self, number: int) -> None:
        spoilt, self.spoilt = self.spoilt, set()
        wanted = set().union(*self.pins.values()) | self.named | self.young
        self.do(self._scrub(number))
        # What was pushed and no upstream has is lost: there it is only said.
        self.lost = (self.lost | spoilt & wanted) - self.stored
        for found in self.manifests.values():
            for digest in self.lost & set(found):
                del found[digest]  # it cannot be pulled; what it named stays until it is deleted
        # What was pushed within a day may be on its way, and so may be what a generation needs that is not complete.
        images = (found for pin, found in self.pins.items() if not pin.startswith("set "))
        left = {one for one in (self.lost - self.young) & self.named.union(*images) if self.has_upstream(one)}
        assert not left, f"what an upstream has is not had again: {left}"

    def has_upstream(self, digest: str) -> bool:
        return digest in TRUTH and digest in self.of_repositories

    async def _scrub(self, number: int) -> None:
        room = self.shelves[number].room
        healer = Healer(self.layout, room.content, room.readers)
        scrubber = Scrubber(self.layout, room.quarantine, Metrics(), healer.heal, room.readers)
        await scrubber.all(0, lambda _: None)

    @step(number=which)
    def lose_markers(self, number: int) -> None:
        """Somebody empties hosted/: nothing goes until it is found out again what was pushed, which is all of it."""
        self.keep_marks(number)  # as housekeeping does every few seconds
        before, marked = self.stored, self.shelves[number].marked()
        for folder in list(self.layout.hosted.glob("*")):
            shutil.rmtree(folder)
        if marked:
            self.shelves[number].room.space.eviction.free(10**9)
            assert self.stored == before, "something went although nobody knew what was pushed"
            with pytest.raises(StoreUnreadable):
                self.shelves[number].collect()
        self.keep_marks(number)
        assert self.named & self.stored <= self.shelves[number].marked()
        # What was deleted and not collected is nobody's now: cache, which goes as such, however young.
        self.young &= {digest for name in APPS for digest in self.known(name, "")}
        self.write_uses()
        self.shelves[number].room.space.eviction.free(10**9)
        self.nobodys |= self.stored - self.shelves[number].marked() - self.of_repositories

    def write_uses(self) -> None:
        """As each process does every few seconds: until then only it knows of what it has brought."""
        for shelf in self.shelves:
            shelf.room.space.eviction.write_uses()

    def keep_marks(self, number: int) -> None:
        for _ in mark_if_lost(self.layout, Marked(self.layout), hosted_by(self.shelves[number].content.resolve)):
            pass

    # -- a disk that does not give what it has ---------------------------------------------------------------------

    @step(
        number=which,
        picks=st.lists(st.integers(0, 40), min_size=1, max_size=3),
        rows=st.booleans(),
        deeds=st.lists(st.sampled_from(["scrub", "gc", "evict", "purge", "pull"]), min_size=1, max_size=3),
    )
    def fail_to_read(self, number: int, picks: list[int], rows: bool, deeds: list[str]) -> None:
        """Some files cannot be read for a while: what must be here stays where it is, and is served after that."""
        places = sorted(self.stored & self.live)
        sick = {self.layout.blob(Digest.parse(places[pick % len(places)])) for pick in picks} if places else set()
        if rows:
            known = sorted(map(str, self.layout.repositories.glob("**/_manifests/*/*")))
            sick |= {known[pick % len(known)] for pick in picks} if known else set()
        before = self.live & self.stored
        with unreadable(sick):
            for deed in deeds:
                with contextlib.suppress(MirrorError, OSError):
                    self.do(self._take_patiently(number, deed))
            assert before <= self.stored, "what must be here was moved because it could not be read"
        assert before <= self.stored
        DISK_FAULTS.retry()
        for name, found in self.manifests.items():
            for digest, of in found.items():
                if not self.lost & {digest, *of}:
                    got = self.do(self.shelves[number].pull(Digest.parse(digest), hosted(name)))
                    assert got.body == self.bodies[digest]

    async def _take_patiently(self, number: int, deed: str) -> None:
        if deed == "pull":
            await self.pulled(number, REPOSITORIES[number], number)
        elif deed == "purge":
            await asyncio.to_thread(self.purged, number, (REPOSITORIES[number], "all", 0))
        else:
            await self._take(number, deed, 10**9)

    # -- all at once ---------------------------------------------------------------------------------------------

    @step(
        pulls=st.lists(st.tuples(which, names, numbers), min_size=1, max_size=4),
        pushes=st.lists(st.tuples(which, apps, layers), max_size=2),
        takes=st.lists(
            st.one_of(
                purges.map(lambda what: ("purge", what)),
                st.just(("gc", None)),
                st.just(("scrub", None)),
                st.sampled_from([1, 10**9]).map(lambda needed: ("evict", needed)),
            ),
            min_size=1,
            max_size=4,
        ),
        pins=st.lists(st.tuples(names, numbers), max_size=1),
    )
    def at_once(
        self,
        pulls: list[tuple[int, str, int]],
        pushes: list[tuple[int, str, tuple[str, ...]]],
        takes: list[tuple[str, Any]],
        pins: list[tuple[str, int]],
    ) -> None:
        """Nodes pull and somebody pushes and pins, while others purge, evict, collect garbage and scrub."""
        self.do(self._at_once(pulls, pushes, takes, pins))
        for _, name, chosen in pushes:
            self.took(name, chosen)
        # A tag may mean what went in the moment before it was written; the next pull brings that again.
        for name in REPOSITORIES:
            for number in (0, 1):
                self.do(self.pulled(0, name, number))
        self.lost -= self.stored

    async def _at_once(
        self,
        pulls: list[tuple[int, str, int]],
        pushes: list[tuple[int, str, tuple[str, ...]]],
        takes: list[tuple[str, Any]],
        pins: list[tuple[str, int]],
    ) -> None:
        async def push(number: int, name: str, chosen: tuple[str, ...]) -> None:
            await self.pushed(number, name, chosen)

        await asyncio.gather(
            *(self.pulled(*one) for one in pulls),
            *(push(*one) for one in pushes),
            *(self._take(number % 2, *one) for number, one in enumerate(takes)),
            *(asyncio.to_thread(self.pinned, *one) for one in pins),
        )

    async def _take(self, number: int, how: str, what: Any) -> None:
        shelf = self.shelves[number]
        if how == "purge":
            await asyncio.to_thread(self.purged, number, what)
        elif how == "gc":
            with contextlib.suppress(MirrorError):  # somebody else is at it
                await asyncio.to_thread(shelf.collect)
        elif how == "scrub":
            await self._scrub(number)
        else:
            await asyncio.to_thread(shelf.room.space.eviction.free, what)

    # -- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def nothing_live_is_lost(self) -> None:
        if not self.shelves:
            return
        with self.explained():
            missing = self.live - self.stored
            assert not missing, f"lost: { {digest: self.why_live(digest) for digest in missing} }"
            rows = self.shelves[0].pushes.rows
            for one in ImagePins(self.layout).list():
                known = rows.modified(one.name, one.digest) is not None or rows.is_member(one.name, one.digest)
                assert known, f"{one} is pinned and has lost its name"
            assert sealed_files_hash_to_their_names(self.layout) == []
            assert tags_name_what_is_a_manifest(self.layout) == []
            assert downloads_can_go_on(self.layout, TRUTH.get) == []

    def teardown(self) -> None:
        try:
            if self.shelves:
                with self.explained():
                    self.end()
        finally:
            for shelf in self.shelves:
                self.do(shelf.close())
            self.do(self.upstream.stop())
            self.leave()

    def end(self) -> None:
        """What was pushed is pulled. Then everything is given up, and all of it goes."""
        for name, found in self.manifests.items():
            for digest, of in found.items():
                if not self.lost & {digest, *of}:
                    assert self.do(self.shelves[1].pull(Digest.parse(digest), hosted(name))).body == self.bodies[digest]
        for one in ImagePins(self.layout).list():
            ImagePins(self.layout).remove(one.name, one.digest)
        for generation in (1, 2):
            self.give_up_set(generation)
        self.pins = {}
        for name in REPOSITORIES:
            self.purged(0, (name, "all", 0))
        left = self.stored - self.nobodys
        # An image that was pushed may be the very same as one that was pulled.
        assert left & MANIFESTS <= self.shelves[0].marked()
        assert left <= self.shelves[0].marked() | self.of_repositories, "only what was pushed is left"
        for name in APPS:
            # Those too whose content is lost: what they named is kept for as long as they are not deleted.
            for digest in list(self.shelves[1].pushes.rows.list(name)):
                self.do(self.shelves[1].hosted.delete_manifest(hosted(name), digest, "ci"))
            self.manifests[name] = {}
        self.shelves[0].age()
        self.young = set()
        self.do(asyncio.to_thread(self.shelves[0].collect))
        self.write_uses()
        for _ in range(2):  # without an index a scan of the files is believed for some seconds
            self.shelves[0].room.space.eviction.free(10**9)
        assert self.stored == set(), f"marked: {self.shelves[0].marked()}"


class KilledError(BaseException):
    """Ends work as a kill does: nothing is tidied up that Python would tidy."""


@contextlib.contextmanager
def killed_after(changes: int) -> Iterator[None]:
    """Let this thread rename and remove so many files, and raise KilledError at the next one."""
    left, thread = changes, threading.get_ident()

    def counting(real: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any, **more: Any) -> None:
            nonlocal left
            if threading.get_ident() == thread:
                left -= 1
                if left < 0:
                    raise KilledError
            real(*arguments, **more)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "unlink"):
            patch.setattr(os, name, counting(getattr(os, name)))
        yield


@contextlib.contextmanager
def unreadable(paths: set[str]) -> Iterator[None]:
    """Have no file of these give its bytes: EIO, as from a disk that is failing."""
    files_of_store = {os.path.realpath(path) for path in paths}

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def read_or_fail(fd: int, *arguments: Any) -> Any:
            if os.readlink(f"/proc/self/fd/{fd}") in files_of_store:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, *arguments)

        return read_or_fail

    with pytest.MonkeyPatch.context() as patch:
        for name in ("pread", "preadv"):
            patch.setattr(os, name, failing(getattr(os, name)))
        yield


def body_of(chosen: tuple[str, ...]) -> bytes:
    """Return the image whose config and layers are these blobs."""
    first, *rest = (TRUTH[digest] for digest in chosen)
    return image(*rest, config=first)
