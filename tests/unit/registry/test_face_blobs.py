"""Blobs over the wire: whole, ranges, conditions, HEAD; over plain HTTP and over TLS."""

from __future__ import annotations

import itertools
import os

import pytest

from mirror.content.answers import BlobAnswer
from mirror.errors import NotHere, NotYet, UpstreamInvalid, UpstreamLoginRefused
from mirror.oci.digest import Digest
from mirror.registry.sending import Sender

SMALL = os.urandom(300)
LARGE = os.urandom(5 * 1024 * 1024 + 17)  # two windows and a bit


@pytest.fixture(params=["plain", "tls"])
async def spoken(request, open_face, server_tls, client_tls):
    """The face over plain HTTP or over TLS, and the client's context."""
    if request.param == "plain":
        return await open_face(), None
    return await open_face(tls=server_tls), client_tls


@pytest.mark.parametrize("body", [SMALL, LARGE, b"", os.urandom(65536), os.urandom(65537)], ids=len)
async def test_a_whole_blob(content, spoken, body):
    face, tls = spoken
    digest = content.add_blob(body)
    wire = await face.connect(tls)
    for _ in range(2):  # the second on the same connection: nothing is left over from the first
        await wire.send(f"/v2/quay.io/a/blobs/{digest}")
        reply = await wire.read()
        assert reply.status == 200
        assert reply.body == body
    await wire.close()
    reply.fields.pop("date")
    assert reply.fields == {
        "content-type": "application/octet-stream",
        "content-length": str(len(body)),
        "docker-content-digest": str(digest),
        "etag": f'"{digest}"',
        "x-cache": "HIT",
        "accept-ranges": "bytes",
        "cache-control": "max-age=31536000, immutable",
        "docker-distribution-api-version": "registry/2.0",
        "x-content-type-options": "nosniff",
    }
    line = await face.noted(2)
    assert (line["status"], line["bytes"], line["cache"], line["upstream"]) == (200, len(body), "HIT", "quay.io")
    assert (line["name"], line["digest"]) == ("/v2/quay.io/a/blobs", str(digest))


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, len(LARGE)),
        ("bytes=5-9", 5, 10),
        (f"bytes=2097151-{4 * 1024 * 1024}", 2097151, 4 * 1024 * 1024 + 1),
        ("bytes=4000000-", 4000000, len(LARGE)),
        ("bytes=-1", len(LARGE) - 1, len(LARGE)),
        ("bytes=-3000000", len(LARGE) - 3000000, len(LARGE)),
        ("bytes=-99999999999", 0, len(LARGE)),
        ("bytes=1-9999999999999999999", 1, len(LARGE)),
    ],
)
async def test_a_range(content, spoken, asked, start, stop):
    face, tls = spoken
    digest = content.add_blob(LARGE)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", tls=tls, Range=asked)
    assert reply.status == 206
    assert reply.body == LARGE[start:stop]
    assert reply.fields["content-range"] == f"bytes {start}-{stop - 1}/{len(LARGE)}"
    assert reply.fields["content-length"] == str(stop - start)
    assert reply.fields["x-cache"] == "HIT"


@pytest.mark.parametrize("asked", ["bytes=0-9,b-c", "bytes=abc", "items=0-1", "bytes=0-10000000000000000000"])
async def test_what_is_no_range_is_answered_whole(content, face, asked):
    digest = content.add_blob(SMALL)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range=asked)
    assert (reply.status, reply.body) == (200, SMALL)
    assert "content-range" not in reply.fields


@pytest.mark.parametrize("asked", ["bytes=300-", "bytes=5000-10000", "bytes=500-0", "bytes=-0"])
@pytest.mark.parametrize("here", [True, False])
async def test_an_unsatisfiable_range(content, face, asked, here):
    digest = content.add_blob(SMALL)
    if not here:
        del content.here[digest]
        content.add_chunks(digest, 300, SMALL).closed = True
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", Range=asked)
    reply = await wire.read()
    assert reply.status == 416
    assert reply.fields["content-range"] == "bytes */300"
    assert "x-cache" not in reply.fields
    assert reply.error["code"] == "RANGE_INVALID"
    await wire.send("/v2/")
    assert (await wire.read()).status == 200
    await wire.close()


async def test_nothing_of_an_empty_blob_can_be_a_range(content, face):
    digest = content.add_blob(b"")
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=0-")
    assert (reply.status, reply.fields["content-range"]) == (416, "bytes */0")


async def test_if_range(content, face):
    digest = content.add_blob(SMALL)
    same = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=1-2", If_Range=f'"{digest}"')
    other = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=1-2", If_Range='"other"')
    assert (same.status, same.body) == (206, SMALL[1:3])
    assert (other.status, other.body) == (200, SMALL)


async def test_head_opens_nothing(content, face):
    digest = content.add_blob(LARGE)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", "HEAD", Range="bytes=0-1")
    assert reply.status == 200
    assert reply.fields["content-length"] == str(len(LARGE))
    assert reply.fields["docker-content-digest"] == str(digest)
    assert reply.fields["accept-ranges"] == "bytes"
    assert content._opened == []
    assert (await face.noted())["bytes"] == 0


