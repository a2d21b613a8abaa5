"""Manifests that are pushed: taken only when they are whole, tags with their history, deletions, referrers."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mirror.content.answers import Quota, Target
from mirror.content.immutable import Immutable
from mirror.content.manifest_store import BlobNamed
from mirror.content.members import nobody
from mirror.errors import (
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestRefused,
    MirrorError,
    NotHere,
    RecordDamaged,
    TagImmutable,
    TagInvalid,
    TooLarge,
)
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.store import files
from mirror.store.adopt import adopt_all
from mirror.store.faults import DISK_FAULTS
from mirror.store.references import References
from mirror.store.tags import Earlier, TagRecord
from tests.faults.invariants import broken
from tests.peers.images import OCI_MANIFEST, noise
from tests.unit.content.hosted_bed import NOWHERE, Open, Shelf, about, describe, image, index, referrers
from tests.unit.content.push_bed import APP, OTHER

# -- pushes ----------------------------------------------------------------------------------------------------------


async def test_what_is_pushed_is_pulled(shelf: Shelf, open_shelf: Open) -> None:
    body = await shelf.image(1, "v1")
    digest = Digest.of(body)
    for reader in (shelf, open_shelf()):
        for reference in ("v1", digest):
            answer = await reader.pull(reference)
            assert (answer.digest, answer.body, answer.media_type) == (digest, body, OCI_MANIFEST)
            assert (answer.cache, answer.upstream) == ("HIT", "")
    assert str(digest) in shelf.marked()
    assert shelf.marked() == shelf.stored()
    assert files.is_sealed(os.stat(shelf.layout.blob(digest)))
    assert broken(shelf.layout) == []
    assert os.listdir(shelf.layout.ingest) == []


async def test_by_digest_with_tags(shelf: Shelf) -> None:
    layer = noise(400, 3)
    for algorithm in ("sha256", "sha512"):
        await shelf.blob(layer, algorithm=algorithm)
        await shelf.blob(b"{}", algorithm=algorithm)
        body = image(layer, algorithm=algorithm)
        digest = Digest.of(body, algorithm)
        stored = await shelf.hosted.put_manifest(APP, digest, body, OCI_MANIFEST, ("a", "b", "a"), "ci")
        assert (stored.digest, stored.tags, stored.subject) == (digest, ("a", "b"), None)
        for reference in (digest, "a", "b"):
            assert (await shelf.pull(reference)).digest == digest


async def test_nothing_is_taken_that_names_what_is_not_here(shelf: Shelf) -> None:
    layer, elsewhere = noise(400, 1), noise(400, 2)
    await shelf.blob(layer)
    await shelf.blob(elsewhere, OTHER)
    body = image(layer, elsewhere)
    with pytest.raises(ManifestBlobUnknown) as caught:
        await shelf.manifest(body, "v1")
    # A blob of another repository is none of this one's, whoever knows its digest.
    assert set(caught.value.digests) == {str(Digest.of(b"{}")), str(Digest.of(elsewhere))}
    for reference in ("v1", Digest.of(body)):
        with pytest.raises(NotHere):
            await shelf.pull(reference)
    assert str(Digest.of(body)) not in shelf.stored() | shelf.marked()
    os.unlink(shelf.layout.blob(await shelf.blob(elsewhere)))
    await shelf.blob(b"{}")
    with pytest.raises(ManifestBlobUnknown):  # a row alone is not enough
        await shelf.manifest(body, "v1")
    await shelf.blob(elsewhere)
    await shelf.manifest(body, "v1")


async def test_a_size_that_is_not_so_is_refused(shelf: Shelf) -> None:
    layer = noise(400, 3)
    await shelf.blob(layer)
    await shelf.blob(b"{}")
    document = json.loads(image(layer))
    document["layers"][0]["size"] += 1
    with pytest.raises(ManifestRefused, match="has 400 bytes, not the 401"):
        await shelf.manifest(json.dumps(document).encode(), "v1")
    with pytest.raises(NotHere):
        await shelf.pull("v1")


@pytest.mark.parametrize("sparse", [False, True])
async def test_a_size_does_not_tell_what_another_repository_holds(open_shelf: Open, sparse: bool) -> None:
    shelf = open_shelf(sparse=sparse)
    await shelf.image(1, "v1", OTHER)
    await shelf.blob(b"{}")
    media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar"  # need not be here in any case
    told = []
    for content in (noise(500, 1), b"nobody has this"):
        document = json.loads(image(content))
        document["layers"][0] |= {"size": 4711, "mediaType": media_type}
        told.append(await shelf.manifest(json.dumps(document).encode()))
    assert len(set(told)) == 2


async def test_what_another_repository_holds_is_not_told(shelf: Shelf) -> None:
    await shelf.image(1, "v1", OTHER)
    told = []
    for content in (noise(500, 1), b"nobody has this"):
        digest = Digest.of(content)
        for ask in (shelf.content.blob_head(APP, digest), shelf.content.blob(APP, digest, None)):
            with pytest.raises(NotHere) as raised:
                await ask
            told.append(str(raised.value).replace(str(digest), "DIGEST"))
    assert len(set(told)) == 1, told


async def test_an_index_needs_its_manifests(shelf: Shelf) -> None:
    first = await shelf.image(1)
    second = image(noise(400, 2))
    with pytest.raises(ManifestBlobUnknown) as caught:
        await shelf.manifest(index(first, second), "v1")
    assert caught.value.digests == (str(Digest.of(second)),)
    await shelf.image(1, target=OTHER)
    with pytest.raises(ManifestBlobUnknown):
        await shelf.manifest(index(first), "v1", OTHER_EMPTY)
    assert (await shelf.manifest(index(first), "v1")) == (await shelf.pull("v1")).digest
    assert (await shelf.manifest(index(), "empty")) == (await shelf.pull("empty")).digest


OTHER_EMPTY = Target("", "team/empty", "team/empty", hosted=True)


async def test_a_blob_is_no_manifest_by_its_form(shelf: Shelf) -> None:
    """Who pushes a manifest's bytes as a blob has not shown that what it names is here."""
    body = image(noise(400, 1))
    digest = await shelf.blob(body)
    with pytest.raises(NotHere):
        await shelf.pull(digest)
    with pytest.raises(NotHere):
        await shelf.hosted.delete_manifest(APP, digest, "ci")


