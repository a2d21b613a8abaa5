"""Manifests pushed and deleted over HTTP, lists of them, and everything that a client does wrong with them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.config.access import Rule
from mirror.content.catalog import Catalog
from mirror.content.immutable import Immutable
from mirror.errors import InvalidRequest, NameInvalid, TagInvalid
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.registry import manifests
from mirror.registry.access import Access
from mirror.registry.clients import Clients
from mirror.registry.connections import Connections
from mirror.registry.gate import Gate
from mirror.registry.middleware import Dispatcher
from mirror.registry.routes import Kind, parse
from tests.peers.images import OCI_MANIFEST, noise
from tests.unit.content.hosted_bed import NOWHERE, Shelf, about, image, index
from tests.unit.registry.stage import Face, Lines, Reply

LIMIT = 100_000
APP = "/v2/team/app"
LAYER = noise(3000, 1)
BODY = image(LAYER)
DIGEST = Digest.of(BODY)
LAB = {"upstreams": {"lab": {"endpoints": ["http://127.0.0.1:9"], "plain_http": True}}}


@asynccontextmanager
async def serving(
    folder: Path, *, rules: tuple[Rule, ...] = (), catalog: bool = True, **options: Any
) -> AsyncIterator[tuple[Face, Shelf]]:
    shelf = Shelf(folder, LAB, **{"manifest_limit": LIMIT, **options})
    lines, clients = Lines(), Clients(True)
    dispatcher = Dispatcher(
        shelf.content,
        clients,
        shelf.room.metrics,
        lines,
        lines,
        gate=Gate(Access("push", rules, catalog=True), clients, shelf.content.resolve),
        uploads=shelf.pushes.uploads,
        hosted=shelf.hosted,
        catalog=Catalog(shelf.layout, shelf.pushes.threads) if catalog else None,
        manifest_limit=LIMIT,
    )
    server = Connections(dispatcher, shelf.room.metrics)
    listener = socket.create_server(("127.0.0.1", 0))
    server.listen(listener)
    face = Face(dispatcher, server, listener, lines, shelf.room.metrics)
    try:
        yield face, shelf
    finally:
        await face.close()
        await shelf.close()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Face, Shelf]]:
    async with serving(tmp_path) as both:
        await both[1].blob(LAYER)
        await both[1].blob(b"{}")
        yield both


@pytest.fixture
def face(served: tuple[Face, Shelf]) -> Face:
    return served[0]


@pytest.fixture
def shelf(served: tuple[Face, Shelf]) -> Shelf:
    return served[1]


async def put(face: Face, target: str, body: bytes = BODY, media_type: str = OCI_MANIFEST, **fields: str) -> Reply:
    """Push a manifest; without a media type none is sent."""
    wire = await face.connect()
    try:
        more = {"Content_Type": media_type} if media_type else {}
        await wire.send(target, "PUT", **{"Content_Length": str(len(body)), **more, **fields})
        wire.writer.write(body)
        await wire.writer.drain()
        return await wire.read("PUT")
    finally:
        await wire.close()


# -- pushes ----------------------------------------------------------------------------------------------------------


async def test_push_by_tag_and_pull(face: Face) -> None:
    reply = await put(face, f"{APP}/manifests/v1")
    assert (reply.status, reply.body) == (201, b"")
    assert reply.fields["location"] == f"{APP}/manifests/{DIGEST}"
    assert reply.fields["docker-content-digest"] == str(DIGEST)
    assert reply.fields["content-length"] == "0"
    assert "oci-subject" not in reply.fields
    assert "oci-tag" not in reply.fields
    for target in (reply.fields["location"], f"{APP}/manifests/v1"):
        for method in ("GET", "HEAD"):
            found = await face.ask(target, method)
            assert (found.status, found.fields["content-type"]) == (200, OCI_MANIFEST)
            assert found.fields["content-length"] == str(len(BODY))
            assert found.fields["docker-content-digest"] == str(DIGEST)
            assert found.fields["x-cache"] == "HIT"
            assert found.body == (BODY if method == "GET" else b"")
    listed = await face.ask(f"{APP}/tags/list")
    assert json.loads(listed.body) == {"name": "team/app", "tags": ["v1"]}


async def test_push_by_digest_with_tags(face: Face) -> None:
    tags = [f"t{number}-{'x' * 120}" for number in range(12)]
    query = "&".join(f"tag={tag}" for tag in (*tags, tags[0]))
    reply = await put(face, f"{APP}/manifests/{DIGEST}?{query}")
    assert (reply.status, reply.fields["oci-tag"]) == (201, ", ".join(tags))
    assert reply.fields["location"] == f"{APP}/manifests/{DIGEST}"
    for tag in tags:
        assert (await face.ask(f"{APP}/manifests/{tag}", "HEAD")).status == 200
    untagged = await put(face, f"{APP}/manifests/{DIGEST}", media_type="")
    assert (untagged.status, "oci-tag" in untagged.fields) == (201, False)
    other = await put(face, f"{APP}/manifests/a?tag=b")
    assert (other.status, other.fields["oci-tag"]) == (201, "b")
    assert (await face.ask(f"{APP}/manifests/a")).body == (await face.ask(f"{APP}/manifests/b")).body == BODY


async def test_push_in_chunks_and_as_others_address_us(face: Face) -> None:
    for target, place in (
        (f"{APP}/manifests/v1", f"{APP}/manifests/{DIGEST}"),
        (f"{APP}/manifests/v2?ns=127.0.0.1:5000", f"{APP}/manifests/{DIGEST}?ns=127.0.0.1:5000"),
        ("/team/v2/app/manifests/v3", f"/team/v2/app/manifests/{DIGEST}"),
    ):
        wire = await face.connect()
        await wire.send(target, "PUT", Transfer_Encoding="chunked", Content_Type=OCI_MANIFEST, Expect="100-continue")
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        for part in (BODY[:100], BODY[100:], b""):
            wire.writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        reply = await wire.read("PUT")
        assert (reply.status, reply.fields["location"]) == (201, place)
        assert (await face.ask(place)).body == BODY


async def test_subject(face: Face) -> None:
    signature = image(LAYER, artifactType="application/sig", **about(NOWHERE))
    reply = await put(face, f"{APP}/manifests/{Digest.of(signature)}", signature)
    assert (reply.status, reply.fields["oci-subject"]) == (201, str(NOWHERE))
    listed = await face.ask(f"{APP}/referrers/{NOWHERE}")
    assert (listed.status, listed.fields["content-type"]) == (200, media_types.OCI_INDEX)
    assert [entry["digest"] for entry in json.loads(listed.body)["manifests"]] == [str(Digest.of(signature))]
    assert "oci-filters-applied" not in listed.fields
    none = await face.ask(f"{APP}/referrers/{NOWHERE}?artifactType=a/b")
    assert (none.status, json.loads(none.body)["manifests"]) == (200, [])
    assert none.fields["oci-filters-applied"] == "artifactType"
    empty = await face.ask(f"/v2/team/none/referrers/{DIGEST}")
    assert (empty.status, json.loads(empty.body)["manifests"]) == (200, [])


async def test_referrers_come_in_pages(face: Face, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.store.referrers.PAGE_LENGTH", 2)
    bodies = [
        image(LAYER, artifactType="application/sig", annotations={"n": str(number)}, **about(NOWHERE))
        for number in range(5)
    ]
    for body in bodies:
        await shelf.manifest(body)
    found: list[str] = []
    target = f"{APP}/referrers/{NOWHERE}?artifactType=application%2Fsig"
    for page in range(3):
        reply = await face.ask(target)
        assert (reply.status, reply.fields["oci-filters-applied"]) == (200, "artifactType")
        found += [entry["digest"] for entry in json.loads(reply.body)["manifests"]]
        assert ("link" in reply.fields) == (page < 2)
        if "link" in reply.fields:
            target = reply.fields["link"].removeprefix("<").removesuffix('>; rel="next"')
    assert found == sorted(str(Digest.of(body)) for body in bodies)


@pytest.mark.parametrize(
    ("target", "body", "media_type", "status", "code"),
    [
        ("v1", b"no json", OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        ("v1", BODY, media_types.DOCKER_MANIFEST, 400, "MANIFEST_INVALID"),
        ("v1", b'{"schemaVersion":1,"fsLayers":[]}', media_types.DOCKER_SCHEMA1, 400, "MANIFEST_INVALID"),
        ("v1", b"", OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (str(NOWHERE), BODY, OCI_MANIFEST, 400, "DIGEST_INVALID"),
        ("sha256:baddigeststring", BODY, OCI_MANIFEST, 400, "DIGEST_INVALID"),
        ("-v1", BODY, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (f"{DIGEST}?tag=-v1", BODY, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        (f"{DIGEST}?tag=", BODY, OCI_MANIFEST, 400, "MANIFEST_INVALID"),
        ("v1", image(noise(10, 9)), OCI_MANIFEST, 404, "MANIFEST_BLOB_UNKNOWN"),
        ("v1", image(LAYER, annotations={"a": "b" * LIMIT}), OCI_MANIFEST, 413, "SIZE_INVALID"),
    ],
)
async def test_pushes_that_are_refused(
    face: Face, shelf: Shelf, target: str, body: bytes, media_type: str, status: int, code: str
) -> None:
    before = shelf.stored()
    reply = await put(face, f"{APP}/manifests/{target}", body, media_type)
    assert (reply.status, reply.error["code"]) == (status, code)
    assert shelf.stored() == before
    assert (await face.ask(f"{APP}/manifests/v1")).status == 404


async def test_what_is_missing_is_listed(face: Face) -> None:
    reply = await put(face, f"{APP}/manifests/v1", index(BODY, image(b"x")), media_types.OCI_INDEX)
    assert reply.status == 404
    missing = [{"digest": str(Digest.of(one))} for one in (BODY, image(b"x"))]
    assert json.loads(reply.body)["errors"][0]["detail"] == missing


async def test_a_body_without_an_end_is_not_gathered(face: Face) -> None:
    wire = await face.connect()
    await wire.send(f"{APP}/manifests/v1", "PUT", Transfer_Encoding="chunked", Content_Type=OCI_MANIFEST)
    piece = b"x" * 10_000
    try:
        for _ in range(200):
            wire.writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await wire.writer.drain()
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    assert (await wire.head()).status == 413


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_large_manifests_are_taken_a_few_at_a_time(
    face: Face, is_chunked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand that did not end took a gigabyte; those that are small go on."""
    monkeypatch.setattr(manifests, "_LARGE", 10_000)
    large = json.dumps({**json.loads(BODY), "annotations": {"pad": "x" * 50_000}}).encode()
    sent = f"{len(large):x}\r\n".encode() + large if is_chunked else large
    fields = {"Transfer_Encoding": "chunked"} if is_chunked else {"Content_Length": str(len(large))}
    line = face.dispatcher._writers[Kind.MANIFEST]._large
    stuck = []
    for _ in range(manifests._LARGE_ONES - manifests._SPARE):  # as many as one client may have
        stuck.append(wire := await face.connect())
        await wire.send(f"{APP}/manifests/stuck", "PUT", Content_Type=OCI_MANIFEST, **fields)
        wire.writer.write(sent[:-1])
        await wire.writer.drain()
    while line._free > manifests._SPARE:
        await asyncio.sleep(0.01)
    waits = asyncio.create_task(put(face, f"{APP}/manifests/waits", large))
    while not line._length:
        await asyncio.sleep(0.01)
    assert (await put(face, f"{APP}/manifests/small")).status == 201
    assert not waits.done()
    stuck[0].writer.write(sent[-1:] + (b"\r\n0\r\n\r\n" if is_chunked else b""))
    assert (await stuck[0].read("PUT")).status == 201
    assert (await waits).status == 201
    for wire in stuck:
        await wire.close()


