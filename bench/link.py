"""A link to far away: a latency, and so many bytes a second for each connection; counts what it carries.

`python -m bench.link ROUND_TRIP_MS BYTES_PER_SECOND PORT=TARGET…` carries connections to each PORT of the loopback on
to the port TARGET until it is ended. A connection to the port CONTROL (`PORT=control`) is told the counts as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.processes import BenchError, Server
from tests.tools.processes import free_port

_STEP = 128 * 1024  # bytes that are carried at a time: 13 ms at 10 MB/s
_AHEAD = 0.1  # seconds of bytes that are taken from the sender and have not left yet


@dataclass(slots=True)
class Counts:
    """What the link has carried: connections that were opened, and bytes each way."""

    connections: int = 0
    upward: int = 0
    downward: int = 0

    def since(self, before: Counts) -> Counts:
        """Return what was carried after `before`."""
        return Counts(
            self.connections - before.connections, self.upward - before.upward, self.downward - before.downward
        )


class Link:
    """The link as a process of its own, in front of the ports `targets`. A context manager.

    `round_trip` is in seconds: each way takes half, and opening a connection takes a whole one. `rate` is bytes a
    second, of each connection and direction.
    """

    def __init__(self, folder: Path, targets: Sequence[int], round_trip: float = 0.05, rate: float = 10e6) -> None:
        folder.mkdir()
        self.ports = {target: free_port() for target in targets}
        self._control = free_port()
        self._log = folder / "link.log"
        self._command = [
            sys.executable,
            "-m",
            "bench.link",
            str(round_trip * 1000),
            str(rate),
            *(f"{port}={target}" for target, port in self.ports.items()),
            f"{self._control}=control",
        ]
        self._server = _Process(self._command, folder, self._control)

    def counts(self) -> Counts:
        """Return what has been carried so far."""
        return _asked(self._control)

    def __enter__(self) -> Link:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()


class _Process(Server):
    def __init__(self, command: Sequence[str], folder: Path, port: int) -> None:
        super().__init__("the link", folder, command, port, "", "", secure=False)

    def _is_ready(self) -> bool:
        try:
            _asked(self.port)
        except (OSError, BenchError):
            return False
        return True


def _asked(port: int) -> Counts:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection, connection.makefile("rb") as answer:
        raw = answer.read()
    try:
        return Counts(**json.loads(raw))
    except (ValueError, TypeError) as error:
        raise BenchError(f"the link does not say what it has carried: {raw[:100]!r}") from error


# -- the process ---------------------------------------------------------------------------------------------------


class _Way(asyncio.Protocol):
    """One end of a carried connection: what it is sent arrives at the other end later."""

    def __init__(self, line: _Line, *, downward: bool) -> None:
        self._line = line
        self._downward = downward
        self._under_way: deque[tuple[float, bytes]] = deque()  # (when it arrives, b"" for the end)
        self._free = 0.0  # when the line has sent what it was given
        self._waking: asyncio.TimerHandle | None = None
        self._held = False
        self.transport: asyncio.Transport | None = None
        self.other: _Way | None = None
        self.full = False  # this end takes no more for the moment

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.max_size = _STEP  # type: ignore[attr-defined] # of one read

    def data_received(self, data: bytes) -> None:
        now = self._line.now()
        self._free = max(self._free, now) + len(data) / self._line.rate
        self._add(self._free + self._line.half, data)
        if self._free - now > _AHEAD and not self._held and self.transport is not None:
            self._held = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._add(max(self._free, self._line.now()) + self._line.half, b"")
        return True  # the other direction goes on

    def connection_lost(self, _error: Exception | None) -> None:
        self.transport = None
        self._add(max(self._free, self._line.now()) + self._line.half, b"")

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.other is not None:
            self.other.arrive()

    def _add(self, due: float, data: bytes) -> None:
        self._under_way.append((due, data))
        if self._waking is None:
            self._waking = self._line.at(due, self.arrive)

    def arrive(self) -> None:
        """Hand over what is due."""
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        other = self.other
        if other is None:
            return
        now = self._line.now()
        while self._under_way and self._under_way[0][0] <= now + 0.0005 and not other.full:
            _, data = self._under_way.popleft()
            self._line.carried(len(data), downward=self._downward)
            if other.transport is None or other.transport.is_closing():
                continue
            if data:
                other.transport.write(data)
            else:
                self._end(other.transport)
        if self._under_way and not other.full:
            self._waking = self._line.at(self._under_way[0][0], self.arrive)
        if self._held and self._free - now < _AHEAD / 2 and self.transport is not None:
            self._held = False
            self.transport.resume_reading()

    def _end(self, transport: asyncio.Transport) -> None:
        if self.transport is None:
            transport.close()
        elif transport.can_write_eof():
            transport.write_eof()


class _Line:
    """The link's measures and counts, for all connections."""

    def __init__(self, round_trip: float, rate: float) -> None:
        loop = asyncio.get_running_loop()
        self.now, self.at = loop.time, loop.call_at
        self.round_trip = round_trip
        self.half = round_trip / 2
        self.rate = rate
        self.counts = Counts()

    def carried(self, size: int, *, downward: bool) -> None:
        """Count bytes that have arrived."""
        if downward:
            self.counts.downward += size
        else:
            self.counts.upward += size

    def accept(self, target: int) -> asyncio.Protocol:
        """Return what takes a new connection on to the port `target`."""
        return _Arriving(self, target)


class _Arriving(_Way):
    """A client's end: dials the target a round trip after the connection came."""

    def __init__(self, line: _Line, target: int) -> None:
        super().__init__(line, downward=False)
        self._target = target
        self._dialling: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._line.counts.connections += 1
        self._dialling = asyncio.ensure_future(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._line.round_trip)
        far = _Way(self._line, downward=True)
        far.other = self
        try:
            await loop.create_connection(lambda: far, "127.0.0.1", self._target)
        except OSError:
            if self.transport is not None:
                self.transport.abort()
            return
        self.other = far
        self.arrive()


class _Telling(asyncio.Protocol):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(json.dumps(asdict(self._counts)).encode())
        transport.close()


async def _carry(round_trip: float, rate: float, ports: Mapping[int, int | None]) -> None:
    loop = asyncio.get_running_loop()
    line = _Line(round_trip, rate)
    for port, target in ports.items():
        if target is None:
            await loop.create_server(lambda: _Telling(line.counts), "127.0.0.1", port)
        else:
            await loop.create_server(lambda to=target: line.accept(to), "127.0.0.1", port, backlog=1024)  # type: ignore[misc]
    parent = os.getppid()
    while os.getppid() == parent:  # a benchmark that was killed leaves nothing behind
        await asyncio.sleep(1)


def main(arguments: Sequence[str]) -> None:
    """Carry until the process is ended, or whoever started it is gone."""
    ports: dict[int, int | None] = {}
    for pair in arguments[2:]:
        port, _, target = pair.partition("=")
        ports[int(port)] = None if target == "control" else int(target)
    gc.freeze()
    asyncio.run(_carry(float(arguments[0]) / 1000, float(arguments[1]), ports))


if __name__ == "__main__":
    main(sys.argv[1:])
