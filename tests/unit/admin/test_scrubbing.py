"""The scrub beside a service: by and by, one at a time, after restarts where it was, and what it finds is put right."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.admin import scrub as module
from mirror.admin.delivery import Delivery
from mirror.admin.housekeeping import Housekeeping, Periods
from mirror.admin.scrub import EVERY, Scrubber
from mirror.admin.scrub_state import Pass, State, last_pass
from mirror.config import Amount, Storage
from mirror.errors import NotYet
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from mirror.store import files, ingest
from mirror.store.events import Events as Queues
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.lock import FileLock
from mirror.store.pins import ImagePins, Pinned
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.space import Space
from mirror.store.threads import Threads
from tests.peers.images import noise

SIZE = 3000


class Bed:
    """A store, and an upstream that has `upstream`."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.quarantine = Quarantine(self.layout)
        self.metrics = Metrics()
        self.threads = Threads("scrub", 2)
        self.upstream: dict[Digest, bytes] = {}
        self.asked: list[Digest] = []
        self.digests = [self.put(noise(SIZE, seed)) for seed in range(10)]

    def put(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        ingest.store_bytes(self.layout, digest, content)
        return digest

    async def heal(self, digest: Digest) -> str:
        self.asked.append(digest)
        if digest not in self.upstream:
            return "nobody has it"
        await asyncio.to_thread(self.put, self.upstream[digest])
        return ""

    def scrubber(self) -> Scrubber:
        return Scrubber(self.layout, self.quarantine, self.metrics, self.heal, self.threads)

    def flip(self, digest: Digest) -> None:
        path = Path(self.layout.blob(digest))
        content = path.read_bytes()
        path.chmod(0o600)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        path.chmod(0o440)
        os.utime(path, (1, files.seal_time(len(content))))

    def metric(self, name: str) -> float:
        lines = self.metrics.render().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    made = await asyncio.to_thread(Bed, tmp_path)
    yield made
    made.threads.close()


async def read(bed: Bed) -> Pass | None:
    return await asyncio.to_thread(last_pass, bed.layout)


async def finish(scrubber: Scrubber, rate: int = 10_000) -> int:
    steps = 0
    while not steps or scrubber._scrub is not None:
        await scrubber.step(rate)
        steps += 1
        assert steps < 100
    return steps


async def test_a_pass_in_the_background(bed: Bed) -> None:
    bad, lost = sorted(bed.digests)[2], sorted(bed.digests)[7]
    for digest in (bad, lost):
        await asyncio.to_thread(bed.flip, digest)
    bed.upstream[bad] = noise(SIZE, bed.digests.index(bad))
    scrubber = bed.scrubber()
    assert await finish(scrubber) in (3, 4, 5)
    last = await read(bed)
    assert last is not None
    assert (last.contents, last.bytes, last.bad, last.healed) == (10, 30_000, 2, 1)
    assert (last.unhealed, bed.asked) == ([str(lost)], [bad, lost])
    assert bed.metric("mirror_scrubbed_bytes_total") == 30_000
    assert bed.metric("mirror_scrub_unhealed") == 1
    assert bed.metric("mirror_corrupt_blobs_total") == 2
    assert abs(bed.metric("mirror_scrub_ended_seconds") - time.time()) < 60
    state = json.loads(await asyncio.to_thread(bed.layout.scrub.read_bytes))
    assert (state["bad"], state["bytes"], "background" in state) == ([str(lost)], 30_000, False)
    await scrubber.step(1000)
    assert scrubber._scrub is None, "the next pass is a week away"


async def test_what_comes_by_itself_is_taken_off_the_list(bed: Bed) -> None:
    lost = bed.digests[0]
    await asyncio.to_thread(bed.flip, lost)
    scrubber = bed.scrubber()
    await finish(scrubber)
    assert (await read(bed)).unhealed == [str(lost)]
    await asyncio.to_thread(bed.put, noise(SIZE, 0))
    await scrubber.step(1000)
    assert (await read(bed)).unhealed == []
    assert bed.metric("mirror_scrub_unhealed") == 0


async def test_it_goes_on_where_it_was(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bed.scrubber()
    await first.step(10_000)
    await first.close()
    second = bed.scrubber()
    await second.step(1)
    assert second._pass.contents == 3
    await finish(second)
    last = await read(bed)
    assert last.contents == 10
    assert last.bytes <= 30_000 + SIZE, "one file at most is read twice"
    monkeypatch.setattr(module, "EVERY", 0.0)
    await second.step(1000)
    assert second._scrub is not None, "a week has passed"
    await second.close()
    assert EVERY == 7 * 86400


async def test_one_at_a_time(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    background, command = bed.scrubber(), bed.scrubber()
    await background.step(5000)
    before = background._pass.bytes
    held = FileLock(bed.layout.lock("scrub"))
    assert held.try_acquire()
    await background.step(5000)
    assert background._pass.bytes == before
    with pytest.raises(NotYet, match="another process is scrubbing"):
        await command.all(0, lambda _: None)
    held.release()
    one, _ = await command.all(0, lambda _: None)
    assert one.contents == 10
    await background.step(5000)
    assert background._scrub is None, "what a person scrubbed need not be scrubbed again"


async def test_a_rate_is_kept(bed: Bed) -> None:
    began = time.monotonic()
    await bed.scrubber().all(100_000, lambda _: None)
    assert 0.2 <= time.monotonic() - began < 5


async def test_a_stopped_command_is_gone_on_with(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_STEP", 1000)
    seen: list[Pass] = []
    bad = min(bed.digests)
    await asyncio.to_thread(bed.flip, bad)

    def stop(one: Pass) -> None:
        if one.contents >= 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await bed.scrubber().all(0, stop)
    one, findings = await bed.scrubber().all(0, seen.append)
    assert seen[0].contents >= 4
    assert (one.contents, one.bad, one.unhealed) == (10, 1, [str(bad)])
    assert findings.bad == {}
    with pytest.raises(asyncio.CancelledError):
        await bed.scrubber().all(0, stop)
    one, _ = await bed.scrubber().all(0, seen.append, restart=True)
    assert one.contents == 9


async def test_what_is_read_again_is_counted_once(bed: Bed) -> None:
    """Eight in a row stop a pass, which goes on before them: what was bad by then counts, what is read again not."""
    order = sorted(bed.digests)
    aside = bed.layout.root.parent / "aside"

    def spoil() -> None:
        aside.mkdir()
        bed.flip(order[0])
        for digest in order[1:9]:
            os.rename(bed.layout.blob(digest), aside / digest.hex)
            os.symlink(aside / digest.hex, bed.layout.blob(digest))

    def mend() -> None:
        for digest in order[1:8]:
            os.replace(aside / digest.hex, bed.layout.blob(digest))

    await asyncio.to_thread(spoil)
    one, findings = await bed.scrubber().all(0, lambda _: None)
    assert "8 contents in a row" in findings.stopped
    assert (one.bad, one.unreadable) == (1, 8)
    await asyncio.to_thread(mend)
    seen: list[tuple[int, int]] = []
    one, findings = await bed.scrubber().all(0, lambda one: seen.append((one.bad, one.unreadable)))
    assert seen[0] == (1, 0)
    assert (one.contents, one.bad, one.unreadable, findings.stopped) == (9, 1, 1, "")


async def test_a_pass_reads_on_where_its_note_cannot_be_written(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "x", path)

    bad = bed.digests[0]
    await asyncio.to_thread(bed.flip, bad)
    monkeypatch.setattr(files, "write_atomically", refuse)
    scrubber = bed.scrubber()
    await finish(scrubber)
    assert await read(bed) is None
    last = await asyncio.to_thread(scrubber.state.read, "last")
    assert last is not None
    assert (last.contents, last.unhealed) == (10, [str(bad)])
    await scrubber.step(1000)
    assert scrubber._scrub is None, "the next pass is a week away all the same"
    one, _ = await bed.scrubber().all(0, lambda _: None)
    assert one.ended


async def test_what_is_pinned_and_not_here_is_brought_back(bed: Bed) -> None:
    gone = bed.digests[3]
    pinned = Pinned("lab/a", gone, {gone: SIZE}, {}, 1.0, "me")
    await asyncio.to_thread(ImagePins(bed.layout).write, pinned)
    os.unlink(bed.layout.blob(gone))
    one, findings = await bed.scrubber().all(0, lambda _: None, dry_run=True)
    assert (one.missing, findings.missing, bed.asked) == (1, {gone: "not tried"}, [])
    one, findings = await bed.scrubber().all(0, lambda _: None)
    assert (one.missing, one.unhealed, findings.lost) == (1, [str(gone)], [gone])
    bed.upstream[gone] = noise(SIZE, 3)
    one, findings = await bed.scrubber().some([gone], 0, lambda _: None)
    assert (one.missing, one.healed, findings.lost) == (1, 1, [])


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"last": 3, "background": {"cursor": "x"}}', b'{"last": {}}'])
async def test_a_damaged_state_is_begun_anew(bed: Bed, damage: bytes) -> None:
    await asyncio.to_thread(bed.layout.scrub.write_bytes, damage)
    assert await read(bed) is None
    await finish(bed.scrubber())
    assert (await read(bed)).contents == 10


async def test_the_state_keeps_what_others_wrote(bed: Bed) -> None:
    state = State(bed.layout)

    def write() -> None:
        state.write(background=Pass(began=1.0, cursor=str(bed.digests[0])))
        state.write(command=Pass(began=2.0), last=Pass(began=3.0, ended=4.0, bytes=5))
        state.write(command=None)

    await asyncio.to_thread(write)
    assert await asyncio.to_thread(state.read, "command") is None
    assert (await asyncio.to_thread(state.read, "background")).cursor == str(bed.digests[0])
    found = json.loads(await asyncio.to_thread(bed.layout.scrub.read_bytes))
    assert (found["schema"], found["when"], found["bytes"], found["bad"]) == (1, 4.0, 5, [])


@pytest.mark.parametrize("rate", [0, 100_000])
async def test_who_keeps_house_scrubs(bed: Bed, rate: int) -> None:
    index = Index(bed.layout, bed.quarantine)
    space = Space(bed.layout, index, Storage(path=bed.layout.root, keep_free=Amount(bytes=0)))
    keeping = Housekeeping(
        bed.layout, index, space, bed.metrics, Delivery(Queues(bed.layout), (), {}, bed.metrics),
        lambda _: False, False, Periods(lock=0.05, scrub=0.01), bed.scrubber(), rate,
    )  # fmt: skip
    await keeping.start()
    try:
        for _ in range(200):
            await asyncio.sleep(0.01 if rate else 0.002)
            if await read(bed) is not None:
                break
    finally:
        await keeping.stop()
        await asyncio.to_thread(index.close)
    last = await read(bed)
    assert (last is not None and last.contents == 10) if rate else last is None
