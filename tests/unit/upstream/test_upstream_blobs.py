"""Bodies that stop, stall, crawl or lie; ranges; signed URLs."""

import asyncio

import pytest

from mirror.errors import (
    UpstreamError,
    UpstreamInterrupted,
    UpstreamInvalid,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.upstream import body as body_module
from tests.peers.faults import (
    Drip,
    FlipBit,
    Gzip,
    IgnoreRange,
    LieLength,
    NoLength,
    Redirect,
    Stall,
    Status,
    Truncate,
    WithHeaders,
    WrongContentRange,
)
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.peers.settings import client_of
from tests.unit.upstream.conftest import CONTENT, DIGEST

# -- bodies


async def collect(body):
    """Return what came, and the error that ended it."""
    content = bytearray()
    try:
        while piece := await body.read():
            content += piece
    except UpstreamError as error:
        return bytes(content), error
    finally:
        await body.close()
    return bytes(content), None


@pytest.mark.parametrize("rst", [False, True])
@pytest.mark.parametrize("at", [0, 1, 1000, 299_999])
async def test_a_truncated_blob_gives_what_came(registry, client, at, rst):
    registry.fail("blob", Truncate(at, rst), times=1)
    content, error = await collect(await client.get_blob("team/app", DIGEST))
    assert isinstance(error, UpstreamInterrupted)
    assert content == CONTENT[:at]
    rest, error = await collect(await client.get_blob("team/app", DIGEST, at))
    assert error is None
    assert content + rest == CONTENT


async def test_a_truncated_manifest_is_asked_for_again(registry, client):
    registry.fail("manifest", Truncate(10), times=1)
    assert (await client.get_manifest("team/app", "v1")).body
    registry.fail("manifest", Truncate(10))
    with pytest.raises(UpstreamInterrupted):
        await client.get_manifest("team/app", "v1")


async def test_a_stalled_blob_is_cut(registry, client, monkeypatch):
    monkeypatch.setattr(body_module, "STALL_SECONDS", 0.2)
    registry.fail("blob", Stall(1000))
    content, error = await collect(await client.get_blob("team/app", DIGEST))
    assert isinstance(error, UpstreamInterrupted)
    assert "sent nothing for" in error.what
    assert content == CONTENT[:1000]


async def test_a_crawling_blob_is_cut(registry, client, monkeypatch):
    monkeypatch.setattr(body_module, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(body_module, "CRAWL_SECONDS", 0.3)
    registry.fail("blob", Drip(1, 0.01))
    content, error = await collect(await client.get_blob("team/app", DIGEST))
    assert isinstance(error, UpstreamInterrupted)
    assert "bytes in" in error.what
    assert content == CONTENT[: len(content)] != b""


async def test_a_slow_reader_is_not_a_slow_upstream(registry, client, monkeypatch):
    monkeypatch.setattr(body_module, "STALL_SECONDS", 0.1)
    monkeypatch.setattr(body_module, "CRAWL_SECONDS", 0.1)
    body = await client.get_blob("team/app", DIGEST)
    content = await body.read()
    await asyncio.sleep(0.5)
    rest, error = await collect(body)
    assert error is None
    assert content + rest == CONTENT


async def test_lengths_that_lie(registry, client):
    registry.fail("blob", LieLength(+5), times=1)
    content, error = await collect(await client.get_blob("team/app", DIGEST))
    assert isinstance(error, UpstreamInterrupted)
    assert content == CONTENT
    registry.fail("blob", LieLength(-5), times=1)
    body = await client.get_blob("team/app", DIGEST)
    assert body.total == len(CONTENT) - 5  # who knows the true size sees it here
    content, error = await collect(body)
    assert (content, error) == (CONTENT[:-5], None)
    content, error = await collect(await client.get_blob("team/app", DIGEST))
    assert content == CONTENT  # and the five bytes are not taken for the next answer


@pytest.mark.parametrize("chunked", [True, False])
async def test_without_a_length(registry, client, chunked):
    registry.fail("blob", NoLength(chunked))
    body = await client.get_blob("team/app", DIGEST)
    assert body.total is None
    assert await collect(body) == (CONTENT, None)


async def test_a_part_without_a_length_has_to_be_whole(registry, client):
    registry.fail("blob", NoLength(chunked=True, at=500))
    content, error = await collect(await client.get_blob("team/app", DIGEST, 100))
    assert content == CONTENT[100:600]
    assert isinstance(error, UpstreamInterrupted)


async def test_flipped_bits_are_somebody_elses_to_find(registry, client):
    registry.fail("blob", FlipBit(7))
    content, error = await collect(await client.get_blob("team/app", DIGEST))
    assert error is None
    assert Digest.of(content) != DIGEST


async def test_an_encoded_answer_is_asked_for_again(registry, client):
    """registry.access.redhat.com has sent gzip for config blobs."""
    registry.fail("blob", Gzip(), times=1)
    assert await collect(await client.get_blob("team/app", DIGEST)) == (CONTENT, None)
    assert registry.count("blob") == 2


HTML = b"<!doctype html>" + b"<p>a report</p>" * 1000
MIB = 1 << 20


@pytest.mark.parametrize("media_type", ["text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml"])
@pytest.mark.parametrize(
    "content",
    [CONTENT, b"", HTML, b"\xef\xbb\xbf\n" + HTML, b" \n\t", b" " * 5000 + CONTENT, b"<" + noise(2 * MIB), b"<" * MIB],
    ids=["bytes", "empty", "a page", "a page with a mark", "blank", "blank at first", "large", "as large as may be"],
)
async def test_a_blob_that_is_typed_as_a_page_is_what_its_digest_says(registry, client, content, media_type):
    """Stores and proxies that guess a type, and artifacts that are pages."""
    digest = Digest.parse(registry.add_blob("team/app", content))
    registry.fail("blob", WithHeaders({"Content-Type": media_type}))
    assert await collect(await client.get_blob("team/app", digest)) == (content, None)
    assert registry.count("blob") == 1
    if content:
        assert await client.head_blob("team/app", digest) == len(content)
    if len(content) > 10:
        assert await collect(await client.get_blob("team/app", digest, 5, 10)) == (content[5:10], None)
        assert await collect(await client.get_blob("team/app", digest, 5)) == (content[5:], None)


@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize(
    "page",
    [b"<html>Sign in</html>", b"\r\n  <!DOCTYPE html>" + b"x" * 100_000, b"", b"\n", b"\xef\xbb\xbf<html>"],
    ids=["short", "long", "empty", "blank", "with a mark"],
)
async def test_a_page_in_the_place_of_a_blob_is_called_one(registry, client, page, start):
    """Guards the rule above: a portal's page opens no answer to a client."""
    registry.fail("blob", Status(200, {"Content-Type": "text/html"}, page))
    with pytest.raises(UpstreamInvalid, match="answers with a web page") as error:
        await client.get_blob("team/app", DIGEST, start)
    assert "portal" in error.value.remedy
    assert error.value.endpoint == registry.url
    with pytest.raises(UpstreamInvalid, match="answers with a web page"):
        await client.head_blob("team/app", DIGEST)


async def test_identity_is_no_encoding(registry, client):
    registry.fail("blob", WithHeaders({"Content-Encoding": "identity"}))
    assert await collect(await client.get_blob("team/app", DIGEST)) == (CONTENT, None)
    assert registry.count("blob") == 1


# -- ranges


async def test_an_ignored_range_starts_at_zero(registry, client):
    registry.fail("blob", IgnoreRange())
    body = await client.get_blob("team/app", DIGEST, 1000, 2000)
    assert (body.start, body.total) == (0, len(CONTENT))
    assert await collect(body) == (CONTENT, None)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "bytes 0-299999/300000",
        "bytes 1000-1998/300000",
        "bytes 1000-2000/300000",
        "bytes 1000-1999/1500",
        "bytes 999-1998/300000",
        "bytes */300000",
        "1000-1999/300000",
        "bytes 1000-999/300000",
        "bytes 1000-1999/-5",
        "bytes 1000-1999/99999999999999999999",
        "bytes=1000-1999/300000",
    ],
)
async def test_a_wrong_content_range_is_refused(registry, client, value):
    registry.fail("blob", WrongContentRange(value))
    with pytest.raises(UpstreamInvalid):
        await client.get_blob("team/app", DIGEST, 1000, 2000)


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b""])
async def test_what_follows_a_part_is_left_alone(end):
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/300\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head + b"6\r\n012345\r\n8\r\n6789SPAM\r\n" + end)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        assert await collect(await client.get_blob("team/app", DIGEST, 0, 10)) == (b"0123456789", None)


