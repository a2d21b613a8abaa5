"""kill -9 during pushes: what was acknowledged pulls whole, what was not can go on, and nothing is half there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.hosted import Hosted
from mirror.store.ingest import boot_id
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.promises import promised
from mirror.store.uploads import Uploads
from tests.faults.invariants import broken
from tests.faults.nursery import Child
from tests.faults.push_service import PushNursery
from tests.tools.programs import Programs

# Kills at random moments: PUSHES=200 for the long form.
KILLS = int(os.environ.get("PUSHES", "20"))
CALLS = ["pwrite64", "write", "fdatasync", "fsync", "fchmod", "utimensat", "rename", "unlink", "mkdir", "ftruncate"]
FULL = os.environ.get("FAULTS") == "full"

pytestmark = pytest.mark.timeout(120 + 6 * KILLS)


@pytest.fixture(scope="module")
def nursery() -> Iterator[PushNursery]:
    with PushNursery() as opened:
        yield opened


@pytest.fixture(autouse=True)
def none_left(nursery: PushNursery) -> Iterator[None]:
    yield
    nursery.clear()


class Gone(Exception):
    """The service went while it was asked."""


@dataclass
class Push:
    """One blob on its way, and what was acknowledged of it."""

    body: bytes
    location: str = ""
    offset: int = 0
    done: bool = False
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        self.digest = Digest.of(self.body)


async def ask(
    address: tuple[str, int], method: str, target: str, body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Send one request with its body and return status, fields and body of the answer; raise Gone."""
    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError as error:
        raise Gone from error
    try:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 65536):
            writer.write(body[at : at + 65536])
            await writer.drain()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("ascii").split("\r\n")[:-2]
        fields = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), fields, await reader.readexactly(int(fields.get("content-length", 0)))
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Gone from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def push_some(address: tuple[str, int], chance: random.Random, pushes: list[Push]) -> None:
    """Push blobs of all sizes in all ways until the service is gone."""
    with contextlib.suppress(Gone):
        while True:
            push = Push(chance.randbytes(chance.choice([10, 3000, 200_000, 1_500_000])))
            pushes.append(push)
            if chance.random() < 0.3:
                status, _, _ = await ask(
                    address, "POST", f"/v2/team/app/blobs/uploads/?digest={push.digest}", push.body
                )
                assert status == 201
                push.done = True
                continue
            status, fields, _ = await ask(address, "POST", "/v2/team/app/blobs/uploads/")
            assert status == 202
            push.location = fields["location"]
            await go_on(address, chance, push)


async def go_on(address: tuple[str, int], chance: random.Random, push: Push) -> None:
    """Send what is missing, in chunks of any size, and finish."""
    while push.offset < len(push.body) and chance.random() < 0.8:
        chunk = push.body[push.offset : push.offset + chance.choice([5, 70_000, 700_000])]
        status, fields, _ = await ask(address, "PATCH", push.location, chunk)
        assert status == 202
        push.offset += len(chunk)
        assert fields["range"] == f"0-{push.offset - 1}"
    status, fields, body = await ask(address, "PUT", f"{push.location}?digest={push.digest}", push.body[push.offset :])
    assert status == 201, body
    push.done = True


def assert_sound(layout: Layout, pushes: list[Push]) -> None:
    """What must hold of the store between two processes."""
    assert broken(layout) == []
    hosted, rows = Hosted(layout), Manifests(layout)
    for push in pushes:
        if push.done:
            path = Path(layout.blob(push.digest))
            assert path.read_bytes() == push.body
            assert files.is_sealed(path.stat())
            assert hosted.has(push.digest)
            row = rows.member("team/app", push.digest)
            assert row is not None
            assert row.size == len(push.body)
    # Whatever the dead promised is room again as soon as somebody needs it, and all that is not done can go on.
    Uploads(layout, boot_id()).tidy()
    assert promised(layout).owed == 0


async def assert_served(address: tuple[str, int], chance: random.Random, pushes: list[Push]) -> None:
    """Pull some of what was acknowledged, and bring to its end what was not."""
    done = [push for push in pushes if push.done]
    for push in chance.sample(done, min(8, len(done))):
        status, _, body = await ask(address, "GET", f"/v2/team/app/blobs/{push.digest}")
        assert (status, body == push.body) == (200, True)
    for push in pushes:
        if push.done or not push.location:
            continue
        status, fields, _ = await ask(address, "GET", push.location)
        if status == 404:
            # Finished, and only the answer was lost.
            status, _, body = await ask(address, "GET", f"/v2/team/app/blobs/{push.digest}")
            assert (status, body == push.body) == (200, True), f"an upload is lost at {push.offset}"
            push.done = True
            continue
        assert status == 204
        last = int(fields["range"].removeprefix("0-"))
        kept = last + 1 if last else 0  # no chunk here is of one byte
        assert kept >= push.offset, "acknowledged bytes are lost"
        push.offset = kept
        await go_on(address, chance, push)