async def test_who_drips_a_large_manifest_keeps_no_place(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "_LARGE", 10_000)
    monkeypatch.setattr(manifests, "_WITHIN", 0.3)
    large = json.dumps({**json.loads(BODY), "annotations": {"pad": "x" * 50_000}}).encode()
    dripping = [await face.connect() for _ in range(manifests._LARGE_ONES)]
    for wire in dripping:
        await wire.send(f"{APP}/manifests/drips", "PUT", Content_Length=str(len(large)), Content_Type=OCI_MANIFEST)
        wire.writer.write(large[:100])
        await wire.writer.drain()
    async with asyncio.timeout(10):
        assert (await put(face, f"{APP}/manifests/waits", large)).status == 201
        for wire in dripping:
            reply = await wire.read("PUT")
            assert reply.status == 400
            assert b"did not arrive within" in reply.body
            await wire.close()


async def test_a_body_that_breaks_off_is_nothing(face: Face, shelf: Shelf) -> None:
    wire = await face.connect()
    await wire.send(f"{APP}/manifests/v1", "PUT", Content_Length=str(len(BODY) + 1), Content_Type=OCI_MANIFEST)
    wire.writer.write(BODY)
    await wire.writer.drain()
    await wire.close()
    await face.noted()
    assert str(DIGEST) not in shelf.stored()


