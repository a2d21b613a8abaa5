"""A sync brings what is missing, says what did not come, and completes a generation only when all of it is here."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from mirror.content.answers import Target
from mirror.errors import ManifestInvalid
from mirror.oci import manifest as manifests
from mirror.oci.digest import Digest
from mirror.offline import sync as sync_module
from mirror.offline.complete import complete
from mirror.offline.here import Store
from mirror.offline.plan import Image, Plan, PlannedBlob, PlannedManifest
from mirror.offline.sync import Brought, Progress, Sync
from mirror.offline.verify import Verdict, verify
from mirror.store import files
from mirror.store.blobs import Blobs
from mirror.store.sets import Pins, Sets
from tests.peers import faults
from tests.peers.images import Image as UpstreamImage
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

NAME = "lab/team/app"
MIB = 1024 * 1024


def plan_of(*images: UpstreamImage, lacking: tuple[str, ...] = ()) -> Plan:
    """Return the plan of images as a collector would make it."""
    planned, blobs, wanted = [], [], []
    for number, image in enumerate(images):
        digest = Digest.parse(image.digest)
        found = manifests.parse(image.manifest, image.media_type)
        planned.append(
            PlannedManifest(
                NAME, digest, image.media_type, len(image.manifest), (), tuple(one.digest for one in found.blobs)
            )
        )
        blobs += [PlannedBlob(one.digest, one.media_type, one.size) for one in found.blobs]
        wanted.append(Image(NAME, digest, NAME, "image", (f"v{number}",), ("asked for",)))
    return Plan.build("prod", images=wanted, manifests=planned, blobs=blobs, lacking=lacking)


def store_of(room: Room) -> Store:
    return Store(room.layout, Blobs(room.layout, room.quarantine.take))


def target(name: str) -> Target:
    upstream, _, repository = name.partition("/")
    return Target(upstream, repository, name)


async def run(room: Room, plan: Plan, progress: Progress | None = None, at_once: int = 4) -> Brought:
    missing = (await asyncio.to_thread(store_of(room).presence, plan)).missing
    return await Sync(room.content.bring, target, at_once, progress or Progress()).run(plan, missing)


async def done(room: Room, plan: Plan, number: int = 1) -> bool:
    sets, store = Sets(room.layout), store_of(room)
    await asyncio.to_thread(sets.write, "prod", number, plan.dump())
    return not await asyncio.to_thread(complete, plan, number, "synced", store, sets)


async def look(room: Room, plan: Plan, *, deep: bool = False) -> Verdict:
    finished = any(one.plan == plan.digest for one in Sets(room.layout).current())
    return await asyncio.to_thread(
        lambda: verify(plan, 1, store_of(room), complete=finished, deep=deep, check_signature=lambda raw, _: raw.hex())
    )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_module, "_PAUSES", (0.01, 0.01))


async def test_everything_comes_once_and_is_complete(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    base = noise(MIB)
    images = [upstream.add_image("team/app", layers=[base, noise(50_000, seed)], seed=seed) for seed in range(1, 7)]
    plan, progress = plan_of(*images), Progress()
    brought = await run(room, plan, progress)
    assert (brought.failures, brought.full, brought.bytes) == ((), None, sum(plan.content.values()))
    assert (progress.bytes_now, progress.items_done, progress.failed) == (brought.bytes, len(plan.content), 0)
    assert upstream.sent("blob") == sum(one.size for one in plan.blobs)
    assert await done(room, plan)
    assert (await look(room, plan, deep=True)).whole
    assert (await run(room, plan)).bytes == 0
    offline = make_room(extra="offline: true\n")
    await offline.content.settle()
    for number, image in enumerate(images):
        answer = await offline.content.manifest(target(NAME), f"v{number}", head=False)
        assert str(answer.digest) == image.digest
        assert offline.content.blob_now(target(NAME), Digest.of(base)) is not None


async def test_one_image_that_is_gone_does_not_stop_the_rest(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    images = [upstream.add_image("team/app", layers=[noise(9_000, seed)], seed=seed) for seed in range(1, 5)]
    plan = plan_of(*images)
    lost = Digest.of(images[1].layers[0])
    kept = upstream.repository("team/app").blobs.pop(str(lost))
    brought = await run(room, plan)
    assert [failure.what for failure in brought.failures] == [f"{NAME}@{images[1].digest} (v1)"]
    assert str(lost) in brought.failures[0].why
    assert not await done(room, plan)
    verdict = await look(room, plan)
    assert (verdict.missing, verdict.whole) == ({lost: 9_000}, False)
    upstream.add_blob("team/app", kept)
    before = upstream.sent("blob")
    assert (await run(room, plan)).bytes == 9_000
    assert upstream.sent("blob") - before == 9_000
    assert await done(room, plan)


async def test_what_fails_for_the_moment_is_tried_again(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage that is longer than one request's own retries, after which the endpoint is left alone for seconds."""
    monkeypatch.setattr(sync_module, "_PAUSES", (6.0,))
    room = make_room()
    images = [upstream.add_image("team/app", layers=[noise(9_000, seed)], seed=seed) for seed in range(1, 4)]
    upstream.fail("blob", faults.Status(503), times=5)
    plan = plan_of(*images)
    brought = await run(room, plan, at_once=1)
    assert brought.failures == ()
    assert await done(room, plan)


