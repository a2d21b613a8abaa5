"""What is listed of hosted repositories: who refers to a digest, and which repositories there are."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.content.answers import Target
from mirror.content.catalog import PAGE, Catalog
from mirror.errors import StoreUnreadable
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.reference import fallback_tag
from mirror.store.catalog import walk_names
from mirror.store.layout import Layout
from tests.peers.images import OCI_MANIFEST
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room
from tests.unit.content.hosted_bed import NOWHERE, Shelf, about, describe, image, index, referrers
from tests.unit.content.push_bed import APP, OTHER

LAB = Target("lab", "team/app", "lab/team/app")


async def test_referrers(shelf: Shelf) -> None:
    await shelf.blob(b"{}")
    assert await referrers(shelf, NOWHERE) == []
    signature = image(artifactType="application/sig", annotations={"a": "b"}, **about(NOWHERE))
    plain, listed = image(**about(NOWHERE)), index(artifactType="application/sig", **about(NOWHERE))
    for body in (signature, plain, listed):
        stored = await shelf.hosted.put_manifest(APP, Digest.of(body), body, json.loads(body)["mediaType"], (), "ci")
        assert stored.subject == NOWHERE
    found = {entry["digest"]: entry for entry in await referrers(shelf, NOWHERE)}
    assert list(found) == sorted(str(Digest.of(body)) for body in (signature, plain, listed))
    assert found[str(Digest.of(signature))] == describe(
        signature, OCI_MANIFEST, artifactType="application/sig", annotations={"a": "b"}
    )
    assert found[str(Digest.of(plain))]["artifactType"] == json.loads(plain)["config"]["mediaType"]
    of_type = await referrers(shelf, NOWHERE, "application/sig")
    assert {entry["digest"] for entry in of_type} == {str(Digest.of(signature)), str(Digest.of(listed))}
    assert await referrers(shelf, NOWHERE, "application/none") == []
    assert json.loads((await shelf.content.referrers(OTHER, NOWHERE, None)).body)["manifests"] == []
    await shelf.hosted.delete_manifest(APP, Digest.of(signature), "ci")
    assert len(await referrers(shelf, NOWHERE)) == 2


async def test_many_referrers_come_in_pages(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.store.referrers.PAGE_LENGTH", 4)
    await shelf.blob(b"{}")
    bodies = [image(annotations={"n": str(number)}, **about(NOWHERE)) for number in range(10)]
    for body in bodies:
        await shelf.manifest(body)
    answer = await shelf.content.referrers(APP, NOWHERE, None)
    assert len(json.loads(answer.body)["manifests"]) == 4
    assert [entry["digest"] for entry in await referrers(shelf, NOWHERE)] == sorted(
        str(Digest.of(one)) for one in bodies
    )
    monkeypatch.setattr("mirror.store.referrers.PAGE_SIZE", 1)
    assert len(await referrers(shelf, NOWHERE)) == 10


async def test_the_fallback_tag_is_understood(shelf: Shelf) -> None:
    subject = Digest.of(await shelf.image(1))
    old, new = await shelf.image(2), await shelf.image(3, **about(subject))
    entries = [
        describe(old, OCI_MANIFEST, artifactType="application/old"),
        describe(new, OCI_MANIFEST),
    ]
    body = json.dumps({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}).encode()
    await shelf.manifest(body, fallback_tag(subject))
    found = await referrers(shelf, subject)
    assert {entry["digest"] for entry in found} == {str(Digest.of(old)), str(Digest.of(new))}
    assert [entry["digest"] for entry in await referrers(shelf, subject, "application/old")] == [str(Digest.of(old))]
    await shelf.hosted.delete_manifest(APP, Digest.of(old), "ci")
    assert [entry["digest"] for entry in await referrers(shelf, subject)] == [str(Digest.of(new))]


async def test_an_upstreams_list_and_its_fallback_tag(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    room = make_room()
    subject = upstream.add_image("team/app", "v1")
    digest = Digest.parse(subject.digest)
    by_api, by_tag = image(artifactType="application/api"), image(artifactType="application/tag")
    upstream.repository("team/app").referrers[subject.digest] = [describe(by_api, OCI_MANIFEST)]

    async def listed(a_room: Room) -> list[str]:
        body = (await a_room.content.referrers(LAB, digest, None)).body
        return [entry["digest"] for entry in json.loads(body)["manifests"]]

    assert await listed(room) == [str(Digest.of(by_api))]
    tagged = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_INDEX,
            "manifests": [
                describe(by_api, OCI_MANIFEST),
                describe(by_tag, OCI_MANIFEST, artifactType="application/tag"),
            ],
        }
    ).encode()
    upstream.add_manifest("team/app", tagged, media_types.OCI_INDEX, fallback_tag(digest))
    fresh = make_room(tags="fresh_for: 0s")
    assert await listed(fresh) == [str(Digest.of(by_api)), str(Digest.of(by_tag))]
    assert await listed(make_room()) == [str(Digest.of(by_api)), str(Digest.of(by_tag))], "what is kept has both"


_TYPED = {"artifactType": "application/sbom"}


@pytest.mark.parametrize(
    ("entry", "manifest", "listed"),
    [
        pytest.param({}, {}, False, id="a child of another index"),
        pytest.param({"platform": {"os": "linux", "architecture": "arm64"}}, {}, False, id="a child with a platform"),
        pytest.param({}, {"subject": "another"}, False, id="what refers to something else"),
        pytest.param({}, None, False, id="what is not there"),
        pytest.param({"artifactType": ""}, {}, False, id="an empty type"),
        pytest.param({}, {"subject": "it"}, True, id="it names the subject (guards against overshooting)"),
        pytest.param(_TYPED, {}, True, id="typed (guards against overshooting: clients without the API write this)"),
        pytest.param(_TYPED, None, True, id="typed and not looked at (guards against a question for each)"),
    ],
)
async def test_what_a_fallback_tag_lists_and_does_not_refer(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    entry: dict[str, Any],
    manifest: dict[str, str] | None,
    listed: bool,
) -> None:
    """The children of an image's index are no referrers (oras-go#1396)."""
    subject = Digest.parse(upstream.add_image("team/app", "v1").digest)
    fields = {"it": about(subject), "another": about(NOWHERE)}.get((manifest or {}).get("subject", ""), {})
    one = image(b"x", **fields)
    if manifest is not None:
        upstream.add_manifest("team/app", one, OCI_MANIFEST)
    tagged = json.dumps(
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [describe(one, OCI_MANIFEST, **entry)]}
    ).encode()
    upstream.add_manifest("team/app", tagged, media_types.OCI_INDEX, fallback_tag(subject))
    body = (await make_room().content.referrers(LAB, subject, None)).body
    assert bool(json.loads(body)["manifests"]) == listed