async def test_immutable_tags(tmp_path: Path) -> None:
    async with serving(tmp_path, immutable=Immutable(["team/**"])) as (face, shelf):
        for content in (LAYER, b"{}"):
            await shelf.blob(content)
        for _ in range(2):
            assert (await put(face, f"{APP}/manifests/v1")).status == 201
        reply = await put(face, f"{APP}/manifests/v1", image())
        assert (reply.status, reply.error["code"]) == (403, "DENIED")
        assert str(DIGEST) in reply.error["message"]


# -- deletions -------------------------------------------------------------------------------------------------------


async def test_deletions(face: Face) -> None:
    await put(face, f"{APP}/manifests/{DIGEST}?tag=v1&tag=v2")
    blob = f"{APP}/blobs/{Digest.of(LAYER)}"
    refused = await face.ask(blob, "DELETE")
    assert (refused.status, str(DIGEST) in refused.error["message"]) == (400, True)
    for target, left in (
        (f"{APP}/manifests/v1", [f"{APP}/manifests/v2", f"{APP}/manifests/{DIGEST}"]),
        (f"{APP}/manifests/{DIGEST}", [blob]),
        (blob, []),
    ):
        gone = await face.ask(target, "DELETE")
        assert (gone.status, gone.body, gone.fields["content-length"]) == (202, b"", "0")
        assert (await face.ask(target, "HEAD")).status == (await face.ask(target)).status == 404
        again = await face.ask(target, "DELETE")
        assert again.status == 404
        assert again.error["code"] == ("BLOB_UNKNOWN" if target == blob else "MANIFEST_UNKNOWN")
        for other in left:
            assert (await face.ask(other, "HEAD")).status == 200
    assert (await face.ask(f"{APP}/manifests/v2")).status == 404
    assert json.loads((await face.ask(f"{APP}/tags/list")).body)["tags"] == []


