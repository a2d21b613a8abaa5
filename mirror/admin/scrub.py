"""Scrubbing: a pass over all content at a bounded rate, what it finds put right, and what it found written down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from mirror import logs
from mirror.admin.scrub_state import Pass, State
from mirror.errors import Corrupt, NotYet, StoreUnreadable
from mirror.metrics import CORRUPT, SCRUB_ENDED, SCRUB_UNHEALED, SCRUBBED_BYTES, Metrics
from mirror.oci.digest import Digest
from mirror.store import files, records
from mirror.store.blobs import Blobs
from mirror.store.brake import Brake
from mirror.store.hosted import Hosted
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.manifests import Manifests
from mirror.store.quarantine import Quarantine
from mirror.store.references import References
from mirror.store.repositories import find_repositories
from mirror.store.scrub import TOO_MANY, YOUNG, Bad, Scrub, Unread
from mirror.store.sets import Pins, Sets
from mirror.store.strays import Stray, stray_content, stray_records
from mirror.store.threads import Threads

Heal = Callable[[Digest], Awaitable[str]]  # returns why content could not be had again, empty where it is here

EVERY = 7 * 86400.0  # seconds from the begin of a pass in the background to the begin of the next
GRACE = 86400.0  # seconds since a push, in which its content comes, where no manifest names it yet
_SETTLES = 1.0  # seconds in which a push that has its marker has its content too
_AGAIN = 60.0  # seconds between looks whether what was bad has come again
_WRITE_EVERY = 15.0  # seconds between writes of the state
_STEP = 16 * 1024 * 1024  # bytes that are read in one go
_LEFTOVER = 86400.0  # seconds after which a write that never ended is removed
_REST = 60.0  # seconds after a pass that stopped, before the disk is tried again
_PATIENCE = 60.0  # seconds for the one who scrubs in the background to let go

_log = logs.get("scrub")


@dataclass(slots=True)
class Findings:
    """What a pass found besides its counts: bad content and missing content, each with why it is not healed (or
    empty), and strays, each with whether it was put away."""

    bad: dict[Digest, tuple[str, str]] = field(default_factory=dict)  # what is wrong, why it is not healed
    missing: dict[Digest, str] = field(default_factory=dict)
    unreadable: dict[Digest, Unread] = field(default_factory=dict)  # what stays where it is
    records: list[StoreUnreadable] = field(default_factory=list)  # what is wrong with those of repositories
    back: list[Digest] = field(default_factory=list)  # what was in quarantine, and is right after all
    stopped: str = ""  # why the pass went no further
    strays: list[tuple[Stray, bool]] = field(default_factory=list)

    @property
    def lost(self) -> list[Digest]:
        """What is bad or missing and could not be had again."""
        bad = (digest for digest, (_, why) in self.bad.items() if why)
        return sorted({*bad, *(digest for digest, why in self.missing.items() if why)})


class Scrubber:
    """Scrubs one store. `heal` fetches content again; `young` is in seconds (store/scrub.py)."""

    def __init__(
        self,
        layout: Layout,
        quarantine: Quarantine,
        metrics: Metrics,
        heal: Heal,
        threads: Threads,
        *,
        young: float = YOUNG,
    ) -> None:
        self.state = State(layout)
        self._layout = layout
        self._quarantine = quarantine
        self._metrics = metrics
        self._heal = heal
        self._threads = threads
        self._young = young
        self._brake = Brake(layout)
        self._lock = FileLock(layout.lock("scrub"))
        self._blobs = Blobs(layout, self._discard)
        self._pins = Pins(layout)
        self._sets = Sets(layout)
        self._hosted = Hosted(layout)
        self._rows = Manifests(layout)
        self._references = References(layout)
        # The pass in the background, between its steps.
        self._scrub: Scrub | None = None
        self._pass = Pass()
        self._written = 0.0
        self._again = 0.0
        self._rests_until = 0.0  # after a pass that stopped, because the disk gave nothing

    # -- for a person ----------------------------------------------------------------------------------------

    async def all(
        self,
        rate: int,
        look: Callable[[Pass], None],
        *,
        restart: bool = False,
        dry_run: bool = False,
        yes: bool = False,
    ) -> tuple[Pass, Findings]:
        """Scrub everything, at most `rate` bytes a second (0: as fast as it goes), from where it was stopped last.

        It stops, as the findings say, where it would put away more than a tenth of the store (unless `yes`), and where
        nothing can be read. `look` is called with the pass as it goes on. Raises NotYet where somebody else scrubs,
        OSError.
        """
        await self._take()
        try:
            before = None if restart or dry_run else await self._threads.run(self.state.read, "command")
            one = before if before is not None else Pass(began=time.time())
            look(one)
            after = Digest.parse(one.cursor) if one.cursor else None
            most = None if yes else await self._threads.run(self._brake.most_contents)
            scrub = Scrub(self._layout, self._blobs, after=after, dry_run=dry_run, young=self._young, most_bad=most)
            findings = Findings()
            try:
                await self._hash(scrub, one, findings, rate, look, dry_run=dry_run)
                if scrub.stopped:
                    findings.stopped = await self._threads.run(self._stop, scrub)
                    if not dry_run:
                        await self._threads.run(partial(self.state.write, command=_left(scrub, one)))
                    return one, findings
                await self._look_around(one, findings, dry_run=dry_run)
                if not dry_run:
                    await self._threads.run(self._brake.clear, "scrub")
            except BaseException:
                if not dry_run:
                    await self._threads.complete(partial(self.state.write, command=one))
                raise
            one.ended = time.time()
            if not dry_run:
                absent = await self._threads.run(self._absent, [Digest.parse(text) for text in one.unhealed])
                one.unhealed = [str(digest) for digest in sorted(absent)]  # the rest came meanwhile
                # What the service had begun is done by this.
                await self._threads.run(partial(self.state.write, command=None, background=None, last=one))
                self._tell(one)
            return one, findings
        finally:
            self._lock.release()

    async def some(
        self,
        digests: Collection[Digest],
        rate: int,
        look: Callable[[Pass], None],
        *,
        names: Collection[str] = (),
        dry_run: bool = False,
        yes: bool = False,
    ) -> tuple[Pass, Findings]:
        """Scrub some contents only, and the records of the repositories `names`.

        Contents that are not here count as missing. Raises NotYet, OSError.
        """
        await self._take()
        try:
            one, findings = Pass(began=time.time()), Findings()
            look(one)
            most = None if yes else await self._threads.run(self._brake.most_contents)
            scrub = Scrub(self._layout, self._blobs, only=digests, dry_run=dry_run, young=self._young, most_bad=most)
            await self._hash(scrub, one, findings, rate, look, dry_run=dry_run)
            if scrub.stopped:
                findings.stopped = await self._threads.run(self._stop, scrub)
                return one, findings
            await self._look_at_records(one, findings, names)
            absent = await self._threads.run(self._absent, digests)
            await self._bring_back(absent - set(findings.bad), one, findings, dry_run=dry_run)
            one.ended = time.time()
            return one, findings
        finally:
            self._lock.release()

    async def _take(self) -> None:
        if not await self._threads.run(self._lock.acquire, _PATIENCE):
            raise NotYet("another process is scrubbing this store", "wait for it")

    async def _hash(
        self,
        scrub: Scrub,
        one: Pass,
        findings: Findings,
        rate: int,
        look: Callable[[Pass], None],
        *,
        dry_run: bool,
    ) -> None:
        clock = asyncio.get_running_loop().time
        written = clock()
        before = (one.contents, one.bytes)
        try:
            while not scrub.done and not scrub.stopped:
                began = clock()
                read = await self._threads.complete(scrub.step, min(rate, _STEP) if rate else _STEP)
                self._metrics.add(SCRUBBED_BYTES, by=read)
                await self._judge(scrub.bad(), one, findings, dry_run=dry_run)
                self._pass_over(scrub.unread(), one, findings)
                one.contents, one.bytes = before[0] + scrub.contents, before[1] + scrub.bytes
                one.cursor = str(scrub.cursor) if scrub.cursor is not None else ""
                look(one)
                if rate:
                    await asyncio.sleep(read / rate - (clock() - began))
                if clock() - written > _WRITE_EVERY and not dry_run:
                    await self._threads.run(partial(self.state.write, command=one))
                    written = clock()
        finally:
            await self._threads.complete(scrub.close)

    # -- in the background -----------------------------------------------------------------------------------

    async def step(self, rate: int) -> None:
        """Go on with the pass in the background by one second's worth of `rate` (bytes a second), if one is due.

        Does nothing while somebody else scrubs. Raises OSError.
        """
        if not await self._threads.run(self._lock.try_acquire):
            return
        try:
            if not await self._threads.run(self._resume):
                return
            scrub, one = self._scrub, self._pass
            assert scrub is not None
            contents, size = scrub.contents, scrub.bytes
            read = await self._threads.complete(scrub.step, rate)
            self._metrics.add(SCRUBBED_BYTES, by=read)
            one.contents += scrub.contents - contents
            one.bytes += scrub.bytes - size
            one.cursor = str(scrub.cursor) if scrub.cursor is not None else ""
            findings = Findings()
            await self._judge(scrub.bad(), one, findings)
            self._pass_over(scrub.unread(), one, findings)
            if scrub.stopped:
                await self._threads.run(self._stop, scrub)
                await self._threads.run(partial(self.state.write, background=_left(scrub, one)))
                await self._threads.complete(scrub.close)
                self._scrub, self._rests_until = None, time.monotonic() + _REST
            elif scrub.done:
                await self._look_around(one, findings)
                one.ended = time.time()
                await self._threads.run(partial(self.state.write, background=None, last=one))
                self._tell(one)
                self._scrub = None
            elif time.monotonic() - self._written > _WRITE_EVERY or findings.bad:
                await self._threads.run(partial(self.state.write, background=one))
                self._written = time.monotonic()
        finally:
            self._lock.release()

    def _resume(self) -> bool:
        """Have a pass under way, if one is due; say whether."""
        last = self.state.read("last")
        if last is not None:
            self._look_again(last)
            self._publish(last)
        if self._scrub is not None:
            if last is None or last.ended < self._pass.began:
                return True
            self._scrub.close()  # somebody has scrubbed all of it meanwhile
            self._scrub = None
        if last is not None and 0 <= time.time() - last.began < EVERY:
            return False
        if time.monotonic() < self._rests_until or "scrub" in self._brake.stopped():
            return False  # the disk gives nothing, or a person has to look first
        self._pass = self.state.read("background") or Pass(began=time.time())
        after = Digest.parse(self._pass.cursor) if self._pass.cursor else None
        most = max(0, self._brake.most_contents() - self._pass.bad)
        self._scrub = Scrub(self._layout, self._blobs, after=after, young=self._young, most_bad=most)
        return True

    def _look_again(self, last: Pass) -> None:
        """Take what has come again by itself, by a pull or a load, off the list of what is bad."""
        if not last.unhealed or time.monotonic() < self._again:
            return
        self._again = time.monotonic() + _AGAIN
        left = [str(digest) for digest in sorted(self._absent([Digest.parse(text) for text in last.unhealed]))]
        if len(left) < len(last.unhealed):
            last.unhealed = left
            self.state.write(last=last)

    async def close(self) -> None:
        """Write down how far the pass in the background is."""
        scrub, self._scrub = self._scrub, None
        if scrub is not None:
            await self._threads.complete(scrub.close)
            await self._threads.complete(partial(self.state.write, background=self._pass))

    def _publish(self, last: Pass) -> None:
        self._metrics.set(SCRUB_ENDED, to=last.ended)
        self._metrics.set(SCRUB_UNHEALED, to=len(last.unhealed))

    def _tell(self, one: Pass) -> None:
        self._publish(one)
        say = _log.warning if one.unhealed else _log.info
        say(
            "scrubbed",
            contents=one.contents,
            bytes=one.bytes,
            bad=one.bad,
            missing=one.missing,
            healed=one.healed,
            strays=one.strays,
            seconds=round(one.ended - one.began),
        )

    # -- what is found ---------------------------------------------------------------------------------------

    def _discard(self, path: str, why: str) -> None:
        self._metrics.add(CORRUPT, "scrub")
        self._quarantine.take(path, why)

    async def _judge(self, bad: list[Bad], one: Pass, findings: Findings, *, dry_run: bool = False) -> None:
        for found in bad:
            why = "not tried" if dry_run else await self._heal(found.digest)
            one.bad += 1
            self._count(found.digest, why, one)
            findings.bad[found.digest] = (found.why, why)
            _log.warning("scrub_bad", digest=str(found.digest), why=found.why, healed=not why, remedy=why)

    def _pass_over(self, unread: list[Unread], one: Pass, findings: Findings) -> None:
        """Count what could not be read: it stays where it is."""
        one.unreadable += len(unread)
        findings.unreadable |= {found.digest: found for found in unread}

    def _stop(self, scrub: Scrub) -> str:
        """Say that a pass goes no further; return why."""
        why = scrub.stopped
        if why == TOO_MANY:
            why = "more than a tenth of the content does not hash to its name, and nothing more is put away"
            self._brake.stop("scrub", why)
        _log.error("scrub_stopped", why=why, remedy="`mirror status` says what to look at")
        return why

    async def put_back(self, *, all_of_it: bool = False) -> list[Digest]:
        """Have again what is in quarantine and agrees with its name; return what that is."""
        return await self._threads.complete(partial(self._quarantine.put_back, all_of_it=all_of_it))

    async def _look_around(self, one: Pass, findings: Findings, *, dry_run: bool = False) -> None:
        """At the end of a pass: what should be here and is not, and what is here and should not be."""
        if not dry_run:
            findings.back = await self.put_back(all_of_it=True)
        await self._look_at_records(one, findings)
        absent = await self._threads.run(self._needed)
        await self._bring_back(absent - set(findings.bad), one, findings, dry_run=dry_run)
        findings.strays = await self._threads.run(self._put_away, dry_run)
        one.strays = len(findings.strays)

    async def _look_at_records(self, one: Pass, findings: Findings, names: Collection[str] | None = None) -> None:
        """Read the tags and the rows of manifests, of all repositories or of `names`."""
        findings.records = await self._threads.complete(lambda: list(records.ill(self._layout, names)))
        for error in findings.records:
            one.keep_record(error.path)

    async def _bring_back(
        self, absent: Collection[Digest], one: Pass, findings: Findings, *, dry_run: bool = False
    ) -> None:
        for digest in sorted(absent):
            why = "not tried" if dry_run else await self._heal(digest)
            one.missing += 1
            self._count(digest, why, one)
            findings.missing[digest] = why
            _log.warning("scrub_missing", digest=str(digest), healed=not why, remedy=why)

    def _count(self, digest: Digest, why: str, one: Pass) -> None:
        if why:
            one.keep(digest)
        else:
            one.healed += 1

    def _absent(self, digests: Collection[Digest]) -> set[Digest]:
        return {digest for digest in digests if files.modified(self._layout.blob(digest)) is None}

    def _needed(self) -> set[Digest]:
        """Return what is not here and must be: what is pinned, and what was pushed and is a part of some repository."""
        complete = [(current.set, current.generation) for current in self._sets.current()]
        found = {Digest.parse(text) for text in self._pins.absent(complete)}
        return found | self.lost()

    def lost(self, names: Collection[str] | None = None) -> set[Digest]:
        """Return what was pushed, is a part of some repository (or of one of `names`) and is not here. For threads.

        In GRACE only what a pushed manifest names: that was here when the manifest came, the rest may be on its way.
        """
        absent = {
            marker.digest: marker.pushed
            for marker in self._hosted.walk()
            if files.modified(self._layout.blob(marker.digest)) is None
        }
        if not absent:
            return set()
        until = time.time() - GRACE
        old: set[Digest] = set()
        young: set[Digest] = set()
        for name in find_repositories(self._layout) if names is None else names:
            members = {digest for digest in absent if self._has(name, digest)}
            old |= {digest for digest in members if absent[digest] < until}
            young |= self._named(name, members - old - young)
        # What is in neither is garbage collection's.
        if young:
            time.sleep(_SETTLES)  # a manifest may be pushed anew, or before what it names (sparse_indexes)
        return old | self._absent(young)

    def _named(self, name: str, digests: Collection[Digest]) -> set[Digest]:
        """Return those of `digests` that are manifests of a repository, or that its pushed manifests name."""
        found = {digest for digest in digests if self._rows.modified(name, digest) is not None}
        waiting = set(digests) - found
        for digest in self._rows.list(name) if waiting else ():
            if self._hosted.has(digest):
                with suppress(Corrupt, StoreUnreadable):  # the pass says so of it
                    found |= waiting.intersection(self._references.named(name, digest))
        return found

    def _has(self, name: str, digest: Digest) -> bool:
        return self._rows.modified(name, digest) is not None or self._rows.is_member(name, digest)

    def _put_away(self, dry_run: bool) -> list[tuple[Stray, bool]]:
        """Put strays among the content into quarantine, remove what writes left behind; return all, and which went.

        What would not be kept there stays where it is: it may be somebody's only copy.
        """
        found = []
        for stray in stray_content(self._layout):
            gone = False
            if not (dry_run or stray.is_young(self._young)) and self._quarantine.keeps(stray.path):
                gone = self._quarantine.take(stray.path, "no content of a store")
            found.append((stray, gone))
        for stray in stray_records(self._layout):
            if stray.ours:
                if not (dry_run or stray.is_young(_LEFTOVER)):
                    files.remove(stray.path)
            else:
                found.append((stray, False))
        for stray, gone in found:
            _log.warning("stray_file", path=stray.path, quarantined=gone)
        return found


def _left(scrub: Scrub, one: Pass) -> Pass:
    """Return a pass that stopped, for whoever goes on: what is read again is not counted twice."""
    left = replace(one, unreadable=one.unreadable - scrub.again)
    left.cursor = str(scrub.cursor) if scrub.cursor is not None else ""
    return left
