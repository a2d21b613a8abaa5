"""The pull path in this process: sockets, the face and content over a real store, with an upstream that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mirror import logs
from mirror.config import load
from mirror.registry.clients import Clients
from mirror.registry.connections import Connections
from mirror.registry.middleware import Dispatcher
from tests.faults.wire import Got, ask
from tests.unit.content.conftest import Room


class Lines:
    """A request log that is a list."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def line(self, **fields: Any) -> None:
        self.lines.append(fields)


class Service:
    """One worker's worth of service on a free port of loopback."""

    def __init__(self, room: Room, listener: socket.socket, limits: Mapping[str, float]) -> None:
        self.room = room
        self.requests = Lines()
        self.dispatcher = Dispatcher(
            room.content,
            Clients(True),
            room.metrics,
            self.requests,
            logs.get("registry"),
        )
        self.connections = Connections(self.dispatcher, room.metrics, **limits)
        self.connections.listen(listener)
        self.address: tuple[str, int] = listener.getsockname()[:2]

    async def get(self, target: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> Got:
        """Ask on a connection of its own."""
        return await ask(self.address, target, method, headers)

    async def settled(self, seconds: float = 10) -> None:
        """Wait until nothing is fetched any more."""
        async with asyncio.timeout(seconds):
            while self.room.content._fetcher._fills or self.room.content._members._grants:
                await asyncio.sleep(0.005)


def document(store: Path, upstreams: Mapping[str, Mapping[str, Any]], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mirror.yaml as a value: `extra` are keys of it, `storage` is merged."""
    storage = {"path": str(store), "keep_free": "1%", **extra.get("storage", {})}
    return {**extra, "storage": storage, "upstreams": {name: dict(keys) for name, keys in upstreams.items()}}


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    upstreams: Mapping[str, Mapping[str, Any]],
    extra: Mapping[str, Any] | None = None,
    limits: Mapping[str, float] | None = None,
) -> AsyncIterator[Service]:
    """Serve a store at `folder`/store in front of these upstreams."""
    file = folder / "mirror.yaml"
    file.write_text(yaml.safe_dump(document(folder / "store", upstreams, extra or {})))
    room = Room(load(file))
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    service = Service(room, listener, limits or {})
    try:
        yield service
    finally:
        await service.connections.drain(0)
        listener.close()
        await room.close()
