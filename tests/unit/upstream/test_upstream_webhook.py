"""One POST to a webhook."""

import asyncio
import contextlib
import json
import ssl

import pytest
import structlog
import trustme

from mirror.config.notifications import Notification
from mirror.errors import ConfigurationError, UpstreamInvalid, UpstreamLoginRefused, UpstreamUnavailable
from mirror.upstream import watched, webhook
from mirror.upstream.webhook import Said, open_webhooks, parse_headers
from tests.peers import settings
from tests.peers.egress import EgressProxy
from tests.peers.faults import CloseBeforeHeaders, HangHeaders, Redirect, Status, TooMany
from tests.peers.scripted import ScriptedRegistry

TYPE = "application/vnd.docker.distribution.events.v2+json"
BODY = json.dumps({"events": [{"id": "1", "target": {"tag": "é"}}]}).encode()


@pytest.fixture
async def server():
    async with ScriptedRegistry() as peer:
        peer.fail("any", Status(204))
        yield peer


@contextlib.asynccontextmanager
async def opened(url, environ=None, header_file=None, **config):
    notification = Notification(url=url, header_file=header_file)
    found = open_webhooks(settings.config(**config), environ or {}, [notification])
    try:
        yield found[notification.key]
    finally:
        await found.close()


async def test_a_post(server):
    async with opened(f"{server.url}/hook/%2f/") as hook:
        assert await hook.post(BODY, TYPE) == Said(204, 0)
    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/hook/%2f/")
    assert request.body == BODY
    assert request.headers["content-type"] == TYPE
    assert request.headers["content-length"] == str(len(BODY))
    assert "cookie" not in request.headers
    assert "authorization" not in request.headers


@pytest.mark.parametrize("status", [200, 202, 400, 401, 404, 500, 503])
async def test_every_status_is_an_answer(server, status):
    server.heal()
    server.fail("any", Status(status, {}, b"x" * 1000))
    async with opened(server.url) as hook:
        assert await hook.post(BODY, TYPE) == Said(status, 0)
        assert await hook.post(BODY, TYPE) == Said(status, 0)
    assert len(server.requests) == 2


async def test_a_wish_to_be_left_alone(server):
    server.heal()
    server.fail("any", TooMany(120), times=1)
    server.fail("any", Status(503, {"Retry-After": "99999"}), times=1)
    async with opened(server.url) as hook:
        assert await hook.post(BODY, TYPE) == Said(429, 120)
        assert await hook.post(BODY, TYPE) == Said(503, 900)


async def test_a_redirect_is_not_followed(server):
    server.heal()
    server.fail("any", Redirect("{self}/elsewhere"))
    async with opened(f"{server.url}/hook") as hook:
        assert (await hook.post(BODY, TYPE)).status == 307
    assert [request.path for request in server.requests] == ["/hook"]


# -- no answer


async def test_nobody_there(server):
    await server.stop()
    async with opened(f"{server.url}/s3cr3t") as hook:
        with pytest.raises(UpstreamUnavailable, match=f"{server.url} refuses connections") as error:
            await hook.post(BODY, TYPE)
    assert "s3cr3t" not in str(error.value)


async def test_one_that_does_not_answer(server, monkeypatch):
    monkeypatch.setattr(webhook, "ANSWER_SECONDS", 0.2)
    server.heal()
    server.fail("any", HangHeaders(), times=1)
    server.fail("any", CloseBeforeHeaders(), times=1)
    server.fail("any", Status(200))
    async with opened(server.url) as hook:
        with pytest.raises(UpstreamUnavailable, match="sent no answer within 0 s"):
            await hook.post(BODY, TYPE)
        with pytest.raises(UpstreamUnavailable, match="closed the connection without an answer"):
            await hook.post(BODY, TYPE)
        assert (await hook.post(BODY, TYPE)).status == 200
    assert len(server.requests) == 3  # never sent twice by itself


async def test_one_that_speaks_something_else():
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.lab ESMTP\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        async with opened(f"http://127.0.0.1:{port}") as hook:
            with pytest.raises(UpstreamInvalid, match="does not answer in HTTP"):
                await hook.post(BODY, TYPE)


async def test_a_link_local_address_only_where_it_is_spelled(monkeypatch):
    async def resolve(self, host, port=0, family=0):
        return [{"hostname": host, "host": "169.254.169.254", "port": port, "family": 2, "proto": 6, "flags": 0}]

    monkeypatch.setattr("aiohttp.ThreadedResolver.resolve", resolve)
    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolve)
    async with opened("http://hook.example:1/x") as hook:
        with pytest.raises(UpstreamInvalid, match=r"http://hook.example:1 leads to a link-local.*that very address"):
            await hook.post(BODY, TYPE)


