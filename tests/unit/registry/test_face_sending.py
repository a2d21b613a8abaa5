"""Bodies that grow, stall, break off or are left: a short body never ends cleanly, and nothing follows it (E8)."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from mirror.content.answers import BlobAnswer
from mirror.errors import NotYet, StoreFull, UpstreamInterrupted
from mirror.oci.digest import Digest
from tests.unit.registry.stage import Chunks, GrowingFile, until

BODY = os.urandom(3 * 1024 * 1024 + 5)
DIGEST = Digest.of(BODY)
TARGET = f"/v2/quay.io/a/blobs/{DIGEST}"
PIPELINED = b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n"


@pytest.fixture(params=["plain", "tls"])
async def spoken(request, open_face, server_tls, client_tls):
    if request.param == "plain":
        return await open_face(), None
    return await open_face(tls=server_tls), client_tls


async def test_a_growing_file_is_sent_as_it_grows(content, spoken):
    face, tls = spoken
    file = content.add_growing(DIGEST, len(BODY))
    wire = await face.connect(tls)
    await wire.send(TARGET)
    head = await wire.head()
    assert (head.status, head.fields["x-cache"]) == (200, "MISS")
    for start, stop in ((0, 1), (1, 70_000), (70_000, 2_500_000), (2_500_000, len(BODY))):
        await until(lambda: file.waiting == 1)
        await file.append(BODY[start:stop])
        async with asyncio.timeout(10):
            assert await wire.reader.readexactly(stop - start) == BODY[start:stop]
    await wire.send("/v2/")
    assert (await wire.read()).status == 200
    await wire.close()
    assert face.lines.requests[0]["bytes"] == len(BODY)
    assert face.lines.requests[0]["why"] == ""


async def test_a_range_of_a_growing_file(content, face):
    file = content.add_growing(DIGEST, len(BODY))
    await file.append(BODY[:5000])
    wire = await face.connect()
    await wire.send(TARGET, Range="bytes=4000-5999")
    head = await wire.head()
    assert (head.status, head.fields["content-range"]) == (206, f"bytes 4000-5999/{len(BODY)}")
    assert await wire.reader.readexactly(1000) == BODY[4000:5000]
    await file.append(BODY[5000:9000])
    assert await wire.reader.readexactly(1000) == BODY[5000:6000]
    await wire.send("/v2/")
    assert (await wire.read()).body == b"{}"  # not a byte more than was asked for
    await wire.close()


@pytest.mark.parametrize("error", [UpstreamInterrupted("it stopped"), RuntimeError("a fault of ours")])
async def test_a_file_that_grows_no_more_is_cut_short(content, spoken, error):
    face, tls = spoken
    file = content.add_growing(DIGEST, len(BODY))
    wire = await face.connect(tls)
    await wire.send(TARGET)
    wire.writer.write(PIPELINED)  # its answer must not land in the body
    await wire.head()
    await file.append(BODY[:100_000])
    await until(lambda: file.waiting == 1 and file.size == 100_000)
    await file.end(error)
    assert await wire.rest() == BODY[:100_000]
    await wire.close()
    line = await face.noted()
    assert line["bytes"] == 100_000
    assert line["why"] in (str(error), "RuntimeError")
    assert [event[:2] for event in face.lines.events] == [
        ("warning" if isinstance(error, UpstreamInterrupted) else "error", "answer_cut")
    ]
    assert len(face.lines.requests) == 1


@pytest.mark.parametrize(
    "parts",
    [
        (BODY[:1000], UpstreamInterrupted("it stopped")),
        (BODY[:1000], ConnectionResetError("upstream's, not the client's")),
        (BODY[:1000],),
        (BODY[:1000], BODY[1000:] + b"x"),
    ],
    ids=["raises", "resets", "short", "long"],
)
async def test_an_upstream_body_of_the_wrong_length_is_cut(content, face, parts):
    content.add_chunks(DIGEST, len(BODY), *parts)
    wire = await face.connect()
    await wire.send(TARGET)
    wire.writer.write(PIPELINED)
    await wire.head()
    assert await wire.rest() == BODY[:1000]
    await wire.close()
    assert (await face.noted())["why"] != "client left"
    assert face.lines.events[0][1] == "answer_cut"


async def test_chunks_that_break_off_have_no_last_chunk(content, face):
    content.add_chunks(DIGEST, None, BODY[:1000], UpstreamInterrupted("it stopped"))
    wire = await face.connect()
    await wire.send(TARGET)
    wire.writer.write(PIPELINED)
    await wire.head()
    assert await wire.rest() == b"3e8\r\n" + BODY[:1000] + b"\r\n"
    await wire.close()


async def test_to_http_1_0_a_short_body_of_unknown_length_ends_in_a_reset(content, face):
    content.add_chunks(DIGEST, None, BODY[:1000], UpstreamInterrupted("it stopped"))
    wire = await face.connect()
    await wire.send(TARGET, version="1.0")
    with pytest.raises(ConnectionResetError):
        await wire.rest()
    await wire.close()


async def test_a_file_that_is_shorter_than_was_said_is_cut(content, spoken):
    face, tls = spoken
    digest = content.add_blob(BODY)
    wire = await face.connect(tls)
    content.blob_now = _lying(content.blob_now, len(BODY) + 10)
    await wire.send(f"/v2/quay.io/a/blobs/{digest}")
    assert (await wire.head()).fields["content-length"] == str(len(BODY) + 10)
    received = await wire.rest()
    assert BODY.startswith(received)
    assert len(received) > len(BODY) - 256 * 1024 - 10
    await wire.close()
    assert (await face.noted())["why"] == "EOFError"


async def test_a_small_file_that_is_shorter_than_was_said_is_a_clean_503(content, face):
    digest = content.add_blob(BODY[:100])
    content.blob_now = _lying(content.blob_now, 110)
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}")
    assert (reply.status, reply.error["code"]) == (503, "UNKNOWN")


def _lying(blob_now, size):
    def answer(target, digest):
        found = blob_now(target, digest)
        found.file.size = found.total = found.stop = size
        return found

    return answer


async def test_a_wait_that_brings_nothing_is_cut(content, spoken):
    face, tls = spoken
    file = content.add_growing(DIGEST, len(BODY))
    await file.append(BODY[:1000])

    async def more(position):
        await asyncio.sleep(0)
        return position

    file.more = more
    wire = await face.connect(tls)
    await wire.send(TARGET)
    await wire.head()
    assert await wire.rest() == BODY[:1000]


async def test_when_the_disk_is_full_the_rest_is_passed_through(content, spoken):
    face, tls = spoken
    asked = []

    def divert(position):
        asked.append(position)
        return content.keep(Chunks(BODY[position : position + 10], BODY[position + 10 :]))

    file = content.add_growing(DIGEST, len(BODY), divert=divert)
    wire = await face.connect(tls)
    await wire.send(TARGET)
    await file.append(BODY[:50_000])
    await until(lambda: file.waiting == 1)
    await file.end(StoreFull("no room"))
    assert (await wire.read()).body == BODY
    assert asked == [50_000]
    await wire.send("/v2/")
    assert (await wire.read()).status == 200
    await wire.close()


async def test_when_the_rest_of_it_is_short_too_the_answer_is_cut(content, face):
    file = content.add_growing(
        DIGEST, len(BODY), divert=lambda position: content.keep(Chunks(BODY[position : position + 10]))
    )
    wire = await face.connect()
    await wire.send(TARGET, Range="bytes=1000-")
    await file.append(BODY[:50_000])
    await until(lambda: file.waiting == 1)
    await file.end(StoreFull("no room"))
    await wire.head()
    assert await wire.rest() == BODY[1000:50_010]
    await wire.close()


async def test_without_a_way_around_a_full_disk_cuts(content, face):
    file = content.add_growing(DIGEST, len(BODY))
    wire = await face.connect()
    await wire.send(TARGET)
    await file.append(BODY[:5])
    await until(lambda: file.waiting == 1)
    await file.end(StoreFull("no room"))
    await wire.head()
    assert await wire.rest() == BODY[:5]
    await wire.close()


async def test_a_client_that_leaves_is_no_fault_and_ends_nothing(content, spoken):
    face, tls = spoken
    file = content.add_growing(DIGEST, len(BODY))
    wire = await face.connect(tls)
    await wire.send(TARGET)
    await file.append(BODY[:1000])
    await wire.head()
    wire.writer.transport.abort()
    await until(lambda: file.waiting == 1)
    await until(lambda: face.server.open == 0)
    await file.append(BODY[1000:])  # the fill went on; only now does the answer see that nobody reads it
    line = await face.noted()
    assert line["why"] == "client left"
    assert line["bytes"] < len(BODY)
    assert face.lines.events == []


@pytest.mark.parametrize("how", ["whole file", "chunks"])
async def test_a_client_that_leaves_in_the_middle(content, spoken, how):
    face, tls = spoken
    body = bytes(64 << 20)
    digest = content.add_blob(body)
    if how == "chunks":
        del content.here[digest]
        content.add_chunks(digest, len(body), *[bytes(1 << 20)] * 64)
    wire = await face.connect(tls)
    await wire.send(f"/v2/quay.io/a/blobs/{digest}")
    await wire.reader.readexactly(100_000)
    wire.writer.transport.abort()
    line = await face.noted()
    assert line["why"] == "client left"
    assert line["bytes"] < len(body)
    assert face.lines.events == []
    await until(lambda: face.server.open == 0)


@pytest.mark.parametrize("kind", ["file", "chunks", "manifest"])
async def test_a_client_that_reads_nothing_is_cut(content, open_face, server_tls, client_tls, kind):
    for arguments, tls in (({}, None), ({"tls": server_tls}, client_tls)):
        if kind == "manifest" and tls:
            continue  # asyncio's TLS takes one write of any size, so a manifest has been sent as far as we can tell
        face = await open_face(write_stall=0.4, **arguments)
        body = bytes(32 << 20)
        if kind == "manifest":
            digest = content.add_manifest(body)
            target = f"/v2/quay.io/a/manifests/{digest}"
        else:
            digest = content.add_blob(body)
            target = f"/v2/quay.io/a/blobs/{digest}"
            if kind == "chunks":
                del content.here[digest]
                content.add_chunks(digest, len(body), *[bytes(1 << 20)] * 32)
        wire = await face.connect(tls, limit=1000)
        await wire.send(target)
        line = await face.noted()
        assert line["why"] == "client left"
        await until(lambda: face.server.open == 0)  # noqa: B023 - awaited within the turn
        await wire.close()


async def test_aborting_a_connection_in_a_window_ends_its_answer(content, face):
    """What loop.sendfile does not survive: it waits for ever, and its descriptor breaks the next connection."""
    digest = content.add_blob(bytes(64 << 20))
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        wire = await face.connect(limit=1000)
        await wire.send(f"/v2/quay.io/a/blobs/{digest}")
        await wire.head()
        await asyncio.sleep(0.05)  # until the socket is full
        (connection,) = face.server.connections
        connection.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        connection.transport.abort()
        await until(lambda: content.open_files() == [])
        await wire.close()
    assert len(face.lines.requests) == 3
    reply = await face.ask(f"/v2/quay.io/a/blobs/{digest}")  # fills the socket again, with the same descriptors
    assert len(reply.body) == 64 << 20
    await until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


async def test_a_transport_that_closes_in_a_window_is_noticed_without_a_sign_on_the_socket(content, face, monkeypatch):
    monkeypatch.setattr("mirror.registry.flow._LOOK", 0.05)
    digest = content.add_blob(bytes(64 << 20))
    wire = await face.connect(limit=1000)
    await wire.send(f"/v2/quay.io/a/blobs/{digest}")
    await wire.head()
    await asyncio.sleep(0.2)  # until the socket is full
    (connection,) = face.server.connections
    connection.transport.close()  # the duplicate keeps the connection itself open
    assert (await face.noted())["why"] == "client left"
    await wire.close()


async def test_shutting_down_in_the_middle_of_an_answer_closes_what_it_holds(content, spoken):
    face, tls = spoken
    file = content.add_growing(DIGEST, len(BODY))
    wire = await face.connect(tls)
    await wire.send(TARGET)
    await file.append(BODY[:1000])
    await until(lambda: file.waiting == 1)
    (connection,) = face.server.connections
    await connection.shutdown(0.01)
    await until(lambda: content.open_files() == [])
    await wire.head()
    assert await wire.rest() == BODY[:1000]
    await wire.close()


async def test_pipelined_answers_keep_their_order(content, face):
    """What waits in the transport's own buffer must leave before what the kernel sends from a file."""
    manifest = os.urandom(60_000)  # most of it stays in the transport: below the mark at which it makes us wait
    content.add_manifest(manifest, "v1")
    digest = content.add_blob(BODY)
    face.listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", face.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    requests = ["/v2/quay.io/a/manifests/v1", f"/v2/quay.io/a/blobs/{digest}"] * 2
    writer.write("".join(f"GET {target} HTTP/1.1\r\nHost: m\r\n\r\n" for target in requests).encode())
    await until(lambda: len(face.lines.requests) == 1)
    for expected in (manifest, BODY) * 2:
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(expected)) == expected
    writer.close()
    await writer.wait_closed()