async def test_head_of_what_is_not_here(face):
    reply = await face.ask(f"/v2/quay.io/a/blobs/{Digest.of(b'x')}", "HEAD")
    assert reply.status == 404
    assert int(reply.fields["content-length"]) > 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_not_modified_opens_nothing(content, face, method):
    digest = content.add_blob(SMALL)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", method, If_None_Match=f'"{digest}"', Range="bytes=0-1")
    assert reply.status == 304
    assert "content-length" not in reply.fields
    assert reply.fields["x-cache"] == "HIT"
    assert content._opened == []


async def test_not_modified_is_not_said_of_what_the_repository_does_not_have(face):
    digest = Digest.of(b"x")
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", If_None_Match=f'"{digest}"')
    assert (reply.status, reply.error["code"]) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (NotHere("no"), 404, "BLOB_UNKNOWN", None),
        (NotYet("soon", retry_after=3), 503, "UNKNOWN", "3"),
        (UpstreamLoginRefused("our login is refused"), 404, "BLOB_UNKNOWN", None),
        (UpstreamInvalid("a page, not a blob"), 502, "UNKNOWN", None),
        (OSError(5, "Input/output error", "/var/lib/mirror/blobs"), 500, "UNKNOWN", None),
    ],
)
async def test_troubles_before_the_head(content, face, error, status, code, retry):
    content.trouble = error
    reply = await face.ask(f"/v2/quay.io/a/blobs/{Digest.of(b'x')}")
    assert (reply.status, reply.error["code"], reply.fields.get("retry-after")) == (status, code, retry)
    assert "/var" not in reply.body.decode()
    assert reply.fields["x-request-id"] == (await face.noted())["id"]


async def test_small_windows_cover_a_blob_without_gap_or_overlap(content, open_face, server_tls, client_tls):
    digest = content.add_blob(LARGE[:200_000])
    for arguments, tls, most in (({}, None, 7000), ({"tls": server_tls}, client_tls, 3000)):
        face = await open_face(sender=Sender(window=7000, step=3000), **arguments)
        reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", tls=tls, Range="bytes=11-180000")
        assert reply.body == LARGE[11:180_001]
        first, *loaded = content._opened[-1].loaded
        assert first[0] == 11, "before the head"
        assert loaded[0][0] == 11
        assert loaded[-1][1] == 180_001
        assert all(before[1] == after[0] for before, after in itertools.pairwise(loaded))
        assert max(stop - start for start, stop in loaded) == most


async def test_a_blob_as_upstream_sends_it(content, face):
    digest = Digest.of(LARGE)
    content.add_chunks(digest, len(LARGE), LARGE[:100], b"", LARGE[100:3_000_000], LARGE[3_000_000:])
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}")
    reply = await wire.read()
    assert (reply.status, reply.body, reply.fields["x-cache"]) == (200, LARGE, "BYPASS")
    assert reply.fields["content-length"] == str(len(LARGE))
    await wire.send("/v2/")
    assert (await wire.read()).body == b"{}"
    await wire.close()


async def test_a_range_as_upstream_sends_it(content, face):
    digest = Digest.of(LARGE)
    content.add_range(digest, len(LARGE), 1000, 1300, SMALL[:100], SMALL[100:])
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=1000-1299")
    assert (reply.status, reply.body) == (206, SMALL)
    assert reply.fields["content-range"] == f"bytes 1000-1299/{len(LARGE)}"


async def test_a_blob_of_unknown_length_comes_in_chunks(content, face):
    digest = Digest.of(LARGE)
    content.add_chunks(digest, None, LARGE[:100], b"", LARGE[100:])
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", Range="bytes=0-5")  # cannot be 206: the total is not known
    reply = await wire.read()
    assert (reply.status, reply.body) == (200, LARGE)
    assert reply.fields["transfer-encoding"] == "chunked"
    await wire.send("/v2/")
    assert (await wire.read()).status == 200
    await wire.close()
    assert (await face.noted(2))["status"] == 200
    assert face.lines.requests[0]["bytes"] == len(LARGE)


async def test_to_http_1_0_a_blob_of_unknown_length_ends_with_the_connection(content, face):
    digest = Digest.of(LARGE)
    content.add_chunks(digest, None, LARGE[:100], LARGE[100:])
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}", version="1.0", Connection="keep-alive")
    reply = await wire.head()
    assert "transfer-encoding" not in reply.fields
    assert "content-length" not in reply.fields
    assert "connection" not in reply.fields
    assert await wire.rest() == LARGE
    await wire.close()


@pytest.mark.parametrize(
    ("total", "start", "stop"), [(300, 5, 300), (300, 0, 200), (None, 5, None), (None, 0, 300), (300, 0, None)]
)
async def test_content_that_answers_something_else_than_was_asked_is_not_passed_on(content, face, total, start, stop):
    digest = Digest.of(b"x")
    content.add_range(digest, total, start, stop, SMALL)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}")
    assert reply.status == 500
    assert "bytes" not in reply.error["message"]
    assert face.lines.events[0][1] == "request_fault"


async def test_content_that_gives_no_bytes_is_cut(content, face):
    digest = Digest.of(b"x")
    content.answers[digest] = lambda: BlobAnswer(300, 0, 300, "HIT")
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/blobs/{digest}")
    assert (await wire.head()).fields["content-length"] == "300"
    assert await wire.rest() == b""
    await wire.close()
