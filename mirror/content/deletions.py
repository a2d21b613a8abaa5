"""Deleting a manifest with all tags that mean it: noted at once, carried out however many these are.

Whoever deletes waits for a second at most; the rest is done behind the answer, by whichever process is there for it.
Meanwhile the manifest and these tags are gone for clients, by the note (store/deletions.py). Nobody lets another tag
mean it before all of that is over: a push of the same manifest carries the deletion out first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from mirror.content.coalesce import Coalesced
from mirror.content.locks import Locks
from mirror.content.manifest_store import ManifestStore
from mirror.errors import NotHere, StoreError
from mirror.oci.digest import Digest
from mirror.store.deletions import Deletion
from mirror.store.deletions import Deletions as Notes
from mirror.store.tags import TagRecord, Tags
from mirror.store.threads import Threads

_PATIENCE = 1.0  # seconds that whoever deletes waits
_BATCH = 1000  # tags that a thread looks at, or forgets, at a time

# Told of a deletion that is done: repository, manifest, who wanted it, from where, how many tags meant it.
Told = Callable[[str, Digest, str, str, int], None]


class Deletions:
    """Carries deletions out. `told` is called once for each, by whichever process ends it."""

    def __init__(self, notes: Notes, manifests: ManifestStore, tags: Tags, locks: Locks, threads: Threads) -> None:
        self.told: Told | None = None
        self._notes = notes
        self._manifests = manifests
        self._tags = tags
        self._locks = locks
        self._threads = threads
        self._running: Coalesced[tuple[str, Digest], None] = Coalesced()

    def has(self, name: str, digest: Digest) -> bool:
        """Tell whether a manifest is being deleted: one system call."""
        return self._notes.has(name, digest)

    async def begin(self, name: str, digest: Digest, who: str, client: str) -> None:
        """Let a manifest, whose lock is held, be gone from now on, with the tags that mean it. Raises OSError."""
        deletion = Deletion(name, digest, who, client)
        await self._threads.complete(self._notes.write, deletion)
        await self._threads.complete(self._notes.hide, deletion)

    async def wait(self, name: str, digest: Digest) -> None:
        """Carry a deletion out; return when that is done, or goes on behind the caller. Raises StoreError, OSError."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self.finish(name, digest)
        except TimeoutError:
            return

    async def finish(self, name: str, digest: Digest) -> None:
        """Return when a deletion is over, whoever carries it out. Raises StoreError, OSError."""
        await self._running.run((name, digest), lambda: self._carry_out(name, digest))

    async def resume(self) -> None:
        """Carry out what is noted and was cut off; one that cannot be stops no other. Raises StoreError, OSError."""
        failed: StoreError | OSError | None = None
        for deletion in await self._threads.complete(self._notes.list):
            try:
                await self.finish(deletion.name, deletion.digest)
            except (StoreError, OSError) as error:
                failed = error
        if failed is not None:
            raise failed

    async def stop(self) -> None:
        """Leave what is being carried out to whoever comes next."""
        await self._running.stop()

    async def _carry_out(self, name: str, digest: Digest) -> None:
        run = self._threads.complete
        async with self._locks.hold("deletion", f"{name}@{digest}", required=True):
            deletion = await run(self._notes.read, name, digest)
            if deletion is None:
                return
            meaning, mentioning = await self._find(name, digest)
            if deletion.tags is None:  # and not again of those that were left when it was cut off
                deletion = replace(deletion, tags=len(meaning))
                await run(self._notes.write, deletion)
            await self._forget_all(name, digest, [*meaning, *mentioning])
            with suppress(NotHere):  # as where it was cut off here
                await run(self._manifests.remove, name, digest)
            if self.told is not None:
                self.told(name, digest, deletion.who, deletion.client, deletion.tags or 0)
            await run(self._notes.remove, deletion)

    async def _find(self, name: str, digest: Digest) -> tuple[list[str], list[str]]:
        """Return the tags that mean `digest`, and those that meant it."""
        meaning: list[str] = []
        mentioning: list[str] = []
        for batch in _batches(await self._threads.complete(self._tags.list, name)):
            for tag, record in await self._threads.complete(self._read, name, batch):
                if record.digest == digest:
                    meaning.append(tag)
                elif record.meant(digest):
                    mentioning.append(tag)
        return meaning, mentioning

    def _read(self, name: str, tags: Sequence[str]) -> list[tuple[str, TagRecord]]:
        records = ((tag, self._tags.read_if_whole(name, tag)) for tag in tags)
        return [(tag, record) for tag, record in records if record is not None]

    async def _forget_all(self, name: str, digest: Digest, tags: Sequence[str]) -> None:
        """Let tags neither mean nor have meant `digest`; one that was moved meanwhile keeps what it means now."""
        for batch in _batches(tags):
            for tag in await self._threads.complete(self._forget_free, name, digest, batch):
                async with self._locks.hold("tag", f"{name}:{tag}", required=True):
                    await self._threads.complete(self._forget, name, digest, tag)
        await self._threads.complete(self._tags.sync, name)

    def _forget_free(self, name: str, digest: Digest, tags: Sequence[str]) -> list[str]:
        """Forget tags that nobody is moving; return the others."""
        busy = []
        for tag in tags:
            lock = self._locks.file("tag", f"{name}:{tag}")
            if not lock.try_acquire():
                busy.append(tag)
                continue
            try:
                self._forget(name, digest, tag)
            finally:
                lock.release()
        return busy

    def _forget(self, name: str, digest: Digest, tag: str) -> None:
        record = self._tags.read_if_whole(name, tag)
        if record is not None and record.digest == digest:
            self._tags.remove(name, tag)
        elif record is not None and record.meant(digest):
            self._tags.write(name, tag, record.without(digest), durable=True)


def _batches(tags: Sequence[str]) -> list[Sequence[str]]:
    return [tags[start : start + _BATCH] for start in range(0, len(tags), _BATCH)]
