"""/v2/ and /token over the wire, as clients go about them; and our own client against them, as in a chain."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from mirror.config import Config
from mirror.errors import UpstreamDenied, UpstreamLoginRefused, UpstreamNotFound
from mirror.metrics import Metrics
from mirror.registry.bearer import LIFETIME
from mirror.registry.clients import Clients
from mirror.registry.gate import Gate
from mirror.upstream import open_upstreams, realm
from tests.unit.registry.access_bed import PASSWORD, Bed, header_of, rule
from tests.unit.registry.stage import Face, FakeContent, Reply, serve_face

Open = Callable[..., Awaitable[tuple[Bed, Face]]]
NAMED = "/v2/quay.io/org/app/manifests/v1"


@pytest.fixture
async def open_both(content: FakeContent, tmp_path: Path) -> AsyncIterator[Open]:
    """Serve `content` with a bed's gate."""
    made: list[tuple[Bed, Face]] = []

    async def one(*rules: Any, tls: Any = None, **more: Any) -> tuple[Bed, Face]:
        bed = Bed(tmp_path / f"bed{len(made)}", *rules, **more)
        gate = Gate(
            bed.access,
            Clients(anonymous=True),
            content.resolve,
            logins=bed.logins,
            certificates=bool(more.get("certificates")),
            external_url=more.get("external_url"),
        )
        face = await serve_face(content, tls=tls, gate=gate)
        made.append((bed, face))
        return bed, face

    yield one
    for bed, face in made:
        await face.close()
        bed.close()


def granted(bed: Bed, reply: Reply) -> dict[str, set[str]]:
    """Return what the token of an answer is good for."""
    assert reply.status == 200
    document = json.loads(reply.body)
    assert document["token"] == document["access_token"]
    assert document["expires_in"] == LIFETIME
    assert document["issued_at"].endswith("Z")
    assert reply.fields["cache-control"] == "no-store"
    return {name: set(verbs) for name, verbs in bed.signer.open(document["token"]).access.items()}


def bearer(reply: Reply) -> str:
    return f"Bearer {json.loads(reply.body)['token']}"


# -- /v2/ ----------------------------------------------------------------------------------------------------


async def test_ping_asks_for_a_login_by_one_challenge_that_leads_here(open_both: Open) -> None:
    _, face = await open_both()
    for target in ("/v2/", "/v2", "/quay.io/v2/"):
        reply = await face.ask(target)
        assert (reply.status, reply.error["code"]) == (401, "UNAUTHORIZED")
        assert reply.fields["www-authenticate"] == 'Bearer realm="http://mirror/token",service="mirror"'
    assert (await face.ask("/v2/", Authorization=header_of("alice"))).status == 200
    assert (await face.ask("/v2/", Authorization="Basic Og==")).status == 200
    token = bearer(await face.ask("/token?service=mirror"))
    assert (await face.ask("/v2/", Authorization=token)).status == 200


async def test_with_nobody_who_could_log_in_ping_asks_nothing(open_both: Open) -> None:
    bed, face = await open_both(users=None)
    assert (await face.ask("/v2/")).status == 200
    assert (await face.ask("/v2/", Authorization=header_of("stranger"))).status == 200
    identity, _ = bed.robot("ci", "apps/**")
    assert (await face.ask("/v2/")).status == 401
    bed.tokens.revoke(identity)
    assert (await face.ask("/v2/")).status == 200


async def test_the_challenge_names_the_address_that_clients_see(
    open_both: Open, server_tls: Any, client_tls: Any
) -> None:
    _, secure = await open_both(tls=server_tls)
    reply = await secure.ask("/v2/", tls=client_tls)
    assert reply.fields["www-authenticate"] == 'Bearer realm="https://mirror/token",service="mirror"'
    _, stated = await open_both(external_url="https://registry.lab:8443")
    reply = await stated.ask("/v2/")
    challenge = 'Bearer realm="https://registry.lab:8443/token",service="registry.lab:8443"'
    assert reply.fields["www-authenticate"] == challenge


