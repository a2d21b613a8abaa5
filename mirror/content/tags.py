"""What a tag means now: remembered, revalidated by one HEAD for everybody, or stale and said so."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from mirror import logs, metrics
from mirror.config import UpstreamConfig
from mirror.content.answers import Cache, ManifestAnswer, TagPage, Target, not_here_and_offline
from mirror.content.coalesce import Coalesced
from mirror.content.fetch import CLIENT_PATIENCE
from mirror.content.lines import LISTS, TAGS, Lines
from mirror.content.locks import Locks
from mirror.content.sets import ContentSets
from mirror.content.tag_lists import TagLists
from mirror.errors import (
    MirrorError,
    NotHere,
    NotYet,
    RecordDamaged,
    StoreUnreadable,
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamLoginRefused,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.reference import is_signature_tag
from mirror.store.tags import TagRecord
from mirror.store.tags import Tags as StoredTags
from mirror.store.threads import Threads
from mirror.upstream.answers import ManifestHead
from mirror.upstream.client import UpstreamClient

_KNOWN_PATIENCE = 5.0  # seconds that a client waits for a revalidation while an older digest is known
_MEMORY = 20_000  # tags remembered a worker
_LISTS = 200  # tag lists remembered a worker

_log = logs.get("content.tags")


@dataclass(frozen=True, slots=True)
class TagState:
    """What a tag means. `cache` overrides the manifest's own word; `answer` is a manifest that is not stored."""

    digest: Digest
    cache: Cache | None = None
    warning: str = ""
    why: str = ""
    answer: ManifestAnswer | None = None