async def test_kill_at_random_moments(nursery: PushNursery, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", random.randrange(1 << 32)))
    print(f"SEED={seed}")
    chance = random.Random(seed)
    layout = Layout(tmp_path / "store")
    pushes: list[Push] = []
    child = await nursery.spawn(tmp_path, {})
    for _ in range(KILLS):
        pushing = [asyncio.create_task(push_some(child.address, chance, pushes)) for _ in range(4)]
        await asyncio.sleep(chance.uniform(0.02, 0.8))
        assert os.WTERMSIG(await child.end(signal.SIGKILL)) == signal.SIGKILL
        await asyncio.gather(*pushing)
        await asyncio.to_thread(assert_sound, layout, pushes)
        child = await nursery.spawn(tmp_path, {})
        await assert_served(child.address, chance, pushes)
        # What was never begun is nobody's; the rest is done now, and need not be looked at for ever.
        pushes = [push for push in pushes if push.done][-60:]
    assert len(pushes) >= min(KILLS, 20)
    await child.end()
    assert "Traceback" not in child.log


@pytest.mark.parametrize("call", CALLS)
async def test_kill_at_each_call(call: str, nursery: PushNursery, programs: Programs, tmp_path: Path) -> None:
    programs.find("strace")
    chance = random.Random(1)
    number, killed = 0, 0
    while True:
        number += 1 if FULL or number < 6 else 3
        folder = tmp_path / f"{call}{number}"
        folder.mkdir()
        layout = Layout(folder / "store")
        child = await nursery.spawn(folder, {})
        await child.inject(f"{call}:signal=SIGKILL:when={number}")
        pushes = [Push(chance.randbytes(1_200_000)), Push(chance.randbytes(300))]
        with contextlib.suppress(Gone):
            await _push_both(child, pushes)
        died = not all(push.done for push in pushes)
        if died:
            async with asyncio.timeout(10):
                while not child.ended:
                    await asyncio.sleep(0.005)
        await child.end(signal.SIGKILL)
        await asyncio.to_thread(assert_sound, layout, pushes)
        again = await nursery.spawn(folder, {})
        await assert_served(again.address, chance, pushes)
        await again.end()
        killed += died
        if not died:
            break
    if call != "ftruncate":
        assert killed >= 1, f"a push makes no {call}: the test tests nothing"


async def _push_both(child: Child, pushes: list[Push]) -> None:
    """Push one blob in chunks and one in one piece."""
    large, small = pushes
    _, fields, _ = await ask(child.address, "POST", "/v2/team/app/blobs/uploads/")
    large.location = fields["location"]
    _, fields, _ = await ask(child.address, "PATCH", large.location, large.body[:800_000])
    large.offset = 800_000
    status, _, _ = await ask(child.address, "PUT", f"{large.location}?digest={large.digest}", large.body[800_000:])
    large.done = status == 201
    status, _, _ = await ask(child.address, "POST", f"/v2/team/app/blobs/uploads/?digest={small.digest}", small.body)
    small.done = status == 201


async def test_what_is_durable_before_what(nursery: PushNursery, programs: Programs, tmp_path: Path) -> None:
    """The order that a power cut relies on: bytes, marker and row, and only then the name, then the answer."""
    programs.find("strace")
    child = await nursery.spawn(tmp_path, {})
    trace = tmp_path / "trace"
    await child.inject("fsync", "fdatasync", "rename", "sendto", trace=trace)
    body = os.urandom(100_000)
    status, _, _ = await ask(child.address, "POST", f"/v2/team/app/blobs/uploads/?digest={Digest.of(body)}", body)
    assert status == 201
    await child.end()
    name = hashlib.sha256(body).hexdigest()
    lines = [line for line in trace.read_text().splitlines() if "unfinished" not in line]

    def place(pattern: str, after: int = -1) -> int:
        for at, line in enumerate(lines):
            if at > after and re.search(pattern, line):
                return at
        raise AssertionError(f"no {pattern} after {after}: {lines}")

    synced = place(r"fdatasync.*uploads/[^/]*\.part")
    marked = place(r"fsync.*hosted/sha256>", synced)
    row = place(rf"rename\(.*_blobs/sha256/{name}\"", marked)
    row_synced = place(r"fsync.*_blobs/sha256>", row)
    named = place(rf"rename\(.*\.part\", .*blobs/sha256/{name}\"", row_synced)
    name_synced = place(r"fsync.*store/blobs/sha256>", named)
    assert place(r"sendto.*201", name_synced) > name_synced
