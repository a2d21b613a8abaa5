"""Clients that misbehave (faults.md 2.3): malformed, hostile, slow, gone. Nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.service import Service
from tests.faults.smuggling import CORPUS
from tests.faults.wire import Got, read_answer
from tests.peers.images import digest_of, noise
from tests.peers.scripted import ScriptedRegistry

pytestmark = pytest.mark.timeout(60)

LAYER = noise(400_000, 3)
DIGEST = digest_of(LAYER)
BLOB = f"/v2/lab/team/app/blobs/{DIGEST}"


@pytest.fixture
async def service(upstream: ScriptedRegistry, serve: Callable[..., Any]) -> Service:
    upstream.add_image("team/app", "v1", layers=[LAYER])
    return await serve(
        {"lab": {"endpoints": [upstream.url]}},
        limits={"header_timeout": 0.5, "idle_timeout": 1.0, "write_stall": 0.7},
    )


async def say(service: Service, text: bytes, seconds: float = 5) -> tuple[list[Got], bool]:
    """Send bytes and read answers until the server closes or is silent; tell whether it closed."""
    reader, writer = await asyncio.open_connection(*service.address)
    answers: list[Got] = []
    try:
        writer.write(text)
        if b"HTTP" in text and text.endswith(b"close"):
            writer.write_eof()
        while True:
            try:
                async with asyncio.timeout(seconds):
                    got = await read_answer(reader)
            except TimeoutError:
                return answers, False
            if not got.status:
                return answers, True
            answers.append(got)
    finally:
        writer.transport.abort()


def gone(service: Service) -> list[dict[str, Any]]:
    """Return the lines of the requests whose clients left."""
    return [line for line in service.requests.lines if line["why"] == "client left"]


async def works(service: Service) -> None:
    """Whatever happened, everybody else is served."""
    got = await service.get(BLOB)
    assert (got.status, got.clean, got.body == LAYER) == (200, True, True)


# An empty coding is no coding, and one that stands before the length is taken for none.
UNREFUSED = ("POST TE empty + CL",)


async def test_smuggling_behind_an_empty_coding(service: Service) -> None:
    for name in UNREFUSED:
        answers, closed = await say(service, CORPUS[name])
        assert len(answers) == 1
        assert closed


async def test_smuggling(service: Service, upstream: ScriptedRegistry) -> None:
    """No form lets what stands in a body be taken for a request: neither answered nor asked of upstream."""
    await works(service)
    upstream.forget()
    wrong = []

    async def one(name: str, text: bytes) -> None:
        answers, closed = await say(service, text)
        statuses = [got.status for got in answers]
        if not closed or len(answers) > 1 or not statuses or not (400 <= statuses[0] < 500 or statuses[0] == 501):
            wrong.append((name, statuses, closed))

    gate = asyncio.Semaphore(32)

    async def gated(name: str, text: bytes) -> None:
        async with gate:
            await one(name, text)

    await asyncio.gather(*(gated(name, text) for name, text in CORPUS.items() if name not in UNREFUSED))
    assert not wrong, repr(wrong)
    assert len(CORPUS) > 150
    assert upstream.requests == []
    assert "smuggled" not in repr(service.requests.lines)
    await works(service)


REFUSED_LINES = {
    "a tab": b"GET\t/v2/ HTTP/1.1\r\nHost: m\r\n\r\n",
    "a blank in front": b" GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n",
    "lower case": b"get /v2/ HTTP/1.1\r\nHost: m\r\n\r\n",
    "a NUL in the method": b"G\x00ET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.10": b"GET /v2/ HTTP/1.10\r\nHost: m\r\n\r\n",
    "HTTP/9.9": b"GET /v2/ HTTP/9.9\r\nHost: m\r\n\r\n",
    "two versions": b"GET /v2/ HTTP/1.1 HTTP/1.1\r\nHost: m\r\n\r\n",
    "a NUL in the path": b"GET /v2/\x00 HTTP/1.1\r\nHost: m\r\n\r\n",
    "a CR in the path": b"GET /v2/\rX HTTP/1.1\r\nHost: m\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\nHost: m\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "rubbish": bytes(range(256)),
    "no host": b"GET /v2/ HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nHost: n\r\n\r\n",
    "a field without colon": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX\r\n\r\n",
    "a field without name": b"GET /v2/ HTTP/1.1\r\nHost: m\r\n: x\r\n\r\n",
    "a blank in a field's name": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX Y: x\r\n\r\n",
    "a NUL in a field": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: \x00\r\n\r\n",
    "a bare CR in a field": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: a\rb\r\n\r\n",
    "a long line": b"GET /v2/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: m\r\n\r\n",
    "a long field": b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    "a long field's name": b"GET /v2/ HTTP/1.1\r\nHost: m\r\n" + b"a" * 9000 + b": x\r\n\r\n",
    "many fields": b"GET /v2/ HTTP/1.1\r\nHost: m\r\n" + b"X: x\r\n" * 200 + b"\r\n",
    "a large head": b"GET /v2/ HTTP/1.1\r\nHost: m\r\n" + (b"X: " + b"a" * 4000 + b"\r\n") * 60 + b"\r\n",
    "connect": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: m\r\n\r\n",
}


@pytest.mark.parametrize(
    "text",
    [
        b"GET  /v2/ HTTP/1.1\r\n",
        b"\r\nGET /v2/ HTTP/1.1\r\n",
        b"GET /v2/\r\n",
        b"GET /v2/ HTTP/1.1\r\nExpect: 200-ok\r\n",
    ],
    ids=["two blanks", "an empty line in front", "no version", "another expectation"],
)
async def test_what_is_odd_and_clear_is_answered_once(service: Service, text: bytes) -> None:
    answers, _ = await say(service, text + b"Host: m\r\nConnection: close\r\n\r\n")
    assert [got.status for got in answers] == [200]


async def test_malformed_requests(service: Service) -> None:
    await works(service)

    async def one(name: str, text: bytes) -> tuple[str, list[int], bool] | None:
        answers, closed = await say(service, text)
        statuses = [got.status for got in answers]
        good = closed and len(answers) <= 1 and all(400 <= status < 500 for status in statuses)
        return None if good else (name, statuses, closed)

    outcomes = await asyncio.gather(*(one(name, text) for name, text in REFUSED_LINES.items()))
    wrong = [outcome for outcome in outcomes if outcome]
    assert not wrong, repr(wrong)
    await works(service)


NAMES = {
    "/v2/lab/../lab/team/app/manifests/v1": 400,
    "/v2/lab/./team/app/manifests/v1": 400,
    "/v2/lab//team/app/manifests/v1": 400,
    "//v2/lab/team/app/manifests/v1": (400, 404),
    "/v2/lab/team/app/manifests/..": 400,
    "/v2/lab/team/app/manifests/.": 400,
    "/v2/lab/team/app/manifests/": (400, 404),
    "/v2/lab/team/app/manifests/v1/": (400, 404),
    "/v2/lab/team/app/manifests/..%2f..%2fetc": 400,
    "/v2/lab/team/app/manifests/%2e%2e": 400,
    "/v2/lab/team%2fapp/manifests/v1": 400,
    "/v2/lab/team%2Fapp/manifests/v1": 400,
    "/v2/lab/team%252fapp/manifests/v1": 400,
    "/v2/lab/team/app/manifests/v1%00": 400,
    "/v2/lab/team/app/manifests/v1%0d%0aX:%20y": 400,
    "/v2/lab/team/app/manifests/v1%0a": 400,
    "/v2/lab/team/app/manifests/%76%31": 400,
    "/v2/lab/team/app/manifests/v1%": 400,
    "/v2/lab/team/app/manifests/v1%zz": 400,
    "/v2/lab/team/app/manifests/v1;x=1": 400,
    "/v2/lab/team/app;x/manifests/v1": 400,
    "/v2/lab/team\\app/manifests/v1": 400,
    "/v2/lab/team/app/manifests/v1\\..": 400,
    "/v2/lab/team/app/manifests/" + "a" * 129: 400,
    "/v2/lab/" + "a" * 256 + "/manifests/v1": 400,
    "/v2/lab/" + "a/" * 200 + "a/manifests/v1": 400,
    "/v2/lab/Team/app/manifests/v1": 400,
    "/v2/lab/team/app_/manifests/v1": 400,
    "/v2/lab/_team/app/manifests/v1": 400,
    "/v2/lab/team/_tags/manifests/v1": 400,
    "/v2/lab/-team/manifests/v1": 400,
    "/v2/lab/team/app/manifests/-v1": 400,
    "/v2/lab/team/app/manifests/v1*": 400,
    "/v2/lab/team/app/manifests/v1\u202e": 400,
    "/v2/lab/team/app/manifests/\u0661": 400,
    "/v2/lab/te\u0430m/app/manifests/v1": 400,
    "/v2/lab/team/app/blobs/sha256:../../../../etc/passwd": (400, 404),
    "/v2/lab/team/app/blobs/" + DIGEST.upper(): 400,
    "/v2/lab/team/app/blobs/" + DIGEST.replace("sha256", "SHA256"): 400,
    "/v2/lab/team/app/blobs/" + DIGEST[:-1]: 400,
    "/v2/lab/team/app/blobs/" + DIGEST + "0": 400,
    "/v2/lab/team/app/blobs/" + DIGEST[:-1] + "g": 400,
    "/v2/lab/team/app/blobs/" + DIGEST + "%0a": 400,
    "/v2/lab/team/app/blobs/" + DIGEST.replace(":", "%253a"): 400,
    "/v2/lab/team/app/blobs/" + DIGEST.replace(":", "%3A%3A"): 400,
    "/v2/lab/team/app/blobs/" + DIGEST.replace(":", "-"): 400,
    "/v2/lab/team/app/blobs/md5:" + "a" * 32: 400,
    "/v2/lab/team/app/blobs/sha512:" + "a" * 64: 400,
    "/v2/lab/team/app/blobs/sha256:": 400,
    "/v2/lab/team/app/blobs/": 400,
    "/v2/lab/team/app/blobs/uploads/": (404, 405),
    "/v2/lab/manifests/v1/blobs/x": 400,
    "/v2/_catalog": 404,
    "/v2/_catalog?n=9999999999": 404,
    "/v2/lab/team/app/tags/list?n=9e9": 400,
    "/v2/lab/team/app/tags/list?n=-1": 400,
    "/v2/lab/team/app/tags/list?n=%D9%A1": 400,
    "/v2/lab/team/app/tags/list?last=../x": 400,
    "/v2/lab/team/app/manifests/v1?ns=http://169.254.169.254/": 400,
    "/v2/team/app/manifests/v1?ns=evil.example": 404,
    "/v2/team/app/manifests/v1?ns=127.0.0.1:22": 404,
    "/v2/team/app/manifests/v1?ns=lab&ns=evil.example": 400,
    "/evil.example/v2/team/app/manifests/v1": 404,
    "/v2/evil.example/team/app/manifests/v1": 404,
    "/../v2/": (400, 404),
    "/": 404,
    "/v2": 200,
    "/v3/": 404,
    "/metrics": 404,
    "/v2/lab/team/app/manifests/v1#x": 400,
    "http://evil.example/v2/": (200, 400, 404),
    "http://evil.example/v2/lab/team/app/manifests/../v1": 400,
    "*": (400, 404),
}


async def test_names_that_are_none(service: Service, upstream: ScriptedRegistry) -> None:
    """No escape, no case and no dot makes a name of what is none; nothing of it reaches upstream or a file."""
    wrong = []
    for target, expected in NAMES.items():
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n")
        got = await read_answer(reader)
        writer.transport.abort()
        allowed = expected if isinstance(expected, tuple) else (expected,)
        if got.status not in allowed or not got.clean or (got.status >= 400 and not got.code):
            wrong.append((target, got.status, got.body[:200]))
    assert not wrong, repr(wrong)
    assert upstream.requests == []
    assert list(service.room.layout.repositories.rglob("*")) == []


RANGES: dict[str, tuple[int, int, int] | None] = {
    # value -> (status, start, stop), None: ignored, so that the whole comes as 200
    "bytes=0-0": (206, 0, 1),
    "bytes=5-9": (206, 5, 10),
    "Bytes=5-9": (206, 5, 10),
    "bytes=399999-": (206, 399_999, 400_000),
    "bytes=-1": (206, 399_999, 400_000),
    "bytes=-400000": (206, 0, 400_000),
    "bytes=-9999999": (206, 0, 400_000),
    "bytes=0-": (206, 0, 400_000),
    "bytes=399990-999999999": (206, 399_990, 400_000),
    "bytes=0-9223372036854775807": (206, 0, 400_000),
    "bytes=400000-": (416, 0, 0),
    "bytes=400000-400001": (416, 0, 0),
    "bytes=-0": (416, 0, 0),
    "bytes=9-5": (416, 0, 0),
    "bytes=0-9,5-14": (206, 0, 15),
    "bytes=0-,0-": None,
    "bytes=0-0,2-3,x": None,
    "bytes=0-99999999999999999999": None,
    "bytes=99999999999999999999-": None,
    "bytes=\u0661-\u0662": None,
    "bytes=1_0-20": None,
    "bytes=0x0-0x9": None,
    "bytes=+0-5": None,
    "bytes=--5": None,
    "bytes=-": None,
    "bytes=": None,
    "bytes=a-b": None,
    "bytes 0-5": None,
    "bytes =0-5": None,
    "bytes=0 - 5": None,
    "items=0-5": None,
    "0-5": None,
    "": None,
}


@pytest.mark.parametrize("state", ["here", "not here"])
async def test_ranges(service: Service, upstream: ScriptedRegistry, state: str) -> None:
    if state == "here":
        await works(service)
        await service.settled()
    upstream.forget()
    wrong = []
    for value, expected in RANGES.items():
        got = await service.get(BLOB, headers={"Range": value.encode().decode("latin-1")})
        status, start, stop = expected or (200, 0, len(LAYER))
        good = got.status == status and got.clean
        if status == 206:
            good = good and got.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(LAYER)}"
        if status in (200, 206):
            good = good and got.body == LAYER[start:stop]
        if status == 416:
            good = good and got.headers["content-range"] == f"bytes */{len(LAYER)}"
        if not good:
            wrong.append((value, got.status, got.headers, len(got.body)))
    assert not wrong, repr(wrong)
    assert upstream.count("blob", "GET") == (0 if state == "here" else 1)


async def test_two_range_fields_and_conditions(service: Service) -> None:
    await works(service)
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: m\r\nRange: bytes=0-1\r\nRange: bytes=5-6\r\n\r\n".encode())
    got = await read_answer(reader)
    writer.transport.abort()
    assert (got.status, got.body == LAYER) == (200, True)
    for value, status in (
        (f'"{DIGEST}"', 206),
        (f'W/"{DIGEST}"', 200),
        ('"x"', 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
    ):
        got = await service.get(BLOB, headers={"Range": "bytes=0-1", "If-Range": value})
        assert got.status == status, value
    for value, status in (
        (f'"{DIGEST}"', 304),
        (f'W/"{DIGEST}"', 304),
        ("*", 304),
        ('"x"', 200),
        (f'"x", "{DIGEST}"', 304),
    ):
        got = await service.get(BLOB, headers={"If-None-Match": value})
        assert got.status == status, value
        assert got.clean


async def test_manifests_ignore_ranges(service: Service) -> None:
    whole = await service.get("/v2/lab/team/app/manifests/v1")
    got = await service.get("/v2/lab/team/app/manifests/v1", headers={"Range": "bytes=0-1"})
    assert (got.status, got.body) == (200, whole.body)


@pytest.mark.parametrize(
    "fields",
    [
        {"Accept": "text/html"},
        {"Accept": "application/vnd.docker.distribution.manifest.v2+json"},
        {"Accept-Encoding": "gzip, br, zstd"},
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"X-Original-URL": "/v2/lab/other/manifests/v1"},
        {"X-HTTP-Method-Override": "DELETE"},
        {"Cookie": "a=b"},
        {"Authorization": "Basic Y2xpZW50OmNhbmFyeQ=="},
        {"Cache-Control": "no-store", "Pragma": "no-cache"},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_no_field_chooses_what_is_kept(
    service: Service, upstream: ScriptedRegistry, fields: dict[str, str]
) -> None:
    """One name, one answer: what the first client says of itself is not what the next one gets."""
    image = upstream.add_image("team/app", "v1", layers=[LAYER])
    first = await service.get("/v2/lab/team/app/manifests/v1", headers=fields)
    again = await service.get("/v2/lab/team/app/manifests/v1")
    assert first.status == again.status == 200
    assert first.body == again.body == image.manifest
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "evil" not in repr(first.headers)
    assert "canary" not in repr([one.headers for one in upstream.requests])
    assert all(one.headers.get("authorization") is None for one in upstream.requests)
    assert all("evil" not in repr(one) for one in upstream.requests)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["manifests/v1", f"blobs/{DIGEST}", "blobs/uploads/", "tags/list"])
async def test_no_verb_writes(service: Service, upstream: ScriptedRegistry, method: str, path: str) -> None:
    got = await service.get(f"/v2/lab/team/app/{path}", method, {"Content-Length": "0"})
    assert got.status == 405 or (method in ("PROPFIND", "TRACE") and got.status in (400, 405))
    assert upstream.requests == []


class TestConnections:
    """How requests share a connection, and how long one may stand still."""

    async def test_pipelined_requests_are_answered_in_order(self, service: Service) -> None:
        await works(service)
        await service.settled()
        manifest = (await service.get("/v2/lab/team/app/manifests/v1")).body
        head = b"Host: m\r\n\r\n"
        text = b"".join(
            f"{line} HTTP/1.1\r\n".encode() + fields + head
            for line, fields in (
                (f"GET {BLOB}", b""),
                ("GET /v2/lab/team/app/manifests/v1", b""),
                (f"HEAD {BLOB}", b""),
                ("GET /v2/lab/x/manifests/Ü".replace("Ü", "%zz"), b""),
                (f"GET {BLOB}", b"Range: bytes=7-17\r\n"),
                (f"GET {BLOB}", b""),
            )
        )
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(text)
        answers = [await read_answer(reader, method) for method in ("GET", "GET", "HEAD", "GET", "GET", "GET")]
        writer.transport.abort()
        assert [got.status for got in answers] == [200, 200, 200, 400, 206, 200]
        assert answers[0].body == answers[5].body == LAYER
        assert answers[1].body == manifest
        assert answers[4].body == LAYER[7:18]

    async def test_pipelined_behind_a_body_that_is_cut(self, service: Service, upstream: ScriptedRegistry) -> None:
        """E8: an answer that ends early ends its connection, or the next one would land inside the blob."""
        from tests.peers import faults

        other = upstream.add_blob("team/app", noise(200_000, 9))
        upstream.fail("blob", faults.FlipBit(1))
        reader, writer = await asyncio.open_connection(*service.address)
        text = f"GET /v2/lab/team/app/blobs/{other} HTTP/1.1\r\nHost: m\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n"
        writer.write(text.encode())
        got = await read_answer(reader)
        assert (got.status, got.clean) == (200, False)
        assert b"HTTP/1.1" not in got.body
        assert len(got.body) <= 200_000 - 65_536
        assert await reader.read() == b""
        writer.transport.abort()

    async def test_http_1_0(self, service: Service, upstream: ScriptedRegistry) -> None:
        from tests.peers import faults

        for fields in (b"", b"Connection: keep-alive\r\n"):
            reader, writer = await asyncio.open_connection(*service.address)
            writer.write(f"GET {BLOB} HTTP/1.0\r\n".encode() + fields + b"\r\n")
            got = await read_answer(reader)
            assert (got.status, got.body == LAYER, got.clean) == (200, True, True)
            assert "transfer-encoding" not in got.headers
            if not fields:
                assert await reader.read() == b""
            writer.transport.abort()
        # Of unknown length and wrong: nothing delimits it but the end of the connection, so that must not look clean.
        other = upstream.add_blob("team/app", noise(200_000, 9))
        upstream.fail("blob", faults.NoLength(at=150_000))
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(f"GET /v2/lab/team/app/blobs/{other} HTTP/1.0\r\n\r\n".encode())
        assert not (await read_answer(reader)).clean
        writer.transport.abort()

    async def test_connection_close(self, service: Service) -> None:
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(f"GET {BLOB} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n".encode())
        got = await read_answer(reader)
        assert (got.body == LAYER, got.headers["connection"]) == (True, "close")
        assert await reader.read() == b""
        writer.transport.abort()

    async def test_an_expected_continue(self, service: Service) -> None:
        """A GET that asks for one is answered; nothing waits for a body."""
        got = await service.get("/v2/", headers={"Expect": "100-continue"})
        assert got.status in (200, 400, 417)

    @pytest.mark.parametrize("text", [b"", b"GET /v2/ HTTP/1.1\r\n", b"GET /v2/ HTTP/1.1\r\nHost: m\r\nX: "])
    async def test_slow_heads_are_ended(self, service: Service, text: bytes) -> None:
        """E6: aiohttp alone waits for ever."""
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(text)
        async with asyncio.timeout(5):
            while True:
                answer = await reader.read(100)
                if not answer:
                    break
        writer.transport.abort()

    async def test_a_head_byte_by_byte_is_ended(self, service: Service) -> None:
        reader, writer = await asyncio.open_connection(*service.address)
        closed = asyncio.create_task(reader.read())

        async def drip() -> None:
            while True:
                writer.write(b"X")
                await asyncio.sleep(0.05)

        writer.write(b"GET /v2/ HTTP/1.1\r\nX-Long: ")
        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(5):
            await closed
        dripping.cancel()
        writer.transport.abort()

    async def test_slow_heads_keep_nobody_waiting(self, service: Service) -> None:
        await works(service)
        slow = [await asyncio.open_connection(*service.address) for _ in range(200)]
        for _, writer in slow:
            writer.write(b"GET /v2/ HTTP/1.1\r\nHost: m\r\n")
        async with asyncio.timeout(5):
            await works(service)
            while service.connections.open > 1:
                await asyncio.sleep(0.02)
        for _, writer in slow:
            writer.transport.abort()

    @pytest.mark.parametrize("cold", [True, False])
    async def test_a_client_that_never_reads_is_cut(
        self, service: Service, upstream: ScriptedRegistry, cold: bool
    ) -> None:
        """E7; meanwhile the download goes on, and others have it."""
        import socket

        content = noise(12 << 20, 4)
        digest = upstream.add_blob("team/app", content)
        target = f"/v2/lab/team/app/blobs/{digest}"
        if not cold:
            assert (await service.get(target)).body == content
            await service.settled()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, service.address)
            await loop.sock_sendall(deaf, f"GET {target} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            got = await service.get(target)
            assert (got.clean, got.body == content) == (True, True)
            # The connection is cut, and then whoever serves it finds that out and writes the line.
            async with asyncio.timeout(8):
                while service.connections.open or not (left := gone(service)):
                    await asyncio.sleep(0.02)
        assert upstream.count("blob", "GET") == 1
        assert len(left) == 1
        assert left[0]["bytes"] < len(content)

    async def test_clients_that_leave_in_the_middle(self, service: Service, upstream: ScriptedRegistry) -> None:
        """None of them ends the download, and none leaves a file open."""
        import os

        content = noise(6 << 20, 4)
        digest = upstream.add_blob("team/app", content)
        target = f"/v2/lab/team/app/blobs/{digest}"
        await works(service)
        await service.settled()
        before = len(os.listdir("/proc/self/fd"))

        async def leave(after: int, reset: bool) -> None:
            import socket
            import struct

            reader, writer = await asyncio.open_connection(*service.address)
            writer.write(f"GET {target} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            await reader.readexactly(after)
            if reset:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        await asyncio.gather(*(leave(1 + number * 100_000, number % 2 == 0) for number in range(20)))
        await service.settled()
        got = await service.get(target)
        assert (got.cache, got.clean, got.body == content) == ("HIT", True, True)
        assert upstream.count("blob", "GET") == 2
        async with asyncio.timeout(5):
            while len(os.listdir("/proc/self/fd")) > before + 2:
                await asyncio.sleep(0.02)
