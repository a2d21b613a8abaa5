"""Answers whose length is said more than once, byte by byte as they come over the wire."""

import asyncio
import contextlib

import pytest

from mirror.errors import UpstreamInvalid
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_MANIFEST
from mirror.upstream.framing import one_length
from tests.peers.settings import client_of

BODY = b'{"schemaVersion":2}'
SIZE = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
START = f"HTTP/1.1 200 OK\r\nContent-Type: {OCI_MANIFEST}\r\n".encode()


@contextlib.asynccontextmanager
async def answering(*pieces):
    """Yield a client whose upstream answers every request with these pieces, and the connections it made."""
    connections = []

    async def speak(reader, writer):
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                for number, piece in enumerate(pieces):
                    if head.startswith(b"HEAD") and number:
                        break
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server, client_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        yield client, connections
        for writer in connections:
            writer.transport.abort()


READ = {
    "one length": (START + SIZE + b"\r\n", BODY),  # guards what is usual
    "chunked": (START + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKED),  # guards what is usual
    "two equal ones": (START + SIZE + SIZE + b"\r\n", BODY),
    "three equal ones": (START + SIZE + b"content-length:%d\r\n" % len(BODY) + SIZE + b"\r\n", BODY),
    "equal ones in a line": (START + b"Content-Length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)), BODY),
    "a length and chunks": (START + SIZE + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKED),
    "chunks and a length": (START + b"transfer-encoding:Chunked\r\n" + SIZE + b"\r\n", CHUNKED),
    "chunks and a wrong length": (START + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED),
    "chunks and two lengths": (START + SIZE + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", CHUNKED),
    "kept alive, they say": (
        START + SIZE + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED,
    ),
    "after hints": (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + START + SIZE + SIZE + b"\r\n", BODY),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("name", READ)
async def test_what_a_client_may_read(name, split):
    """Proxies that send both: aiohttp#4223 and #6182, mitmproxy#4799 (RFC 9112, 6.3; RFC 9110, 8.6)."""
    head, body = READ[name]
    pieces = [bytes([one]) for one in head + body] if split else [head + body]
    async with answering(*pieces) as (client, connections):
        for _ in range(3):
            assert (await client.get_manifest("team/app", "v1")).body == BODY
        # Where a length was said beside chunks, the next answer may begin in another place than we think.
        both = "chunks and" in name or "and chunks" in name or "kept" in name
        assert len(connections) == (3 if both else 1)


@pytest.mark.parametrize("name", READ)
async def test_head(name):
    head, _ = READ[name]
    digest = b"Docker-Content-Digest: %s\r\n" % str(Digest.of(BODY)).encode()
    first, _, rest = head.rpartition(b"HTTP/1.1 200 OK\r\n")
    async with answering(first + b"HTTP/1.1 200 OK\r\n" + digest + rest, READ[name][1]) as (client, _):
        found = await client.head_manifest("team/app", "v1")
        assert (found.digest, found.size) == (Digest.of(BODY), len(BODY))


@pytest.mark.parametrize(
    ("lengths", "remedy"),
    [
        (SIZE + b"Content-Length: 3\r\n", "more than once"),
        (b"Content-Length: 19, 3\r\n", "more than once"),
        (b"Content-Length: x\r\n", "not as a number"),
        (b"Content-Length: -1\r\nContent-Length: -1\r\n", "not as a number"),
    ],
    ids=["two", "two in a line", "none", "two that are none"],
)
async def test_what_stays_an_error(lengths, remedy):
    """Where the body ends is anybody's guess."""
    async with answering(START + lengths + b"\r\n" + BODY) as (client, _):
        with pytest.raises(UpstreamInvalid, match="does not answer in HTTP") as error:
            await client.get_manifest("team/app", "v1")
        assert remedy in error.value.remedy


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n Content-Length: 2\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_what_is_as_it_should_be_is_left_alone(head):
    assert one_length(head) is head
