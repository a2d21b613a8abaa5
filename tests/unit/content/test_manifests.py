"""Manifests and tags through content: revalidated, stale and said so, believed when gone, never another's."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.content.answers import ManifestAnswer, Target
from mirror.errors import (
    Denied,
    MirrorError,
    NameUnknown,
    NotHere,
    RecordDamaged,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.store.faults import DISK_FAULTS
from tests.peers import faults
from tests.peers.images import make_image, make_index
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room

LAB = Target("lab", "team/app", "lab/team/app")
OTHER = Target("lab", "team/other", "lab/team/other")


async def get(room: Room, reference: str, target: Target = LAB) -> ManifestAnswer:
    parsed = Digest.parse(reference) if ":" in reference else reference
    return room.content.manifest_now(target, parsed) or await room.content.manifest(target, parsed, head=False)


async def test_by_digest_once_then_from_memory(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    first = await get(room, image.digest)
    assert (first.cache, first.body, first.media_type) == ("MISS", image.manifest, media_types.OCI_MANIFEST)
    parsed = Digest.parse(image.digest)
    again = room.content.manifest_now(LAB, parsed)
    assert again is not None
    assert (again.cache, again.body) == ("HIT", image.manifest)
    assert upstream.count("manifest") == 1


async def test_memory_follows_the_disk(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    await get(room, image.digest)
    parsed = Digest.parse(image.digest)
    os.unlink(room.layout.blob(parsed))
    assert room.content.manifest_now(LAB, parsed) is None
    assert (await get(room, image.digest)).cache == "MISS"
    os.unlink(room.layout.manifest(LAB.name, parsed))
    assert room.content.manifest_now(LAB, parsed) is None


async def test_by_tag_is_asked_once_while_fresh(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    assert (await get(room, "v1")).cache == "MISS"
    assert (await get(room, "v1")).cache == "HIT"
    assert (await get(make_room(), "v1")).cache == "HIT", "another process reads the same tag"
    assert upstream.count("manifest") == 1
    assert (await get(room, "v1")).digest == Digest.parse(image.digest)


async def test_every_request_revalidates_with_fresh_for_zero(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room(tags="fresh_for: 0s")
    upstream.add_image("team/app", "v1")
    await get(room, "v1")
    moved = upstream.add_image("team/app", "v1", seed=1)
    answer = await get(room, "v1")
    assert (answer.cache, str(answer.digest)) == ("MISS", moved.digest)
    answer = await get(room, "v1")
    assert (answer.cache, str(answer.digest)) == ("HIT", moved.digest)
    assert upstream.count("manifest", "HEAD") == 2


async def test_a_tag_keeps_its_earlier_digests(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room(tags="fresh_for: 0s")
    digests = []
    for seed in range(3):
        digests.append(upstream.add_image("team/app", "v1", seed=seed).digest)
        await get(room, "v1")
    record = json.loads(Path(room.layout.tag(LAB.name, "v1")).read_text())
    assert record["digest"] == digests[2]
    assert [entry["digest"] for entry in record["history"]] == [digests[1], digests[0]]


@pytest.mark.parametrize(
    "fault",
    [faults.Status(500), faults.Status(503), faults.TooMany(), faults.CloseBeforeHeaders(), faults.Html()],
    ids=["500", "503", "429", "closed", "html"],
)
async def test_a_known_tag_is_stale_while_upstream_fails(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, fault: faults.Fault
) -> None:
    room = make_room(tags="fresh_for: 0s")
    image = upstream.add_image("team/app", "v1")
    await get(room, "v1")
    upstream.fail("any", fault)
    answer = await get(room, "v1")
    assert (answer.cache, answer.body) == ("STALE", image.manifest)
    assert "v1" in answer.warning


async def test_a_slow_revalidation_is_answered_stale(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.content.tags._KNOWN_PATIENCE", 0.2)
    room = make_room(tags="fresh_for: 0s")
    upstream.add_image("team/app", "v1")
    await get(room, "v1")
    upstream.fail("manifest", faults.HangHeaders(30), times=1)
    began = time.monotonic()
    assert (await get(room, "v1")).cache == "STALE"
    assert time.monotonic() - began < 20


async def test_gone_upstream_is_believed(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room(tags="fresh_for: 0s")
    upstream.add_image("team/app", "v1")
    await get(room, "v1")
    upstream.fail("manifest", faults.Status(404))
    with pytest.raises(NotHere):
        await get(room, "v1")
    upstream.heal()
    upstream.fail("any", faults.Status(503))
    with pytest.raises(MirrorError):
        await get(room, "v1")


async def test_absence_is_remembered_shortly(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room(tags="absent_for: 1h")
    upstream.add_image("team/app", "v1")
    for _ in range(3):
        with pytest.raises(NotHere):
            await get(room, "nope")
    asked = upstream.count("manifest")
    with pytest.raises(NotHere):
        await get(room, "nope")
    assert upstream.count("manifest") == asked


async def test_a_signature_tag_is_absent_when_upstream_cannot_be_asked(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    upstream.fail("any", faults.Status(503))
    with pytest.raises(NotHere):
        await get(room, f"sha256-{'0' * 64}.sig")
    with pytest.raises(UpstreamUnavailable):
        await get(room, "v1")


async def test_offline_serves_what_is_here_and_asks_nothing(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    image = upstream.add_image("team/app", "v1")
    online = make_room(tags="fresh_for: 0s")
    await get(online, "v1")
    offline = make_room(tags="fresh_for: 0s", extra="offline: true\n")
    upstream.forget()
    assert (await get(offline, "v1")).body == image.manifest
    assert (await get(offline, image.digest)).cache == "HIT"
    with pytest.raises(NotHere, match="offline"):
        await get(offline, "v2")
    assert (await offline.content.tags(LAB, None, "")).tags == ("v1",)
    assert upstream.count("any") == 0


@pytest.mark.parametrize("what", ["tag", "row"])
async def test_a_damaged_record_is_asked_for_upstream_and_written_anew(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, what: str
) -> None:
    """Where upstream cannot be asked that is said: the tag, or manifest, is not absent; what upstream says counts."""
    room = make_room(tags="fresh_for: 1h")
    image = upstream.add_image("team/app", "v1")
    await get(room, "v1")
    digest = Digest.parse(image.digest)
    path = Path(room.layout.tag(LAB.name, "v1") if what == "tag" else room.layout.manifest(LAB.name, digest))
    whole = path.read_bytes()
    path.write_bytes(b"")
    offline = make_room(tags="fresh_for: 1h", extra="offline: true\n")
    with pytest.raises(RecordDamaged, match="is damaged"):
        await get(offline, "v1")
    assert (await offline.content.tags(LAB, None, "")).tags == ("v1",)
    assert path.read_bytes() == b""
    upstream.fail("any", faults.Status(503))
    with pytest.raises(UpstreamUnavailable):
        await get(make_room(tags="fresh_for: 1h"), "v1")
    assert path.read_bytes() == b""
    upstream.heal()
    for asked in (make_room(tags="fresh_for: 1h"), offline):
        assert (await get(asked, "v1")).body == image.manifest
    assert set(json.loads(path.read_bytes())) == set(json.loads(whole))
    DISK_FAULTS.retry()
    assert not DISK_FAULTS


async def test_upstream_may_say_that_a_tag_is_gone_whose_record_is_damaged(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room(tags="fresh_for: 0s")
    upstream.add_image("team/app", "v1")
    await get(room, "v1")
    path = Path(room.layout.tag(LAB.name, "v1"))
    path.write_bytes(b"{")
    upstream.fail("manifest", faults.Status(404))
    with pytest.raises(NotHere):
        await get(room, "v1")
    assert not path.exists()


async def test_a_damaged_signature_tag_is_not_absent_while_upstream_is_away(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room(tags="fresh_for: 0s")
    tag = f"sha256-{'0' * 64}.sig"
    upstream.add_image("team/app", tag)
    await get(room, tag)
    Path(room.layout.tag(LAB.name, tag)).write_bytes(b"")
    upstream.fail("any", faults.Status(503))
    with pytest.raises(RecordDamaged):
        await get(room, tag)


async def test_without_a_usable_head(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    upstream.fail("manifest", faults.Status(405), method="HEAD")
    answer = await get(room, "v1")
    assert (answer.cache, answer.body) == ("MISS", image.manifest)
    assert (await get(room, "v1")).cache == "HIT"


async def test_one_fetch_for_everybody_in_every_process(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    rooms = [make_room(), make_room(), make_room()]
    image = upstream.add_image("team/app", "v1")
    upstream.fail("manifest", faults.HangHeaders(0.2), method="GET")
    answers = await asyncio.gather(*(get(room, reference) for room in rooms for reference in (image.digest, "v1") * 5))
    assert {answer.body for answer in answers} == {image.manifest}
    # One by the digest, one that says what the tag names.
    assert upstream.count("manifest") == 2


async def test_an_index_brings_its_children_into_the_repository(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    image = make_image(b"layer", seed=7)
    for repository in ("team/app", "team/other"):
        upstream.add_manifest(repository, image.manifest, media_types.OCI_MANIFEST)
    index = make_index(image)
    digest = upstream.add_manifest("team/app", index, media_types.OCI_INDEX, "multi")
    await get(room, image.digest, OTHER)
    await get(room, digest)
    upstream.forget()
    assert (await get(room, image.digest)).cache == "HIT"
    assert upstream.count("any") == 0, "the index names it, so upstream need not be asked"


async def test_another_repositorys_manifest_needs_upstreams_word(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    upstream.add_image("team/other", "v1", seed=5)
    await get(room, image.digest)
    with pytest.raises(MirrorError):
        await get(room, image.digest, OTHER)


@pytest.mark.parametrize(
    "fault",
    [faults.Html(), faults.FlipBit(20), faults.Truncate(30), faults.WithHeaders({"Content-Encoding": "br"})],
    ids=lambda f: type(f).__name__,
)
async def test_a_wrong_manifest_is_refused(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, fault: faults.Fault
) -> None:
    room = make_room()
    image = upstream.add_image("team/app", "v1")
    upstream.fail("manifest", fault)
    with pytest.raises((UpstreamInvalid, UpstreamUnavailable)):
        await get(room, image.digest)
    assert room.stored() == set()


async def test_signed_schema_1_is_checked_and_passed_through(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    payload = json.dumps({"schemaVersion": 1, "name": "x", "fsLayers": [{"blobSum": "sha256:" + "1" * 64}]}, indent=3)
    protected = {"formatLength": len(payload) - 2, "formatTail": base64.urlsafe_b64encode(b"\n}").decode().rstrip("=")}
    block = {"protected": base64.urlsafe_b64encode(json.dumps(protected).encode()).decode().rstrip("=")}
    signed = payload[:-2].encode() + f',"signatures":[{json.dumps(block)}]\n}}'.encode()
    digest = Digest.of(payload[:-2].encode() + b"\n}")
    upstream.add_manifest("team/app", signed, media_types.DOCKER_SCHEMA1_SIGNED, "old")
    there = upstream.repository("team/app")
    entry = there.manifests[str(Digest.of(signed))]
    there.manifests[str(digest)] = entry
    answer = await get(room, str(digest))
    assert (answer.cache, answer.body, answer.media_type) == ("BYPASS", signed, media_types.DOCKER_SCHEMA1_SIGNED)
    assert room.stored() == set()


def _of_another_algorithm(key: str) -> tuple[bytes, str]:
    """Return a manifest, and its type, that names a digest under `key` which cannot be checked here."""
    known = {"mediaType": "x", "digest": str(Digest.of(b"x")), "size": 1}
    other = {"mediaType": media_types.OCI_MANIFEST, "digest": "sha384:" + "a" * 96, "size": 500}
    document: dict[str, object] = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": known}
    document |= {"layers": [known], key: other if key in ("config", "subject") else [known, other]}
    if key == "manifests":
        document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, key: [known, other]}
    return json.dumps(document).encode(), str(document["mediaType"])


@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("key", ["manifests", "config", "layers", "subject"])
async def test_what_names_a_digest_of_an_unknown_algorithm_is_passed_through(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, key: str, by: str
) -> None:
    """Its own bytes can be checked; what it names clients get elsewhere."""
    room = make_room()
    body, media_type = _of_another_algorithm(key)
    digest = upstream.add_manifest("team/app", body, media_type, "v1")
    for _ in range(2):
        answer = await get(room, "v1" if by == "tag" else digest)
        assert (answer.cache, answer.body, answer.media_type) == ("BYPASS", body, media_type)
    assert room.stored() == set()
    with pytest.raises(UpstreamInvalid, match="names sha384:aaaa") as refused:
        await room.content.bring.manifest(LAB, Digest.parse(digest))
    assert "sha256" in refused.value.remedy
    assert "try later" not in str(refused.value)


async def test_the_bytes_of_what_is_passed_through_are_checked(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    """It guards against overshooting."""
    digest = upstream.add_manifest("team/app", *_of_another_algorithm("layers"))
    upstream.fail("manifest", faults.FlipBit(20))
    with pytest.raises(UpstreamInvalid):
        await get(make_room(), digest)


@pytest.mark.parametrize("media_type", [media_types.OCI_ARTIFACT, media_types.ORAS_ARTIFACT])
async def test_a_retired_artifact_manifest_is_kept(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, media_type: str
) -> None:
    """Those of ORAS are in ACR and by ratify; that of OCI was kept before."""
    room = make_room()
    blob = {"mediaType": "text/plain", "digest": str(Digest.of(b"sbom")), "size": 4}
    body = json.dumps({"mediaType": media_type, "artifactType": "sbom/x", "blobs": [blob]}).encode()
    digest = upstream.add_manifest("team/app", body, media_type, "sbom")
    for cache in ("MISS", "HIT"):
        answer = await get(room, "sbom")
        assert (answer.cache, answer.body, answer.media_type) == (cache, body, media_type)
    assert digest in room.stored()


async def test_tags_are_listed_in_pages(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room()
    for tag in ("b", "a", "c", "A", "1"):
        upstream.add_image("team/app", tag)
    page = await room.content.tags(LAB, 2, "")
    assert (page.tags, page.more) == (("1", "A"), True)
    page = await room.content.tags(LAB, 10, "A")
    assert (page.tags, page.more) == (("a", "b", "c"), False)
    assert upstream.count("tags") == 1
    page = await room.content.tags(LAB, 0, "")
    assert (page.tags, page.more) == ((), False)


async def test_referrers_are_kept_for_when_upstream_is_away(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room(tags="fresh_for: 0s")
    image = upstream.add_image("team/app", "v1")
    digest = Digest.parse(image.digest)
    try:
        first = await room.content.referrers(LAB, digest, None)
    except NotHere:
        return  # this peer has no referrers API; then there is nothing to keep
    upstream.fail("any", faults.Status(503))
    again = await room.content.referrers(LAB, digest, "application/x")
    assert json.loads(again.body)["manifests"] == []
    assert first.body
    assert again.filtered


async def test_the_table_of_names(make_room: Callable[..., Room], upstream: ScriptedRegistry) -> None:
    room = make_room(
        extra=(
            "    repositories: {deny: [secret/**]}\n"
            "  docker.io: {}\n  quay.io: {}\n  bastion: {endpoints: ['https://bastion.lab:5000/one']}\n"
            "default_upstream: docker.io\n"
            "aliases: {openshift/release: quay.io/openshift-release-dev/ocp-v4.0-art-dev, old/: lab/new/}\n"
        )
    )
    resolve = room.content.resolve
    cases = {
        ("quay.io/org/app", None, None): "quay.io/org/app",
        ("org/app", "quay.io", None): "quay.io/org/app",
        ("org/app", None, "quay.io"): "quay.io/org/app",
        ("quay.io/org/app", "quay.io", None): "quay.io/org/app",
        ("quay.io/org/app", "unknown.example", None): "quay.io/org/app",
        ("alpine", None, None): "docker.io/library/alpine",
        ("org/alpine", None, None): "docker.io/org/alpine",
        ("docker.io/alpine", None, None): "docker.io/library/alpine",
        ("library/alpine", "registry-1.docker.io", None): "docker.io/library/alpine",
        ("x/y", "bastion.lab:5000", None): "bastion/x/y",
        ("openshift/release", None, None): "quay.io/openshift-release-dev/ocp-v4.0-art-dev",
        ("old/thing", None, None): "lab/new/thing",
        ("library/alpine", "127.0.0.1:5000", None): "docker.io/library/alpine",
    }
    for arguments, name in cases.items():
        assert resolve(*arguments).name == name, arguments
    with pytest.raises(NameUnknown, match=r"gcr\.io"):
        resolve("org/app", "gcr.io", None)
    with pytest.raises(NameUnknown):
        resolve("quay.io/org/app", "docker.io", None)
    with pytest.raises(Denied):
        resolve("lab/secret/x", None, None)
