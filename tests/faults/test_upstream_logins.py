"""Token services and logins that misbehave: whom a client is told about it, and who never sees our password."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.invariants import broken, contents
from tests.faults.service import Service
from tests.faults.wire import Got
from tests.peers import faults
from tests.peers.images import Image, digest_of, make_image, noise
from tests.peers.scripted import BasicLogin, ScriptedRegistry, TokenLogin

pytestmark = [pytest.mark.usefixtures("hurried"), pytest.mark.timeout(30)]

USER, PASSWORD = "robot", "canary-password-7291"
LAYER = noise(90_000, 3)


PLANES = {
    "tag": "manifests/v1",
    "digest": f"manifests/{make_image(LAYER).digest}",
    "blob": f"blobs/{digest_of(LAYER)}",
    "tags": "tags/list",
}


class Peer:
    """A registry with logins, an image in it, and a service that has the password."""

    def __init__(self, upstream: ScriptedRegistry, image: Image, service: Service) -> None:
        self.upstream = upstream
        self.service = service
        self.image = image

    async def ask(self, plane: str) -> Got:
        return await self.service.get(f"/v2/lab/team/app/{PLANES[plane]}")


@pytest.fixture
async def open_peer(serve: Callable[..., Any], tmp_path: Path) -> Any:
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(
            login: TokenLogin | BasicLogin, password: str = PASSWORD, keys: Mapping[str, Any] | None = None
        ) -> Peer:
            upstream = await stack.enter_async_context(ScriptedRegistry(login=login))
            image = upstream.add_image("team/app", "v1", layers=[LAYER])
            secret = tmp_path / "password"
            secret.write_text(password)
            secret.chmod(0o600)
            credentials = {"credentials": {"username": USER, "password_file": str(secret)}} if password else {}
            service = await serve(
                {
                    "lab": {
                        "endpoints": [upstream.url],
                        "tags": {"fresh_for": "0s"},
                        **credentials,
                        **(keys or {}),
                    }
                }
            )
            return Peer(upstream, image, service)

        yield open_one


TOKENS = TokenLogin(users={USER: PASSWORD}, anonymous=False, private=["team/app"])


@dataclass(frozen=True)
class Case:
    """What the token endpoint does, and the status that a cold pull gets for it; a known tag is always STALE."""

    name: str
    fault: faults.Fault
    status: int
    times: int | None = None


def _json(**document: object) -> faults.Fault:
    return faults.Status(200, {"Content-Type": "application/json"}, json.dumps(document).encode())


CASES = (
    Case("500", faults.Status(500), 503),
    Case("429", faults.TooMany(60), 503),
    Case("closed", faults.CloseBeforeHeaders(), 503),
    Case("no headers", faults.HangHeaders(), 503),
    Case("truncated", faults.Truncate(10), 503),
    Case("stalled", faults.Stall(10), 503),
    Case("404", faults.Status(404), 502),
    Case("a page", faults.Html(), 502),
    Case("no token", _json(expires_in=300), 502),
    Case("a token that is no text", _json(token=17), 502),
    Case("a token with a line break", _json(token="a\r\nX-Evil: 1"), 502),
    Case("a token beyond ASCII", _json(token="tökén"), 502),
    Case("a huge token", _json(token="x" * 70_000), 502),
    Case("a list", faults.Status(200, {}, b"[]"), 502),
    Case("deep", faults.Status(200, {}, b"[" * 100_000), 502),
    Case("endless", faults.Status(200, {}, b"x" * (2 << 20)), 502),
    Case("redirect away", faults.Redirect("http://169.254.169.254/token"), 502),
    Case("redirect without end", faults.Redirect("{self}/token"), 502),
    Case("our login refused", faults.Status(401), 404),
    Case("our login forbidden", faults.Status(403), 404),
    Case("500 once", faults.Status(500), 200, times=1),
    Case("closed once", faults.CloseBeforeHeaders(), 200, times=1),
)


@pytest.mark.parametrize("plane", ["blob", "tag"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
async def test_token_service(case: Case, plane: str, open_peer: Callable[..., Any], events: list[Any]) -> None:
    peer = await open_peer(TOKENS)
    peer.upstream.fail("token", case.fault, case.times or 10**6)
    got = await peer.ask(plane)
    assert got.status == case.status, got.body[:300]
    if case.status == 200:
        assert got.cache == "MISS"
        return
    assert got.code == ("UNKNOWN" if case.status != 404 else "BLOB_UNKNOWN" if plane == "blob" else "MANIFEST_UNKNOWN")
    assert ("retry-after" in got.headers) == (case.status == 503)
    assert "www-authenticate" not in got.headers
    assert peer.upstream.count("token") <= 12
    assert peer.upstream.count(plane if plane == "blob" else "manifest") <= 3
    assert contents(peer.service.room.layout) == {}
    assert PASSWORD not in repr(events) + repr(got)


@pytest.mark.parametrize("case", [case for case in CASES if case.times is None], ids=lambda c: c.name.replace(" ", "_"))
async def test_a_known_tag_is_stale_without_a_login(
    case: Case, open_peer: Callable[..., Any], events: list[Any]
) -> None:
    peer = await open_peer(TOKENS)
    assert (await peer.ask("tag")).cache == "MISS"
    await peer.service.room.clients._tokens.close()
    peer.upstream.revoke_tokens()
    peer.upstream.fail("token", case.fault)
    got = await peer.ask("tag")
    assert (got.status, got.cache, got.body) == (200, "STALE", peer.image.manifest)
    assert "warning" in got.headers
    assert PASSWORD not in repr(events) + repr(got.headers)
    assert broken(peer.service.room.layout) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"expires_in": None},
        {"expires_in": 0},
        {"expires_in": -5},
        {"expires_in": 10**30},
        {"expires_in": "soon"},
        {"field": "access_token"},
        {"jwt": True, "expires_in": 10**6},
    ],
    ids=str,
)
async def test_odd_lifetimes_of_tokens(open_peer: Callable[..., Any], answer: dict[str, Any]) -> None:
    given = {"expires_in": 300, **answer}
    peer = await open_peer(TokenLogin(users={USER: PASSWORD}, anonymous=False, private=["team/app"], **given))
    for plane in ("tag", "digest", "blob", "tags", "tag"):
        assert (await peer.ask(plane)).status == 200
    assert peer.upstream.count("token") == 1


async def test_a_token_that_ends_early_is_renewed_once_and_nobody_notices(open_peer: Callable[..., Any]) -> None:
    peer = await open_peer(TOKENS)
    assert (await peer.ask("tag")).status == 200
    peer.upstream.revoke_tokens()
    got = await peer.ask("blob")
    assert (got.status, got.clean) == (200, True)
    assert peer.upstream.count("token") == 2
    assert [one.status for one in peer.upstream.seen("blob")] == [401, 200]


async def test_a_download_outlives_its_token(open_peer: Callable[..., Any]) -> None:
    peer = await open_peer(TOKENS)
    assert (await peer.ask("tag")).status == 200
    peer.upstream.fail("blob", faults.Stall(20_000), 1)
    peer.upstream._tokens = {
        token: (user, scopes, peer.service.connections._loop.time() + 0.2)
        for token, (user, scopes, _) in peer.upstream._tokens.items()
    }
    got = await peer.ask("blob")
    assert (got.status, got.clean, got.body == LAYER) == (200, True, True)


async def test_tokens_that_are_never_accepted_are_asked_for_once_a_question(open_peer: Callable[..., Any]) -> None:
    peer = await open_peer(TOKENS)
    peer.upstream.fail("blob", faults.Challenge(('Bearer realm="{self}/token",service="scripted"',)))
    got = await peer.ask("blob")
    assert (got.status, got.code) == (404, "BLOB_UNKNOWN")
    assert peer.upstream.count("blob") <= 2
    assert peer.upstream.count("token") <= 2


async def test_a_repository_that_our_login_may_not_have_is_absent(open_peer: Callable[..., Any]) -> None:
    login = TokenLogin(users={USER: PASSWORD}, anonymous=False, denied=["team/app"], refuse_unknown=True)
    peer = await open_peer(login)
    for plane, code in (("tag", "MANIFEST_UNKNOWN"), ("blob", "BLOB_UNKNOWN"), ("tags", "NAME_UNKNOWN")):
        got = await peer.ask(plane)
        assert (got.status, got.code) == (404, code)
        assert "www-authenticate" not in got.headers


async def test_a_repository_taken_from_us_is_believed_and_not_served_stale(open_peer: Callable[..., Any]) -> None:
    peer = await open_peer(TOKENS)
    assert (await peer.ask("tag")).status == 200
    peer.upstream.fail("manifest", faults.Status(403))
    got = await peer.ask("tag")
    assert (got.status, got.code) == (404, "MANIFEST_UNKNOWN")


class TestWrongPassword:
    """What upstream refuses as such says nothing about what exists, and is not asked again with every pull."""

    @pytest.mark.parametrize("login", [TOKENS, BasicLogin({USER: PASSWORD})], ids=["token", "basic"])
    async def test_cold(self, open_peer: Callable[..., Any], login: Any) -> None:
        peer = await open_peer(login, "wrong-canary-5513")
        words = {
            "tag": "MANIFEST_UNKNOWN",
            "digest": "MANIFEST_UNKNOWN",
            "blob": "BLOB_UNKNOWN",
            "tags": "NAME_UNKNOWN",
        }
        for plane, code in words.items():
            got = await peer.ask(plane)
            assert (got.status, got.code) == (404, code), plane
            assert "www-authenticate" not in got.headers
            assert "canary" not in repr(got)
        assert peer.upstream.count("token") <= 2
        assert len(peer.upstream.requests) <= 4

    async def test_a_signature_tag_is_absent(self, open_peer: Callable[..., Any]) -> None:
        peer = await open_peer(TOKENS, "wrong")
        got = await peer.service.get(f"/v2/lab/team/app/manifests/sha256-{'a' * 64}.sig")
        assert (got.status, got.code) == (404, "MANIFEST_UNKNOWN")


class TestRealms:
    """CVE-2026-33540: a challenge says where to log in, and we decide whether we do."""

    @pytest.mark.parametrize(
        "realm",
        [
            "http://127.0.0.1:{other}/token",
            "http://localhost:{port}/token",
            "http://evil.example/token",
            "https://evil.example/token",
            "http://169.254.169.254/token",
            "http://user:pass@127.0.0.1:{port}/token",
            "ftp://127.0.0.1:{port}/token",
            "//127.0.0.1:{other}/token",
            "http://127.0.0.1.evil.example:{port}/token",
            "http://127.0.0.1:{port}@evil.example/token",
            "\\\\127.0.0.1:{other}\\token",
        ],
    )
    async def test_elsewhere_sees_no_login(self, open_peer: Callable[..., Any], realm: str) -> None:
        async with ScriptedRegistry() as other:
            peer = await open_peer(TOKENS)
            where = realm.format(other=other.port, port=peer.upstream.port)
            challenge = f'Bearer realm="{where}",service="scripted"'
            for kind in ("manifest", "blob", "tags", "ping"):
                peer.upstream.fail(kind, faults.Challenge((challenge,)))
            for plane in ("tag", "blob"):
                got = await peer.ask(plane)
                assert got.status in (502, 503, 404), got.body
                assert PASSWORD not in repr(got)
            assert other.requests == []

    async def test_a_second_origin_never_sees_a_login(self, serve: Callable[..., Any], tmp_path: Path) -> None:
        secret = tmp_path / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        async with ScriptedRegistry() as other, ScriptedRegistry(login=TOKENS) as upstream:
            image = upstream.add_image("team/app", "v1", layers=[LAYER])
            other.add_image("team/app", "v1", layers=[LAYER])
            service = await serve(
                {
                    "lab": {
                        "endpoints": [upstream.url],
                        "credentials": {"username": USER, "password_file": str(secret)},
                    }
                }
            )
            for kind in ("manifest", "blob", "tags"):
                upstream.fail(kind, faults.Redirect(f"{other.url}{{path}}"))
            for path in (f"manifests/{image.digest}", "manifests/v1", "tags/list"):
                assert (await service.get(f"/v2/lab/team/app/{path}")).status == 200
            assert other.requests
            for one in other.requests:
                assert "authorization" not in one.headers
                assert "cookie" not in one.headers