async def test_deleted_blobs_say_which(face: Face) -> None:
    reply = await face.ask(f"{APP}/blobs/{Digest.of(LAYER)}", "DELETE")
    assert reply.fields["docker-content-digest"] == str(Digest.of(LAYER))


# -- who may not -----------------------------------------------------------------------------------------------------

WRITES = [
    ("PUT", f"manifests/{DIGEST}"),
    ("PUT", "manifests/v1"),
    ("DELETE", "manifests/v1"),
    ("DELETE", f"manifests/{DIGEST}"),
    ("DELETE", f"blobs/{DIGEST}"),
]


@pytest.mark.parametrize(("method", "rest"), WRITES)
async def test_only_hosted_names_are_written_to(face: Face, method: str, rest: str) -> None:
    proxied = await face.ask(f"/v2/lab/app/{rest}", method)
    assert (proxied.status, proxied.error["code"]) == (405, "UNSUPPORTED")
    foreign = await face.ask(f"/v2/quay.io/app/{rest}", method)
    assert (foreign.status, foreign.error["code"]) == (403, "DENIED")


@pytest.mark.parametrize(("method", "rest"), WRITES)
async def test_rights(tmp_path: Path, method: str, rest: str) -> None:
    may = {"PUT": ["pull", "delete"], "DELETE": ["pull", "push"]}[method]
    rule = Rule.model_validate({"who": "anonymous", "repositories": "team/**", "may": may})
    async with serving(tmp_path, rules=(rule,)) as (face, _):
        reply = await face.ask(f"{APP}/{rest}", method)
        assert (reply.status, reply.error["code"]) == (403, "DENIED")


