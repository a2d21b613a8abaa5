"""In front of a registry: counts what each digest costs, cuts bodies, slows them, lets tokens expire, goes away."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

from tests.tools.images import OCI_INDEX
from tests.tools.threads import LoopThread

_HOP = {"connection", "keep-alive", "transfer-encoding", "host"}
_DIGEST = re.compile(r"/(?:blobs|manifests)/(sha256:[0-9a-f]{64})$")
_REFERRERS = re.compile(r"/v2/.+/referrers/(sha256:[0-9a-f]{64})$")
_CHUNK = 64 * 1024
_SEND_BUFFER = 64 * 1024  # what is counted is what left here, not what waits in the kernel


@dataclass(frozen=True)
class Asked:
    """One request and what became of it; `sent` is the bytes of its body that were sent."""

    method: str
    path: str
    status: int
    authorized: bool
    sent: int


class Front(LoopThread):
    """A reverse proxy over TLS before the registry at `target` (a URL). A context manager.

    What tests set, at any time: `rate` (bytes/s of each body), `cut_after` (bytes after which each body breaks off),
    `token_lifetime` (seconds after which a token is refused whatever it says itself), `unavailable` (a status that
    answers everything under /v2/), `referrers` (descriptors by subject; the registry behind may have no such API).
    """

    def __init__(self, target: str, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__()
        self._target = target
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)
        self._port_holder = _bound(0)  # keeps the port while nobody listens on it
        port = self._port_holder.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.asked: list[Asked] = []
        self.sent: Counter[str] = Counter()  # bytes of bodies by digest
        self.passing = 0  # requests under way: one whose client was killed ends at its next byte
        self.rate: float | None = None
        self.cut_after: int | None = None
        self.token_lifetime: float | None = None
        self.unavailable: int | None = None
        self.referrers: dict[str, Sequence[Mapping[str, Any]]] = {}

    @property
    def total(self) -> int:
        """Bytes of all bodies named by a digest that were sent so far."""
        return sum(self.sent.values())

    def forget(self) -> None:
        """Begin to count anew."""
        self.asked.clear()
        self.sent.clear()

    def requests(self, kind: str = "") -> list[Asked]:
        """Return what was asked and answered in full, of paths that contain `kind` (`/blobs/`)."""
        return [one for one in list(self.asked) if kind in one.path and one.status < 300]

    def go_away(self) -> None:
        """Refuse connections from now on, and break off those that are there."""
        self.call(self._down())

    def come_back(self) -> None:
        """Listen again, on the same port."""
        self.call(self._up())

    async def _open(self) -> None:
        self._session = ClientSession(
            connector=TCPConnector(limit=0), auto_decompress=False, timeout=ClientTimeout(total=None)
        )
        self._server = web.Server(self._handle)
        self._listener: asyncio.Server | None = None
        await self._up()

    async def _close(self) -> None:
        await self._down()
        await self._server.shutdown(0.1)
        await self._session.close()
        self._port_holder.close()

    async def _up(self) -> None:
        if self._listener is None:
            listening = _bound(int(self.address.rpartition(":")[2]))
            self._listener = await self._loop.create_server(self._server, sock=listening, ssl=self._tls, backlog=512)

    async def _down(self) -> None:
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        for connection in list(self._server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.unavailable and request.path.startswith("/v2/"):
            return self._answered(request, web.Response(status=self.unavailable))
        if found := _REFERRERS.fullmatch(request.path):
            if not request.headers.get("Authorization"):
                return await self._passed(request, "/v2/")  # its challenge
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.referrers.get(found.group(1), [])}
            body = json.dumps(index).encode()
            return self._answered(request, web.Response(body=body, headers={"Content-Type": OCI_INDEX}))
        return await self._passed(request, request.raw_path)

    def _answered(self, request: web.BaseRequest, response: web.Response) -> web.Response:
        self._note(request, response.status, 0)
        return response

    def _note(self, request: web.BaseRequest, status: int, sent: int) -> None:
        authorized = "Authorization" in request.headers
        self.asked.append(Asked(request.method, request.raw_path, status, authorized, sent))

    async def _passed(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP]
        if self.token_lifetime is not None:
            headers = [(name, value) for name, value in headers if not self._expired(name, value)]
        sent = 0
        status = 502
        self.passing += 1
        try:
            async with self._session.request(
                request.method,
                URL(self._target + path, encoded=True),
                headers=headers,
                data=await request.read() or None,
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
                allow_redirects=False,
            ) as answer:
                status = answer.status
                response = web.StreamResponse(status=status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in _HOP:
                        response.headers.add(name, value)
                if request.transport is not None and (raw := request.transport.get_extra_info("socket")) is not None:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
                await response.prepare(request)
                if request.method != "HEAD":
                    sent = await self._body(request, answer.content, response, status)
                await response.write_eof()
                return response
        except (ClientError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=502)
        finally:
            self.passing -= 1
            self._note(request, status, sent)

    async def _body(self, request: web.BaseRequest, content: Any, response: web.StreamResponse, status: int) -> int:
        """Send a body on as tests want it, and return its bytes."""
        found = _DIGEST.search(request.path) if status < 300 else None
        digest = found.group(1) if found else ""
        sent = 0
        while chunk := await content.read(self._step()):
            cut = self.cut_after if digest else None
            if cut is not None and sent + len(chunk) > cut:
                chunk = chunk[: cut - sent]
            if digest:  # before they leave: who has received them finds them counted
                self.sent[digest] += len(chunk)
            try:
                await response.write(chunk)
            except ConnectionError:
                if digest:
                    self.sent[digest] -= len(chunk)  # whom they were for had gone
                raise
            sent += len(chunk)
            if cut is not None and sent >= cut:
                await asyncio.sleep(0.02)  # what was written leaves first
                raise ConnectionResetError("cut on purpose")
            if self.rate:
                await asyncio.sleep(len(chunk) / self.rate)
        return sent

    def _step(self) -> int:
        """Return how many bytes are sent at a time: of a slow body some for each twentieth of a second."""
        return max(1024, min(_CHUNK, int(self.rate / 20))) if self.rate else _CHUNK

    def _expired(self, name: str, value: str) -> bool:
        """Tell whether a header is a token that was issued too long ago."""
        scheme, _, token = value.partition(" ")
        if name.lower() != "authorization" or scheme.lower() != "bearer":
            return False
        encoded = token.split(".")[1]
        issued = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))["iat"]
        return time.time() - issued > (self.token_lifetime or 0)


def _bound(port: int) -> socket.socket:
    """Return a socket at a port of the loopback that others may bind too, as long as only one listens."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