async def test_many_readers_of_one_growing_file_each_get_it_whole(content, face, tmp_path):
    files = [content.keep(GrowingFile(tmp_path / f"part-{number}")) for number in range(10)]
    left = list(files)
    content.answers[DIGEST] = lambda: BlobAnswer(len(BODY), 0, len(BODY), "JOINED", left.pop())
    asking = [asyncio.create_task(face.ask(TARGET)) for _ in range(10)]
    await until(lambda: not left)
    for start in range(0, len(BODY), 500_000):
        for file in files:
            await file.append(BODY[start : start + 500_000])
    replies = await asyncio.gather(*asking)
    assert all(reply.body == BODY for reply in replies)


async def test_bodies_over_a_unix_socket(content, face, tmp_path):
    digest = content.add_blob(BODY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    face.listeners.append(listener)
    face.server.listen(listener)
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    writer.write(f"GET /v2/quay.io/a/blobs/{digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(BODY)) == BODY
    writer.close()
    await writer.wait_closed()
    assert (await face.noted())["client"] == "unix"


async def test_a_file_that_never_comes_ends_the_answer_when_content_says_so(content, face):
    file = content.add_growing(DIGEST, len(BODY))
    wire = await face.connect()
    await wire.send(TARGET)
    await wire.head()
    await file.end(NotYet("nothing came for two minutes"))
    assert await wire.rest() == b""
    await wire.close()