@pytest.mark.parametrize(("method", "rest"), WRITES)
async def test_without_hosted_repositories_nothing_is_written(open_face: Any, method: str, rest: str) -> None:
    face = await open_face()
    reply = await face.ask(f"/v2/quay.io/team/{rest}", method)
    assert (reply.status, reply.error["code"]) == (405, "UNSUPPORTED")


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS"])
async def test_other_methods(face: Face, method: str) -> None:
    for rest in ("manifests/v1", f"blobs/{DIGEST}"):
        reply = await face.ask(f"{APP}/{rest}", method)
        assert reply.status == 405
        assert "PUT" in reply.fields["allow"] or "DELETE" in reply.fields["allow"]


# -- the catalog -----------------------------------------------------------------------------------------------------


async def test_catalog(tmp_path: Path) -> None:
    rule = Rule.model_validate({"who": "anonymous", "repositories": "secret/**", "may": []})
    async with serving(tmp_path, rules=(rule,)) as (face, shelf):
        for name in ("a/b", "a-b", "secret/x", "z"):
            path = Path(shelf.layout.tag(name, "v1"))
            path.parent.mkdir(parents=True)
            path.touch()
        reply = await face.ask("/v2/_catalog")
        assert (reply.status, reply.fields["content-type"]) == (200, "application/json")
        assert json.loads(reply.body) == {"repositories": ["a-b", "a/b", "z"]}
        assert "link" not in reply.fields
        target, found = "/v2/_catalog?n=1", []
        for _ in range(5):
            reply = await face.ask(target)
            found += json.loads(reply.body)["repositories"]
            if "link" not in reply.fields:
                break
            assert "n=1" in reply.fields["link"]
            target = reply.fields["link"].removeprefix("<").removesuffix('>; rel="next"')
        assert found == ["a-b", "a/b", "z"]
        assert json.loads((await face.ask("/v2/_catalog?n=0")).body) == {"repositories": []}
        assert (await face.ask("/v2/_catalog?last=A%20b")).status == 400
        assert (await face.ask("/lab/v2/_catalog")).status == 404
        assert (await face.ask("/v2/_catalog", "HEAD")).body == b""
        assert (await face.ask("/v2/_catalog", "DELETE")).status == 405


async def test_no_catalog(tmp_path: Path) -> None:
    async with serving(tmp_path, catalog=False) as (face, _):
        assert (await face.ask("/v2/_catalog")).status == 404


# -- request targets -------------------------------------------------------------------------------------------------


def test_targets() -> None:
    route = parse(f"{APP}/manifests/{DIGEST}?tag=a&ns=b.io&tag=c&tag=a")
    assert (route.kind, route.reference, route.tags, route.ns) == (Kind.MANIFEST, DIGEST, ("a", "c", "a"), "b.io")
    assert parse(f"{APP}/tags/list?tag=-").tags == ()
    assert parse("/v2/_catalog?last=a/b&n=7").last == "a/b"
    assert parse(f"{APP}/referrers/{DIGEST}?last=sha512%3A{'a' * 128}").last == f"sha512:{'a' * 128}"
    for target, error in (
        (f"{APP}/manifests/v1?tag=a/b", TagInvalid),
        ("/v2/_catalog?last=A", InvalidRequest),
        (f"{APP}/referrers/{DIGEST}?last=v1", InvalidRequest),
        (f"{APP}/tags/list?last=a/b", InvalidRequest),
        (f"{APP}/manifests/v1?tag=a&{'x' * 9000}", InvalidRequest),
        (f"{APP}/manifests/v1?ns=-", NameInvalid),
    ):
        with pytest.raises(error):
            parse(target)
