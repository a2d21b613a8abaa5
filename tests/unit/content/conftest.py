"""A whole content room over a real store, and a scripted upstream behind it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mirror.config import Config, load
from mirror.content.answers import BlobAnswer
from mirror.content.events import Events, Source
from mirror.content.service import Content, Rooms
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.store import probe
from mirror.store.events import Events as Queues
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.quarantine import Quarantine
from mirror.store.space import Space
from mirror.store.threads import Threads
from mirror.upstream import open_upstreams
from tests.peers.scripted import ScriptedRegistry


class Room:
    """One process's worth of content over a store; several of them over one store are several processes."""

    def __init__(self, config: Config, *, courteous: bool = False) -> None:
        self.config = config
        self.layout = Layout(config.storage.path)
        probe.prepare(self.layout)
        self.metrics = Metrics(upstreams=tuple(config.upstreams))
        self.quarantine = Quarantine(self.layout)
        self.index = Index(self.layout, self.quarantine)
        self.space = Space(self.layout, self.index, config.storage, offline=config.offline)
        self.readers, self.writers, self.takers = Threads("read", 4), Threads("write", 4), Threads("take", 4)
        self.clients = open_upstreams(config, self.metrics, {})
        source = Source("mirror.lab:5000", "test")
        self.events = Events(Queues(self.layout), config.notifications, self.writers, self.metrics, source)
        self.content = Content(
            config,
            Rooms(
                self.layout, self.index, self.space, self.quarantine, self.readers, self.writers, self.takers,
                self.clients, self.metrics, self.events, "sync" if courteous else "test", courteous,
            ),
        )  # fmt: skip

    async def close(self) -> None:
        await self.content.stop()
        await self.clients.close()
        self.readers.close()
        self.writers.close()
        self.takers.close()
        self.index.close()

    def parts(self) -> list[str]:
        return sorted(os.listdir(self.layout.ingest))

    def stored(self) -> set[str]:
        return {f"{path.parent.name}:{path.name}" for path in self.layout.blobs.glob("*/*")}


async def read(answer: BlobAnswer, pace: Callable[[int], Awaitable[None]] | None = None) -> bytes:
    """Return all the bytes of an answer as the face would send them."""
    content = bytearray()
    try:
        if answer.chunks is not None:
            async for piece in answer.chunks:
                content += piece
                if pace is not None:
                    await pace(len(content))
            return bytes(content)
        assert answer.file is not None
        assert answer.stop is not None
        position = answer.start
        while position < answer.stop:
            ready = min(answer.file.ready(), answer.stop)
            if ready <= position:
                ready = min(await answer.file.more(position), answer.stop)
            ready = min(ready, position + 2 * 1024 * 1024)
            await answer.file.load(position, ready)
            content += answer.file.read(position, ready)
            position = ready
            if pace is not None:
                await pace(len(content))
        return bytes(content)
    finally:
        if answer.chunks is not None:
            await answer.chunks.aclose()
        answer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedRegistry]:
    async with ScriptedRegistry() as registry:
        yield registry


@pytest.fixture
async def make_room(tmp_path: Path, upstream: ScriptedRegistry) -> AsyncIterator[Callable[..., Room]]:
    """Return a function that opens a room; keyword arguments are keys of the upstream or of the configuration."""
    rooms: list[Room] = []

    def make(tags: str = "", extra: str = "", storage: str = "", *, courteous: bool = False) -> Room:
        file = tmp_path / "mirror.yaml"
        file.write_text(
            f"storage: {{path: {tmp_path / 'store'}{storage}}}\n"
            f"upstreams:\n  lab:\n    endpoints: [{upstream.url}]\n"
            + (f"    tags: {{{tags}}}\n" if tags else "")
            + extra
        )
        room = Room(load(file), courteous=courteous)
        rooms.append(room)
        return room

    yield make
    for room in rooms:
        await room.close()


@pytest.fixture
async def open_shelf(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that opens a registry that takes pushes, each time as another process of it."""
    from tests.unit.content.hosted_bed import Shelf  # needs what is defined here

    shelves: list[Shelf] = []

    def open_one(**options: Any) -> Shelf:
        shelves.append(Shelf(tmp_path, **options))
        return shelves[-1]

    yield open_one
    for shelf in shelves:
        await shelf.close()


@pytest.fixture
def shelf(open_shelf: Callable[..., Any]) -> Any:
    return open_shelf()


@pytest.fixture
def parse() -> Callable[[str], Digest]:
    return Digest.parse


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if "unit/content" in str(item.fspath):
            item.add_marker(pytest.mark.timeout(60))