# -- TLS and proxies


def authority(tmp_path, name):
    made = trustme.CA(organization_name="Laboratory")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert(name).configure_cert(context)
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return context


async def test_a_private_authority(tmp_path):
    context = authority(tmp_path, "localhost")
    async with ScriptedRegistry(tls=context, name="localhost") as secure:
        secure.fail("any", Status(200))
        async with opened(secure.url, ca=(tmp_path / "ca.pem",)) as hook:
            assert await hook.post(BODY, TYPE) == Said(200, 0)
        async with opened(secure.url) as hook:
            with pytest.raises(UpstreamUnavailable, match=r"not trusted.*Laboratory.*`ca`"):
                await hook.post(BODY, TYPE)
        assert len(secure.requests) == 1


def test_a_ca_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ca\.pem cannot be used"):
        open_webhooks(settings.config(ca=(tmp_path / "ca.pem",)), {}, [])


async def test_the_proxy_by_connect(tmp_path):
    context = authority(tmp_path, "hook.example")
    async with ScriptedRegistry(tls=context) as secure, EgressProxy({"hook.example:443": secure.port}) as proxy:
        secure.fail("any", Status(200))
        async with opened("https://hook.example/a", proxy=proxy.url, ca=(tmp_path / "ca.pem",)) as hook:
            assert await hook.post(BODY, TYPE) == Said(200, 0)
        assert proxy.asked == [("CONNECT", "hook.example:443")]
        assert secure.requests[0].body == BODY


async def test_the_environments_proxy_and_its_exceptions(server):
    async with EgressProxy({"hook.example": server.port}) as proxy:
        environ = {"HTTP_PROXY": proxy.url, "NO_PROXY": "10.0.0.0/8"}
        for url in ("http://hook.example/a", f"{server.url}/b"):
            async with opened(url, environ) as hook:
                assert (await hook.post(BODY, TYPE)).status == 204
        assert proxy.asked == [("POST", "hook.example")]


# -- headers


async def test_headers_are_read_again_when_they_change(server, tmp_path, monkeypatch):
    monkeypatch.setattr(watched, "LOOK_SECONDS", 0)
    path = tmp_path / "headers"
    path.write_text("# of the pipeline\nAuthorization: Bearer one\n\nX-Token:two words \n")
    async with opened(server.url, header_file=path) as hook:
        await hook.post(BODY, TYPE)
        path.write_text("authorization: Bearer three\r\n")
        await hook.post(BODY, TYPE)
        with structlog.testing.capture_logs() as said:
            path.write_text("Authorization: hunter2\nnonsense hunter3")
            await hook.post(BODY, TYPE)  # keeps what it had
            path.unlink()
            await hook.post(BODY, TYPE)
    first, second, third, fourth = server.requests
    assert (first.headers["authorization"], first.headers["x-token"]) == ("Bearer one", "two words")
    assert [one.headers["authorization"] for one in (second, third, fourth)] == ["Bearer three"] * 3
    assert "x-token" not in second.headers
    assert {one["event"] for one in said} == {"secret_file_unusable"}
    assert "hunter" not in str(said)


@pytest.mark.parametrize("content", [None, "", "nonsense hunter2", "Host: hunter2"])
async def test_without_its_headers_nothing_is_sent(server, tmp_path, content):
    path = tmp_path / "headers"
    if content is not None:
        path.write_text(content)
    async with opened(server.url, header_file=path) as hook:
        with pytest.raises(UpstreamLoginRefused, match="headers ") as error:
            await hook.post(BODY, TYPE)
    assert "hunter2" not in str(error.value)
    assert server.connections == 0


@pytest.mark.parametrize(
    "line",
    [
        "Authorization",
        "Authorization:",
        ": x",
        "Author ization: x",
        " Authorization: x",
        "A: b\x00c",
        "A: b\rB: c",
        "A: bé",
        "A: x\na: y",
        "Content-Type: text/plain",
        "content-length: 0",
        "Transfer-Encoding: chunked",
        "Connection: close",
        "#nothing",
        "A: " + "x" * 9000,
        "\n".join(f"A{number}: x" for number in range(33)),
    ],
)
def test_what_is_no_header_file(line):
    with pytest.raises(ValueError):
        parse_headers(line.encode())


def test_headers_do_not_print():
    headers = parse_headers(b"Authorization: Bearer hunter2\nX: y")
    assert "hunter2" not in f"{headers} {headers!r}"
    assert {name: value.reveal() for name, value in headers.items()} == {"Authorization": "Bearer hunter2", "X": "y"}
