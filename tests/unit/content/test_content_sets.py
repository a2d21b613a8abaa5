"""What image sets pin is served by name and tag, whatever an upstream says, and without any."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mirror.content.answers import Target
from mirror.content.sets import precedence
from mirror.errors import NameUnknown, NotHere, RecordDamaged
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.offline.plan import Image, Plan, PlannedBlob, PlannedManifest
from mirror.store import files
from mirror.store.ingest import store_bytes
from mirror.store.manifests import Manifests
from mirror.store.sets import Complete, Sets
from tests.peers.images import OCI_LAYER
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

LAB = Target("lab", "team/app", "lab/team/app")

BODY = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % media_types.OCI_INDEX.encode()


def pin(room: Room, name: str, tag: str, body: bytes = BODY, *, set_name: str = "prod", number: int = 1) -> Digest:
    """Complete a generation whose only image is an empty index under a tag."""
    digest = Digest.of(body)
    store_bytes(room.layout, digest, body)
    Manifests(room.layout).add_manifest(name, digest, media_types.OCI_INDEX, len(body))
    plan = Plan.build(
        set_name,
        images=[Image(name, digest, name, "image", (tag,))],
        manifests=[PlannedManifest(name, digest, media_types.OCI_INDEX, len(body), (), (Digest.of(b"layer"),))],
        blobs=[PlannedBlob(Digest.of(b"layer"), OCI_LAYER, 5)],
    )
    sets = Sets(room.layout)
    sets.write(set_name, number, plan.dump())
    sets.complete(set_name, number, plan.digest, "loaded")
    return digest


async def test_a_tag_of_a_set_is_never_asked_of_upstream(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room(tags="fresh_for: 0s")
    upstream.add_image("team/app", "v1")
    digest = pin(room, LAB.name, "v1")
    assert not room.content.settled
    await room.content.settle()
    assert room.content.settled
    answer = await room.content.manifest(LAB, "v1", head=False)
    assert (answer.digest, answer.body, answer.cache) == (digest, BODY, "HIT")
    assert room.content.manifest_now(LAB, "v1") is not None
    assert upstream.count("manifest") == 0


async def test_the_tag_goes_back_to_upstream_with_the_generation(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    pin(room, LAB.name, "v1")
    await room.content.settle()
    Sets(room.layout).remove("prod", 1)
    assert not room.content.settled
    await room.content.settle()
    assert str((await room.content.manifest(LAB, "v1", head=False)).digest) == image.digest


async def test_a_name_that_no_upstream_has_is_served_where_a_set_holds_it(make_room: Callable[..., Room]) -> None:
    room = make_room()
    with pytest.raises(NameUnknown):
        room.content.resolve("registry.example/a/b", None, None)
    digest = pin(room, "registry.example/a/b", "v1")
    await room.content.settle()
    for target in (
        room.content.resolve("registry.example/a/b", None, None),
        room.content.resolve("a/b", "registry.example", None),
        room.content.resolve("registry.example/a/b", "registry.example", None),
    ):
        assert target == Target("", "registry.example/a/b", "registry.example/a/b")
        assert (await room.content.manifest(target, "v1", head=False)).digest == digest
        assert (await room.content.tags(target, None, "")).tags == ("v1",)
    with pytest.raises(NameUnknown):
        room.content.resolve("a/b", "other.example", None)
    with pytest.raises(NotHere):
        await room.content.manifest(room.content.resolve("registry.example/a/c", None, None), "v1", head=False)


async def test_an_alias_lists_what_is_here(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room(extra="aliases: {openshift/release: lab/team/app}\n")
    upstream.add_image("team/app", "one", "two", "three")
    pin(room, LAB.name, "4.16.15-x86_64")
    await room.content.settle()
    target = room.content.resolve("openshift/release", None, None)
    assert (await room.content.tags(target, None, "")).tags == ("4.16.15-x86_64",)
    assert "two" in (await room.content.tags(room.content.resolve("lab/team/app", None, None), None, "")).tags


async def test_what_is_lost_of_a_set_is_told_with_the_set(make_room: Callable[..., Room]) -> None:
    room = make_room(extra="offline: true\n")
    digest = pin(room, LAB.name, "v1", number=5)
    await room.content.settle()
    os.unlink(room.layout.blob(digest))
    for reference in (digest, "v1"):
        with pytest.raises(NotHere) as caught:
            await room.content.manifest(LAB, reference, head=False)
        assert "part of set prod@5" in caught.value.what
        assert caught.value.remedy == "mirror verify prod@5"
    with pytest.raises(NotHere, match="prod@5"):
        await room.content.blob(LAB, Digest.of(b"layer"), None)
    with pytest.raises(NotHere) as caught:
        await room.content.blob(LAB, Digest.of(b"other"), None)
    assert "prod" not in str(caught.value)
    # What the set needs for one name is not for those to know who may pull another.
    with pytest.raises(NotHere) as caught:
        await room.content.blob(Target("lab", "team/other", "lab/team/other"), Digest.of(b"layer"), None)
    assert "prod" not in str(caught.value)


async def test_a_damaged_plan_takes_only_its_own_tags_away(make_room: Callable[..., Room]) -> None:
    room = make_room(extra="offline: true\n")
    pin(room, LAB.name, "v1")
    pin(room, LAB.name, "v2", set_name="other")
    room.layout.generation("prod", 1).write_bytes(b"{")
    await room.content.settle()
    assert (await room.content.tags(LAB, None, "")).tags == ("v2",)


@pytest.mark.parametrize("how", ["damaged", "lost", "its folder lost"])
async def test_a_set_whose_plan_is_not_known_is_not_unknown(
    make_room: Callable[..., Room], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its names are not denied, nobody else waits, and it is read again when its file has changed, not before."""
    room = make_room(extra="offline: true\n")
    pinned = pin(room, "below/app", "v1")
    other = pin(room, LAB.name, "v2", set_name="other")
    plan, away = room.layout.generation("prod", 1), room.layout.root.parent / "away"
    whole = plan.read_bytes()
    if how == "its folder lost":
        plan.parent.rename(away)
    elif how == "lost":
        plan.unlink()
    else:
        plan.write_bytes(b"{")
    await room.content.settle()
    with pytest.raises(RecordDamaged, match="mirror unpin prod@1"):
        await room.content.manifest(room.content.resolve("below/app", None, None), "v1", head=False)
    assert (await room.content.manifest(LAB, "v2", head=False)).digest == other
    reads: list[str] = []
    read_whole = files.read_whole
    monkeypatch.setattr(files, "read_whole", lambda *args: reads.append(args[0]) or read_whole(*args))
    for _ in range(3):
        assert room.content.settled
        await room.content.settle()
    assert reads == []
    if how == "its folder lost":
        away.rename(plan.parent)
    else:
        plan.write_bytes(whole)
    assert not room.content.settled
    await room.content.settle()
    assert reads
    target = room.content.resolve("below/app", None, None)
    assert (await room.content.manifest(target, "v1", head=False)).digest == pinned


def test_precedence_is_newest_of_the_set_completed_last() -> None:
    def one(name: str, number: int) -> Complete:
        return Complete(name, number, Digest.of(b""), 0.0, "synced")

    done = (one("a", 3), one("b", 1), one("a", 2), one("b", 2), one("c", 1), one("a", 1))
    assert [str(each) for each in precedence(done)] == ["c@1", "b@2", "a@3", "a@2", "b@1", "a@1"]