async def test_a_client_without_a_usable_host_gets_a_basic_challenge(open_both: Open) -> None:
    _, face = await open_both()
    wire = await face.connect()
    wire.writer.write(b"GET /v2/ HTTP/1.0\r\n\r\n")
    assert (await wire.read()).fields["www-authenticate"] == 'Basic realm="mirror"'
    wire = await face.connect()
    wire.writer.write(b'GET /v2/ HTTP/1.1\r\nHost: a"b\r\n\r\n')
    reply = await wire.read()
    assert reply.fields.get("www-authenticate", 'Basic realm="mirror"') == 'Basic realm="mirror"'


async def test_where_nothing_is_open_the_challenge_is_basic(open_both: Open) -> None:
    _, face = await open_both(anonymous="none")
    for target in ("/v2/", NAMED, "/v2/_catalog"):
        for fields in ({}, {"Authorization": "Basic Og=="}, {"Authorization": "Bearer x"}):
            reply = await face.ask(target, **fields)
            assert (reply.status, reply.fields["www-authenticate"]) == (401, 'Basic realm="mirror"')
    assert (await face.ask("/v2/", Authorization=header_of("alice"))).status == 200


async def test_two_authorization_fields_are_400(open_both: Open) -> None:
    _, face = await open_both()
    wire = await face.connect()
    login = header_of("alice")
    wire.writer.write(
        f"GET /v2/ HTTP/1.1\r\nHost: m\r\nAuthorization: {login}\r\nAuthorization: {login}\r\n\r\n".encode()
    )
    assert (await wire.read()).status == 400


# -- asking for a token --------------------------------------------------------------------------------------


async def test_a_token_holds_what_was_asked_and_may_be_done(open_both: Open) -> None:
    bed, face = await open_both(rule("alice", "quay.io/apps/**", "pull", "push"))
    ask = "/token?service=mirror&account=alice&client_id=docker&offline_token=true&scope=repository:{}"
    login = {"Authorization": header_of("alice")}
    for scope, expected in (
        ("quay.io/apps/a:pull", {"quay.io/apps/a": {"pull"}}),
        ("quay.io/apps/a:pull,push,delete", {"quay.io/apps/a": {"pull", "push"}}),
        ("quay.io/apps/a:*", {"quay.io/apps/a": {"pull", "push"}}),
        ("quay.io/other:pull,push", {"quay.io/other": {"pull"}}),
        ("quay.io/apps/a:delete", {}),
        ("nowhere.io/a:pull", {}),
        ("quay.io/apps/a:pull&scope=repository:quay.io/b:pull", {"quay.io/apps/a": {"pull"}, "quay.io/b": {"pull"}}),
        ("quay.io/b:pull%20repository:quay.io/apps/b:push", {"quay.io/b": {"pull"}, "quay.io/apps/b": {"push"}}),
        ("quay.io/apps/a:pull&scope=repository:quay.io/apps/a:push", {"quay.io/apps/a": {"pull", "push"}}),
    ):  # fmt: skip
        assert granted(bed, await face.ask(ask.format(scope), **login)) == expected, scope
    assert granted(bed, await face.ask("/token", **login)) == {}
    assert granted(bed, await face.ask(ask.format("quay.io/apps/a:pull,push"))) == {}
    assert granted(bed, await face.ask(ask.format("quay.io/other:pull,push"))) == {"quay.io/other": {"pull"}}


async def test_the_list_of_repositories_is_a_scope_too(open_both: Open) -> None:
    bed, face = await open_both()
    ask = "/token?scope=registry:catalog:*"
    assert granted(bed, await face.ask(ask, Authorization=header_of("alice"))) == {"registry:catalog": {"*"}}
    assert granted(bed, await face.ask(ask)) == {}


