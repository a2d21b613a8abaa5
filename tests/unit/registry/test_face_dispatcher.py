"""The one pass over a request: methods, bodies, identity, faults of ours, and the line that is written about it."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from mirror.errors import NotYet
from mirror.oci.digest import Digest
from mirror.registry import middleware
from tests.unit.registry.stage import serve_face, until

DIGEST = Digest.of(b"x")
NAMED = "/v2/quay.io/a"


@pytest.mark.parametrize("target", ["/v2", "/v2/", "/quay.io/v2/", "/v2/?ns=quay.io"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_ping_is_answered_here(content, face, target, method):
    reply = await face.ask(target, method)
    assert reply.status == 200
    assert reply.body == (b"{}" if method == "GET" else b"")
    assert reply.fields["content-length"] == "2"
    assert reply.fields["content-type"] == "application/json"
    assert reply.fields["docker-distribution-api-version"] == "registry/2.0"
    # containers/image would look for signatures at an address that we do not have (protocol.md 4.5)
    assert "x-registry-supports-signatures" not in reply.fields
    assert content.calls == []


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize(
    "target",
    [
        f"{NAMED}/manifests/v1",
        f"{NAMED}/blobs/{DIGEST}",
        f"{NAMED}/blobs/uploads/",
        f"{NAMED}/blobs/uploads/?mount={DIGEST}&from=b",
        "/quay.io/v2/a/blobs/uploads/uuid",
        "/v2/",
        "/v2/unknown/manifests/v1",
    ],
)
async def test_what_takes_no_writes_is_405(content, face, method, target):
    reply = await face.ask(target, method)
    assert (reply.status, reply.error["code"]) == (405, "UNSUPPORTED")
    assert reply.fields["allow"] == "GET, HEAD"
    assert content.calls == []


async def test_a_short_body_of_a_push_is_taken_and_the_connection_goes_on(face):
    wire = await face.connect()
    await wire.send(f"{NAMED}/manifests/v1", "PUT", Content_Length="5")
    wire.writer.write(b"12345")
    assert (await wire.read()).status == 405
    await wire.send("/v2/")
    assert (await wire.read()).status == 200


@pytest.mark.parametrize("field", [{"Content_Length": "70000"}, {"Transfer_Encoding": "chunked"}])
async def test_a_long_body_of_a_push_is_not_read(face, field):
    wire = await face.connect()
    await wire.send(f"{NAMED}/blobs/uploads/uuid", "PATCH", **field)
    reply = await wire.read()
    assert reply.status == 405
    assert reply.fields["connection"] == "close"
    async with asyncio.timeout(3):  # aiohttp would read on for five seconds
        assert await wire.rest() == b""


async def test_a_get_with_a_body_is_400_and_the_last(face):
    wire = await face.connect()
    await wire.send("/v2/", Content_Length="5")
    wire.writer.write(b"12345GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n")
    assert (await wire.read()).status == 400
    assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://evil/v2/quay.io/a/manifests/v1", "NAME_INVALID"),
        ("/v2/quay.io/..%2f..%2fetc/manifests/v1", "NAME_INVALID"),
        ("/v2/quay.io/A/manifests/v1", "NAME_INVALID"),
        (f"{NAMED}/manifests/-v1", "MANIFEST_INVALID"),
        (f"{NAMED}/blobs/sha256:x", "DIGEST_INVALID"),
        (f"{NAMED}/manifests/v1?ns=a&ns=b", "UNSUPPORTED"),
        (f"{NAMED}/manifests/v1?ns=a/b", "NAME_INVALID"),
    ],
)
async def test_malformed_targets_reach_nothing(content, face, target, code):
    reply = await face.ask(target)
    assert (reply.status, reply.error["code"]) == (400, code)
    assert content.calls == []
    line = await face.noted()
    assert line["name"] == "(malformed)"
    assert "etc" not in str(line)


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/", "UNSUPPORTED"),
        ("/v2/_catalog", "UNSUPPORTED"),
        ("/v2/_oci/ext/discover", "UNSUPPORTED"),
        ("/favicon.ico", "UNSUPPORTED"),
        ("/metrics", "UNSUPPORTED"),
        (f"{NAMED}/blobs/uploads/uuid", "BLOB_UPLOAD_UNKNOWN"),
        (NAMED, "UNSUPPORTED"),
    ],
)
async def test_where_there_is_nothing(content, face, target, code):
    reply = await face.ask(target)
    assert (reply.status, reply.error["code"]) == (404, code)
    assert {call[0] for call in content.calls} <= {"resolve"}


async def test_without_anonymous_clients_every_name_is_401(content, open_face):
    face = await open_face(anonymous=False)
    content.add_manifest(b"{}", "v1")
    for target in ("/v2/", "/v2", "/quay.io/v2/", f"{NAMED}/manifests/v1", f"{NAMED}/blobs/{DIGEST}", "/v2/_catalog",
                   f"{NAMED}/tags/list", f"{NAMED}/referrers/{DIGEST}", "/quay.io/v2/a/manifests/v1"):  # fmt: skip
        for method in ("GET", "HEAD", "POST"):
            reply = await face.ask(target, method, Authorization="Basic eDp5")
            assert reply.status == 401, (target, method)
            assert reply.fields["www-authenticate"] == 'Basic realm="mirror"'
            assert method == "HEAD" or reply.error["code"] == "UNAUTHORIZED"
    assert content.calls == []
    for probe in ("/livez", "/readyz"):
        assert (await face.ask(probe)).status == 200


@pytest.mark.parametrize("given", ["abc", "550e8400-e29b-41d4-a716-446655440000", "x" * 64])
async def test_a_sane_request_id_is_kept(face, given):
    reply = await face.ask("/v2/unknown/manifests/x", X_Request_Id=given)
    assert reply.fields["x-request-id"] == given
    assert (await face.noted())["id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b', "é"])
async def test_any_other_request_id_is_replaced(face, given):
    seen = set()
    for count in (1, 2):
        reply = await face.ask("/v2/unknown/manifests/x", X_Request_Id=given)
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", reply.fields["x-request-id"])
        seen.add((await face.noted(count))["id"])
    assert len(seen) == 2


async def test_a_fault_of_ours_tells_the_client_nothing(content, face):
    content.trouble = RuntimeError("secret at /var/lib/mirror")
    reply = await face.ask(f"{NAMED}/manifests/v1")
    assert (reply.status, reply.error["code"]) == (500, "UNKNOWN")
    assert "secret" not in reply.body.decode()
    ((level, event, fields),) = face.lines.events
    assert (level, event) == ("error", "request_failed")
    assert fields["request"] == reply.fields["x-request-id"]
    assert fields["exc_info"] is content.trouble
    assert (await face.noted())["why"] == "RuntimeError"
    content.trouble = None
    content.resolve = None
    assert (await face.ask(f"{NAMED}/manifests/v1")).status == 500


async def test_a_log_that_fails_does_not_make_a_second_answer(content, face):
    content.add_manifest(b"{}", "v1")
    face.lines.line = None
    wire = await face.connect()
    for _ in range(2):
        await wire.send(f"{NAMED}/manifests/v1")
        assert (await wire.read()).body == b"{}"
    await until(lambda: len(face.lines.events) == 2)
    assert face.lines.events[0][1] == "request_not_noted"


async def test_the_net_below_contents_own_patience(content, face, monkeypatch):
    monkeypatch.setattr("mirror.registry.patience.LIMIT", 0.2)
    cancelled = asyncio.Event()

    async def forever():
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    content.wait = forever
    for target in (f"{NAMED}/manifests/v1", f"{NAMED}/blobs/{DIGEST}", f"{NAMED}/tags/list",
                   f"{NAMED}/referrers/{DIGEST}"):  # fmt: skip
        cancelled.clear()
        reply = await face.ask(target)
        assert (reply.status, reply.error["code"], reply.fields["retry-after"]) == (503, "UNKNOWN", "5")
        assert cancelled.is_set()
    assert (await face.ask(f"{NAMED}/blobs/{DIGEST}", "HEAD")).status == 503


async def test_what_waits_inside_for_its_own_time_is_not_mistaken_for_the_net(content, face):
    content.trouble = TimeoutError()
    assert (await face.ask(f"{NAMED}/manifests/v1")).status == 500
    content.trouble = NotYet("soon", retry_after=9)
    assert (await face.ask(f"{NAMED}/manifests/v1")).fields["retry-after"] == "9"


async def test_the_line_and_the_counters(content, face):
    content.add_manifest(b"{}", "v1", why="pinned")
    await face.ask(f"{NAMED}/manifests/v1?ns=quay.io", User_Agent="cri-o/1.32")
    line = await face.noted()
    assert 0 <= line.pop("seconds") < 10
    assert re.fullmatch(r"[0-9a-f]{8}-1", line.pop("id"))
    assert line == {
        "client": "127.0.0.1",
        "method": "GET",
        "name": "/v2/quay.io/a/manifests/v1",
        "status": 200,
        "bytes": 2,
        "digest": "",
        "cache": "HIT",
        "upstream": "quay.io",
        "why": "pinned",
        "agent": "cri-o/1.32",
    }
    text = face.metrics.render().decode()
    assert 'mirror_requests_total{cache="HIT",method="GET",route="manifest",status="200"} 1.0' in text
    assert 'mirror_sent_bytes_total{cache="HIT",upstream="quay.io"} 2.0' in text


async def test_an_error_says_in_its_line_what_the_client_was_told(face):
    await face.ask("/v2/gcr.io/a/manifests/v1")
    assert (await face.noted())["why"] == "no upstream 'gcr.io' is configured here"


async def test_the_answer_to_http_1_0(content, face):
    content.add_manifest(b"{}", "v1")
    wire = await face.connect()
    await wire.send(f"{NAMED}/manifests/v1", version="1.0", Connection="keep-alive")
    assert (await wire.read()).fields["connection"] == "keep-alive"
    await wire.send(f"{NAMED}/manifests/v1", version="1.0")
    reply = await wire.read()
    assert reply.body == b"{}"
    assert "connection" not in reply.fields
    assert await wire.rest() == b""


async def test_a_client_that_asks_for_it_is_closed(content, face):
    content.add_manifest(b"{}", "v1")
    wire = await face.connect()
    await wire.send(f"{NAMED}/manifests/v1", Connection="close")
    assert (await wire.read()).fields["connection"] == "close"
    assert await wire.rest() == b""


async def test_a_process_that_leaves_says_so_with_every_answer(content, face):
    content.add_manifest(b"{}", "v1")
    face.dispatcher.leave()
    wire = await face.connect()
    await wire.send(f"{NAMED}/manifests/v1")
    reply = await wire.read()
    assert (reply.status, reply.fields["connection"]) == (200, "close")
    assert await wire.rest() == b""
    assert (await face.ask("/readyz")).status == 503
    assert (await face.ask("/livez")).status == 200


async def test_a_process_that_is_replaced_is_ready_for_as_long_as_it_answers(content, face):
    face.dispatcher.leave(replaced=True)
    reply = await face.ask("/readyz")
    assert (reply.status, reply.fields["connection"]) == (200, "close")
    face.dispatcher.leave()
    assert (await face.ask("/readyz")).status == 503


async def test_parsed_targets_are_remembered_within_bounds(content, monkeypatch):
    monkeypatch.setattr(middleware, "_ROUTES_REMEMBERED", 3)
    monkeypatch.setattr(middleware, "_TARGET_REMEMBERED", 60)
    face = await serve_face(content)
    content.add_manifest(b"{}", *(f"v{number}" for number in range(6)))
    for number in (0, 1, 2, 3, 4, 5, 5, 0):
        reply = await face.ask(f"{NAMED}/manifests/v{number}")
        assert reply.status == 200
    await face.ask(f"{NAMED}/manifests/{'v' * 100}")
    await face.ask(f"{NAMED}/manifests/-bad")
    remembered = face.dispatcher._routes
    assert list(remembered) == [f"{NAMED}/manifests/v{number}" for number in (4, 5, 0)]
    await face.close()


async def test_answers_are_json_with_one_error(face):
    reply = await face.ask("/v2/unknown/blobs/" + str(DIGEST))
    assert list(json.loads(reply.body)) == ["errors"]
    assert set(reply.error) == {"code", "message"}
    head = await face.ask("/v2/unknown/blobs/" + str(DIGEST), "HEAD")
    assert head.fields["content-length"] == reply.fields["content-length"]


async def test_the_date_follows_the_clock(content, face, monkeypatch):
    responses = face.dispatcher._responses
    for second, date in ((0, "Thu, 01 Jan 1970 00:00:00 GMT"), (1_000_000_000.9, "Sun, 09 Sep 2001 01:46:40 GMT")):
        responses._clock = lambda second=second: second
        assert (await face.ask("/v2/")).fields["date"] == date
