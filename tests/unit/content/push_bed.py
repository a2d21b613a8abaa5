"""A registry that takes pushes: the content room's uploads over a real store, alone or behind the face."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from mirror.config import load
from mirror.config.access import Readers, Rule
from mirror.content.answers import Target
from mirror.content.quotas import Quotas
from mirror.content.uploads import Uploads
from mirror.registry.access import Access
from mirror.registry.clients import Clients
from mirror.registry.connections import Connections
from mirror.registry.gate import Gate
from mirror.registry.middleware import Dispatcher
from mirror.store.hosted import Hosted
from mirror.store.ingest import boot_id
from mirror.store.manifests import Manifests as Rows
from mirror.store.threads import Threads
from mirror.store.uploads import Uploads as StoredUploads
from tests.unit.content.conftest import Room
from tests.unit.registry.stage import Face, Lines

APP = Target("", "team/app", "team/app", hosted=True)
OTHER = Target("", "team/other", "team/other", hosted=True)


class Pushes:
    """One process's uploads over a store; several of them over one store are several processes."""

    def __init__(self, room: Room, *, blob_limit: int | None = None) -> None:
        self.room = room
        self.layout = room.layout
        self.threads = Threads("push", 4)
        self.stored = StoredUploads(room.layout, boot_id())
        self.hosted = Hosted(room.layout)
        self.rows = Rows(room.layout)
        self.quotas = Quotas(room.layout, self.stored, self.threads)
        content = room.content
        self.uploads = Uploads(
            room.layout,
            self.stored,
            self.hosted,
            self.rows,
            content._members,
            room.space,
            self.threads,
            content._blobs.here,
            self.quotas,
            room.index.note,
            blob_limit=room.config.limits.blob if blob_limit is None else blob_limit,
        )

    def close(self) -> None:
        self.threads.close()

    def under_way(self) -> list[str]:
        """Return the files of uploads."""
        return sorted(path.name for path in self.layout.uploads.iterdir())


def make_room(folder: Path, document: Mapping[str, Any] | None = None) -> Room:
    """Open a room over `folder`/store, which no document changes."""
    file = folder / "mirror.yaml"
    given = dict(document or {})
    storage = {"keep_free": "0%", **given.pop("storage", {}), "path": str(folder / "store")}
    file.write_text(yaml.safe_dump({"storage": storage, **given}))
    return Room(load(file))


async def pieces(*parts: bytes | BaseException) -> AsyncIterator[bytes]:
    """Yield the parts of a body, raising those that are errors."""
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        yield part


@asynccontextmanager
async def pushing(
    folder: Path,
    document: Mapping[str, Any] | None = None,
    *,
    anonymous: Any = "push",
    rules: Sequence[Rule] = (),
    blob_limit: int | None = None,
    port: int = 0,
    **limits: float,
) -> AsyncIterator[tuple[Face, Pushes]]:
    """Serve a registry that takes pushes on a port of loopback."""
    room = make_room(folder, document)
    room.content._members._readers = Readers(anonymous, rules)
    pushes = Pushes(room, blob_limit=blob_limit)
    lines, clients = Lines(), Clients(True)
    dispatcher = Dispatcher(
        room.content,
        clients,
        room.metrics,
        lines,
        lines,
        gate=Gate(Access(anonymous, rules), clients, room.content.resolve),
        uploads=pushes.uploads,
    )
    server = Connections(dispatcher, room.metrics, **limits)
    listener = socket.create_server(("127.0.0.1", port))
    server.listen(listener)
    face = Face(dispatcher, server, listener, lines, room.metrics)
    try:
        yield face, pushes
    finally:
        await face.close()
        pushes.close()
        await room.close()
