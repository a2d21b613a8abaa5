"""What goes wrong: upstream, the disk, and the service itself, which is killed, reloaded, collected and scrubbed."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import time
from pathlib import Path

from tests.faults.errno_bed import Call
from tests.soak.ground import Ground
from tests.soak.meter import processes
from tests.tools.programs import ROOT

_UPSTREAM = (
    ("any", "Status", {"status": 500}),
    ("any", "Status", {"status": 503}),
    ("any", "TooMany", {"retry_after": 1}),
    ("any", "Html", {}),
    ("any", "CloseBeforeHeaders", {"rst": True}),
    ("any", "CloseBeforeHeaders", {}),
    ("any", "HangHeaders", {"seconds": 3}),
    ("blob", "Truncate", {"at": 1000}),
    ("blob", "Truncate", {"at": 20_000, "rst": True}),
    ("blob", "Stall", {"at": 5000, "seconds": 3}),
    ("blob", "Drip", {"size": 20_000, "every": 0.1}),
    ("blob", "NoLength", {"at": 1000}),
    ("blob", "IgnoreRange", {}),
    ("blob", "WrongContentRange", {}),
    ("any", "FlipBit", {"at": 100}),
    ("blob", "FlipBit", {"at": 10}),
    ("blob", "FlipBit", {"at": 20_000}),
    ("any", "LieLength", {"by": 7}),
    ("any", "LieLength", {"by": -7}),
    ("any", "Gzip", {}),
)
_READS = (Call.READ, Call.OPEN, Call.SENDFILE, Call.STAT, Call.READ | Call.OPEN | Call.SENDFILE)
_PLACES = (*(f"blobs/sha256/{digit:x}" for digit in range(16)), "/_tags/", "/_manifests/")


class Upstream:
    """Lets upstream misbehave, again and again."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._chance = ground.chance("upstream")

    async def run(self) -> None:
        chance, upstream = self._chance, self._ground.upstream
        while True:
            for kind, fault, arguments in chance.sample(_UPSTREAM, chance.randint(1, 3)):
                await asyncio.to_thread(upstream.fail, kind, fault, arguments, times=chance.randint(1, 8))
                self._ground.ledger.counts["upstream fault"] += 1
            await asyncio.sleep(chance.uniform(0.2, 3))
            await asyncio.to_thread(upstream.heal)
            await asyncio.to_thread(upstream.forget)
            await asyncio.sleep(chance.uniform(0, 1))


class Disk:
    """Lets reads of a part of the store fail with EIO, again and again."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._chance = ground.chance("disk")

    async def run(self) -> None:
        chance, disk = self._chance, self._ground.service.disk
        while True:
            await asyncio.sleep(chance.uniform(0.2, 3))
            disk.fail(chance.choice(_READS), errno.EIO, chance.choice(_PLACES))
            try:
                await asyncio.sleep(chance.uniform(0.1, 1.5))
            finally:
                disk.heal()
                self._ground.ledger.counts["disk fault"] += 1
                self._ground.ledger.counts["read error"] += disk.hits


class Care:
    """Runs a command of the product beside the service, again and again; now and then one is killed."""

    def __init__(self, ground: Ground, pause: float, *words: str) -> None:
        self._ground = ground
        self._pause = pause
        self._words = words
        self._chance = ground.chance(f"care {words}")

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(0, self._pause))
            await self._command(*self._words)

    async def _command(self, *words: str) -> None:
        service, ledger = self._ground.service, self._ground.ledger
        command = [*service.program, *words, "--config", str(service.configuration)]
        running = await asyncio.create_subprocess_exec(
            *command,
            cwd=ROOT,
            env={**os.environ, **service.disk.environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        ledger.counts[words[0]] += 1
        patience = self._chance.uniform(0.5, 1.5) if self._chance.random() < 0.2 else None
        said = b""
        try:
            async with asyncio.timeout(patience):
                said, _ = await running.communicate()
        except TimeoutError:
            ledger.counts[f"{words[0]} killed"] += 1
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        if b"Traceback" in said:
            ledger.find("unexpected", f"mirror {words[0]}: {said[-3000:].decode(errors='replace')}")


class Disturber:
    """Kills the service and one of its processes, and reloads it, in turn: for so many seconds, and once at least."""

    def __init__(self, ground: Ground, seconds: float) -> None:
        self._ground = ground
        self._seconds = seconds
        self._chance = ground.chance("disturber")

    async def run(self) -> None:
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            for disturb in (self._kill, self._reload, self._kill_worker, self._reload):
                await asyncio.sleep(self._chance.uniform(0.2, 1 + self._seconds / 60))
                self._ground.ledger.counts[disturb.__name__.strip("_").replace("_", " ")] += 1
                await disturb()

    async def _kill(self) -> None:
        service = self._ground.service
        await asyncio.to_thread(service.kill)
        await asyncio.sleep(self._chance.uniform(0, 1))
        await asyncio.to_thread(service.start, 60)

    async def _kill_worker(self) -> None:
        service = self._ground.service
        workers = [pid for pid in processes(service.pid) if pid != service.pid and Path(f"/proc/{pid}").exists()]
        os.kill(self._chance.choice(workers), signal.SIGKILL)

    async def _reload(self) -> None:
        os.kill(self._ground.service.pid, signal.SIGHUP)