class Tags:
    """Tags of proxied repositories.

    `fetch` has a manifest in the store by digest, `fetch_tag` brings it by tag, from what a HEAD brought if that was
    the body; both return it. `moved` is told of a tag (name, tag, the digest that it meant, the one that it means)
    before the store forgets the earlier one.
    """

    def __init__(
        self,
        stored: StoredTags,
        locks: Locks,
        lines: Lines,
        writers: Threads,
        clients: Mapping[str, UpstreamClient],
        upstreams: Mapping[str, UpstreamConfig],
        metrics: Metrics,
        fetch: Callable[[Target, Digest], Awaitable[ManifestAnswer]],
        fetch_tag: Callable[[Target, str, ManifestHead | None], Awaitable[ManifestAnswer]],
        sets: ContentSets,
        moved: Callable[[str, str, Digest, Digest], Awaitable[None]],
        *,
        offline: bool,
        history: int,
    ) -> None:
        self._stored = stored
        self._locks = locks
        self._lines = lines
        self._writers = writers
        self._clients = clients
        self._upstreams = upstreams
        self._metrics = metrics
        self._fetch = fetch
        self._fetch_tag = fetch_tag
        self._sets = sets
        self._moved = moved
        self._offline = offline
        self._history = history
        self._memory: dict[tuple[str, str], tuple[tuple[int, int, int], TagRecord]] = {}
        self._absent: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
        self._checks: Coalesced[tuple[str, str], tuple[float, TagState]] = Coalesced()
        self._lists: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()
        self._listing: Coalesced[str, list[str]] = Coalesced()
        self._stored_lists = TagLists(stored, writers)

    # -- one tag ---------------------------------------------------------------------------------------------

    def now(self, target: Target, tag: str) -> TagState | None:
        """Return what the tag means if that is known and fresh: no wait, one system call."""
        known = self._sets.known
        pinned = known.tags.get((target.name, tag))
        if pinned is not None:
            return TagState(pinned, why="set")
        if known.unreadable is not None:
            return None
        try:
            record = self._known(target, tag)
        except StoreUnreadable:
            return None
        if record is None or not self._fresh(target, record):
            return None
        return TagState(record.digest)

    def _known(self, target: Target, tag: str) -> TagRecord | None:
        key = (target.name, tag)
        stamp = self._stored.modified(target.name, tag)
        if stamp is None:
            self._memory.pop(key, None)
            return None
        found = self._memory.get(key)
        if found is not None and found[0] == stamp:
            return found[1]
        record = self._stored.read(target.name, tag)
        if record is not None:
            record = replace(record, history=())  # which only who moves the tag needs: it may be long
            if len(self._memory) >= _MEMORY:
                self._memory.clear()
            self._memory[key] = (stamp, record)
        return record

    def _fresh(self, target: Target, record: TagRecord) -> bool:
        if self._offline or target.upstream not in self._clients:
            return True
        age = time.time() - record.checked
        return 0 <= age < self._upstreams[target.upstream].tags.fresh_for

    async def resolve(self, target: Target, tag: str) -> TagState:
        """Return what the tag means, asking upstream where that is due.

        Raises NotHere where there is no such tag, NotYet, StoreUnreadable, UpstreamError where nothing is known of it.
        """
        known = self._sets.known
        pinned = known.tags.get((target.name, tag))
        if pinned is not None:
            return TagState(pinned, why="set")
        if known.unreadable is not None and not target.hosted:
            raise known.unreadable  # a set may say what the tag means, whatever upstream does
        try:
            return await self._resolved(target, tag, self._known(target, tag))
        except RecordDamaged as damaged:
            if target.upstream not in self._clients or self._offline:
                raise
            try:
                return await self._resolved(target, tag, None)
            except NotHere as error:
                if self._stored.modified(target.name, tag) is None:
                    raise  # upstream says so
                raise damaged from error
        except StoreUnreadable as unreadable:
            if target.upstream not in self._clients or self._offline:
                raise
            try:
                return await self._resolved(target, tag, None)
            except (NotHere, UpstreamError, NotYet) as error:
                raise unreadable from error

    async def _resolved(self, target: Target, tag: str, record: TagRecord | None) -> TagState:
        """Return what the tag means, of which `record` is known here."""
        client = self._clients.get(target.upstream)
        if record is not None and self._fresh(target, record):
            return TagState(record.digest)
        if client is None:
            raise NotHere(f"there is no tag {target.name}:{tag} here")
        if self._offline:
            raise not_here_and_offline(f"{target.name}:{tag}")
        if record is not None and client.budget_low:
            return self._stale(target, record, "the registry's pull budget is nearly used up", tag)
        self._raise_absent(target, tag)
        try:
            async with asyncio.timeout(_KNOWN_PATIENCE if record is not None else CLIENT_PATIENCE):
                return await self._checked(target, tag, client)
        except TimeoutError:
            if record is not None:
                return self._stale(target, record, f"upstream did not answer within {_KNOWN_PATIENCE:.0f} s", tag)
            if is_signature_tag(tag):
                raise NotHere(f"{target.name}:{tag} is not here, and upstream does not answer") from None
            raise NotYet(f"upstream has not answered for {target.name}:{tag} yet", "ask again") from None
        except (UpstreamNotFound, UpstreamDenied) as error:
            await self._believe_absent(target, tag, error)
            raise NotHere(error.what, error.remedy) from error
        except (UpstreamUnavailable, UpstreamLoginRefused, UpstreamInvalid, NotYet) as error:
            if record is not None:
                return self._stale(target, record, error.what, tag)
            if is_signature_tag(tag):
                raise NotHere(f"{target.name}:{tag} is not here, and upstream cannot be asked: {error.what}") from error
            raise

    async def _checked(self, target: Target, tag: str, client: UpstreamClient) -> TagState:
        """Ask upstream, together with everybody who asks now; an answer from before this request is good if fresh."""
        oldest = time.time() - self._upstreams[target.upstream].tags.fresh_for
        line = self._lines.of(target, TAGS)
        while True:
            began, state = await self._checks.run((target.name, tag), lambda: self._check(target, tag, client), line)
            if began >= oldest:
                return state

    async def _check(self, target: Target, tag: str, client: UpstreamClient) -> tuple[float, TagState]:
        # What another process has asked meanwhile is as good as an answer of our own.
        oldest = time.time() - self._upstreams[target.upstream].tags.fresh_for
        async with self._locks.hold("tag", f"{target.name}:{tag}", upstream=target.upstream):
            try:
                record, readable = self._known(target, tag), True
            except RecordDamaged:
                record, readable = None, True  # upstream says it anew; what it meant before is lost
            except StoreUnreadable:
                record, readable = None, False
            if record is not None and oldest <= record.checked <= time.time():
                return record.checked, TagState(record.digest, why="revalidated")
            began = time.time()
            state, answer = await self._ask(target, tag, client, record)
            outcome = "same" if record is not None and record.digest == state.digest else "moved" if record else "new"
            self._metrics.add(metrics.REVALIDATIONS, target.upstream, outcome)
            if state.answer is None and readable:  # what cannot be read is not written over: it has a history
                media_type = answer.media_type if answer is not None else ""
                fresh = TagRecord(state.digest, media_type, began, target.upstream)
                before = self._stored.read_if_whole(target.name, tag)
                if before is not None:
                    await self._moved(target.name, tag, before.digest, state.digest)
                    fresh = before.moved_to(state.digest, media_type, began, target.upstream, self._history)
                await self._write(target, tag, fresh, durable=outcome != "same")
            self._absent.pop((target.name, tag), None)
            return began, state

    async def _write(self, target: Target, tag: str, record: TagRecord, *, durable: bool) -> None:
        try:
            await self._writers.run(lambda: self._stored.write(target.name, tag, record, durable=durable))
        except OSError as error:
            # The tag's meaning is known all the same; a full disk costs the next request another question.
            _log.error("tag_not_written", name=f"{target.name}:{tag}", error=error.strerror)

    async def _ask(
        self, target: Target, tag: str, client: UpstreamClient, record: TagRecord | None
    ) -> tuple[TagState, ManifestAnswer | None]:
        """Ask what the tag means, and have its manifest here before the tag names it.

        HEAD costs least where the tag is known, and pulls where upstream counts those. Elsewhere one GET brings what a
        new tag names, or says that there is none, which of HEAD is not believed.
        """
        if record is None and not client.counts_pulls:
            return self._answered(await self._fetch_tag(target, tag, None))
        head = await client.head_manifest(target.repository, tag)
        if record is not None and head.digest == record.digest:
            return TagState(head.digest, why="revalidated"), None
        if head.digest is None or head.got is not None:
            return self._answered(await self._fetch_tag(target, tag, head))
        try:
            return self._answered(await self._fetch(target, head.digest))
        except (UpstreamNotFound, NotHere):
            # The tag moved between the two questions, or this registry gives nothing by digest.
            return self._answered(await self._fetch_tag(target, tag, None))

    @staticmethod
    def _answered(answer: ManifestAnswer) -> tuple[TagState, ManifestAnswer]:
        if answer.cache == "BYPASS":
            return TagState(answer.digest, answer=answer), answer
        return TagState(answer.digest, answer.cache), answer

    def _stale(self, target: Target, record: TagRecord, why: str, tag: str) -> TagState:
        if time.time() - record.checked > self._upstreams[target.upstream].tags.stale_for:
            raise NotYet(f"{target.name}:{tag} could not be revalidated ({why})", "its stale_for has expired", 30)
        self._metrics.add(metrics.REVALIDATIONS, target.upstream, "stale")
        _log.warning("tag_stale", name=f"{target.name}:{tag}", digest=str(record.digest), why=why)
        return TagState(record.digest, "STALE", f"{target.name}:{tag} may have moved: {why}", why)

    def _raise_absent(self, target: Target, tag: str) -> None:
        found = self._absent.get((target.name, tag))
        if found is not None:
            if found[0] > time.monotonic():
                raise NotHere(found[1])
            del self._absent[(target.name, tag)]

    async def _believe_absent(self, target: Target, tag: str, error: UpstreamError) -> None:
        rules = self._upstreams[target.upstream].tags
        if rules.absent_for > 0 and rules.fresh_for > 0:
            self._absent[(target.name, tag)] = (time.monotonic() + rules.absent_for, error.what)
            if len(self._absent) > _MEMORY:
                self._absent.popitem(last=False)
        self._stored.read_if_whole(target.name, tag)  # what cannot be read stays
        if await self._writers.run(self._stored.remove, target.name, tag):
            self._metrics.add(metrics.REVALIDATIONS, target.upstream, "gone")
            _log.warning("tag_gone", name=f"{target.name}:{tag}", why=error.what)

    # -- the list --------------------------------------------------------------------------------------------

    async def page(self, target: Target, count: int | None, last: str) -> TagPage:
        """Return at most `count` tags after `last`, in lexical order. Raises NotHere, NotYet, UpstreamError."""
        tags, warning = await self._all(target)
        begin = bisect_right(tags, last) if last else 0
        end = len(tags) if count is None else begin + count
        return TagPage(tuple(tags[begin:end]), end < len(tags) and end > begin, warning)

    async def _all(self, target: Target) -> tuple[list[str], str]:
        client = self._clients.get(target.upstream)
        if client is None or self._offline or target.aliased:
            return await self._local(target), ""
        fresh_for = self._upstreams[target.upstream].tags.fresh_for
        remembered = self._lists.get(target.name)
        if remembered is not None and time.monotonic() - remembered[0] < fresh_for:
            return remembered[1], ""
        try:
            async with asyncio.timeout(CLIENT_PATIENCE):
                line = self._lines.of(target, LISTS)
                tags = await self._listing.run(target.name, lambda: client.list_tags(target.repository), line)
        except TimeoutError:
            late = NotYet(f"upstream has not answered for the tags of {target.name} yet", "ask again")
            return await self._known_list(target, remembered, late)
        except (UpstreamNotFound, UpstreamDenied) as error:
            self._lists.pop(target.name, None)
            raise NotHere(error.what, error.remedy) from error
        except (UpstreamUnavailable, UpstreamLoginRefused, UpstreamInvalid) as error:
            return await self._known_list(target, remembered, error)
        tags = sorted(set(tags))
        if fresh_for > 0:
            self._lists[target.name] = (time.monotonic(), tags)
            self._lists.move_to_end(target.name)
            if len(self._lists) > _LISTS:
                self._lists.popitem(last=False)
        return tags, ""

    async def _known_list(
        self, target: Target, remembered: tuple[float, list[str]] | None, error: MirrorError
    ) -> tuple[list[str], str]:
        """Return the tags that are known, and a warning; raise `error` where none are."""
        try:
            known = remembered[1] if remembered is not None else await self._local(target)
        except MirrorError:
            raise error from None
        return known, f"the tags of {target.name} may have changed: {error.what}"

    async def _local(self, target: Target) -> list[str]:
        tags = await self._stored_lists.get(target.name, self._sets.known.names.get(target.name, ()))
        if not tags and not (target.hosted and await self._writers.run(self._stored.has_repository, target.name)):
            raise NotHere(f"nothing of {target.name} is here")
        return tags

    async def stop(self) -> None:
        """Cancel the questions under way."""
        await self._checks.stop()
        await self._listing.stop()
        await self._stored_lists.stop()
