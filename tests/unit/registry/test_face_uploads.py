"""Pushing blobs over HTTP: every request of distribution-spec's section on it, and what clients do wrong."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.config.access import Rule
from mirror.errors import DigestInvalid, InvalidRequest, NameInvalid
from mirror.oci.digest import Digest
from mirror.registry.routes import Kind, parse
from mirror.store.upload import Upload
from tests.unit.content import push_bed
from tests.unit.content.push_bed import Pushes, pushing
from tests.unit.registry.stage import Face, Reply

BODY = random.Random(1).randbytes(1_500_000)
DIGEST = Digest.of(BODY)
DIGEST512 = Digest.of(BODY, "sha512")
EMPTY = Digest.of(b"")
APP = "/v2/team/app"
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
LAB = {"upstreams": {"lab": {"endpoints": ["http://127.0.0.1:9"], "plain_http": True}}}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Face, Pushes]]:
    async with pushing(tmp_path, LAB) as both:
        yield both


@pytest.fixture
def face(served: tuple[Face, Pushes]) -> Face:
    return served[0]


@pytest.fixture
def pushes(served: tuple[Face, Pushes]) -> Pushes:
    return served[1]


async def send(face: Face, method: str, target: str, body: bytes = b"", **fields: str) -> Reply:
    """Send one request with a body of known length and return the answer."""
    wire = await face.connect()
    try:
        await wire.send(target, method, Content_Length=str(len(body)), **fields)
        wire.writer.write(body)
        await wire.writer.drain()
        return await wire.read(method)
    finally:
        await wire.close()


async def stream(face: Face, method: str, target: str, *parts: bytes, **fields: str) -> Reply:
    """Send one request with a chunked body."""
    wire = await face.connect()
    try:
        await wire.send(target, method, Transfer_Encoding="chunked", **fields)
        for part in (*parts, b""):
            wire.writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await wire.writer.drain()
        return await wire.read(method)
    finally:
        await wire.close()


async def begin(face: Face, name: str = APP) -> str:
    reply = await send(face, "POST", f"{name}/blobs/uploads/")
    assert reply.status == 202
    return reply.fields["location"]


async def offset(face: Face, location: str) -> int:
    reply = await face.ask(location)
    assert (reply.status, reply.body) == (204, b"")
    return int(reply.fields["range"].removeprefix("0-")) + 1


def assert_created(reply: Reply, name: str = APP, digest: Digest = DIGEST) -> None:
    assert (reply.status, reply.body) == (201, b"")
    assert reply.fields["location"] == f"{name}/blobs/{digest}"
    assert reply.fields["docker-content-digest"] == str(digest)
    assert reply.fields["content-length"] == "0"


async def assert_pulls(face: Face, name: str = APP, digest: Digest = DIGEST, body: bytes = BODY) -> None:
    reply = await face.ask(f"{name}/blobs/{digest}")
    assert (reply.status, reply.body == body) == (200, True)


# -- as it should be


async def test_begin_patch_ask_and_finish(face: Face, pushes: Pushes) -> None:
    reply = await send(face, "POST", f"{APP}/blobs/uploads/")
    assert (reply.status, reply.body) == (202, b"")
    identity, location = reply.fields["docker-upload-uuid"], reply.fields["location"]
    assert location == f"{APP}/blobs/uploads/{identity}"
    assert reply.fields["range"] == "0-0"
    assert reply.fields["content-length"] == "0"
    assert "oci-chunk-min-length" not in reply.fields, "chunks may be of any length"

    reply = await send(face, "PATCH", location, BODY[:400_000], Content_Range="0-399999")
    assert (reply.status, reply.fields["range"]) == (202, "0-399999")
    assert (reply.fields["location"], reply.fields["docker-upload-uuid"]) == (location, identity)
    reply = await send(face, "PATCH", location, BODY[400_000:400_001])
    assert (reply.status, reply.fields["range"]) == (202, "0-400000")
    reply = await stream(face, "PATCH", location, BODY[400_001:400_002], BODY[400_002:1_000_000])
    assert (reply.status, reply.fields["range"]) == (202, "0-999999")

    for method in ("GET", "HEAD"):
        reply = await face.ask(location, method)
        assert (reply.status, reply.fields["range"]) == (204, "0-999999")
        assert (reply.fields["location"], reply.fields["docker-upload-uuid"]) == (location, identity)
        assert "content-length" not in reply.fields  # RFC 9110, section 8.6

    reply = await send(face, "PUT", f"{location}?digest={DIGEST}", BODY[1_000_000:], Content_Range="1000000-1499999")
    assert_created(reply)
    await assert_pulls(face)
    assert pushes.hosted.has(DIGEST)
    for method in ("GET", "HEAD", "PATCH", "DELETE", "PUT"):
        reply = await send(face, method, f"{location}?digest={DIGEST}")
        assert reply.status == 404
        assert method == "HEAD" or reply.error["code"] == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("digest", [DIGEST, DIGEST512], ids=["sha256", "sha512"])
async def test_whole_in_put(face: Face, digest: Digest) -> None:
    assert_created(await send(face, "PUT", f"{await begin(face)}?digest={digest}", BODY), APP, digest)
    await assert_pulls(face, APP, digest)


@pytest.mark.parametrize("digest", [DIGEST, DIGEST512], ids=["sha256", "sha512"])
async def test_whole_in_post(face: Face, pushes: Pushes, digest: Digest) -> None:
    assert_created(await send(face, "POST", f"{APP}/blobs/uploads/?digest={digest}", BODY), APP, digest)
    await assert_pulls(face, APP, digest)
    assert_created(await stream(face, "POST", f"{APP}/blobs/uploads/?digest={digest}", BODY), APP, digest)
    assert pushes.under_way() == []


async def test_streamed_and_closed(face: Face) -> None:
    location = await begin(face)
    assert (await stream(face, "PATCH", location, BODY)).status == 202
    assert_created(await send(face, "PUT", f"{location}?digest={DIGEST}"))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_empty_blobs(face: Face, algorithm: str) -> None:
    digest = Digest.of(b"", algorithm)
    location = await begin(face)
    assert (await stream(face, "PATCH", location)).status == 202
    assert await send(face, "PATCH", location)
    assert_created(await send(face, "PUT", f"{location}?digest={digest}"), APP, digest)
    await assert_pulls(face, APP, digest, b"")
    assert_created(await send(face, "POST", f"{APP}/blobs/uploads/?digest={digest}"), APP, digest)


async def test_a_digest_without_a_body_only_announces_it(face: Face, pushes: Pushes) -> None:
    reply = await send(face, "POST", f"{APP}/blobs/uploads/?digest={DIGEST512}")
    assert reply.status == 202
    upload = pushes.stored.take(reply.fields["docker-upload-uuid"], "team/app")
    assert upload is not None
    assert upload.note.algorithm == "sha512"
    upload.close()
    assert_created(await send(face, "PUT", f"{reply.fields['location']}?digest={DIGEST512}", BODY), APP, DIGEST512)


async def test_cancel(face: Face, pushes: Pushes) -> None:
    location = await begin(face)
    await send(face, "PATCH", location, BODY)
    reply = await face.ask(location, "DELETE")
    assert (reply.status, reply.body) == (204, b"")
    assert "content-length" not in reply.fields
    assert pushes.under_way() == []
    assert (await face.ask(location)).status == 404


async def test_one_connection_serves_them_all(face: Face) -> None:
    wire = await face.connect()
    await wire.send(f"{APP}/blobs/uploads/", "POST", Content_Length="0")
    location = (await wire.read()).fields["location"]
    for start in range(0, len(BODY), 500_000):
        await wire.send(location, "PATCH", Content_Length="500000", Content_Range=f"{start}-{start + 499_999}")
        wire.writer.write(BODY[start : start + 500_000])
        reply = await wire.read()
        assert (reply.status, "connection" in reply.fields) == (202, False)
    await wire.send(f"{location}?digest={DIGEST}", "PUT", Content_Length="0")
    assert_created(await wire.read())
    await wire.send(f"{APP}/blobs/{DIGEST}")
    assert (await wire.read()).body == BODY
    lines = [(line["method"], line["status"], line["name"]) for line in face.lines.requests]
    assert lines[1] == ("PATCH", 202, location)
    assert face.lines.events == []


@pytest.mark.parametrize(
    ("given", "query"),
    [("/v2/team/app", ""), ("/team/v2/app", ""), ("/v2/team/app", "?ns=127.0.0.1:5000"), ("/v2/a/blobs/uploads", "")],
)
async def test_locations_speak_of_the_name_as_the_client_does(face: Face, given: str, query: str) -> None:
    reply = await send(face, "POST", f"{given}/blobs/uploads{query}")
    identity, location = reply.fields["docker-upload-uuid"], reply.fields["location"]
    assert location == f"{given}/blobs/uploads/{identity}{query}"
    reply = await send(face, "PATCH", location, BODY)
    assert (reply.status, reply.fields["location"]) == (202, location)
    assert reply.fields.get("oci-namespace") == (query.partition("=")[2] or None)
    sign = "&" if query else "?"
    reply = await send(face, "PUT", f"{location}{sign}digest={str(DIGEST).replace(':', '%3A')}")
    assert (reply.status, reply.fields["location"]) == (201, f"{given}/blobs/{DIGEST}{query}")
    assert (await face.ask(reply.fields["location"])).body == BODY


# -- mounting


@pytest.mark.parametrize("query", ["&from=team/other", ""], ids=["from", "anywhere"])
async def test_mount(face: Face, query: str) -> None:
    assert_created(await send(face, "POST", f"/v2/team/other/blobs/uploads/?digest={DIGEST}", BODY), "/v2/team/other")
    assert (await face.ask(f"{APP}/blobs/{DIGEST}")).status == 404
    assert_created(await send(face, "POST", f"{APP}/blobs/uploads/?mount={DIGEST}{query}"))
    await assert_pulls(face)


@pytest.mark.parametrize(
    "source", ["&from=team/third", "&from=lab/org/app", "&from=unknown.example/org/app", "&from=", ""]
)
async def test_what_cannot_be_mounted_is_to_be_sent(face: Face, pushes: Pushes, source: str) -> None:
    if source:
        await send(face, "POST", f"/v2/team/other/blobs/uploads/?digest={DIGEST}", BODY)
    target = f"{APP}/blobs/uploads/?mount={DIGEST if source and source != '&from=' else DIGEST512}{source}"
    reply = await send(face, "POST", target)
    assert (reply.status, reply.fields["range"]) == (202, "0-0")
    assert_created(await send(face, "PUT", f"{reply.fields['location']}?digest={DIGEST}", BODY))


_MD5 = "md5:" + "0" * 32


@pytest.mark.parametrize(
    ("query", "algorithm"),
    [
        pytest.param(f"mount={DIGEST}&from=localhost:5000/team/other", "sha256", id="port"),
        pytest.param(f"mount={DIGEST}&from=localhost%3A5000%2Fteam/other", "sha256", id="port-escaped"),
        pytest.param(f"mount={DIGEST}&from=[::1]:5000/team/other", "sha256", id="address"),
        pytest.param(f"mount={DIGEST}&from=https://quay.io/team/other", "sha256", id="url"),
        pytest.param(f"mount={DIGEST}&from=Team/Other", "sha256", id="capitals"),
        pytest.param(f"mount={DIGEST}&from=team/other:v1", "sha256", id="tag"),
        pytest.param(f"mount={DIGEST}&from=team/other@{DIGEST}", "sha256", id="digest"),
        pytest.param(f"mount={DIGEST}&from=/team/other", "sha256", id="slash-before"),
        pytest.param(f"mount={DIGEST}&from=team/other/", "sha256", id="slash-behind"),
        pytest.param(f"mount={DIGEST}&from=../../etc", "sha256", id="dots"),
        pytest.param(f"mount={DIGEST}&from=team/%2e%2e/team/other", "sha256", id="dots-escaped"),
        pytest.param(f"mount={DIGEST}&from=%", "sha256", id="no-escape"),
        pytest.param(f"mount={DIGEST}&from=%00", "sha256", id="zero"),
        pytest.param(f"mount={DIGEST}&from=t%C3%A9am/other", "sha256", id="not-ascii"),
        pytest.param(f"mount={DIGEST}&from=" + "a" * 256, "sha256", id="too-long"),
        pytest.param(f"mount={DIGEST}&from=" + "a" * 6000, "sha256", id="far-too-long"),
        pytest.param(f"mount={DIGEST}&from=team/other&from=team/third", "sha256", id="from-twice"),
        pytest.param(f"mount={DIGEST}&mount={EMPTY}&from=team/other", "sha256", id="mount-twice"),
        pytest.param("mount=&from=team/other", "sha256", id="no-digest"),
        pytest.param("mount=latest&from=team/other", "sha256", id="tag-for-digest"),
        pytest.param("mount=%00&from=team/other", "sha256", id="zero-for-digest"),
        pytest.param(f"mount={_MD5}&from=team/other", "sha256", id="algorithm-not-offered"),
        pytest.param(f"mount={str(DIGEST).upper()}&from=team/other", "sha256", id="digest-in-capitals"),
        pytest.param(f"mount={DIGEST512}&from=Team/Other", "sha512", id="sha512-to-come"),
        # An empty name, and one without a digest, were uploads before.
        pytest.param(f"mount={DIGEST512}&from=", "sha512", id="empty-from"),
        pytest.param("from=team/other", "sha256", id="from-alone"),
    ],
)
async def test_a_mount_of_or_from_what_cannot_be_meant_is_an_upload(face: Face, query: str, algorithm: str) -> None:
    await send(face, "POST", f"/v2/team/other/blobs/uploads/?digest={DIGEST}", BODY)
    reply = await send(face, "POST", f"{APP}/blobs/uploads/?{query}")
    assert (reply.status, reply.fields["range"]) == (202, "0-0")
    digest = Digest.of(BODY, algorithm)
    assert_created(await send(face, "PUT", f"{reply.fields['location']}?digest={digest}", BODY), digest=digest)


# -- what clients do wrong


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("POST", f"{APP}/blobs/uploads/?digest=sha256:bad", 400, "DIGEST_INVALID"),
        ("POST", f"{APP}/blobs/uploads/?digest=", 400, "DIGEST_INVALID"),
        ("POST", f"{APP}/blobs/uploads/?digest=md5:{'0' * 32}", 400, "DIGEST_INVALID"),
        ("POST", f"{APP}/blobs/uploads/?digest={str(DIGEST).upper()}", 400, "DIGEST_INVALID"),
        ("POST", f"{APP}/blobs/uploads/?digest-algorithm=md5", 400, "DIGEST_INVALID"),
        ("POST", f"{APP}/blobs/uploads/?digest={DIGEST}&digest={EMPTY}", 400, "UNSUPPORTED"),
        ("POST", "/v2/Team/app/blobs/uploads/", 400, "NAME_INVALID"),
        ("POST", f"/v2/Team/app/blobs/uploads/?mount={DIGEST}&from=team/other", 400, "NAME_INVALID"),
        ("POST", f"{APP}/blobs/uploads/?mount={DIGEST}&from=Team/Other&digest=sha256:bad", 400, "DIGEST_INVALID"),
        ("POST", "/v2/blobs/uploads/", 400, "NAME_INVALID"),
        ("PUT", "<location>", 400, "DIGEST_INVALID"),
        ("PUT", "<location>?digest=sha512:00", 400, "DIGEST_INVALID"),
        ("PUT", f"<location>?digest={DIGEST}", 400, "DIGEST_INVALID"),
        ("PATCH", f"{APP}/blobs/uploads/{ID}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", f"{APP}/blobs/uploads/{ID}?digest={DIGEST}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("DELETE", f"{APP}/blobs/uploads/{ID}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", f"{APP}/blobs/uploads/..", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", f"{APP}/blobs/uploads/{'x' * 3000}", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("POST", "/v2/lab/org/app/blobs/uploads/", 405, "UNSUPPORTED"),
        ("POST", "/v2/quay.example/org/app/blobs/uploads/", 403, "DENIED"),
        ("POST", "/v2/localhost/app/blobs/uploads/", 403, "DENIED"),
    ],
)
async def test_wrong_requests(face: Face, method: str, target: str, status: int, code: str) -> None:
    location = await begin(face)
    reply = await send(face, method, target.replace("<location>", location), b"")
    assert (reply.status, reply.error["code"]) == (status, code)
    # What is missing or malformed leaves the upload there; bytes that are others than was said do not.
    mismatch = target == f"<location>?digest={DIGEST}"
    assert (await face.ask(location)).status == (404 if mismatch else 204)


@pytest.mark.parametrize(
    ("target", "method", "allowed"),
    [
        (f"{APP}/blobs/uploads/", "GET", "POST"),
        (f"{APP}/blobs/uploads", "HEAD", "POST"),
        (f"{APP}/blobs/uploads/", "PUT", "POST"),
        (f"{APP}/blobs/uploads/", "DELETE", "POST"),
        (f"{APP}/blobs/uploads/{ID}", "POST", "GET, HEAD, PATCH, PUT, DELETE"),
    ],
)
async def test_methods_of_the_other_path(face: Face, target: str, method: str, allowed: str) -> None:
    reply = await face.ask(target, method)
    assert (reply.status, reply.fields["allow"]) == (405, allowed)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("span", ["0-4", "4-8", "6-10", "99-103"])
async def test_a_chunk_out_of_order_is_416_and_says_where_to_go_on(face: Face, method: str, span: str) -> None:
    location = await begin(face)
    await send(face, "PATCH", location, b"12345")
    reply = await send(face, method, f"{location}?digest={DIGEST}", b"67890", Content_Range=span)
    assert (reply.status, reply.error["code"]) == (416, "BLOB_UPLOAD_INVALID")
    assert (reply.fields["range"], reply.fields["location"]) == ("0-4", location)
    assert reply.fields["docker-upload-uuid"] == location.rpartition("/")[2]
    reply = await send(face, method, f"{location}?digest={Digest.of(b'1234567890')}", b"67890", Content_Range="5-9")
    assert reply.status == (202 if method == "PATCH" else 201)


@pytest.mark.parametrize(
    ("span", "code"),
    [
        ("bytes 0-4/5", "BLOB_UPLOAD_INVALID"),
        ("0-", "BLOB_UPLOAD_INVALID"),
        ("-5", "BLOB_UPLOAD_INVALID"),
        ("4-0", "BLOB_UPLOAD_INVALID"),
        ("0-4, 5-9", "BLOB_UPLOAD_INVALID"),
        ("0-99999999999999999999", "BLOB_UPLOAD_INVALID"),
        ("0-5", "SIZE_INVALID"),
        ("0-3", "SIZE_INVALID"),
    ],
)
async def test_a_content_range_that_is_none(face: Face, span: str, code: str) -> None:
    location = await begin(face)
    reply = await send(face, "PATCH", location, b"12345", Content_Range=span)
    assert (reply.status, reply.error["code"]) == (400, code)
    assert (await face.ask(location)).fields["range"] == "0-0"
    assert_created(await send(face, "PUT", f"{location}?digest={Digest.of(b'1')}", b"1"), APP, Digest.of(b"1"))


async def test_lengths_that_disagree_are_refused_before_the_body(face: Face) -> None:
    location = await begin(face)
    wire = await face.connect()
    await wire.send(location, "PATCH", Content_Length="5", Content_Range="0-5", Expect="100-continue")
    reply = await wire.read()
    assert (reply.status, reply.error["code"]) == (400, "SIZE_INVALID")


@pytest.mark.parametrize("parts", [[b"123"], [b"123456"], [b"1234", b"56"], []])
async def test_a_stream_of_another_length_than_its_range(face: Face, parts: list[bytes]) -> None:
    location = await begin(face)
    await send(face, "PATCH", location, b"abc")
    reply = await stream(face, "PATCH", location, *parts, Content_Range="3-7")
    assert (reply.status, reply.error["code"]) == (400, "SIZE_INVALID")
    assert await offset(face, location) == 3
    assert (await stream(face, "PATCH", location, b"12", b"345", Content_Range="3-7")).fields["range"] == "0-7"


async def test_wrong_bytes_are_400_and_dropped(face: Face, pushes: Pushes) -> None:
    for reply in (
        await send(face, "PUT", f"{await begin(face)}?digest={DIGEST}", b"other"),
        await send(face, "POST", f"{APP}/blobs/uploads/?digest={DIGEST}", b"other"),
    ):
        assert (reply.status, reply.error["code"]) == (400, "DIGEST_INVALID")
        assert str(Digest.of(b"other")) in reply.error["message"]
    assert pushes.under_way() == []
    assert (await face.ask(f"{APP}/blobs/{DIGEST}")).status == 404


async def test_a_set_takes_no_pushes(face: Face, pushes: Pushes) -> None:
    pushes.room.content._resolver._seen = frozenset({"prod.example"})
    pushes.room.content._resolver._loaded = lambda: pushes.room.content._resolver._seen
    reply = await send(face, "POST", "/v2/prod.example/app/blobs/uploads/")
    assert (reply.status, reply.error["code"]) == (403, "DENIED")


# -- bodies that are too large, slow, or cut off


@pytest.mark.parametrize("chunked", [True, False])
async def test_too_large_is_413_with_the_reason_and_the_client_reads_it(tmp_path: Path, chunked: bool) -> None:
    async with pushing(tmp_path, blob_limit=1_000_000) as (face, pushes):
        location = await begin(face)
        await send(face, "PATCH", location, BODY[:1000])
        body = os.urandom(8_000_000)
        asking = (stream if chunked else send)(face, "PATCH", location, body)
        reply = await asking
        assert (reply.status, reply.error["code"]) == (413, "SIZE_INVALID")
        assert "limits.blob" in reply.error["message"]
        assert reply.fields["connection"] == "close"
        assert await offset(face, location) == 1000
        assert pushes.room.space.promised() == 0


async def test_no_room_is_413_before_the_first_byte(tmp_path: Path) -> None:
    async with pushing(tmp_path, {"limits": {"blob": "900TiB"}}) as (face, _):
        location = await begin(face)
        wire = await face.connect()
        await wire.send(location, "PATCH", Content_Length=str(1 << 49), Expect="100-continue")
        reply = await wire.read()
        assert (reply.status, reply.error["code"]) == (413, "SIZE_INVALID")
        assert "are free of" in reply.error["message"]
        async with asyncio.timeout(3):
            assert await wire.rest() == b"", "the client will not send its body, so nobody waits for it"


async def test_a_rules_quota_is_413(tmp_path: Path) -> None:
    rule = Rule(who=("*",), repositories=("team/**",), may=("pull", "push"), quota="1MiB")
    async with pushing(tmp_path, rules=[rule]) as (face, _):
        reply = await send(face, "POST", f"{APP}/blobs/uploads/?digest={DIGEST}", BODY)
        assert (reply.status, reply.error["code"]) == (413, "SIZE_INVALID")
        assert "quota" in reply.error["message"]
        small = BODY[:100_000]
        assert_created(
            await send(face, "POST", f"{APP}/blobs/uploads/?digest={Digest.of(small)}", small), APP, Digest.of(small)
        )


async def test_continue_is_said_once_all_else_is_right(face: Face) -> None:
    location = await begin(face)
    wire = await face.connect()
    await wire.send(location, "PATCH", Content_Length="5", Expect="100-continue")
    assert (await wire.head()).status == 100
    wire.writer.write(b"12345")
    assert (await wire.read()).status == 202
    await wire.send(location, "PATCH", Content_Length="5", Content_Range="0-4", Expect="100-Continue")
    assert (await wire.read()).status == 416
    assert await wire.rest() == b""
    wire = await face.connect()
    await wire.send(f"{location}?digest={Digest.of(b'12345')}", "PUT", Content_Length="0", Expect="100-continue")
    assert (await wire.read()).status == 201


@pytest.mark.parametrize("framing", [{"Content_Length": "1500000"}, {"Transfer_Encoding": "chunked"}])
async def test_what_came_before_the_connection_broke_is_kept(face: Face, framing: dict[str, str]) -> None:
    location = await begin(face)
    wire = await face.connect()
    await wire.send(location, "PATCH", **framing)
    if "Content_Length" in framing:
        wire.writer.write(BODY[:1_000_000])
    else:
        wire.writer.write(b"f4240\r\n" + BODY[:1_000_000] + b"\r\n")
    await wire.writer.drain()
    await asyncio.sleep(0.2)
    wire.writer.transport.abort()
    kept = await offset(face, location)
    # What was still in the connection's buffer may be lost with it, and what came is what GET says.
    assert 400_000 < kept <= 1_000_000
    assert (await face.noted(3))["status"] in (204, 400)
    reply = await send(face, "PUT", f"{location}?digest={DIGEST}", BODY[kept:], Content_Range=f"{kept}-1499999")
    assert_created(reply)
    await assert_pulls(face)


async def test_a_body_that_stands_still_is_cut_and_kept(tmp_path: Path) -> None:
    async with pushing(tmp_path, write_stall=0.4) as (face, _):
        location = await begin(face)
        wire = await face.connect()
        await wire.send(location, "PATCH", Content_Length="1500000")
        wire.writer.write(BODY[:100_000])
        async with asyncio.timeout(5):
            while await wire.reader.read(1000):
                pass
        assert await offset(face, location) == 100_000
        assert_created(await send(face, "PUT", f"{location}?digest={DIGEST}", BODY[100_000:]))


async def test_a_body_that_trickles_is_waited_for(tmp_path: Path) -> None:
    async with pushing(tmp_path, write_stall=0.5) as (face, _):
        wire = await face.connect()
        await wire.send(f"{APP}/blobs/uploads/?digest={Digest.of(BODY[:12])}", "POST", Content_Length="12")
        for at in range(12):
            wire.writer.write(BODY[at : at + 1])
            await asyncio.sleep(0.15)
        assert (await wire.read()).status == 201


async def test_broken_chunks_are_400_and_what_came_before_is_kept(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    location = await begin(face)
    wire = await face.connect()
    await wire.send(location, "PATCH", Transfer_Encoding="chunked")
    wire.writer.write(b"5\r\n12345\r\n")
    await asyncio.sleep(0.1)
    wire.writer.write(b"no number\r\n")
    reply = await wire.read()
    assert (reply.status, reply.error["code"]) == (400, "BLOB_UPLOAD_INVALID")
    async with asyncio.timeout(3):
        assert await wire.rest() == b""
    assert await offset(face, location) == 5
    assert face.lines.events == []
    assert caplog.records == []


async def test_two_clients_on_one_upload(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.content.uploads._PATIENCE", 0.2)
    location = await begin(face)
    wire = await face.connect()
    await wire.send(location, "PATCH", Content_Length="10")
    wire.writer.write(b"12345")
    await asyncio.sleep(0.1)
    reply = await send(face, "PATCH", location, b"other")
    assert (reply.status, reply.error["code"]) == (503, "UNKNOWN")
    assert "retry-after" in reply.fields
    assert (await face.ask(location)).status == 204
    wire.writer.write(b"67890")
    assert (await wire.read()).fields["range"] == "0-9"


async def test_no_client_sends_faster_than_the_disk_takes(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    append, disk = Upload.append, threading.Event()

    def slow(self: Upload, *arguments: Any) -> int:
        disk.wait(20)
        return append(self, *arguments)

    monkeypatch.setattr(Upload, "append", slow)
    body = os.urandom(24 << 20)
    wire = await face.connect(limit=1 << 20)
    await wire.send(f"{APP}/blobs/uploads/?digest={Digest.of(body)}", "POST", Content_Length=str(len(body)))
    wire.writer.write(body)
    draining = asyncio.create_task(wire.writer.drain())
    await asyncio.sleep(1)
    waiting = wire.writer.transport.get_write_buffer_size()
    # Two sockets' buffers of some MiB each and two of ours of half a MiB: the rest waits at the client.
    assert waiting > 8 << 20
    disk.set()
    await draining
    assert (await wire.read()).status == 201


# -- who may


async def test_pushing_takes_the_right_to(tmp_path: Path) -> None:
    async with pushing(tmp_path, anonymous="pull") as (face, pushes):
        for method, target in (
            ("POST", f"{APP}/blobs/uploads/"),
            ("POST", f"{APP}/blobs/uploads/?mount={DIGEST}"),
            ("POST", f"{APP}/blobs/uploads/?digest={EMPTY}"),
            ("PATCH", f"{APP}/blobs/uploads/{ID}"),
            ("PUT", f"{APP}/blobs/uploads/{ID}?digest={EMPTY}"),
            ("GET", f"{APP}/blobs/uploads/{ID}"),
            ("DELETE", f"{APP}/blobs/uploads/{ID}"),
        ):
            reply = await send(face, method, target)
            assert (reply.status, reply.error["code"]) == (403, "DENIED")
        assert pushes.under_way() == []


@pytest.mark.parametrize("query", ["&from=secret/app", ""], ids=["from", "anywhere"])
async def test_nothing_is_mounted_from_where_one_may_not_pull(tmp_path: Path, query: str) -> None:
    rules = [
        Rule(who=("*",), repositories=("team/**",), may=("pull", "push")),
        Rule(who=("boss",), repositories=("secret/**",), may=("pull",)),
    ]
    async with pushing(tmp_path, rules=rules) as (face, pushes):
        secret = push_bed.Target("", "secret/app", "secret/app", hosted=True)
        await pushes.uploads.put_whole(secret, DIGEST, push_bed.pieces(BODY), None, "boss")
        reply = await send(face, "POST", f"{APP}/blobs/uploads/?mount={DIGEST}{query}")
        assert reply.status == 202
        assert (await face.ask(f"{APP}/blobs/{DIGEST}")).status == 404


# -- how targets are read


async def test_targets_of_uploads_are_not_remembered(face: Face) -> None:
    for _ in range(3):
        await face.ask(await begin(face))
    assert not [target for target in face.dispatcher._routes if "/uploads/" in target]


@pytest.mark.parametrize(
    ("query", "algorithm"),
    [
        ("", "sha256"),
        ("?digest-algorithm=sha512", "sha512"),
        (f"?mount={DIGEST512}", "sha512"),
        (f"?digest={DIGEST512}", "sha512"),
        (f"?digest={DIGEST512}&digest-algorithm=sha256", "sha256"),
    ],
)
def test_the_algorithm_to_come(query: str, algorithm: str) -> None:
    assert parse(f"{APP}/blobs/uploads/{query}").wishes.algorithm == algorithm


def test_what_a_target_wishes() -> None:
    route = parse(f"/team/v2/app/blobs/uploads/{ID}?digest={DIGEST}&n=x&last=%00&_state=abc%2F")
    assert (route.kind, route.prefix, route.name, route.upload) == (Kind.UPLOAD, "team", "app", ID)
    assert route.wishes.digest == DIGEST
    route = parse(f"{APP}/blobs/uploads/?mount={str(DIGEST).replace(':', '%3a')}&from=team%2Fother&ns=quay.io")
    assert (route.upload, route.ns, route.wishes.mount, route.wishes.source) == ("", "quay.io", DIGEST, "team/other")
    assert parse(f"{APP}/blobs/uploads").upload == ""
    assert parse(f"{APP}/blobs/{DIGEST}?digest=nonsense&mount=x").kind is Kind.BLOB
    for query, error in (
        ("digest=sha256:", DigestInvalid),
        ("ns=a&ns=b", InvalidRequest),
        ("x" * 8193, InvalidRequest),
        ("ns=%2e%2e", NameInvalid),
    ):
        with pytest.raises(error):
            parse(f"{APP}/blobs/uploads/?{query}")