async def test_a_form_does_as_well(open_both: Open) -> None:
    bed, face = await open_both()
    _, robot = bed.robot("ci", "quay.io/apps/**", "pull")
    secret = base64.b64decode(robot.partition(" ")[2]).decode().partition(":")[2]
    scope = "repository:quay.io/apps/a:pull,push"
    common = {"service": "mirror", "client_id": "containerd", "scope": scope}

    async def post(more: dict[str, str], **fields: str) -> Reply:
        body = urlencode({**common, **more})
        wire = await face.connect()
        kind = fields.pop("kind", "application/x-www-form-urlencoded")
        await wire.send("/token", "POST", Content_Type=kind, Content_Length=str(len(body)), **fields)
        wire.writer.write(body.encode())
        return await wire.read()

    expected = {"quay.io/apps/a": {"pull"}}
    assert granted(bed, await post({"grant_type": "password", "username": "alice", "password": PASSWORD})) == expected
    assert granted(bed, await post({"grant_type": "password", "username": "robot+ci", "password": secret})) == expected
    assert granted(bed, await post({"grant_type": "refresh_token", "refresh_token": secret})) == expected
    assert granted(bed, await post({}, Authorization=header_of("alice"))) == expected
    assert (await post({"grant_type": "password", "username": "alice", "password": "wrong"})).status == 401
    assert (await post({"grant_type": "refresh_token", "refresh_token": "mrt_x"})).status == 401
    assert (await post({"grant_type": "authorization_code"})).status == 400
    assert (await post({}, kind="application/json")).status == 400
    assert (await post({"x": "y" * 20_000})).status == 400
    assert (await face.ask("/token", "PUT")).status == 405


async def test_who_gets_no_token(open_both: Open) -> None:
    bed, face = await open_both(anonymous="none")
    reply = await face.ask("/token?scope=repository:quay.io/a:pull")
    assert (reply.status, reply.fields["www-authenticate"]) == (401, 'Basic realm="mirror"')
    for login in (header_of("alice", "wrong"), header_of("nobody"), "Bearer x", "Basic Og=="):
        assert (await face.ask("/token", Authorization=login)).status == 401
    token = bearer(await face.ask("/token", Authorization=header_of("alice")))
    assert (await face.ask("/token", Authorization=token)).status == 401  # no token for a token
    assert bed.logins.recall(token) is not None


async def test_a_flood_of_fields_or_scopes_is_bounded(open_both: Open) -> None:
    bed, face = await open_both()
    assert (await face.ask("/token?" + "&".join(f"a{number}=1" for number in range(100)))).status == 400
    many = "&".join(f"scope=repository:quay.io/{'a' * 100}{number}:pull" for number in range(40))
    reply = await face.ask(f"/token?{many}", Authorization=header_of("alice"))
    assert len(granted(bed, reply)) == 16
    assert len(bearer(reply)) < 8000
    assert (await face.ask("/v2/", Authorization=bearer(reply))).status == 200


async def test_no_secret_reaches_a_line_of_the_log(open_both: Open, capsys: pytest.CaptureFixture[str]) -> None:
    bed, face = await open_both()
    _, robot = bed.robot("ci", "quay.io/apps/**")
    for login in (header_of("alice"), header_of("alice", "wr0ng-secret"), robot, "Bearer abc.def"):
        await face.ask("/token?account=alice", Authorization=login)
        await face.ask(NAMED, Authorization=login)
    said = capsys.readouterr().out + str(face.lines.requests) + str(face.lines.events)
    for secret in (
        PASSWORD,
        "wr0ng",
        "mrt_",
        "abc.def",
        *[one.partition(" ")[2] for one in (header_of("alice"), robot)],
    ):
        assert secret not in said


