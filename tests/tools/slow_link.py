"""A link that is far away: a TCP proxy with a latency, and so many bytes a second for each connection.

`python -m tests.tools.slow_link PORT TARGET ROUND_TRIP_MS BYTES_PER_SECOND` runs one until it is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from dataclasses import dataclass

from tests.tools.threads import LoopThread

_CHUNK = 32 * 1024
_WINDOW = 64  # chunks on the way, so that the sender is held back as by a link and not by memory


@dataclass
class Passage:
    """What one connection carried, in bytes."""

    to_target: int = 0
    from_target: int = 0
    opened: float = 0.0
    closed: float = 0.0


class SlowLink(LoopThread):
    """Carries connections to `target` (host:port). A context manager.

    `round_trip` is in seconds; a new connection costs one as well. `rate` is bytes/s of each connection and
    direction, None for as fast as it goes. `passages` has a line for each connection, in order.
    """

    def __init__(self, target: str, round_trip: float = 0.05, rate: float | None = 10e6, port: int = 0) -> None:
        super().__init__()
        host, _, target_port = target.rpartition(":")
        self._target = (host, int(target_port))
        self._round_trip = round_trip
        self._rate = rate
        self.passages: list[Passage] = []
        self._listening = socket.create_server(("127.0.0.1", port), backlog=512)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"

    @property
    def received(self) -> int:
        """Bytes from the target, all connections together."""
        return sum(one.from_target for one in self.passages)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._carry, sock=self._listening)

    async def _close(self) -> None:
        self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = Passage(opened=self._loop.time())
        self.passages.append(passage)
        try:
            await asyncio.sleep(self._round_trip)  # of the handshake
            try:
                target_reader, target_writer = await asyncio.open_connection(*self._target)
            except OSError:
                return
            try:
                await asyncio.gather(
                    self._one_way(reader, target_writer, passage, "to_target"),
                    self._one_way(target_reader, writer, passage, "from_target"),
                )
            finally:
                target_writer.close()
        finally:
            writer.close()
            passage.closed = self._loop.time()

    async def _one_way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: Passage, counter: str
    ) -> None:
        """Carry one direction: each chunk is sent as the rate allows and arrives half a round trip later."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WINDOW)

        async def arrive() -> None:
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                if not chunk:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                setattr(passage, counter, getattr(passage, counter) + len(chunk))
                with contextlib.suppress(OSError):
                    writer.write(chunk)
                    await writer.drain()

        arriving = asyncio.create_task(arrive())
        free = 0.0  # when the line has sent what it was given
        try:
            while True:
                try:
                    chunk = await reader.read(_CHUNK)
                except OSError:
                    chunk = b""
                now = self._loop.time()
                free = max(free, now) + (len(chunk) / self._rate if self._rate else 0)
                await under_way.put((free + self._round_trip / 2, chunk))
                if not chunk:
                    break
            await arriving
        finally:
            arriving.cancel()


if __name__ == "__main__":
    with SlowLink(sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4]), int(sys.argv[1])):
        signal.pause()
