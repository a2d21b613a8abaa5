"""kill -9 at each system call by which a pull changes the store, and the next process finds it sound."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from mirror.store.layout import Layout
from mirror.store.promises import promised
from tests.faults.invariants import broken, contents, leftovers
from tests.faults.nursery import Nursery
from tests.faults.service import serving
from tests.peers.images import Image, digest_of, noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(120)]

LAYER = noise(200_000, 1)
BLOB = f"/v2/lab/team/app/blobs/{digest_of(LAYER)}"
TAG = "/v2/lab/team/app/manifests/v1"
# Calls that change what is on the disk. With FAULTS=full also those that only lead there.
CALLS = ["write", "fsync", "fchmod", "utimensat", "rename", "unlink", "mkdir"]
FULL = os.environ.get("FAULTS") == "full"
if FULL:
    CALLS += ["openat", "flock", "lseek", "close"]


@pytest.fixture
def image(upstream: ScriptedRegistry) -> Image:
    return upstream.add_image("team/app", "v1", layers=[LAYER])


def upstreams(upstream: ScriptedRegistry) -> dict[str, dict[str, object]]:
    return {"lab": {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}}


@pytest.mark.parametrize("call", CALLS)
async def test_kill_at_each(
    call: str, nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    truth = {digest_of(one): one for one in (LAYER, image.manifest)}
    number, killed = 0, 0
    while True:
        number += 1 if FULL or number < 4 else 2
        folder = tmp_path / f"{call}{number}"
        folder.mkdir()
        child = await nursery.spawn(folder, upstreams(upstream))
        await child.inject(f"{call}:signal=SIGKILL:when={number}")
        manifest, blob = await child.get(TAG), await child.get(BLOB)
        for got, content in ((manifest, image.manifest), (blob, LAYER)):
            assert not got.clean or got.body == content
        layout = Layout(folder / "store")
        await child.quiet(layout)
        if not (manifest.clean and blob.clean):
            # Only its end cuts a client off; the tracer lets go of the dead a moment later.
            async with asyncio.timeout(10):
                while not child.ended:
                    await asyncio.sleep(0.005)
        died = child.ended
        status = await child.end(signal.SIGKILL)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert broken(layout, truth.get) == [], f"{call} {number}"

        upstream.forget()
        async with serving(folder, upstreams(upstream)) as service:
            again = await service.get(TAG)
            assert (again.status, again.body) == (200, image.manifest), f"{call} {number}"
            again = await service.get(BLOB)
            assert (again.status, again.clean, again.body == LAYER) == (200, True, True), f"{call} {number}"
            await service.settled()
            tags = await service.get("/v2/lab/team/app/tags/list")
            assert tags.body == b'{"name":"lab/team/app","tags":["v1"]}'
        # At least what was acknowledged as complete was not lost.
        if manifest.clean:
            assert upstream.count("manifest", "GET") == 0
        assert contents(layout) == dict.fromkeys(truth, True)
        # Temporary files and the note of what is committed stay for a day; they promise no space.
        assert [name for name in leftovers(layout) if not name.endswith(("~", ".tmp", ".json"))] == []
        assert promised(layout).owed == 0, f"{call} {number}"
        assert broken(layout, truth.get) == []
        killed += died
        if not died:
            break
    assert killed >= 1, f"a pull makes no {call}: the test tests nothing"


async def test_what_is_durable_before_what(
    nursery: Nursery, upstream: ScriptedRegistry, image: Image, tmp_path: Path
) -> None:
    """The order that a power cut relies on: content, its name, and only then what names it."""
    child = await nursery.spawn(tmp_path, upstreams(upstream))
    trace = tmp_path / "trace"
    await child.inject("fsync", "rename", "fchmod", "utimensat", trace=trace)
    assert (await child.get(TAG)).status == 200
    assert (await child.get(BLOB)).clean
    await child.quiet(Layout(tmp_path / "store"))
    await child.end()
    events = []
    for line in trace.read_text().splitlines():
        found = re.search(r'(\w+)\((?:\d+<)?"?([^">,]+)', line)
        if found is not None:
            names = [Path(one).name for one in re.findall(r'"([^"]+)"', line)]
            events.append((found[1], Path(found[2]).name, names[-1] if found[1] == "rename" else ""))

    def place(call: str, name: str, after: int = -1) -> int:
        for at, (one, its, target) in enumerate(events):
            if at > after and one == call and (target or its).startswith(name):
                return at
        raise AssertionError(f"no {call} of {name} after {after}: {events}")

    layer, manifest = digest_of(LAYER)[7:], image.digest[7:]
    synced = place("fsync", f"sha256-{layer}")
    sealed = place("utimensat", f"sha256-{layer}", synced)
    renamed = place("rename", layer, sealed)
    assert place("fsync", "sha256", renamed) > renamed
    manifest_synced = place("fsync", f"sha256-{manifest}")
    manifest_there = place("rename", manifest, manifest_synced)
    folder_synced = place("fsync", "sha256", manifest_there)
    row_there = place("rename", manifest, folder_synced)
    row_synced = place("fsync", "sha256", row_there)
    tag_synced = place("fsync", "v1", row_synced)
    tag_there = place("rename", "v1", tag_synced)
    assert place("fsync", "_tags", tag_there) > tag_there