async def test_refused_logins_and_rights_are_in_the_audit_log(
    open_both: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    _, face = await open_both(rule("alice", "quay.io/org/**", "pull"))
    await face.ask(NAMED, Authorization=header_of("mallory", "x"))
    await face.ask(NAMED, Authorization=header_of("bob"))
    await face.ask(NAMED)
    lines = [line for line in capsys.readouterr().out.splitlines() if "audit" in line]
    assert len(lines) == 2
    assert all(word in lines[0] for word in ("who=mallory", "verb=login", "result=refused", "client=127.0.0.1"))
    assert all(word in lines[1] for word in ("who=bob", "verb=pull", "name=quay.io/org/app", "result=refused"))


# -- a chain -------------------------------------------------------------------------------------------------


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that opens the edge's client of a bastion with a login for it."""
    monkeypatch.setattr(realm.Suffixes, "load", _loads_nothing)

    def open_edge(face: Face, path: str, login: str | None) -> Any:
        secret = tmp_path / "pull-secret.json"
        auths = {} if login is None else {f"127.0.0.1:{face.port}": {"auth": login.partition(" ")[2]}}
        secret.write_text(json.dumps({"auths": auths}))
        upstream = {"name": "lab", "endpoints": [f"http://127.0.0.1:{face.port}{path}"]}
        config = Config.model_validate({"upstreams": {"lab": upstream}, "pull_secrets": [str(secret)]})
        return open_upstreams(config, Metrics(upstreams=["lab"]), {})

    return open_edge


async def _loads_nothing(_self: realm.Suffixes) -> None:
    """The realm is at the endpoint itself."""


@pytest.mark.parametrize("anonymous", ["pull", "none"])
@pytest.mark.parametrize("path", ["", "/quay.io"])
@pytest.mark.parametrize("kind", ["robot", "user"])
async def test_an_edge_pulls_through_a_bastion_with_its_pull_secret(
    content: FakeContent, open_both: Open, edge: Callable[..., Any], anonymous: str, path: str, kind: str
) -> None:
    bed, face = await open_both(rule("alice", "quay.io/org/**", "pull"), anonymous=anonymous)
    digest = content.add_manifest(b"{}", "v1")
    login = bed.robot("edge", "quay.io/**", "pull")[1] if kind == "robot" else header_of("alice")
    upstreams = edge(face, path, login)
    try:
        repository = "org/app" if path else "quay.io/org/app"
        for _ in range(3):
            assert (await upstreams["lab"].get_manifest(repository, "v1")).digest == digest
        asked = [(one["method"], one["name"], one["status"]) for one in face.lines.requests]
    finally:
        await upstreams.close()
    refused = [one for one in asked if one[2] != 200]
    tokens = [one for one in asked if one[1] == "/token"]
    # One challenge and at most one token for all that follows.
    assert len(refused) == 1, asked
    assert len(tokens) == (1 if anonymous == "pull" else 0), asked


async def test_an_edge_without_the_right_is_told_what_stays_true(
    content: FakeContent, open_both: Open, edge: Callable[..., Any]
) -> None:
    bed, face = await open_both(rule("alice", "quay.io/org/**", "pull"))
    content.add_manifest(b"{}", "v1")
    for login, expected in (
        (bed.robot("edge", "quay.io/other/**", "pull")[1], UpstreamNotFound),
        (None, UpstreamDenied),
        (header_of("alice", "outdated"), UpstreamLoginRefused),
    ):
        upstreams = edge(face, "", login)
        try:
            with pytest.raises(expected):
                await upstreams["lab"].get_manifest("quay.io/org/app", "v1")
            # What anybody may pull here, the edge may too, unless its login is wrong as such.
            if expected is not UpstreamLoginRefused:
                await upstreams["lab"].get_manifest("quay.io/public/app", "v1")
        finally:
            await upstreams.close()


async def test_an_edge_s_anonymous_pull_needs_no_token(
    content: FakeContent, open_both: Open, edge: Callable[..., Any]
) -> None:
    _, face = await open_both()
    content.add_manifest(b"{}", "v1")
    upstreams = edge(face, "/quay.io", None)
    try:
        await upstreams["lab"].get_manifest("org/app", "v1")
        assert [one["status"] for one in face.lines.requests] == [200]
    finally:
        await upstreams.close()
