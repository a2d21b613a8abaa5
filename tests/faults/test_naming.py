"""Naming is not having: what any repository can name stays private (CVE-2024-39897, and what a manifest made of it)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.store.adopt import adopt_all
from tests.faults.private_bed import (
    EMPTY,
    FORMS,
    HOSTED,
    NAMING,
    PROXIED,
    Bed,
    Content,
    Labs,
    image,
    index,
    kind_of,
    laboratories,
    naming,
    opening,
)
from tests.faults.wire import Got
from tests.peers import faults
from tests.peers.images import digest_of

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(60)]

SOURCES = (HOSTED, PROXIED)
STRANGERS = ("", "bob")
RANGES = (None, "bytes=0-99", "bytes=-5", "bytes=9999999-")


@pytest.fixture
async def labs() -> AsyncIterator[Labs]:
    async with laboratories() as opened:
        yield opened


@pytest.fixture
async def bed(tmp_path: Path, labs: Labs) -> AsyncIterator[Bed]:
    async with opening(tmp_path, labs.document()) as opened:
        yield opened


async def filled(bed: Bed, labs: Labs, source: str) -> None:
    """Have private content here, and everything that names it, pulled by whoever wanted to."""
    if source == HOSTED:
        await bed.push(HOSTED, labs.pushed, "alice")
    else:
        await bed.pull(PROXIED, labs.proxied, "alice")
    await named(bed, labs)


async def named(bed: Bed, labs: Labs) -> None:
    for tag, body in naming(labs.proxied, labs.pushed, labs.absent):
        got = await bed.manifest(NAMING, tag)
        assert (got.status, got.body) == (200, body), tag


def told(got: Got, content: bytes) -> tuple[int, str, dict[str, str]]:
    """Return all that an answer tells, but for the digest in it and the time."""
    headers = {
        name: value for name, value in got.headers.items() if name not in ("date", "content-length", "x-request-id")
    }
    return got.status, got.body.decode("latin-1").replace(digest_of(content), "…"), headers


def spelled(content: bytes) -> Iterator[str]:
    for form in FORMS:
        for kind in ("blobs", "manifests"):
            yield form.format(f"{kind}/{digest_of(content)}")


async def refused(bed: Bed, content: Content, like: Content | None, forms: int = len(FORMS)) -> None:
    """Ask for all of some content in every way; none may be answered, nor told from what is not here (`like`)."""
    others = like.all if like is not None else content.all
    for mine, other in zip(content.all, others, strict=True):
        for target, beside in list(zip(spelled(mine), spelled(other), strict=True))[: 2 * forms]:
            for who in STRANGERS:
                for method, wanted in (("HEAD", None), *(("GET", value) for value in RANGES)):
                    headers = {"Range": wanted} if wanted else {}
                    got = await bed.ask(target, method, who, headers)
                    what = (method, target, who, wanted, got.status, got.cache)
                    assert got.status in (404, 502, 503), what
                    assert not got.body or got.body[:20] not in mine, what
                    if like is not None:
                        assert told(got, mine) == told(await bed.ask(beside, method, who, headers), other), what
            got = await bed.ask(target, headers={"If-None-Match": f'"{digest_of(mine)}"'})
            assert got.status in (404, 502, 503), ("If-None-Match", target)


@pytest.mark.parametrize("source", SOURCES)
async def test_what_is_named_is_not_given(bed: Bed, labs: Labs, source: str) -> None:
    await filled(bed, labs, source)
    await refused(bed, labs.private(source), labs.absent)
    await bed.pull(source, labs.private(source), "alice")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("first", ["private", "named"])
async def test_in_any_order_and_by_another_process(
    tmp_path: Path, labs: Labs, bed: Bed, source: str, first: str
) -> None:
    """Whoever was refused before the content was here is refused after it, by what he asked as by another process."""
    async with opening(tmp_path, labs.document()) as other:
        if first == "named":
            await named(bed, labs)
            await refused(bed, labs.private(source), None, forms=1)
        await filled(other, labs, source)
        await refused(bed, labs.private(source), labs.absent, forms=1)
        await refused(other, labs.private(source), None, forms=1)


@pytest.mark.parametrize("source", SOURCES)
async def test_what_everybody_pulled_where_it_is_named_is_private_once_a_rule_says_so(
    tmp_path: Path, labs: Labs, source: str
) -> None:
    """Without rules nobody notes who brings what: having been given it there counts for nothing afterwards."""
    content = labs.private(source)
    async with opening(tmp_path, labs.document(clients={"anonymous": "push"})) as bed:
        if source == HOSTED:
            await bed.push(HOSTED, content, "")
        else:
            await bed.pull(PROXIED, content)
        await named(bed, labs)
        for _ in range(2):
            for body in content.all:
                assert (await bed.blob(NAMING, body)).body == body
            for body in (content.index, content.child):
                assert (await bed.manifest(NAMING, body)).body == body
        await bed.settled()
    assert not (tmp_path / "store" / "brought").exists()
    async with opening(tmp_path, labs.document()) as bed:
        await asyncio.to_thread(adopt_all, bed.room.layout)
        await refused(bed, content, labs.absent, forms=1)
        await bed.pull(source, content, "alice")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("state", ["restarted", "offline", "down"])
async def test_where_nobody_remembers_or_can_be_asked(tmp_path: Path, labs: Labs, source: str, state: str) -> None:
    async with opening(tmp_path, labs.document()) as bed:
        await filled(bed, labs, source)
    if state == "down":
        await labs.lab.stop()
        await labs.free.stop()
    async with opening(tmp_path, labs.document(offline=state == "offline")) as bed:
        await refused(bed, labs.private(source), labs.absent if state != "down" else None, forms=2)
        if state == "offline":
            await bed.pull(source, labs.private(source), "alice")
        for blob in labs.private(source).blobs:
            assert (await bed.blob(source, blob, "alice")).body == blob
        # Whoever may pull a repository that brought it is given it where it is named, too.
        for blob in labs.private(source).blobs:
            assert (await bed.blob(NAMING, blob, "alice")).body == blob
        for manifest in labs.private(source).manifests:
            assert (await bed.manifest(NAMING, manifest, "alice")).body == manifest
        await refused(bed, labs.private(source), None, forms=1)


async def test_what_is_being_pulled(bed: Bed, labs: Labs) -> None:
    await named(bed, labs)
    labs.lab.fail("blob", faults.Stall(60_000, 0.8), 1)
    fetching = asyncio.create_task(bed.blob(PROXIED, labs.proxied.layers[0], "alice"))
    while not any(path.stat().st_size >= 60_000 for path in bed.room.layout.ingest.glob("*.part")):
        await asyncio.sleep(0.01)
    layer = labs.proxied.layers[0]
    for target in spelled(layer):
        for method, value in (("HEAD", None), *(("GET", value) for value in RANGES)):
            got = await bed.ask(target, method, headers={"Range": value} if value else {})
            assert got.status in (404, 503), (method, target, value)
    assert (await fetching).body == layer
    await bed.settled()
    await refused(bed, labs.proxied, labs.absent, forms=1)


async def test_what_is_being_pushed(bed: Bed, labs: Labs) -> None:
    await named(bed, labs)
    layer = labs.pushed.layers[0]
    begun = await bed.ask(f"/v2/{HOSTED}/blobs/uploads/", "POST", "alice", body=b"")
    place = begun.headers["location"]
    sent = await bed.ask(place, "PATCH", "alice", {"Content-Type": "application/octet-stream"}, layer[:100_000])
    assert sent.status == 202
    await refused(bed, labs.pushed, labs.absent, forms=1)
    # A blob is the repository's before a manifest names it, and nobody else's.
    place = sent.headers["location"]
    done = await bed.ask(f"{place}{'&' if '?' in place else '?'}digest={digest_of(layer)}", "PUT", "alice",
                         body=layer[100_000:])  # fmt: skip
    assert done.status == 201
    await refused(bed, labs.pushed, labs.absent, forms=1)


@pytest.mark.parametrize("source", SOURCES)
async def test_a_push_that_names_it(bed: Bed, labs: Labs, source: str) -> None:
    """What another repository has is unknown to the one that is pushed to, and a refusal does not say more.

    So it was before: it is here because rows say now what was brought, and a push asks them.
    """
    await filled(bed, labs, source)
    private, absent = labs.private(source), labs.absent
    assert (await bed.push_blob("apps/bob", EMPTY, "bob")).status == 201
    for mine, other in zip(naming(private), naming(absent), strict=True):
        if mine[0] == "swapped":
            continue  # index and image pass for layers there: it is refused for what it is
        got = await bed.push_manifest("apps/bob", mine[1], "bob", "v1")
        assert (got.status, got.code) == (404, "MANIFEST_BLOB_UNKNOWN") or (
            got.status == 400 and got.code == "MANIFEST_BLOB_UNKNOWN"
        ), mine[0]
        like = await bed.push_manifest("apps/bob", other[1], "bob", "v1")
        assert (like.status, like.code) == (got.status, got.code)
        words, others = got.body.decode(), like.body.decode()
        for one, two in zip(private.all, absent.all, strict=True):
            words, others = words.replace(digest_of(one), "…"), others.replace(digest_of(two), "…")
        assert words == others
    for content in private.all:
        for kind in ("blobs", "manifests"):
            assert (await bed.ask(f"/v2/apps/bob/{kind}/{digest_of(content)}", who="bob")).status == 404


@pytest.mark.parametrize("source", SOURCES)
async def test_a_mount_from_whoever_names_it(bed: Bed, labs: Labs, source: str) -> None:
    await filled(bed, labs, source)
    private = labs.private(source)
    for content in private.all:
        digest = digest_of(content)
        for mount in (f"?mount={digest}&from={NAMING}", f"?mount={digest}&from=short/naming", f"?mount={digest}",
                      f"?mount={digest}&from={source}", f"?mount={digest}&from=apps/other"):  # fmt: skip
            got = await bed.ask(f"/v2/apps/bob/blobs/uploads/{mount}", "POST", "bob", body=b"")
            assert got.status == 202, (mount, got.status)
            assert (await bed.ask(f"/v2/apps/bob/blobs/{digest}", who="bob")).status == 404
    # Alice may pull it, and gets it mounted: named, or from wherever it is.
    layer = digest_of(private.layers[0])
    for name, mount in (("secret/a", f"&from={source}"), ("secret/b", ""), ("secret/c", f"&from={NAMING}")):
        got = await bed.ask(f"/v2/{name}/blobs/uploads/?mount={layer}{mount}", "POST", "alice", body=b"")
        assert got.status == 201, (name, got.status)
    await refused(bed, private, None, forms=1)


@pytest.mark.parametrize("source", SOURCES)
async def test_a_hosted_sparse_index(tmp_path: Path, labs: Labs, source: str) -> None:
    """With sparse_indexes a push may name what is not there; it does not have it by that.

    So it was before: it is here because the table of ways has a hole without it.
    """
    async with opening(tmp_path, labs.document(storage={"sparse_indexes": True})) as bed:
        await filled(bed, labs, source)
        private = labs.private(source)
        assert (await bed.push_blob("apps/bob", EMPTY, "bob")).status == 201
        for body in (index(*private.manifests), image(EMPTY, *private.blobs), index(private.child, private.index)):
            assert (await bed.push_manifest("apps/bob", body, "bob")).status == 201
        for content in private.all:
            for kind in ("blobs", "manifests"):
                for method in ("HEAD", "GET"):
                    for who in STRANGERS:
                        got = await bed.ask(f"/v2/apps/bob/{kind}/{digest_of(content)}", method, who)
                        assert got.status == 404, (kind, method, who)
        layer = digest_of(private.layers[0])
        got = await bed.ask(f"/v2/apps/carol/blobs/uploads/?mount={layer}&from=apps/bob", "POST", "carol", body=b"")
        assert got.status == 202
        await bed.pull(source, private, "alice")


@pytest.mark.parametrize("source", SOURCES)
async def test_a_hosted_sparse_index_gives_what_its_client_may_pull_elsewhere(
    tmp_path: Path, labs: Labs, source: str
) -> None:
    """As a proxied one that nobody can be asked about: to alice, and for as long as a manifest names it."""
    async with opening(tmp_path, labs.document(storage={"sparse_indexes": True})) as bed:
        await filled(bed, labs, source)
        private = labs.private(source)
        assert (await bed.push_blob("apps/bob", EMPTY, "bob")).status == 201
        bodies = (index(*private.manifests), image(EMPTY, *private.blobs))
        places = [f"manifests/{digest_of(one)}" for one in private.manifests]
        places += [f"blobs/{digest_of(one)}" for one in private.blobs]

        async def statuses(who: str) -> set[int]:
            return {
                (await bed.ask(f"/v2/apps/bob/{place}", method, who)).status
                for place in places
                for method in ("HEAD", "GET", "HEAD")
            }

        assert await statuses("alice") == {404}, "nothing names it yet"
        for body in bodies:
            assert (await bed.push_manifest("apps/bob", body, "bob")).status == 201
        for who in ("alice", *STRANGERS, "alice"):
            assert await statuses(who) == ({200} if who == "alice" else {404}), who
        for blob in private.blobs:
            assert (await bed.blob("apps/bob", blob, "alice")).body == blob
            got = await bed.ask(f"/v2/apps/bob/manifests/{digest_of(blob)}", who="alice")
            assert got.status == 404, "a blob is no manifest"
        for manifest in private.manifests:
            assert (await bed.manifest("apps/bob", manifest, "alice")).body == manifest
            got = await bed.ask(f"/v2/apps/bob/manifests/{digest_of(manifest)}", "DELETE", "bob")
            assert got.status == 404, "to be given it is not to have it"
        for body in bodies:
            got = await bed.ask(f"/v2/apps/bob/manifests/{digest_of(body)}", "DELETE", "bob")
            assert got.status == 202
        assert await statuses("alice") == {404}, "nothing names it any more"


@pytest.mark.parametrize("source", SOURCES)
async def test_what_refers_to_it(bed: Bed, labs: Labs, source: str) -> None:
    """Lists of referrers are those of the repository that is asked."""
    await filled(bed, labs, source)
    private = labs.private(source)
    artifact = image(EMPTY, EMPTY, subject={"mediaType": kind_of(private.child), "digest": digest_of(private.child),
                                            "size": len(private.child)})  # fmt: skip
    assert (await bed.push_blob(HOSTED, EMPTY, "alice")).status == 201
    assert (await bed.push_manifest(HOSTED, artifact, "alice")).status == 201
    for name, who in ((NAMING, ""), ("apps/bob", "bob")):
        got = await bed.ask(f"/v2/{name}/referrers/{digest_of(private.child)}", who=who)
        assert digest_of(artifact) not in got.body.decode(), name
    fallback = digest_of(private.child).replace(":", "-")
    assert (await bed.manifest(NAMING, fallback)).status == 200
    assert (await bed.manifest(NAMING, private.child)).status == 404


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("restarted", [False, True])
async def test_what_upstream_confirms_it_is_asked_once(
    tmp_path: Path, labs: Labs, source: str, restarted: bool
) -> None:
    """One HEAD for each digest that is here already, remembered over a restart and for when nobody can be asked."""
    private = labs.private(source)
    async with opening(tmp_path, labs.document()) as bed:
        await filled(bed, labs, source)
        await refused(bed, private, None, forms=1)
        for blob in private.blobs:
            labs.free.add_blob("pub/naming", blob)
        for manifest in private.manifests:
            labs.free.add_manifest("pub/naming", manifest, kind_of(manifest))
        labs.forget()
        for _ in range(2):
            for blob in private.blobs:
                got = await bed.blob(NAMING, blob)
                assert (got.body, got.cache) == (blob, "HIT")
            for manifest in private.manifests:
                got = await bed.manifest(NAMING, manifest)
                assert (got.body, got.cache) == (manifest, "HIT")
        expected = [f"HEAD /v2/pub/naming/blobs/{digest_of(one)}" for one in private.blobs]
        expected += [f"HEAD /v2/pub/naming/manifests/{digest_of(one)}" for one in private.manifests]
        assert sorted(labs.asked) == sorted(expected)
    await labs.free.stop()
    labs.forget()
    async with opening(tmp_path, labs.document(offline=restarted)) as bed:
        for blob in private.blobs:
            assert (await bed.blob(NAMING, blob)).body == blob
        for manifest in private.manifests:
            assert (await bed.manifest(NAMING, manifest)).body == manifest
        assert labs.asked == []


async def test_an_open_mirror_asks_nobody(tmp_path: Path, labs: Labs) -> None:
    """Where everybody may pull everything to be named is enough, as it was: there is nobody to keep it from.

    This holds on releases before, too: it is here so that the rest costs an open mirror nothing.
    """
    async with opening(tmp_path, labs.document(clients={"anonymous": "pull"})) as bed:
        await bed.pull(PROXIED, labs.proxied)
        await named(bed, labs)
        labs.forget()
        for blob in labs.proxied.blobs:
            for form in FORMS:
                got = await bed.ask(form.format(f"blobs/{digest_of(blob)}"))
                assert (got.body, got.cache) == (blob, "HIT")
        for manifest in labs.proxied.manifests:
            got = await bed.manifest(NAMING, manifest)
            assert (got.body, got.cache) == (manifest, "HIT")
        assert labs.asked == []


async def test_rules_that_come_later(tmp_path: Path, labs: Labs) -> None:
    """What an open mirror gave by its name alone is proven again once there are rules."""
    await test_an_open_mirror_asks_nobody(tmp_path, labs)
    async with opening(tmp_path, labs.document()) as bed:
        await refused(bed, labs.proxied, labs.absent, forms=1)
        await bed.pull(PROXIED, labs.proxied, "alice")


async def test_who_brought_it_is_a_bounded_look_up(bed: Bed, labs: Labs) -> None:
    """Pushing the same thing over and over says who has it once."""
    for _ in range(5):
        assert (await bed.push_blob("apps/bob", EMPTY, "bob")).status == 201
        assert (await bed.push_manifest("apps/bob", image(EMPTY, EMPTY), "bob", "v1")).status == 201
    bringers = Path(bed.room.layout.bringers(Digest.parse(digest_of(EMPTY))))
    assert bringers.read_text().split() == [digest_of(EMPTY)[7:], "apps/bob"]