@pytest.mark.parametrize("entry", [{}, _TYPED], ids=["children", "children that have types"])
async def test_a_fallback_tag_that_is_the_index_itself(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, shelf: Shelf, entry: dict[str, Any]
) -> None:
    """Registries take the dash for a colon, and mirroring tools tag an image by its digest."""
    child = await shelf.image(1)
    whole = json.dumps(
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [describe(child, OCI_MANIFEST, **entry)]}
    ).encode()
    digest = Digest.of(whole)
    await shelf.manifest(whole, fallback_tag(digest))
    assert await referrers(shelf, digest) == []
    upstream.add_manifest("team/app", child, OCI_MANIFEST)
    upstream.add_manifest("team/app", whole, media_types.OCI_INDEX, fallback_tag(digest))
    assert json.loads((await make_room().content.referrers(LAB, digest, None)).body)["manifests"] == []


async def test_a_pushed_fallback_tag_that_lists_children(shelf: Shelf) -> None:
    subject, child = await shelf.image(1), await shelf.image(2)
    await shelf.manifest(index(child), fallback_tag(Digest.of(subject)))
    assert await referrers(shelf, Digest.of(subject)) == []


async def test_few_of_many_untyped_entries_are_looked_at(
    make_room: Callable[..., Room], upstream: ScriptedRegistry
) -> None:
    """It guards the bound: an index of ten thousand children is not fetched to answer one question."""
    subject = Digest.parse(upstream.add_image("team/app", "v1").digest)
    upstream.add_manifest(
        "team/app", index(*(image(bytes([n])) for n in range(100))), media_types.OCI_INDEX, fallback_tag(subject)
    )
    await make_room().content.referrers(LAB, subject, None)
    assert upstream.count("manifest", "GET") <= 1 + 16


@pytest.mark.parametrize(
    ("before", "artifact_type", "found"),
    [
        pytest.param([], None, True, id="nothing"),
        pytest.param([], "application/sig", True, id="nothing of a type"),
        pytest.param(["application/sbom"], "application/sig", True, id="an SBOM alone, asked for signatures"),
        pytest.param(["application/sig"], "application/sig", False, id="one of the type (guards fresh_for)"),
        pytest.param(["application/sbom"], None, False, id="anything (guards fresh_for)"),
    ],
)
async def test_an_absent_referrer_is_remembered_as_an_absent_tag_is(
    make_room: Callable[..., Room],
    upstream: ScriptedRegistry,
    before: list[str],
    artifact_type: str | None,
    found: bool,
) -> None:
    """Verify, sign, verify: a signature that is a referrer is found as soon as one under a tag."""
    room = make_room()
    subject = Digest.parse(upstream.add_image("team/app", "v1").digest)

    def describe_all(types: list[str]) -> list[dict[str, object]]:
        return [describe(one.encode(), OCI_MANIFEST, artifactType=one) for one in types]

    async def listed(a_room: Room) -> int:
        return len(json.loads((await a_room.content.referrers(LAB, subject, artifact_type)).body)["manifests"])

    upstream.repository("team/app").referrers[str(subject)] = describe_all(before)
    first = await listed(room)
    assert await listed(room) == first
    assert upstream.count("referrers") == 1, "it is remembered for a while"
    upstream.repository("team/app").referrers[str(subject)] = describe_all([*before, "application/sig", "x"])
    path = room.layout.referrers(LAB.name, subject)
    then = os.stat(path).st_mtime - 11  # absent_for is 10 s, fresh_for 5 min
    os.utime(path, (then, then))
    assert (await listed(room) > first) == found