async def test_a_part_of_unknown_total(registry, client):
    registry.fail("blob", WrongContentRange("bytes 1000-1999/*"))
    body = await client.get_blob("team/app", DIGEST, 1000, 2000)
    assert (body.start, body.total) == (1000, None)
    assert await collect(body) == (CONTENT[1000:2000], None)


async def test_a_part_nobody_asked_for(registry, client):
    registry.fail("blob", Status(206, {"Content-Range": "bytes 0-9/10"}, b"0123456789"))
    with pytest.raises(UpstreamInvalid, match="the whole was asked for"):
        await client.get_blob("team/app", DIGEST)


async def test_a_range_beyond_the_end(registry, client):
    with pytest.raises(UpstreamInvalid, match="416"):
        await client.get_blob("team/app", DIGEST, len(CONTENT))


# -- signed URLs


async def test_signed_urls_arrive_untouched(read_whole):
    async with ScriptedRegistry(cdn=True) as registry, client_of(registry.url) as client:
        registry.add_blob("team/app", CONTENT)
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        assert [one.status for one in registry.seen("cdn")] == [200]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_every_sort_of_redirect(read_whole, status):
    async with ScriptedRegistry(cdn=True, redirect_status=status) as registry, client_of(registry.url) as client:
        registry.add_blob("team/app", CONTENT)
        assert await read_whole(await client.get_blob("team/app", DIGEST, 7)) == CONTENT[7:]


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_an_expired_url_is_asked_for_afresh(read_whole, status):
    async with ScriptedRegistry(cdn=True) as registry, client_of(registry.url) as client:
        registry.add_blob("team/app", CONTENT)
        registry.fail("cdn", Status(status, body=b"<Error>Request has expired</Error>"), times=2)
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        assert registry.count("blob") == 3
        locations = {one.query for one in registry.seen("cdn")}
        assert len(locations) == 3


async def test_urls_that_never_work(impatient):
    async with ScriptedRegistry(cdn=True, url_lifetime=-1) as registry, client_of(registry.url) as client:
        registry.add_blob("team/app", CONTENT)
        with pytest.raises(UpstreamUnavailable, match="compare the clocks"):
            await client.get_blob("team/app", DIGEST)


async def test_cdn_trouble_starts_over_at_the_registry(read_whole, impatient):
    async with ScriptedRegistry(cdn=True) as registry, client_of(registry.url) as client:
        registry.add_blob("team/app", CONTENT)
        registry.fail("cdn", Status(503), times=1)
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        assert registry.count("blob") == 2


async def test_more_than_five_hops(registry, client):
    registry.fail("manifest", Redirect("{self}{path}"), times=5)
    assert await client.get_manifest("team/app", "v1")
    registry.forget()
    registry.fail("manifest", Redirect("{self}{path}"))
    with pytest.raises(UpstreamInvalid, match="redirects more than 5 times"):
        await client.get_manifest("team/app", "v1")
    assert registry.count("manifest") == 6