async def test_build_caches_list_blobs_in_an_index(shelf: Shelf) -> None:
    layer = noise(400, 1)
    await shelf.blob(layer)
    entries = [describe(layer)]
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode()
    await shelf.manifest(body, "cache")


async def test_sparse_indexes(open_shelf: Open) -> None:
    shelf = open_shelf(sparse=True)
    secret = noise(300, 9)
    await shelf.blob(secret, OTHER)
    first, absent = await shelf.image(1), image(secret)
    await shelf.manifest(index(first, absent), "v1")
    await shelf.manifest(image(secret, noise(10)), "v2")
    assert (await shelf.pull("v1")).body == index(first, absent)
    # Naming a digest gives no right to it: what another repository has stays there.
    with pytest.raises(NotHere):
        await shelf.pull(Digest.of(absent))
    assert shelf.content.blob_now(APP, Digest.of(secret)) is None
    with pytest.raises(NotHere):
        await shelf.content.blob(APP, Digest.of(secret), None)
    with pytest.raises(NotHere):
        await shelf.content.blob_head(APP, Digest.of(secret))


async def test_what_a_sparse_index_names_is_for_whoever_may_have_it_elsewhere(open_shelf: Open) -> None:
    """Whenever it comes, by whichever manifest it is named; and no manifest is read twice for it."""
    rules = [{"who": "user+alice", "repositories": ["apps/two"], "may": ["pull"]}]
    storage = {"storage": {"sparse_indexes": True}, "hosted": ["apps/**"], "clients": {"rules": rules}}
    shelf = open_shelf(document=storage, sparse=True)
    await asyncio.to_thread(adopt_all, shelf.layout)

    def may_pull(name: str) -> bool:
        return name == OTHER.name

    async def given(body: bytes) -> bool:
        for may, given in ((may_pull, True), (nobody, False)):
            try:
                answer = await shelf.content.manifest(APP, Digest.of(body), False, may)
            except NotHere:
                if given:
                    return False
            else:
                assert given, "to nobody"
                assert answer.body == body
        return True

    first, second = image(noise(300, 1)), image(noise(300, 2))
    await shelf.manifest(index(first), "v1")
    assert not await given(first), "it is not here"
    await shelf.blob(noise(300, 1), OTHER)
    await shelf.blob(b"{}", OTHER)
    await shelf.manifest(first, target=OTHER)
    await shelf.manifest(second, target=OTHER)
    assert (await given(first), await given(second)) == (True, False)
    await shelf.manifest(index(second), "v2")
    assert (await given(first), await given(second)) == (True, True)
    await asyncio.sleep(0.1)
    assert await given(second)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(References, "named", None)
        assert await given(first)
    await shelf.manifest(second)
    assert (await shelf.pull(Digest.of(second))).body == second, "it was pushed here"
    await shelf.hosted.delete_manifest(APP, Digest.of(index(first)), "ci")
    assert not await given(first)


