"""Everything at once for a long time: nothing wrong, nothing lost, and nothing that grows.

Half a minute here, `SOAK=1200` (seconds; `make soak`) for twenty minutes; a failure prints the SOAK_SEED to repeat it
with. For the first half the service is killed, reloaded and loses processes while all the rest goes on; for the second
half it stays, all the rest goes on, and what it takes is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.store.layout import Layout
from tests.faults.errno_bed import Faulty, build
from tests.faults.invariants import broken
from tests.peers.images import noise
from tests.peers.process import RunningRegistry, running
from tests.soak.clients import Prober, Publisher, Puller, Pusher
from tests.soak.crowd import HangUps, Hostile
from tests.soak.ground import Ground, NotNow
from tests.soak.ledger import Ledger, Name
from tests.soak.meter import Sample, look, thirds
from tests.soak.trouble import Care, Disk, Disturber, Upstream
from tests.tools.programs import Programs

SECONDS = float(os.environ.get("SOAK", "25"))
PROXIED = 24  # images upstream, several times what the cache may hold
SETTLES = 90.0  # seconds after the last fault in which everything is to be there again
MEMORY = 24 << 20  # bytes, all processes: by what the last third may exceed the middle one; a tenth of what they take
DESCRIPTORS = 64  # as many connections as this crowd comes and goes with; a leak of one a request would be thousands

pytestmark = pytest.mark.timeout(240 + 2 * SECONDS)


@pytest.fixture
def upstream() -> Iterator[RunningRegistry]:
    with running() as registry:
        yield registry


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Give what accepts and never answers, until it is closed: its connections stay in the kernel's queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield listener


@pytest.fixture
def service(tmp_path: Path, programs: Programs, upstream: RunningRegistry, silent: socket.socket) -> Iterator[Faulty]:
    document = {
        "workers": 2,
        "clients": {"anonymous": "push"},
        "storage": {"path": str(tmp_path / "store"), "cache_size": "3MiB", "keep_free": "1%", "scrub_rate": "8MiB"},
        "limits": {"header_timeout": "2s", "idle_timeout": "5s", "write_stall": "5s"},
        "upstreams": {
            "peer": {"endpoints": [upstream.url], "tags": {"fresh_for": "1s", "absent_for": "1s"}},
            "sick": {"endpoints": [f"http://127.0.0.1:{silent.getsockname()[1]}"]},
        },
    }
    made = Faulty(tmp_path, build(tmp_path, programs.find("gcc")), document)
    made.start()
    yield made
    made.disk.heal()
    made.kill()


def stock(ground: Ground) -> None:
    """Let upstream have images of which some share layers."""
    chance = ground.chance("stock")
    shared = [noise(30_000, number) for number in range(4)]
    for number in range(PROXIED):
        layers = [noise(chance.choice([100, 50_000, 700_000]), 100 + number), *chance.sample(shared, 2)]
        digest = ground.upstream.add_image("team/app", f"v{number}", layers, number)
        for reference in (f"v{number}", digest):
            ground.ledger.promise("peer/team/app", reference).hear(digest)


async def measured(ground: Ground, samples: list[Sample]) -> None:
    while True:
        samples.append(await asyncio.to_thread(look, ground.service.pid))
        await asyncio.sleep(SECONDS / 100)


async def everything(ground: Ground, publisher: Publisher) -> list[Sample]:
    """Let all of it go on for its time; return what the service took while it was not disturbed."""
    actors = [
        *(Puller(ground, number) for number in range(4)),
        *(Pusher(ground, number) for number in range(3)),
        *(Hostile(ground, number) for number in range(4)),
        publisher,
        Prober(ground),
        HangUps(ground),
        Upstream(ground),
        Disk(ground),
        Care(ground, 2 + SECONDS / 60, "gc", "--yes"),
        Care(ground, 2 + SECONDS / 60, "scrub", "--yes"),
    ]
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(actor.run()) for actor in actors]
        await Disturber(ground, SECONDS / 2).run()
        ground.ledger.longest = 0.0
        tasks.append(group.create_task(measured(ground, samples)))
        await asyncio.sleep(SECONDS / 2)
        for task in tasks:
            task.cancel()
    return samples


async def settle(ground: Ground, publisher: Publisher) -> None:
    """Heal everything and pull everything: what is promised is there."""
    ground.service.disk.heal()
    await asyncio.to_thread(ground.upstream.heal)
    await asyncio.to_thread(ground.upstream.forget)
    await publisher.publish()  # once more: the last time it was cut off, perhaps before it began
    until = time.monotonic() + SETTLES
    moving = (f"peer/{publisher.repository}", publisher.tag)
    while True:
        with contextlib.suppress(NotNow):
            got = await ground.ask("settle", f"/v2/{moving[0]}/manifests/{moving[1]}", "HEAD")
            if got.headers.get("docker-content-digest") == publisher.newest:
                break
        await asyncio.sleep(0.2)
        assert time.monotonic() < until, f"{moving} is still not {publisher.newest}"
    publisher.promise.hear(publisher.newest)
    for name in list(ground.ledger.names):
        await settled(ground, name, until)


async def settled(ground: Ground, name: Name, until: float) -> None:
    """Pull a name, again and again where it cannot be told what it means."""
    while True:
        with contextlib.suppress(NotNow):
            return await ground.pull(name)
        if time.monotonic() > until:
            return ground.ledger.find("lost", f"{name} cannot be pulled {SETTLES:.0f} s after the last fault")


async def quiet(ground: Ground, most: int) -> Sample:
    """Wait until no more than so many descriptors are open, as long as connections may idle; return the last look."""
    until = time.monotonic() + 60
    while True:
        sample = await asyncio.to_thread(look, ground.service.pid)
        if sample.descriptors <= most or time.monotonic() > until:
            return sample
        await asyncio.sleep(0.5)


async def test_nothing_is_wrong_lost_or_grows(
    service: Faulty, upstream: RunningRegistry, silent: socket.socket
) -> None:
    seed = int(os.environ.get("SOAK_SEED", random.randrange(1 << 32)))
    print(f"SOAK_SEED={seed}")
    ground = Ground(service, upstream, Ledger(), seed)
    ledger = ground.ledger
    await asyncio.to_thread(stock, ground)
    publisher = Publisher(ground)
    await publisher.publish()
    await Pusher(ground, 0).push()
    for name in list(ledger.names):
        await ground.pull(name)
    first = look(service.pid)

    samples = await everything(ground, publisher)
    silent.close()
    await settle(ground, publisher)
    last = await quiet(ground, first.descriptors + DESCRIPTORS)
    assert await asyncio.to_thread(service.stop) == 0
    memory = thirds([sample.memory for sample in samples])
    descriptors = thirds([sample.descriptors for sample in samples])
    print(
        f"soak: {SECONDS:.0f} s, SOAK_SEED={seed}; {ledger}; "
        f"MiB: first {first.memory >> 20}, thirds {memory[0] >> 20} {memory[1] >> 20}, last {last.memory >> 20}; "
        f"descriptors: first {first.descriptors}, thirds {descriptors[0]} {descriptors[1]}, last {last.descriptors}"
    )
    assert not any(ledger.findings.values()), {kind: found[:10] for kind, found in ledger.findings.items()}
    assert "Traceback" not in service.log
    assert " status=500" not in service.log
    assert await asyncio.to_thread(broken, Layout(service.store)) == []
    assert memory[1] <= memory[0] + MEMORY
    assert descriptors[1] <= descriptors[0] + DESCRIPTORS
    assert last.descriptors <= first.descriptors + DESCRIPTORS
    # What did not take place has proved nothing.
    for kind in ("kill", "reload", "kill worker", "gc", "scrub", "disk fault", "hang-up", "hostile", "upstream fault"):
        assert ledger.counts[kind], f"no {kind} took place"