async def test_an_upstream_that_is_away_is_told_at_once(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    plan = plan_of(upstream.add_image("team/app", layers=[noise(9_000)]))
    upstream.fail("manifest", faults.Status(503))
    upstream.fail("blob", faults.Status(503))
    brought = await run(room, plan)
    assert brought.away
    assert brought.bytes == 0
    assert len(brought.failures) == 1


async def test_a_manifest_that_says_another_size_is_refused(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    plan = plan_of(upstream.add_image("team/app", layers=[noise(9_000)]))
    wrong = tuple(replace(one, size=one.size + 1) if one.size == 9_000 else one for one in plan.blobs)
    brought = await run(room, replace(plan, blobs=wrong, _bytes=[]))
    assert len(brought.failures) == 1


async def test_a_plan_is_not_believed_about_a_manifest(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    image = upstream.add_image("team/app", layers=[noise(9_000), noise(8_000, 1)])
    plan = plan_of(image)
    await run(room, plan)
    short = replace(plan.manifests[0], blobs=plan.manifests[0].blobs[:-1])
    with pytest.raises(ManifestInvalid, match="other content"):
        await done(room, replace(plan, manifests=(short,), _bytes=[]))
    assert Sets(room.layout).current() == ()


async def test_what_is_lost_after_completing_is_found(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    images = [upstream.add_image("team/app", layers=[noise(9_000, seed)], seed=seed) for seed in range(1, 4)]
    plan = plan_of(*images)
    await run(room, plan)
    assert await done(room, plan)
    os.unlink(room.layout.blob(Digest.of(noise(9_000, 1))))
    os.unlink(room.layout.manifest(NAME, Digest.parse(images[2].digest)))
    path = room.layout.blob(Digest.of(noise(9_000, 2)))
    status = os.stat(path)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(4_000)
        file.write(b"\0\1\2")
    os.chmod(path, 0o440)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    verdict = await look(room, plan)
    assert set(verdict.missing) == {Digest.of(noise(9_000, 1))}
    assert verdict.unnamed == [f"{NAME}@{images[2].digest}"]
    assert verdict.corrupt == []
    deep = await look(room, plan, deep=True)
    assert deep.corrupt == [Digest.of(noise(9_000, 2))]
    assert not deep.whole
    json.dumps(deep.as_dict())
    assert not os.path.exists(path)


@pytest.mark.parametrize("mode", [0o440, 0])
async def test_content_that_is_not_ours_to_read_is_missing(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Somebody else's, or closed to its owner: root, who runs tests, reads both."""
    room = make_room()
    plan = plan_of(upstream.add_image("team/app", layers=[noise(9_000, 1)]))
    await run(room, plan)
    assert await done(room, plan)
    closed = Digest.of(noise(9_000, 1))
    path = room.layout.blob(closed)
    readable, opened = files.may_read, files.open_content
    denied = PermissionError(errno.EACCES, "Permission denied")

    def refuse(one: str) -> int | None:
        if one == path:
            raise files.unreadable(path, denied)
        return opened(one)

    if mode:
        monkeypatch.setattr(files, "may_read", lambda one, found: one != path and readable(one, found))
    else:
        os.chmod(path, 0)
        monkeypatch.setattr(files, "open_content", refuse)
    verdict = await look(room, plan)
    assert (verdict.missing, [*verdict.closed], verdict.whole) == ({closed: 9_000}, [closed], False)
    assert verdict.as_dict()["unreadable"] == [str(closed)]
    assert "chmod -R u+rX" in verdict.closed[closed].remedy
    shortfalls = await asyncio.to_thread(Pins(room.layout).shortfalls)
    assert shortfalls[("prod", 1)].missing == 0, "it is here"


async def test_what_the_plan_could_not_find_keeps_it_from_being_whole(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    plan = plan_of(upstream.add_image("team/app"), lacking=("the signature of quay.io/x is required and not there",))
    await run(room, plan)
    assert await done(room, plan)
    assert not (await look(room, plan)).whole


async def test_referrers_of_a_set_are_listed_without_upstream(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    image = upstream.add_image("team/app", layers=[noise(100)])
    config = b"{}"
    upstream.add_blob("team/app", config)
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": image.media_type,
            "artifactType": "application/spdx+json",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(config)), "size": 2},
            "layers": [],
            "subject": {"mediaType": image.media_type, "digest": image.digest, "size": len(image.manifest)},
            "annotations": {"a": "b"},
        }
    ).encode()
    upstream.add_manifest("team/app", body, image.media_type)
    plan = plan_of(image)
    subject = Digest.parse(image.digest)
    referrer = PlannedManifest(NAME, Digest.of(body), image.media_type, len(body), (), (Digest.of(config),), subject)
    plan = Plan.build(
        "prod",
        images=[*plan.images, Image(NAME, Digest.of(body), NAME, "referrer")],
        manifests=[*plan.manifests, referrer],
        blobs=[*plan.blobs, PlannedBlob(Digest.of(config), "application/vnd.oci.empty.v1+json", 2)],
    )
    await run(room, plan)
    assert await done(room, plan)
    offline = make_room(extra="offline: true\n")
    answer = await offline.content.referrers(target(NAME), subject, "application/spdx+json")
    (entry,) = json.loads(answer.body)["manifests"]
    assert (entry["digest"], entry["annotations"]) == (str(Digest.of(body)), {"a": "b"})