@pytest.mark.parametrize(
    "layer",
    [
        {"urls": ["https://example.com/layer"]},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
    ],
)
async def test_foreign_layers_need_not_be_here(shelf: Shelf, layer: dict[str, Any]) -> None:
    await shelf.blob(b"{}")
    document = json.loads(image())
    document["layers"] = [describe(noise(300, 4)) | layer]
    await shelf.manifest(json.dumps(document).encode(), "v1")


@pytest.mark.parametrize(
    "media_type", [media_types.DOCKER_MANIFEST, media_types.DOCKER_LIST, media_types.OCI_ARTIFACT, OCI_MANIFEST]
)
async def test_types_that_are_taken(shelf: Shelf, media_type: str) -> None:
    layer = noise(300, 5)
    await shelf.blob(layer)
    await shelf.blob(b"{}")
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
    if media_type == media_types.DOCKER_LIST:
        document["manifests"] = []
    elif media_type == media_types.OCI_ARTIFACT:
        document = {"mediaType": media_type, "artifactType": "a/b", "blobs": [describe(layer)]}
    else:
        document |= {"config": describe(b"{}"), "layers": [describe(layer)]}
    body = json.dumps(document).encode()
    stored = await shelf.hosted.put_manifest(APP, "v1", body, f"{media_type}; charset=utf-8", (), "ci")
    assert stored.media_type == (await shelf.pull("v1")).media_type == media_type


SCHEMA1 = json.dumps({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": []}).encode()


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (SCHEMA1, media_types.DOCKER_SCHEMA1),
        (SCHEMA1, media_types.DOCKER_SCHEMA1_SIGNED),
        (SCHEMA1, OCI_MANIFEST),
        (b"", OCI_MANIFEST),
        (b"[]", OCI_MANIFEST),
        (b"\xff", OCI_MANIFEST),
        (b"{" * 100, OCI_MANIFEST),
        (b'{"a":' * 70 + b"1" + b"}" * 70, OCI_MANIFEST),
        (image(), media_types.DOCKER_MANIFEST),
        (image(), "application/json"),
        (image(), media_types.OCI_INDEX),
        (image(mediaType="application/vnd.example"), "application/vnd.example"),
        (image().replace(b'"config"', b'"Config"'), OCI_MANIFEST),
        (image()[:-1] + b', "layers": []}', OCI_MANIFEST),
        (image(manifests=[]), OCI_MANIFEST),
        (image(mediaType=media_types.OCI_INDEX), media_types.OCI_INDEX),
        (index(mediaType=OCI_MANIFEST), OCI_MANIFEST),
        (b'{"schemaVersion":2,"layers":[]}', OCI_MANIFEST),
        (b'{"schemaVersion":2}', media_types.OCI_INDEX),
        (image(schemaVersion=3), OCI_MANIFEST),
        (image(subject={"digest": "sha256:0", "size": 1}), OCI_MANIFEST),
        (image(layers=[{"digest": str(NOWHERE), "size": -1}]), OCI_MANIFEST),
        (image(layers=[{"digest": "../../etc/passwd", "size": 1}]), OCI_MANIFEST),
    ],
)
async def test_what_is_no_manifest_is_refused(shelf: Shelf, body: bytes, media_type: str) -> None:
    await shelf.blob(b"{}")
    before = shelf.stored()
    with pytest.raises(ManifestRefused):
        await shelf.hosted.put_manifest(APP, "v1", body, media_type, (), "ci")
    assert shelf.stored() == before


