"""A fake content with real files, the face served from it, and raw HTTP to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mirror.content.answers import (
    BlobAnswer,
    BlobHead,
    ManifestAnswer,
    RangeUnsatisfiable,
    ReferrersAnswer,
    TagPage,
    Target,
)
from mirror.errors import NameUnknown, NotHere
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_MANIFEST
from mirror.registry.clients import Clients
from mirror.registry.connections import Connections
from mirror.registry.middleware import Dispatcher

# Saved before the blocking-call detector replaces them: these stand for the store's, which it lets through.
_open, _fstat, _pread, _stat = os.open, os.fstat, os.pread, os.stat


class StoredFile:
    """A whole file, as content hands it out."""

    def __init__(self, path: Path) -> None:
        self.fd = _open(path, os.O_RDONLY)
        self.size = _fstat(self.fd).st_size
        self.loaded: list[tuple[int, int]] = []

    def ready(self) -> int:
        return self.size

    async def more(self, position: int) -> int:
        return self.size

    async def load(self, start: int, stop: int) -> None:
        await asyncio.sleep(0)
        self.loaded.append((start, stop))

    def read(self, start: int, stop: int) -> bytes:
        assert stop <= self.ready()
        return _pread(self.fd, stop - start, start)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class GrowingFile(StoredFile):
    """A file that is appended to while it is read; `end` makes it whole or, with an error, ends it short."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(b"")
        super().__init__(path)
        self.path = path
        self.grown = asyncio.Condition()
        self.error: BaseException | None = None
        self.waiting = 0

    async def more(self, position: int) -> int:
        async with self.grown:
            self.waiting += 1
            await self.grown.wait_for(lambda: self.size > position or self.error is not None)
            self.waiting -= 1
        if self.size > position:
            return self.size
        assert self.error is not None
        raise self.error

    async def append(self, content: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(content)
        async with self.grown:
            self.size += len(content)
            self.grown.notify_all()

    async def end(self, error: BaseException) -> None:
        async with self.grown:
            self.error = error
            self.grown.notify_all()


class Chunks:
    """An upstream body: what it yields, bytes or an error to raise."""

    def __init__(self, *parts: bytes | BaseException) -> None:
        self.parts = list(parts)
        self.closed = False

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        if not self.parts:
            raise StopAsyncIteration
        part = self.parts.pop(0)
        if isinstance(part, BaseException):
            raise part
        return part

    async def aclose(self) -> None:
        self.closed = True


class FakeContent:
    """Content of one upstream, quay.io. `calls` says what was asked; `trouble` is raised by whatever may wait."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calls: list[tuple[Any, ...]] = []
        self.trouble: BaseException | None = None
        self.remembered: dict[Digest | str, ManifestAnswer] = {}
        self.manifests: dict[Digest | str, ManifestAnswer] = {}
        self.here: dict[Digest, Path] = {}
        self.answers: dict[Digest, Callable[[], BlobAnswer]] = {}
        self.page = TagPage((), more=False)
        self.index: ReferrersAnswer | None = None
        self.wait: Callable[[], Any] | None = None
        self._opened: list[Any] = []

    def add_blob(self, body: bytes) -> Digest:
        digest = Digest.of(body)
        path = self._folder / digest.hex
        path.write_bytes(body)
        self.here[digest] = path
        return digest

    def add_manifest(self, body: bytes, *tags: str, **more: Any) -> Digest:
        digest = Digest.of(body)
        fields = {"media_type": OCI_MANIFEST, "cache": "HIT", "upstream": "quay.io", **more}
        answer = ManifestAnswer(digest=digest, size=len(body), body=body, **fields)
        for reference in (digest, *tags):
            self.remembered[reference] = answer
        return digest

    def add_growing(self, digest: Digest, total: int | None, **more: Any) -> GrowingFile:
        """Answer the blob from a file that grows."""
        file = GrowingFile(self._folder / f"{digest.hex}.part")
        self._opened.append(file)
        self.answers[digest] = lambda: BlobAnswer(total, 0, total, "MISS", file, upstream="quay.io", **more)
        return file

    def add_chunks(self, digest: Digest, total: int | None, *parts: bytes | BaseException) -> Chunks:
        """Answer the blob, whole, from an upstream body."""
        return self.add_range(digest, total, 0, total, *parts)

    def add_range(
        self, digest: Digest, total: int | None, start: int, stop: int | None, *parts: bytes | BaseException
    ) -> Chunks:
        chunks = self.keep(Chunks(*parts))
        self.answers[digest] = lambda: BlobAnswer(total, start, stop, "BYPASS", chunks=chunks, upstream="quay.io")
        return chunks

    def keep(self, opened: Any) -> Any:
        """Watch that this file or body is closed in the end."""
        self._opened.append(opened)
        return opened

    def open_files(self) -> list[Any]:
        return [file for file in self._opened if isinstance(file, StoredFile) and file.fd >= 0]

    def open_chunks(self) -> list[Any]:
        return [chunks for chunks in self._opened if isinstance(chunks, Chunks) and not chunks.closed]

    def resolve(self, name: str, ns: str | None, prefix: str | None) -> Target:
        self.calls.append(("resolve", name, ns, prefix))
        upstream = prefix or ns or name.partition("/")[0]
        if upstream != "quay.io":
            raise NameUnknown(f"no upstream '{upstream}' is configured here")
        repository = name if prefix or ns else name.partition("/")[2]
        return Target("quay.io", repository, f"quay.io/{repository}")

    def manifest_now(self, target: Target, reference: Digest | str) -> ManifestAnswer | None:
        return self.remembered.get(reference)

    def blob_now(self, target: Target, digest: Digest) -> BlobAnswer | None:
        path = self.here.get(digest)
        if path is None:
            return None
        file = StoredFile(path)
        self._opened.append(file)
        return BlobAnswer(file.size, 0, file.size, "HIT", file, upstream="quay.io")

    async def manifest(self, target: Target, reference: Digest | str, head: bool, may_pull: Any) -> ManifestAnswer:
        await self._ask("manifest", reference, head)
        if reference not in self.manifests:
            raise NotHere("not here", "ask later")
        return self.manifests[reference]

    async def blob(self, target: Target, digest: Digest, range: Any, may_pull: Any) -> BlobAnswer:  # noqa: A002 - the seam's name
        await self._ask("blob", digest, range)
        if digest not in self.answers:
            raise NotHere("not here", "ask later")
        answer = self.answers[digest]()
        if range is not None and answer.total is not None and answer.start == 0 and answer.stop == answer.total:
            span = range.resolve(answer.total)
            if span is None:
                answer.close()
                raise RangeUnsatisfiable(answer.total)
            answer.start, answer.stop = span
        return answer

    async def blob_head(self, target: Target, digest: Digest, may_pull: Any) -> BlobHead:
        await self._ask("blob_head", digest)
        if digest not in self.here:
            raise NotHere("not here", "ask later")
        return BlobHead(_stat(self.here[digest]).st_size, "HIT", "quay.io")

    async def tags(self, target: Target, count: int | None, last: str) -> TagPage:
        await self._ask("tags", count, last)
        return self.page

    async def referrers(
        self, target: Target, digest: Digest, artifact_type: str | None, last: str = ""
    ) -> ReferrersAnswer:
        await self._ask("referrers", digest, artifact_type)
        if self.index is None:
            raise NotHere("upstream has no referrers")
        return self.index

    settled = True
    signatures: ClassVar[dict[tuple[Digest, int], bytes]] = {}

    async def graph(self, channel: str, architecture: str) -> bytes:
        return json.dumps({"channel": channel, "arch": architecture}).encode()

    async def signature(self, digest: Digest, number: int) -> bytes | None:
        return self.signatures.get((digest, number))

    async def settle(self) -> None:
        """Nothing to read."""

    async def ready(self) -> None:
        await self._ask("ready")

    async def _ask(self, *call: Any) -> None:
        self.calls.append(call)
        if self.wait is not None:
            await self.wait()
        await asyncio.sleep(0)
        if self.trouble is not None:
            raise self.trouble


@dataclass
class Lines:
    """A request log and an event log that keep what they are told."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def line(self, **fields: Any) -> None:
        self.requests.append(fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self.events.append(("warning", event, fields))

    def error(self, event: str, /, **fields: Any) -> None:
        self.events.append(("error", event, fields))


@dataclass
class Reply:
    """One HTTP answer taken apart by hand: no client's leniency hides a fault."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        (error,) = json.loads(self.body)["errors"]
        return error


class Face:
    """The face on a port of loopback."""

    def __init__(
        self, dispatcher: Dispatcher, server: Connections, listener: socket.socket, lines: Lines, metrics: Metrics
    ) -> None:
        self.dispatcher = dispatcher
        self.server = server
        self.port = listener.getsockname()[1]
        self.lines = lines
        self.metrics = metrics
        self.listeners = [listener]
        self._wires: list[Wire] = []

    async def connect(self, tls: ssl.SSLContext | None = None, **more: Any) -> Wire:
        name = "localhost" if tls else None
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=name, **more))
        self._wires.append(wire)
        return wire

    async def ask(self, target: str, method: str = "GET", tls: ssl.SSLContext | None = None, **fields: str) -> Reply:
        """Send one request on a connection of its own and return the answer; names of fields take _ for -."""
        wire = await self.connect(tls)
        try:
            await wire.send(target, method, **fields)
            return await wire.read(method)
        finally:
            await wire.close()

    async def noted(self, count: int = 1) -> dict[str, Any]:
        """Wait until `count` requests are noted and return the last."""
        await until(lambda: len(self.lines.requests) >= count)
        return self.lines.requests[-1]

    async def close(self) -> None:
        for wire in self._wires:
            wire.writer.transport.abort()
            await wire.close()
        await self.server.drain(0)
        for listener in self.listeners:
            listener.close()


class Wire:
    """One client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, target: str, method: str = "GET", version: str = "1.1", **fields: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"{method} {target} HTTP/{version}\r\nHost: mirror\r\n{lines}\r\n".encode())
        await self.writer.drain()

    async def head(self) -> Reply:
        async with asyncio.timeout(10):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")[:-2]
        version, status, _reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in fields, f"{name} twice"
            fields[name.lower()] = value
        return Reply(int(status), fields, b"")

    async def read(self, method: str = "GET") -> Reply:
        """Read one whole answer; raise IncompleteReadError if it is short."""
        reply = await self.head()
        async with asyncio.timeout(20):
            if method == "HEAD" or reply.status in (204, 304):
                pass
            elif "transfer-encoding" in reply.fields:
                assert reply.fields["transfer-encoding"] == "chunked"
                assert "content-length" not in reply.fields
                while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
                    reply.body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
            elif "content-length" in reply.fields:
                reply.body = await self.reader.readexactly(int(reply.fields["content-length"]))
            else:
                reply.body = await self.reader.read()
        return reply

    async def rest(self) -> bytes:
        """Return everything until the server ends the connection."""
        async with asyncio.timeout(20):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


async def serve_face(
    content: FakeContent,
    *,
    tls: ssl.SSLContext | None = None,
    anonymous: bool = True,
    trusted_proxies: tuple[str, ...] = (),
    write_stall: float = 60,
    **arguments: Any,
) -> Face:
    """Serve `content` as a worker does: the dispatcher behind the connections."""
    lines = Lines()
    metrics = Metrics(upstreams=["quay.io"])
    clients = Clients(anonymous, trusted_proxies)
    dispatcher = Dispatcher(content, clients, metrics, lines, lines, **arguments)
    server = Connections(dispatcher, metrics, write_stall=write_stall)
    listener = socket.create_server(("127.0.0.1", 0))
    server.listen(listener, None if tls is None else Tls(tls))  # type: ignore[arg-type] # its context is all that is used
    return Face(dispatcher, server, listener, lines, metrics)


class Tls:
    """What the connections take of ServerTls."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
