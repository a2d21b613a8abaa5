"""A machine of rules: what clients, upstreams, operators and crashes do to a store, in any order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition

from mirror.config import load
from mirror.content.answers import BlobAnswer, ByteRange, RangeUnsatisfiable, Target
from mirror.errors import MirrorError, NotHere
from mirror.oci.digest import Digest
from mirror.store.adopt import adopt_all
from mirror.upstream.retry import RetryAllowance
from tests.faults.hurry import hurry
from tests.faults.invariants import (
    contents,
    downloads_can_go_on,
    sealed_files_hash_to_their_names,
    tags_name_what_is_a_manifest,
)
from tests.model.universe import (
    ALL_BLOBS,
    ALL_IMAGES,
    IMAGES,
    MANIFESTS,
    MEDIA_TYPE,
    REPOSITORIES,
    TAGS,
    TRUTH,
    Model,
    parts,
)
from tests.model.walking import Walk, step
from tests.peers import faults
from tests.peers.images import OCI_INDEX, OCI_MANIFEST, digest_of, make_image, make_index
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

HOLD_BACK = 64 * 1024  # what nobody gets before the digest agrees (DESIGN 2.4)
ATTEMPTS = 3  # a pull may join one that an earlier fault ends; the next one begins anew
PATIENT = 10.0  # seconds of a client's patience, where the deadlines of a walk are not meant to be met
_NEXT = 0.02  # seconds before a client asks again
HARMLESS = (
    faults.Truncate(100),
    faults.Truncate(70_000),
    faults.Truncate(70_000, rst=True),
    faults.Status(500),
    faults.Status(404),
    faults.Status(403),
    faults.TooMany(),
    faults.HangHeaders(0.02),
    faults.HangHeaders(),
    faults.Stall(50_000, 0.02),
    faults.NoLength(),
    faults.NoLength(at=200),
    faults.Gzip(),
    faults.Html(),
    faults.IgnoreRange(),
    faults.WrongContentRange(),
    faults.CloseBeforeHeaders(),
    faults.LieLength(5),
    faults.LieLength(-5),
)
FLIPS = (faults.FlipBit(10), faults.FlipBit(-10))
DAMAGES = ("delete", "truncate", "flip", "grow", "touch", "unseal", "symlink")

names = st.sampled_from(REPOSITORIES)
tags = st.sampled_from(TAGS)
which = st.integers(0, 1)
ranges = st.one_of(
    st.none(),
    st.builds(ByteRange, st.sampled_from([0, 1, 299, 65_536, 150_000]), st.sampled_from([None, 200_000, 150_010])),
    st.builds(ByteRange, st.none(), st.sampled_from([1, 70_000])),
)


# A repository that anybody can have name anything, and who may pull what.
NAMING = "pub/naming"
PRIVATE = "team/b"
RULES = [{"who": "robot+alice", "repositories": [f"lab/{PRIVATE}"], "may": ["pull"]}]
NAMES_ALL = {
    "blobs": (make_image(*(TRUTH[digest] for digest in ALL_BLOBS), seed=50).manifest, OCI_MANIFEST),
    "images": (make_index(*ALL_IMAGES), OCI_INDEX),
}
EVERYTHING = {**TRUTH, **{digest_of(body): body for body, _ in NAMES_ALL.values()}}
CLIENTS = {"anonymous": {f"lab/{name}" for name in (*REPOSITORIES, NAMING)} - {f"lab/{PRIVATE}"}}
CLIENTS["alice"] = CLIENTS["anonymous"] | {f"lab/{PRIVATE}"}


class Left(Exception):
    """The client went away."""


class PullPath(Walk):
    """One store, one or two processes on it, one upstream; `model` says what may be true of them."""

    def __init__(self) -> None:
        super().__init__()
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.upstream = ScriptedRegistry()
        self.up = True
        self.offline = False
        self.private = False
        self.rooms: list[Room] = []
        self.model = Model()
        self.admitted: set[str] = set()

    @property
    def layout(self):
        return self.rooms[0].layout

    @property
    def pending(self) -> bool:
        """Whether a fault waits for a request."""
        return any(counts[1] > 0 for *_, counts in self.upstream._script)

    @property
    def healthy(self) -> bool:
        return self.up and not self.offline and not self.pending and not self.upstream.hanging

    def attempts(self, here: bool = False) -> Iterator[None]:
        """Try as often as a client would; once for what is `here` and must be given."""
        for _ in range(1 if here else ATTEMPTS):
            with self.patience(here):
                yield

    @contextlib.contextmanager
    def patience(self, here: bool = False) -> Iterator[None]:
        """Give a busy host its time where no fault is to meet a deadline: upstream is well, or need not be asked."""
        with pytest.MonkeyPatch.context() as patch:
            if here or self.healthy:
                hurry(patch, PATIENT)
            yield

    def room(self, number: int) -> Room:
        return self.rooms[number % len(self.rooms)]

    async def _open(self) -> Room:
        file = self.folder / "mirror.yaml"
        file.write_text(
            yaml.safe_dump(
                {
                    "offline": self.offline,
                    "storage": {"path": str(self.folder / "store"), "keep_free": "0%"},
                    "upstreams": {"lab": {"endpoints": [self.upstream.url], "tags": {"fresh_for": "0s"}}},
                    **({"clients": {"rules": RULES}} if self.private else {}),
                }
            )
        )
        return Room(load(file))

    def calm(self) -> None:
        """Let nothing that went wrong before keep a healthy upstream from being asked."""
        for room in self.rooms:
            client = room.clients["lab"]
            client._retry._allowance = RetryAllowance()
            for endpoint in client._endpoints:
                for name in ("", *endpoint.breakers._repositories):
                    endpoint.breakers.succeeded(name)
                endpoint._pauses._until.clear()

    async def settled(self) -> None:
        while any(room.content._fetcher._fills or room.content._members._grants for room in self.rooms):
            await asyncio.sleep(0.002)

    def asked(self, digest: str) -> int:
        return sum(one.method == "GET" and one.path.endswith(digest) for one in self.upstream.requests)

    # -- the world ---------------------------------------------------------------------------------------------

    @initialize(private=st.booleans())
    def begin(self, private: bool) -> None:
        self.private = private
        self.do(self.upstream.start())
        for tag, (body, kind) in NAMES_ALL.items():
            self.upstream.add_manifest(NAMING, body, kind, tag)
        self.rooms.append(self.do(self._open()))
        if private:
            adopt_all(self.rooms[0].layout)  # as housekeeping does
        for name in REPOSITORIES:
            self._publish(name, 0, TAGS[0])
        for tag in NAMES_ALL:  # everything is named from the beginning on, or most walks would not come to it
            with self.patience():
                self.do(self.rooms[0].content.manifest(Target("lab", NAMING, f"lab/{NAMING}"), tag, False))

    @step(name=names, number=which, tag=tags)
    def publish(self, name: str, number: int, tag: str) -> None:
        self._publish(name, number, tag)

    def _publish(self, name: str, number: int, tag: str) -> None:
        image = IMAGES[name][number]
        for blob in (image.config, *image.layers):
            self.upstream.add_blob(name, blob)
        self.upstream.add_manifest(name, image.manifest, image.media_type, tag)
        self.model.rights[name] |= {image.digest, *parts(image)}
        self.model.moves[name, tag].append(image.digest)

    @step(name=names, tag=tags)
    def retire(self, name: str, tag: str) -> None:
        if self.upstream.repository(name).tags.pop(tag, None):
            self.model.moves[name, tag].append(None)

    @step(name=names, digest=st.sampled_from(ALL_BLOBS))
    def vanish(self, name: str, digest: str) -> None:
        self.upstream.repository(name).blobs.pop(digest, None)

    @step(kind=st.sampled_from(["blob", "manifest", "any"]), fault=st.sampled_from(HARMLESS))
    def misbehave(self, kind: str, fault: faults.Fault) -> None:
        self.upstream.fail(kind, fault, times=1)

    @step(fault=st.sampled_from(FLIPS))
    def flip(self, fault: faults.Fault) -> None:
        self.upstream.fail("blob", fault, times=1, method="GET")
        self.model.doubted |= set(ALL_BLOBS)

    @step()
    def heal(self) -> None:
        self.upstream.heal()
        self.upstream.hang_up()
        self.calm()

    @precondition(lambda self: self.up)
    @step()
    def go_down(self) -> None:
        self.do(self.upstream.stop(returning=True))
        self.up = False
        self.do(self._survey())

    @precondition(lambda self: not self.up)
    @step()
    def come_up(self) -> None:
        self.do(self.upstream.restart())
        self.up = True
        self.calm()

    # -- processes ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.rooms) < 2)
    @step()
    def start_another(self) -> None:
        self.rooms.append(self.do(self._open()))

    async def _end(self, room: Room, *, crashed: bool) -> None:
        if crashed:
            room.index._uses.take()  # what was noted and not written is lost
        await room.close()

    @step(number=which, crashed=st.booleans())
    def restart(self, number: int, crashed: bool) -> None:
        number %= len(self.rooms)
        self.do(self._end(self.rooms[number], crashed=crashed))
        self.rooms[number] = self.do(self._open())

    @precondition(lambda self: len(self.rooms) > 1)
    @step(crashed=st.booleans())
    def end_one(self, crashed: bool) -> None:
        self.do(self._end(self.rooms.pop(), crashed=crashed))

    @step()
    def toggle_offline(self) -> None:
        self.offline = not self.offline
        count = len(self.rooms)
        while self.rooms:
            self.do(self._end(self.rooms.pop(), crashed=False))
        self.rooms = [self.do(self._open()) for _ in range(count)]
        if self.offline:
            self.do(self._survey())

    async def _survey(self) -> None:
        """Ask for all that is here and known: when nobody can be asked, all of it must be given."""
        for name in REPOSITORIES:
            for tag in TAGS:
                await self._pull_tag(self.rooms[0], name, tag)
            for digest in sorted(self.model.whole & self.model.proven[name]):
                if digest in MANIFESTS:
                    await self._pull_manifest(self.rooms[-1], name, digest)
                else:
                    await self._pull_blob(self.rooms[-1], name, digest, None, None)

    @step()
    def settle(self) -> None:
        if self.up:
            self.do(self.settled())

    @step()
    def wait(self) -> None:
        self.do(asyncio.sleep(0.005))

    # -- the disk ----------------------------------------------------------------------------------------------

    @step(number=which, needed=st.sampled_from([1, 100_000, 10**9]))
    def evict(self, number: int, needed: int) -> None:
        room = self.room(number)
        before = contents(self.layout)
        self.do(asyncio.to_thread(room.space.eviction.free, needed))
        after = contents(self.layout)
        if self.offline:
            assert after == before, "evicted what nobody can give again"
        self.model.whole &= set(after)

    @step(how=st.sampled_from(DAMAGES), pick=st.integers(0, 20))
    def damage(self, how: str, pick: int) -> None:
        stored = sorted(contents(self.layout))
        if not stored:
            return
        digest = stored[pick % len(stored)]
        path = Path(self.layout.blob(Digest.parse(digest)))
        if path.is_symlink() or (how in ("truncate", "flip") and not path.stat().st_size):
            return
        if how == "touch":
            os.utime(path)
            return
        if how == "unseal":
            path.chmod(0o600)
            return
        self.model.whole.discard(digest)
        content = path.read_bytes()
        if how == "truncate":
            os.truncate(path, len(content) // 2)
        elif how == "flip":
            # In place, as a failing disk or a careless hand would: the mtime tells.
            with path.open("r+b") as file:
                file.write(bytes([content[0] ^ 1]))
        elif how == "grow":
            with path.open("ab") as file:
                file.write(b"more")
        else:
            path.unlink()
            if how == "symlink":
                path.symlink_to("/etc/passwd")

    @step()
    def lose_index(self) -> None:
        shutil.rmtree(self.layout.index, ignore_errors=True)

    @step(name=names)
    def lose_rows(self, name: str) -> None:
        """Membership is derived: a process that begins derives it anew."""
        shutil.rmtree(self.layout.repositories / "lab" / name / "_blobs", ignore_errors=True)
        count = len(self.rooms)
        while self.rooms:
            self.do(self._end(self.rooms.pop(), crashed=False))
        # What ran while the rows were taken away may have written them anew.
        shutil.rmtree(self.folder / "store" / "repositories" / "lab" / name / "_blobs", ignore_errors=True)
        self.rooms = [self.do(self._open()) for _ in range(count)]
        proven = self.model.proven[name]
        # What manifests name is the repository's where everybody may have it, and is proven again elsewhere.
        derived = {
            digest
            for image in ALL_IMAGES
            if image.digest in proven and image.digest in self.model.whole and not self.private
            for digest in parts(image)
        }
        self.model.proven[name] = (proven & MANIFESTS) | (proven & derived)

    # -- clients -----------------------------------------------------------------------------------------------

    @step(
        number=which,
        name=names,
        digest=st.sampled_from(ALL_BLOBS),
        wanted=ranges,
        leave=st.one_of(st.none(), st.none(), st.sampled_from([0, 1, 100_000])),
        settle=st.booleans(),
    )
    def pull_blob(
        self, number: int, name: str, digest: str, wanted: ByteRange | None, leave: int | None, settle: bool
    ) -> None:
        self.do(self._pull_blob(self.room(number), name, digest, wanted, leave))
        whole = wanted is None and leave is None
        if settle and whole and self.served:
            self.do(self.settled())
            assert contents(self.layout).get(digest), "served whole and not stored"
            self.model.whole.add(digest)

    async def _pull_blob(self, room: Room, name: str, digest: str, wanted: ByteRange | None, leave: int | None) -> None:
        self.served = False
        here = digest in self.model.whole and digest in self.model.proven[name]
        upstream_has = digest in self.upstream.repository(name).blobs
        content = TRUTH[digest]
        span = wanted.resolve(len(content)) if wanted is not None else (0, len(content))
        well = False  # at the beginning of the last attempt, which the last of several faults may have met
        for _ in self.attempts(here):
            well = self.healthy
            asked, flipped = self.asked(digest), self.pending
            try:
                answer = await self._answer(room, name, digest, wanted)
            except RangeUnsatisfiable:
                assert span is None or flipped, "a range that lies inside was refused"
                return
            except MirrorError:
                assert not here, "content that is here and known was refused"
                await asyncio.sleep(_NEXT)
                continue
            assert digest in self.model.rights[name], "given to a repository that never had it"
            whole_total = answer.total
            cache = answer.cache
            assert span is not None or whole_total is None or flipped
            got, clean = await self._read(answer, leave)
            if cache == "HIT":
                assert self.asked(digest) == asked, "a hit that asked upstream"
            expected = content[slice(*span)] if span is not None and whole_total is not None else content
            # What lacks a byte, and is not here yet, cannot be verified, whichever way it came.
            verified = cache == "HIT" or (cache != "BYPASS" and len(expected) == len(content))
            if clean and (verified or not flipped):
                assert got == expected, f"wrong bytes and a clean end: {len(got)} of {len(expected)} ({cache})"
            if not clean and leave is None:
                assert not here, "a cached blob broke off"
                if wanted is None and whole_total is not None:
                    assert len(got) <= max(0, whole_total - HOLD_BACK)
                await asyncio.sleep(_NEXT)
                continue
            if leave is not None:
                return
            while room.content._members._grants:
                await asyncio.sleep(0.001)
            if cache != "BYPASS":
                assert here <= (cache == "HIT")
                self.model.proven[name].add(digest)
                self.served = True
            else:
                room_is_there = wanted is None and not self.has_link(digest)
                assert not room_is_there, "a blob was passed through although there is room"
            return
        assert not (well and self.healthy and upstream_has), "upstream has it and is well"

    async def _answer(self, room: Room, name: str, digest: str, wanted: ByteRange | None) -> BlobAnswer:
        target = Target("lab", name, f"lab/{name}")
        parsed = Digest.parse(digest)
        if wanted is None and (found := room.content.blob_now(target, parsed)) is not None:
            return found
        return await room.content.blob(target, parsed, wanted)

    async def _read(self, answer: BlobAnswer, leave: int | None) -> tuple[bytes, bool]:
        """Return what came, and whether it came to a clean end."""
        got = bytearray()

        async def pace(count: int) -> None:
            if leave is not None and count >= leave:
                raise Left

        original = answer.chunks
        try:
            if leave == 0:
                raise Left
            if original is None:
                return await read(answer, pace if leave is not None else None), True
            async for piece in original:
                got += piece
                await pace(len(got))
            return bytes(got), True
        except (Left, MirrorError, EOFError):
            return bytes(got), False
        finally:
            if original is not None:
                await original.aclose()
            answer.close()

    @step(number=which, name=names, digest=st.sampled_from(ALL_BLOBS))
    def head_blob(self, number: int, name: str, digest: str) -> None:
        """A question fetches nothing."""
        asked = self.asked(digest)
        here = digest in self.model.whole and digest in self.model.proven[name]
        target = Target("lab", name, f"lab/{name}")
        try:
            head = self.do(self.room(number).content.blob_head(target, Digest.parse(digest)))
        except MirrorError:
            assert not here
            return
        assert digest in self.model.rights[name]
        if head.cache == "HIT":
            assert head.size == len(TRUTH[digest])
        assert self.asked(digest) - asked <= ATTEMPTS  # `Range: bytes=0-0` where HEAD alone is refused

    @step(number=which, name=names, digest=st.sampled_from(sorted(MANIFESTS)))
    def pull_manifest(self, number: int, name: str, digest: str) -> None:
        self.do(self._pull_manifest(self.room(number), name, digest))

    async def _pull_manifest(self, room: Room, name: str, digest: str) -> None:
        target = Target("lab", name, f"lab/{name}")
        here = digest in self.model.whole and digest in self.model.proven[name]
        upstream_has = digest in self.upstream.repository(name).manifests
        well = False
        for _ in self.attempts(here):
            well = self.healthy
            parsed = Digest.parse(digest)
            try:
                answer = room.content.manifest_now(target, parsed) or await room.content.manifest(target, parsed, False)
            except MirrorError:
                assert not here, "a manifest that is here and known was refused"
                continue
            assert digest in self.model.rights[name], "given to a repository that never had it"
            assert answer.body == TRUTH[digest]
            if answer.cache == "BYPASS" and self.has_link(digest):
                return
            assert answer.cache in ("HIT", "MISS", "JOINED")
            assert here <= (answer.cache == "HIT")
            self._stored(name, digest)
            return
        assert not (well and self.healthy and upstream_has), "upstream has it and is well"

    def has_link(self, digest: str) -> bool:
        """Tell whether a symbolic link lies where content belongs: it stays, for an administrator to look at."""
        return os.path.islink(self.layout.blob(Digest.parse(digest)))

    def _stored(self, name: str, digest: str) -> None:
        assert contents(self.layout).get(digest), "a manifest was served and not stored"
        self.model.whole.add(digest)
        self.model.proven[name].add(digest)

    # -- what is only named ------------------------------------------------------------------------------------

    @step(number=which, tag=st.sampled_from(sorted(NAMES_ALL)))
    def name_all(self, number: int, tag: str) -> None:
        """Have a manifest here that names everything."""
        target = Target("lab", NAMING, f"lab/{NAMING}")
        with contextlib.suppress(MirrorError):
            self.do(self.room(number).content.manifest(target, tag, False))

    @step(digest=st.sampled_from(sorted(TRUTH)))
    def admit(self, digest: str) -> None:
        """Upstream has it for the repository that names it, from now on."""
        if digest in MANIFESTS:
            self.upstream.add_manifest(NAMING, TRUTH[digest], MEDIA_TYPE)
        else:
            self.upstream.add_blob(NAMING, TRUTH[digest])
        self.admitted.add(digest)

    @step(
        number=which,
        who=st.sampled_from(sorted(CLIENTS)),
        digests=st.lists(st.sampled_from(sorted(TRUTH)), min_size=2, max_size=6, unique=True),
        first=st.booleans(),
        settle=st.booleans(),
    )
    def ask_where_it_is_named(self, number: int, who: str, digests: list[str], first: bool, settle: bool) -> None:
        """No client gets what no repository open to it brought, and upstream has never given for this name."""
        self.judge_named(number, who, digests, first=first, settle=settle)

    def judge_names(self) -> None:
        """Whatever the walk did: when all that is private has been pulled, it is still private."""
        self.upstream.heal()
        self.upstream.hang_up()
        self.calm()
        for who in CLIENTS:
            self.judge_named(0, who, sorted(TRUTH), first=True, settle=True)

    def judge_named(self, number: int, who: str, digests: list[str], *, first: bool, settle: bool) -> None:
        if first:
            for digest in sorted(self.model.rights[PRIVATE] & set(digests)):
                if digest in MANIFESTS:
                    self.do(self._pull_manifest(self.room(number), PRIVATE, digest))
                else:
                    self.do(self._pull_blob(self.room(number), PRIVATE, digest, None, None))
        if settle and self.up:
            self.do(self.settled())
        for digest in digests:
            given = self.do(self._given(self.room(number), digest, who))
            if given is None:
                continue
            assert given == TRUTH[digest], "wrong bytes and a clean end"
            if not self.private:
                continue
            opened = {name for name in REPOSITORIES if f"lab/{name}" in CLIENTS[who]}
            had = digest in self.admitted or any(digest in self.model.rights[name] for name in opened)
            assert had, f"{digest} was given to {who}, who may not have it"

    async def _given(self, room: Room, digest: str, who: str) -> bytes | None:
        target, parsed = Target("lab", NAMING, f"lab/{NAMING}"), Digest.parse(digest)
        may_pull = CLIENTS[who].__contains__
        try:
            if digest in MANIFESTS:
                now = room.content.manifest_now(target, parsed)
                return (now or await room.content.manifest(target, parsed, False, may_pull)).body
            blob = room.content.blob_now(target, parsed) or await room.content.blob(target, parsed, None, may_pull)
        except MirrorError:
            return None
        flipped = digest in self.model.doubted
        got, clean = await self._read(blob, None)
        return got if clean and not (flipped and blob.cache == "BYPASS") else None

    @step(number=which, name=names, tag=tags)
    def pull_tag(self, number: int, name: str, tag: str) -> None:
        self.do(self._pull_tag(self.room(number), name, tag))

    async def _pull_tag(self, room: Room, name: str, tag: str) -> None:
        model, key = self.model, (name, tag)
        target = Target("lab", name, f"lab/{name}")
        meant = self.upstream.repository(name).tags.get(tag)
        known = model.seen.get(key) is not None
        last = model.moves[key][model.seen[key]] if known else None
        for _ in self.attempts():
            try:
                answer = room.content.manifest_now(target, tag) or await room.content.manifest(target, tag, False)
            except NotHere:
                if self.offline:
                    settled = known and model.may_mean(*key) == {last}
                    assert not (settled and last in model.whole and last in model.proven[name])
                elif self.healthy and meant is None:
                    model.seen[key] = None
                    return
                elif self.pending or self.up:
                    model.seen[key] = None  # a 404 or 403 was believed
                continue
            except MirrorError:
                # Away: what is known is served, if it is here.
                settled = known and model.may_mean(*key) == {last}
                away = not self.up and not self.offline
                assert not (away and settled and last in model.whole and last in model.proven[name])
                continue
            digest = str(answer.digest)
            assert answer.body == TRUTH[digest]
            assert digest in model.may_mean(*key), "a tag went back to what it meant before"
            if not self.has_link(digest):
                self._stored(name, digest)
            if answer.cache == "STALE":
                assert answer.warning
                assert not self.offline
                if self.healthy:
                    continue
                return
            assert not answer.warning
            if self.offline:
                assert answer.cache == "HIT"
            if self.healthy:
                if digest != meant:
                    continue
                model.seen[key] = len(model.moves[key]) - 1
            else:
                since = model.seen.get(key) or 0
                model.seen[key] = since + model.moves[key][since:].index(digest)
            return
        assert not (self.healthy and meant is not None), "upstream has the tag and is well"

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def the_store_is_sound(self) -> None:
        if not self.rooms:
            return
        with self.explained():
            wrong = self._unsound()
            assert not wrong, "; ".join(wrong)

    def _unsound(self) -> list[str]:
        return [
            *sealed_files_hash_to_their_names(self.layout),
            *tags_name_what_is_a_manifest(self.layout),
            *downloads_can_go_on(
                self.layout, lambda digest: None if digest in self.model.doubted else TRUTH.get(digest)
            ),
        ]

    def teardown(self) -> None:
        try:
            if self.rooms:
                with self.explained():
                    self.judge_names()
                self.do(self._judge_index())
        finally:
            for room in self.rooms:
                self.do(room.close())
            self.do(self.upstream.stop())
            self.leave()
        assert len(os.listdir("/proc/self/fd")) <= self.descriptors, "descriptors are left open"

    async def _judge_index(self) -> None:
        """What the index says of a size is true. A row may outlive its file: a use that another process had noted is
        written after the eviction; housekeeping and the next eviction drop it."""
        index = self.rooms[0].index
        with contextlib.suppress(MirrorError):
            await asyncio.to_thread(index.flush)
            for entry in await asyncio.to_thread(index.oldest, 1000):
                assert entry.size == len(EVERYTHING[str(entry.digest)])