# -- catalog ---------------------------------------------------------------------------------------------------------


async def names(catalog: Catalog, count: int | None, visible: Callable[[str], bool] = lambda _: True) -> list[str]:
    """Return all pages of the list of repositories."""
    found: list[str] = []
    last = ""
    for _ in range(100):
        page = await catalog.page(count, last, visible)
        assert len(page.names) <= (count or PAGE)
        found += page.names
        if not page.more:
            return found
        if page.names:
            last = page.names[-1]
    pytest.fail("pages without an end")


async def test_catalog(shelf: Shelf) -> None:
    catalog = Catalog(shelf.layout, shelf.pushes.threads)
    assert await names(catalog, None) == []
    wanted = ["a", "a-b", "a.b/c", "a/b", "a/b/c", "a0", "b"]
    for name in wanted:
        await shelf.image(1, "v1", Target("", name, name, hosted=True))
    only_blobs = Target("", "a/blobs", "a/blobs", hosted=True)
    await shelf.blob(b"x", only_blobs)
    gone = Target("", "gone", "gone", hosted=True)
    await shelf.hosted.delete_manifest(gone, Digest.of(await shelf.image(1, target=gone)), "ci")
    catalog = Catalog(shelf.layout, shelf.pushes.threads)
    for count in (None, 1, 2, 3, 7, 100):
        assert await names(catalog, count) == wanted
    assert await names(catalog, 2, lambda name: name.startswith("a/")) == ["a/b", "a/b/c"]
    assert await names(catalog, 2, lambda _: False) == []
    assert (await catalog.page(0, "", lambda _: True)).names == ()
    assert not (await catalog.page(0, "", lambda _: True)).more
    assert (await catalog.page(9, "zzz", lambda _: True)).names == ()


async def test_catalog_without_what_cannot_be_read_is_none(shelf: Shelf) -> None:
    for name in ("a", "b/c", "d"):
        await shelf.image(1, "v1", Target("", name, name, hosted=True))
    tags = shelf.layout.tags("b/c")
    kept = tags.rename(tags.with_name("_kept"))
    tags.symlink_to(tags)  # ELOOP, which not even root may read
    catalog = Catalog(shelf.layout, shelf.pushes.threads)
    with pytest.raises(StoreUnreadable, match="_tags"):
        await names(catalog, None)
    tags.unlink()
    kept.rename(tags)
    assert await names(catalog, None) == ["a", "b/c", "d"]


async def test_catalog_is_read_a_stretch_at_a_time(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.content.catalog._STRETCH", 3)
    catalog = Catalog(shelf.layout, shelf.pushes.threads)
    wanted = sorted(f"r{number}" for number in range(10))
    for name in wanted:
        make_repository(shelf.layout, name)
    assert (await catalog.page(2, "r5", lambda _: True)).names == ("r6", "r7")
    for count in (1, 2, 3, 4, 10):
        assert await names(catalog, count) == wanted
        assert await names(catalog, count, lambda name: int(name[1:]) % 4 == 1) == ["r1", "r5", "r9"]
    make_repository(shelf.layout, "r00")
    assert await names(catalog, 5) == wanted, "what was read lasts some seconds"
    monkeypatch.setattr("mirror.content.catalog._FRESH_FOR", 0.0)
    assert await names(catalog, 5) == sorted([*wanted, "r00"])


components = st.sampled_from(["a", "a-b", "a.b", "a_b", "a0", "b", "0"])
repositories = st.lists(st.lists(components, min_size=1, max_size=3).map("/".join), unique=True, max_size=8)


@given(wanted=repositories, last=st.one_of(st.just(""), st.lists(components, min_size=1, max_size=3).map("/".join)))
@settings(max_examples=60, deadline=None)
def test_names_come_in_order(wanted: list[str], last: str) -> None:
    with TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        for name in wanted:
            make_repository(layout, name)
        assert list(walk_names(layout, last)) == sorted(name for name in wanted if name > last)


def make_repository(layout: Layout, name: str) -> None:
    path = Path(layout.tag(name, "v1"))
    path.parent.mkdir(parents=True)
    path.touch()


async def test_what_lies_about_is_no_repository(shelf: Shelf) -> None:
    layout = shelf.layout
    (layout.repositories / "Not-A-Name" / "_tags").mkdir(parents=True)
    (layout.repositories / "Not-A-Name" / "_tags" / "v1").touch()
    (layout.repositories / "a" / "_tags").mkdir(parents=True)
    (layout.repositories / "a" / "_tags" / "v1.123~").touch()
    (layout.repositories / "file").touch()
    assert list(walk_names(layout)) == []
