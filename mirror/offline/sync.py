"""Sync: bring what a plan names into the store, by the same fetches as a node's pull, and say what did not come."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from mirror import logs
from mirror.config.values import count_text
from mirror.content.answers import ManifestAnswer, Target
from mirror.errors import MirrorError, NotYet, StoreFull, UpstreamInvalid, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.offline.plan import Plan, PlannedBlob, PlannedManifest
from mirror.offline.source import Lacking
from mirror.upstream.client import SMALL_BLOB

_PAUSES = (5.0, 20.0, 60.0)  # seconds before what failed for the moment is tried again, after everything else is in
_MANIFESTS_AT_ONCE = 16
_AHEAD = 2  # blobs in work for each that comes: the next is asked for while the last is brought to disk

_log = logs.get("offline.sync")


class Bringing(Protocol):
    """What brings content into the store (content/bring.py)."""

    async def manifest(self, target: Target, digest: Digest) -> ManifestAnswer: ...

    async def keep(self, target: Target, digest: Digest, size: int) -> bool: ...

    async def prove(self, target: Target, digest: Digest) -> None: ...


@dataclass(slots=True)
class Progress:
    """What a sync has done so far: bytes that are in, of all that must come; and how many things."""

    bytes_total: int = 0
    bytes_done: int = 0
    items_total: int = 0
    items_done: int = 0
    failed: int = 0
    growing: Callable[[], int] = field(default=lambda: 0)  # bytes of downloads under way

    @property
    def bytes_now(self) -> int:
        """The bytes that have come, those of downloads under way among them."""
        return min(self.bytes_total, self.bytes_done + self.growing())


@dataclass(frozen=True, slots=True)
class Brought:
    """How a sync ended: the bytes that came, and what could not be had, a line an image."""

    bytes: int
    failures: tuple[Lacking, ...]
    full: StoreFull | None = None
    away: bool = False  # every failure was an upstream that is away


class Sync:
    """One run over what is missing of a plan: `at_once` is how many blobs upstreams give at a time."""

    def __init__(self, bring: Bringing, target: Callable[[str], Target], at_once: int, progress: Progress) -> None:
        self._bring = bring
        self._target = target
        self._at_once = at_once
        self._progress = progress
        self._failed: dict[Digest, MirrorError] = {}
        self._full: StoreFull | None = None

    async def run(self, plan: Plan, missing: Mapping[Digest, int]) -> Brought:
        """Bring what is `missing` (digest to size in bytes) of `plan`. Stops early only where the store is full."""
        progress = self._progress
        progress.bytes_total, progress.items_total = sum(missing.values()), len(missing)
        manifests = {one.digest: one for one in plan.manifests if one.digest in missing}
        blobs = {one.digest: one for one in plan.blobs if one.digest in missing}
        names = _names(plan)
        await self._rounds(
            [lambda one=one: self._one_manifest(one) for one in manifests.values()],  # type: ignore[misc] # bound now
            {self._target(one.name).upstream for one in manifests.values()},
            _MANIFESTS_AT_ONCE,
        )
        # The large ones first, so that none of them is alone at the end; the small ones beside them, as upstreams give
        # those beside them too.
        ordered = sorted(blobs.values(), key=lambda one: -one.size)
        queues: dict[tuple[str, bool], list[Callable[[], Awaitable[None]]]] = defaultdict(list)
        for one in ordered:
            target = self._target(names[one.digest])
            queue = queues[(target.upstream, one.size <= SMALL_BLOB)]
            queue.append(lambda one=one, target=target: self._one_blob(one, target))  # type: ignore[misc]
        await asyncio.gather(
            *(self._rounds(queue, {name}, _AHEAD * self._at_once) for (name, _), queue in queues.items())
        )
        failures = _explain(plan, self._failed)
        away = bool(self._failed) and all(isinstance(one, UpstreamUnavailable) for one in self._failed.values())
        return Brought(progress.bytes_done, failures, self._full, away)

    async def prove(self, plan: Plan) -> None:
        """Have upstream confirm, under each name of a plan, what is here because another name brought it.

        What upstream does not confirm is left to what clients may pull (content/members.py).
        """
        work: list[Callable[[], Awaitable[None]]] = []
        for one in plan.manifests:
            target = self._target(one.name)
            work.append(lambda one=one, target=target: self._confirm(one, target))  # type: ignore[misc] # bound now
            work += [
                lambda digest=digest, target=target: self._bring.prove(target, digest)  # type: ignore[misc]
                for digest in one.blobs
            ]
        await self._pass(work, self._at_once)

    async def _confirm(self, planned: PlannedManifest, target: Target) -> None:
        try:
            await self._bring.manifest(target, planned.digest)
        except StoreFull:
            raise
        except MirrorError as error:
            _log.warning("manifest_not_confirmed", name=target.name, digest=str(planned.digest), why=error.what)

    async def _rounds(self, work: list[Callable[[], Awaitable[None]]], upstreams: Iterable[str], at_once: int) -> None:
        """Do all of `work`, and again after a pause what failed for the moment."""
        left = await self._pass(work, at_once)
        for pause in _PAUSES:
            # Where nothing has come at all, upstream is away: whoever called is told now and not in minutes.
            if not left or self._full is not None or not self._progress.items_done:
                break
            _log.info("sync_pauses", items=len(left), seconds=pause, upstreams=",".join(sorted(upstreams)))
            await asyncio.sleep(pause)
            # One alone at first: that is what an endpoint that was away is asked before it is believed to be back.
            left = [*await self._pass(left[:1], 1), *await self._pass(left[1:], at_once)]

    async def _pass(
        self, work: list[Callable[[], Awaitable[None]]], at_once: int
    ) -> list[Callable[[], Awaitable[None]]]:
        """Do each piece of work once, `at_once` at a time, in order; return what may be tried again."""
        waiting = iter(work)
        again: list[Callable[[], Awaitable[None]]] = []

        async def worker() -> None:
            for piece in waiting:
                if self._full is not None:
                    return
                try:
                    await piece()
                except StoreFull as error:
                    self._full = error
                except (UpstreamUnavailable, NotYet):
                    again.append(piece)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(work))):
                group.create_task(worker())
        return again

    async def _one_manifest(self, planned: PlannedManifest) -> None:
        async def bring() -> None:
            answer = await self._bring.manifest(self._target(planned.name), planned.digest)
            if answer.size != planned.size:
                raise UpstreamInvalid(
                    f"{planned.name}@{planned.digest} has {count_text(answer.size, 'byte')},"
                    f" the plan says {planned.size}",
                    "make the plan again",
                )

        await self._tried(planned.digest, planned.size, bring)

    async def _one_blob(self, planned: PlannedBlob, target: Target) -> None:
        async def bring() -> None:
            await self._bring.keep(target, planned.digest, planned.size)

        await self._tried(planned.digest, planned.size, bring)

    async def _tried(self, digest: Digest, size: int, bring: Callable[[], Awaitable[None]]) -> None:
        try:
            await bring()
        except StoreFull:
            raise
        except MirrorError as error:
            self._progress.failed += digest not in self._failed
            self._failed[digest] = error
            if isinstance(error, UpstreamUnavailable | NotYet):
                raise
            return
        if self._failed.pop(digest, None) is not None:
            self._progress.failed -= 1
        self._progress.bytes_done += size
        self._progress.items_done += 1


def _names(plan: Plan) -> dict[Digest, str]:
    """Return a repository for each blob: the first, by name, of those that have it."""
    found: dict[Digest, str] = {}
    for manifest in plan.manifests:
        for digest in manifest.blobs:
            found.setdefault(digest, manifest.name)
    return found


def _explain(plan: Plan, failed: Mapping[Digest, MirrorError]) -> tuple[Lacking, ...]:
    """Return for each image that lacks something what it lacks and why."""
    if not failed:
        return ()
    manifests = {(one.name, one.digest): one for one in plan.manifests}
    found: list[Lacking] = []
    for image in plan.images:
        wanted = [(image.name, image.digest)]
        causes: dict[Digest, MirrorError] = {}
        seen = set()
        while wanted:
            key = wanted.pop()
            if key in seen:
                continue
            seen.add(key)
            manifest = manifests[key]
            wanted += [(image.name, child) for child in manifest.manifests]
            for digest in (manifest.digest, *manifest.blobs):
                if digest in failed:
                    causes[digest] = failed[digest]
        if causes:
            digest, error = min(causes.items(), key=lambda cause: cause[0])
            more = f" and {len(causes) - 1} more of its content" if len(causes) > 1 else ""
            tag = f" ({image.tags[0]})" if image.tags else ""
            found.append(Lacking(f"{image.source}@{image.digest}{tag}", f"{digest}{more}: {error.what}", error.remedy))
    return tuple(found)