async def test_what_does_not_fit_its_name_is_refused(open_shelf: Open) -> None:
    shelf = open_shelf(manifest_limit=2000)
    await shelf.blob(b"{}")
    with pytest.raises(DigestMismatch):
        await shelf.manifest(image(), NOWHERE)
    with pytest.raises(DigestMismatch):
        await shelf.manifest(image(), Digest.of(image() + b" ", "sha512"))
    with pytest.raises(TooLarge):
        await shelf.manifest(image(annotations={"a": "b" * 2000}), "v1")
    with pytest.raises(TagInvalid):
        await shelf.manifest(image(), tags=["../x"])
    assert Digest.of(image()).hex not in " ".join(shelf.stored())


async def test_no_room(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.blob(b"{}")
    real = os.statvfs

    def full(path: Any) -> os.statvfs_result:
        found = list(real(path))
        found[4] = 0
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", full)
    with pytest.raises(TooLarge, match="no room"):
        await shelf.manifest(image(), "v1")


# -- tags ------------------------------------------------------------------------------------------------------------


async def test_a_tag_keeps_what_it_meant(shelf: Shelf) -> None:
    began = time.time()
    bodies = [await shelf.image(seed) for seed in range(5)]
    for number, body in enumerate(bodies):
        await shelf.manifest(body, "v1", who=f"user{number}")
    await shelf.manifest(bodies[4], "v1", who="again")
    ((tag, record),) = await shelf.hosted.history(APP, "v1")
    assert (tag, record.digest, record.source) == ("v1", Digest.of(bodies[4]), "user4")
    assert [(one.digest, one.who) for one in record.history] == [
        (str(Digest.of(bodies[number])), f"user{number}") for number in (3, 2, 1)
    ]
    assert all(began <= one.until <= time.time() for one in record.history)
    assert await shelf.hosted.history(APP) == [("v1", record)]
    with pytest.raises(NotHere):
        await shelf.hosted.history(APP, "v2")
    with pytest.raises(NotHere):
        await shelf.hosted.history(OTHER)


def test_tag_files_of_before() -> None:
    old = {"digest": str(NOWHERE), "mediaType": "m", "checked": 1, "history": [{"digest": str(NOWHERE), "until": 2}]}
    record = TagRecord.parse(json.dumps(old).encode())
    assert record is not None
    assert record.history == (Earlier(str(NOWHERE), 2.0, ""),)
    assert TagRecord.parse(record.dump()) == record
    assert TagRecord.parse(json.dumps(old | {"history": [[]]}).encode()) is None


async def test_history_of_any_length_is_read(shelf: Shelf) -> None:
    body = await shelf.image(1, "v1")
    who = "\N{SNOWMAN}" * 255
    record = TagRecord(
        Digest.of(body), OCI_MANIFEST, 1.0, who, (Earlier(str(Digest.of(b"", "sha512")), 1.5, who),) * 400
    )
    shelf.hosted._tags.write(APP.name, "v1", record, durable=True)
    assert (await shelf.hosted.history(APP))[0][1] == record
    assert (await shelf.pull("v1")).body == body


async def test_pushes_of_one_tag_at_once(open_shelf: Open) -> None:
    shelves = [open_shelf(history=100) for _ in range(2)]
    bodies = [await shelves[0].image(seed) for seed in range(8)]
    await asyncio.gather(
        *(shelves[number % 2].manifest(body, "v1", tags=["v2"], who=str(number)) for number, body in enumerate(bodies))
    )
    for tag in ("v1", "v2"):
        ((_, record),) = await shelves[1].hosted.history(APP, tag)
        seen = [str(record.digest), *(one.digest for one in record.history)]
        assert sorted(seen) == sorted(str(Digest.of(body)) for body in bodies), "one of them was lost"
        for shelf in shelves:
            assert (await shelf.pull(tag)).digest == record.digest


# What a file system may leave of a record after a loss of power, and what is larger than any.
CUT = {"empty": b"", "zeros": bytes(400), "half": b'{"digest": "sha256:', "other": b"[]", "large": b" " * 1_100_000}


@pytest.mark.parametrize("left", CUT.values(), ids=CUT)
async def test_a_damaged_record_of_a_tag_is_not_an_absent_tag(shelf: Shelf, left: bytes) -> None:
    """It is said, by whoever comes to it, and breaks nothing beside it; whoever knows what the tag means mends it."""
    bodies = [await shelf.image(seed, tag) for seed, tag in ((1, "v1"), (2, "v2"), (3, None))]
    path = Path(shelf.layout.tag(APP.name, "v1"))

    async def damage() -> None:
        path.write_bytes(left)
        for wanted in (shelf.pull("v1"), shelf.hosted.history(APP, "v1")):
            with pytest.raises(RecordDamaged, match="the tag team/app:v1 is damaged") as caught:
                await wanted
            assert caught.value.path == str(path)
            assert "push" in caught.value.remedy
        (row,) = DISK_FAULTS.told()
        assert (row["operation"], row["path"]) == ("parse", str(path))

    async def mended(body: bytes) -> None:
        assert (await shelf.pull("v1")).body == body
        assert [tag for tag, _ in await shelf.hosted.history(APP)] == ["v1", "v2"]
        assert await shelf.hosted.damaged(APP) == []
        DISK_FAULTS.retry()
        assert not DISK_FAULTS

    await damage()
    assert (await shelf.pull("v2")).body == bodies[1]
    assert (await shelf.content.tags(APP, None, "")).tags == ("v1", "v2")
    assert [tag for tag, _ in await shelf.hosted.history(APP)] == ["v2"]
    assert [one.path for one in await shelf.hosted.damaged(APP)] == [str(path)]
    DISK_FAULTS.retry()
    assert DISK_FAULTS
    await shelf.hosted.delete_manifest(APP, Digest.of(bodies[1]), "ci")
    assert await shelf.hosted.history(APP) == [], "there is one, and what it means is not known"
    await shelf.manifest(bodies[1], "v2")
    assert path.read_bytes() == left
    await shelf.manifest(bodies[0], "v1")
    await mended(bodies[0])
    await damage()
    with pytest.raises(NotHere, match="not here"):
        await shelf.hosted.rollback(APP, "v1", NOWHERE, "admin")
    await shelf.hosted.rollback(APP, "v1", Digest.of(bodies[2]), "admin")
    await mended(bodies[2])
    await damage()
    await shelf.hosted.delete_tag(APP, "v1", "ci")
    with pytest.raises(NotHere):
        await shelf.pull("v1")
    DISK_FAULTS.retry()
    assert not DISK_FAULTS


async def test_a_damaged_record_opens_no_immutable_tag(open_shelf: Open) -> None:
    """What it means is not known: who may push and not delete must not say it anew."""
    shelf = open_shelf(immutable=Immutable(["team/*:v*"]))
    body, other = await shelf.image(1, "v1"), await shelf.image(2)
    Path(shelf.layout.tag(APP.name, "v1")).write_bytes(b"")
    with pytest.raises(TagImmutable, match="damaged"):
        await shelf.manifest(other, "v1")
    with pytest.raises(TagImmutable, match="damaged"):
        await shelf.hosted.rollback(APP, "v1", Digest.of(other), "admin")
    await shelf.hosted.delete_tag(APP, "v1", "ci")
    await shelf.manifest(body, "v1")
    assert (await shelf.pull("v1")).body == body


@pytest.mark.parametrize("left", CUT.values(), ids=CUT)
async def test_a_damaged_row_of_a_manifest_is_not_an_absent_manifest(shelf: Shelf, left: bytes) -> None:
    body = await shelf.image(1, "v1")
    digest = Digest.of(body)
    path = Path(shelf.layout.manifest(APP.name, digest))
    path.write_bytes(left)
    for reference in ("v1", digest):
        with pytest.raises(RecordDamaged, match=f"team/app noted of its manifest {digest} is damaged"):
            await shelf.pull(reference)
    (row,) = DISK_FAULTS.told()
    assert (row["operation"], row["path"]) == ("parse", str(path))
    assert path.read_bytes() == left
    await shelf.manifest(body, "v1")
    assert (await shelf.pull("v1")).body == (await shelf.pull(digest)).body == body
    DISK_FAULTS.retry()
    assert not DISK_FAULTS
    path.write_bytes(left)
    await shelf.hosted.delete_manifest(APP, digest, "ci")
    with pytest.raises(NotHere):
        await shelf.pull(digest)


async def test_rollback(shelf: Shelf) -> None:
    bodies = [await shelf.image(seed, "v1") for seed in range(3)]
    first, second, third = map(Digest.of, bodies)
    other = Digest.of(await shelf.image(7))
    assert (await shelf.hosted.rollback(APP, "v1", first, "admin")).digest == first
    assert (await shelf.pull("v1")).digest == first
    ((_, record),) = await shelf.hosted.history(APP, "v1")
    assert [one.digest for one in record.history] == list(map(str, (third, second, first)))
    assert record.source == "admin"
    for digest in (other, NOWHERE):
        with pytest.raises(NotHere, match="never meant"):
            await shelf.hosted.rollback(APP, "v1", digest, "admin")
    with pytest.raises(NotHere):
        await shelf.hosted.rollback(APP, "v2", first, "admin")
    os.unlink(shelf.layout.blob(second))
    with pytest.raises(NotHere, match="any more"):
        await shelf.hosted.rollback(APP, "v1", second, "admin")
    assert (await shelf.hosted.rollback(APP, "v1", first, "admin")) == record


async def test_immutable_tags(open_shelf: Open) -> None:
    shelf = open_shelf(immutable=Immutable(["team/*:v*", "frozen/**"]))
    first, second = [await shelf.image(seed) for seed in range(2)]
    for body in (first, first):
        await shelf.manifest(body, "v1")
    await shelf.manifest(first, "latest")
    await shelf.manifest(second, "latest")
    with pytest.raises(TagImmutable):
        await shelf.manifest(second, "v1")
    with pytest.raises(TagImmutable):
        await shelf.manifest(second, tags=["new", "v1"])
    with pytest.raises(NotHere):
        await shelf.pull("new")  # nothing of it was done
    assert (await shelf.pull("v1")).body == first
    await shelf.hosted.delete_tag(APP, "v1", "ci")
    await shelf.manifest(second, "v1")


async def test_an_immutable_tag_that_two_push_first(open_shelf: Open) -> None:
    shelves = [open_shelf(immutable=Immutable(["team/**"])) for _ in range(2)]
    bodies = [await shelves[0].image(seed) for seed in range(6)]
    results = await asyncio.gather(
        *(shelves[number % 2].manifest(body, "v1") for number, body in enumerate(bodies)), return_exceptions=True
    )
    (winner,) = (one for one in results if isinstance(one, Digest))
    assert all(isinstance(one, TagImmutable) for one in results if one is not winner)
    ((_, record),) = await shelves[0].hosted.history(APP, "v1")
    assert (record.digest, record.history) == (winner, ())


@pytest.mark.parametrize(
    ("pattern", "name", "tag", "covered"),
    [
        ("apps/**:v*", "apps/a/b", "v1", True),
        ("apps/**:v*", "apps/a", "latest", False),
        ("apps/*:v*", "apps/a/b", "v1", False),
        ("apps/*", "apps/a", "Any_Tag.1", True),
        ("**:*-RC?", "a", "1-RC?", True),
        ("a:v1", "a", "v10", False),
    ],
)
def test_immutable_patterns(pattern: str, name: str, tag: str, covered: bool) -> None:
    assert Immutable([pattern]).covers(name, tag) is covered
    assert not Immutable().covers(name, tag)


# -- deletions -------------------------------------------------------------------------------------------------------


async def test_deleting_a_tag(shelf: Shelf) -> None:
    body = await shelf.image(1, "v1")
    await shelf.hosted.delete_tag(APP, "v1", "ci")
    with pytest.raises(NotHere):
        await shelf.pull("v1")
    assert (await shelf.pull(Digest.of(body))).body == body
    with pytest.raises(NotHere):
        await shelf.hosted.delete_tag(APP, "v1", "ci")
    assert (await shelf.content.tags(APP, None, "")).tags == ()
    with pytest.raises(NotHere):
        await shelf.content.tags(OTHER, None, "")
    await shelf.image(2, "v1")
    ((_, record),) = await shelf.hosted.history(APP, "v1")
    assert record.history == ()


async def test_deleting_a_manifest(shelf: Shelf, open_shelf: Open) -> None:
    other = open_shelf()
    first, second = await shelf.image(1), await shelf.image(2)
    digest = Digest.of(first)
    for tag in ("a", "b"):
        await shelf.manifest(first, tag)
    await shelf.manifest(second, "b")
    await shelf.manifest(index(first), "all")
    await other.pull(digest)
    await shelf.hosted.delete_manifest(APP, digest, "ci")
    for reader in (shelf, other):
        for reference in ("a", digest):  # although its bytes are here, and an index names it
            with pytest.raises(NotHere):
                await reader.pull(reference)
        assert (await reader.pull("b")).body == second
    assert dict(await shelf.hosted.history(APP))["b"].history == ()
    with pytest.raises(NotHere):
        await shelf.hosted.delete_manifest(APP, digest, "ci")
    with pytest.raises(NotHere):
        await shelf.hosted.delete_manifest(OTHER, Digest.of(second), "ci")
    assert broken(shelf.layout) == []
    await shelf.manifest(first, "a")
    assert (await other.pull("a")).body == first


async def test_deleting_a_blob(shelf: Shelf) -> None:
    layer = noise(500, 1)
    body = await shelf.image(1, "v1")
    digest = await shelf.blob(layer, OTHER)
    with pytest.raises(BlobNamed):
        await shelf.hosted.delete_blob(APP, digest, "ci")
    await shelf.hosted.delete_manifest(APP, Digest.of(body), "ci")
    await shelf.hosted.delete_blob(APP, digest, "ci")
    with pytest.raises(NotHere):
        await shelf.content.blob_head(APP, digest)
    with pytest.raises(NotHere):
        await shelf.hosted.delete_blob(APP, digest, "ci")
    assert (await shelf.content.blob_head(OTHER, digest)).size == len(layer)
    with pytest.raises(ManifestBlobUnknown):
        await shelf.manifest(body, "v1")


async def test_a_blob_whose_namer_cannot_be_read_stays(shelf: Shelf) -> None:
    body = await shelf.image(1)
    spare = await shelf.blob(noise(10, 3))
    path = Path(shelf.layout.blob(Digest.of(body)))
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    with pytest.raises(BlobNamed):
        await shelf.hosted.delete_blob(APP, spare, "ci")


async def test_deletions_and_pushes_at_once(open_shelf: Open) -> None:
    shelves = [open_shelf() for _ in range(2)]
    body = await shelves[0].image(1)
    digest = Digest.of(body)

    async def turn(number: int) -> None:
        work = shelves[number % 2].hosted
        try:
            if number % 3:
                await work.put_manifest(APP, f"t{number % 4}", body, OCI_MANIFEST, (), "ci")
            else:
                await work.delete_manifest(APP, digest, "ci")
        except NotHere:
            return

    await asyncio.gather(*(turn(number) for number in range(24)))
    assert broken(shelves[0].layout) == []
    await shelves[0].manifest(body, "end")
    assert (await shelves[1].pull("end")).body == body


# -- cut off at any point --------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("work", ["push", "delete", "delete tag", "rollback"])
async def test_cut_off_at_any_point(open_shelf: Open, monkeypatch: pytest.MonkeyPatch, work: str) -> None:
    """What was acknowledged before is whole after it, and no tag is half there."""
    shelf = open_shelf()
    first, second = await shelf.image(1, "v1"), await shelf.image(2, "v1")
    acknowledged = await shelf.image(3, "kept")
    subject = Digest.of(acknowledged)
    await shelf.blob(noise(100, 5))
    third = image(noise(100, 5), **about(subject))
    names = ("rename", "fsync", "unlink", "utime", "fchmod")
    real = {name: getattr(os, name) for name in names}
    for number in range(100):
        left = number

        def count(name: str) -> Any:
            def call(*args: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left == -1:
                    raise Killed
                return real[name](*args, **more)

            return call

        for name in names:
            monkeypatch.setattr(os, name, count(name))
        try:
            if work == "push":
                await shelf.manifest(third, "v1", tags=["v2"])
            elif work == "delete":
                await shelf.hosted.delete_manifest(APP, Digest.of(second), "ci")
            elif work == "delete tag":
                await shelf.hosted.delete_tag(APP, "v1", "ci")
            else:
                await shelf.hosted.rollback(APP, "v1", Digest.of(first), "ci")
            done = True
        except Killed:
            done = False
        for name in names:
            monkeypatch.setattr(os, name, real[name])
        assert broken(shelf.layout) == [], number
        assert (await shelf.pull("kept")).body == acknowledged
        for tag in ("v1", "v2"):
            try:
                found = await shelf.pull(tag)
            except NotHere:
                continue
            for layer in json.loads(found.body or b"")["layers"]:
                await shelf.content.blob_head(APP, Digest.parse(layer["digest"]))
        for entry in await referrers(shelf, subject):
            assert (await shelf.pull(Digest.parse(entry["digest"]))).body == third
        if done:
            assert number > 1, "there was nothing to cut"
            return
        # As another process would find it.
        if work == "push":
            for tag in ("v1", "v2"):
                await _quietly(shelf.hosted.delete_tag(APP, tag, "ci"))
            await _quietly(shelf.hosted.delete_manifest(APP, Digest.of(third), "ci"))
        await shelf.manifest(first, "v1")
        await shelf.manifest(second, "v1")
    pytest.fail("it never came to its end")


async def _quietly(work: Any) -> None:
    try:
        await work
    except MirrorError:
        return


# -- quotas ----------------------------------------------------------------------------------------------------------


async def test_manifests_count_for_a_quota_as_blobs_do(shelf: Shelf) -> None:
    quota = Quota("app", 3000, APP.name.__eq__)
    await shelf.blob(b"{}")
    filler = "x" * 1500
    first, second = image(annotations={"a": filler}), image(annotations={"b": filler})
    await shelf.hosted.put_manifest(APP, "v1", first, OCI_MANIFEST, (), "ci", quota)
    for reference in ("v2", Digest.of(second)):
        with pytest.raises(TooLarge, match="of 3000 bytes left"):
            await shelf.hosted.put_manifest(APP, reference, second, OCI_MANIFEST, (), "ci", quota)
    assert str(Digest.of(second)) not in shelf.stored()
    # What is here already takes no more, under whichever tag.
    await shelf.hosted.put_manifest(APP, "v2", first, OCI_MANIFEST, (), "ci", quota)
    # What is refused for another reason is given back.
    lost = image(noise(10, 9), annotations={"c": "x" * 500})
    for _ in range(4):
        with pytest.raises(ManifestBlobUnknown):
            await shelf.hosted.put_manifest(APP, "v3", lost, OCI_MANIFEST, (), "ci", quota)
