"""A client that notices everything: what came before the end, and whether that end was clean."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

_LONGEST = 30.0  # seconds for one answer
_PIECE = 1 << 16


@dataclass
class Got:
    """One answer. `status` 0: none came. `clean`: the body ended as its framing says, so a client would take it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    clean: bool = False

    @property
    def cache(self) -> str:
        return self.headers.get("x-cache", "")

    @property
    def code(self) -> str:
        """The code of a registry's error, empty for anything else."""
        import json

        try:
            return str(json.loads(self.body)["errors"][0]["code"])
        except (ValueError, LookupError, TypeError):
            return ""

    @property
    def message(self) -> str:
        import json

        return str(json.loads(self.body)["errors"][0]["message"])


async def ask(
    address: tuple[str, int],
    target: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
) -> Got:
    """Send one request on a connection of its own and read the answer to its end.

    A body is sent with its length unless `headers` give another one; what answers before its end is heard all the same.
    """
    fields = {"Host": f"{address[0]}:{address[1]}", **(headers or {})}
    if body is not None:
        fields.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(_LONGEST):
            with contextlib.suppress(ConnectionError):
                writer.write(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
                for at in range(0, len(body or b""), _PIECE):
                    writer.write((body or b"")[at : at + _PIECE])
                    await writer.drain()
            return await read_answer(reader, method)
    finally:
        writer.transport.abort()


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> Got:
    """Read one answer; an interim one (1xx) is passed over."""
    got = Got()
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.rstrip("\r\n").split("\r\n")
            got.status = int(line.split(" ")[1])
            if got.status >= 200:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        return got
    for one in fields:
        name, _, value = one.partition(":")
        got.headers[name.lower()] = value.strip()
    body = bytearray()
    try:
        got.clean = await _read_body(reader, got, method, body)
    except (asyncio.IncompleteReadError, ConnectionError):
        got.clean = False
    got.body = bytes(body)
    return got


async def _read_body(reader: asyncio.StreamReader, got: Got, method: str, body: bytearray) -> bool:
    if method == "HEAD" or got.status in (204, 304):
        return True
    if got.headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await _take(reader, size, body)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return True
    if "content-length" in got.headers:
        await _take(reader, int(got.headers["content-length"]), body)
        return True
    while piece := await reader.read(_PIECE):
        body += piece
    return True


async def _take(reader: asyncio.StreamReader, size: int, body: bytearray) -> None:
    """Append `size` bytes to `body`, what comes before a break as well."""
    while size:
        piece = await reader.read(min(_PIECE, size))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        body += piece
        size -= len(piece)
