"""Clients that mean no good, or do not wait: hang-ups, hostile heads, and answers that nobody reads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket

from tests.faults.smuggling import CORPUS
from tests.soak.ground import Ground

_LONGEST = 5.0  # seconds that one of them takes
_CORPUS = sorted(CORPUS.values())


class HangUps:
    """Ask for what is there, what is not, and what a silent upstream may have, and close at once."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._chance = ground.chance("hang-ups")

    async def run(self) -> None:
        chance = self._chance
        while True:
            for _ in range(chance.choice([1, 5, 30])):
                self._ground.ledger.counts["hang-up"] += 1
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(*self._ground.address)
                    writer.write(
                        f"{chance.choice(['GET', 'HEAD'])} {self._path()} HTTP/1.1\r\nHost: m\r\n\r\n".encode()
                    )
                    await writer.drain()
                    writer.transport.abort() if chance.random() < 0.5 else writer.close()
            await asyncio.sleep(chance.uniform(0, 0.5))

    def _path(self) -> str:
        chance = self._chance
        if chance.random() < 0.3:
            repository, reference = chance.choice(list(self._ground.ledger.names))
            return f"/v2/{repository}/manifests/{reference}"
        made_up = hashlib.sha256(chance.randbytes(8)).hexdigest()
        kind = chance.choice(["blobs/sha256:", "manifests/sha256:", "manifests/", "referrers/sha256:"])
        return f"/v2/{chance.choice(['sick', 'peer'])}/team/app/{kind}{made_up}"


class Hostile:
    """Sends what no client should, and leaves after some seconds at the most."""

    def __init__(self, ground: Ground, number: int) -> None:
        self._ground = ground
        self._chance = ground.chance(f"hostile {number}")

    async def run(self) -> None:
        chance = self._chance
        attacks = (self._doubtful, self._long, self._slow, self._unread, self._cut_push, self._noise)
        while True:
            self._ground.ledger.counts["hostile"] += 1
            with contextlib.suppress(OSError, TimeoutError):
                await self._with(chance.choice(attacks)())
            await asyncio.sleep(chance.uniform(0, 0.3))

    async def _with(self, pieces: tuple[list[bytes], float, bool]) -> None:
        """Connect, send pieces with pauses between them, and read the answers or not."""
        sent, pause, reads = pieces
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16 if reads else 4096)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(_LONGEST):
                await loop.sock_connect(client, self._ground.address)
                for piece in sent:
                    await loop.sock_sendall(client, piece)
                    await asyncio.sleep(pause)
                async with asyncio.timeout(1):
                    while reads and await loop.sock_recv(client, 1 << 16):
                        pass

    def _doubtful(self) -> tuple[list[bytes], float, bool]:
        return [self._chance.choice(_CORPUS)], 0, True

    def _long(self) -> tuple[list[bytes], float, bool]:
        return [b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: " + b"a" * self._chance.choice([8_000, 70_000, 1 << 20])], 0, True

    def _slow(self) -> tuple[list[bytes], float, bool]:
        return [bytes([one]) for one in b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: aaaaaaaaaaaa"], 0.1, False

    def _unread(self) -> tuple[list[bytes], float, bool]:
        """Heads pipelined behind answers that are not read."""
        repository, reference = self._chance.choice(list(self._ground.ledger.names))
        fields = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 7_000) for number in range(7))
        head = f"GET /v2/{repository}/manifests/{reference} HTTP/1.1\r\nHost: m\r\n".encode()
        return [head + fields + b"\r\n"] * 60, 0, False

    def _cut_push(self) -> tuple[list[bytes], float, bool]:
        size = self._chance.choice([10, 1_000_000])
        head = f"POST /v2/team/cut/blobs/uploads/ HTTP/1.1\r\nHost: m\r\nContent-Length: {size}\r\n\r\n".encode()
        return [head + b"a" * 5], 0.2, False

    def _noise(self) -> tuple[list[bytes], float, bool]:
        return [self._chance.randbytes(2000)], 0, True
