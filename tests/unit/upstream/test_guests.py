"""Hosts that redirect the API itself to a registry that wants a token of its own."""

import base64
import contextlib
from urllib.parse import parse_qs

import pytest

from mirror.errors import UpstreamDenied, UpstreamInvalid, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.upstream import guests
from tests.peers.faults import Challenge, Redirect, Status
from tests.peers.images import digest_of, noise
from tests.peers.scripted import BasicLogin, ScriptedRegistry, TokenLogin
from tests.peers.settings import client_of

BLOB = noise(100_000)


@contextlib.asynccontextmanager
async def leading(login, **more):
    """Yield a vanity host, and the registry behind it that it redirects every question for content to."""
    async with ScriptedRegistry() as vanity, ScriptedRegistry(login=login, **more) as behind:
        behind.add_image("team/app", "v1")
        behind.add_image("team/other", "v1", seed=1)
        behind.add_blob("team/app", BLOB)
        for kind in ("manifest", "blob", "tags", "referrers"):
            vanity.fail(kind, Redirect(f"{behind.url}{{path}}"))
        yield vanity, behind


async def manifest(client, read_whole):
    return (await client.get_manifest("team/app", "v1")).digest


async def head(client, read_whole):
    return await client.head_manifest("team/app", "v1")


async def blob(client, read_whole):
    digest = Digest.parse(digest_of(BLOB))
    assert await read_whole(await client.get_blob("team/app", digest)) == BLOB
    assert await read_whole(await client.get_blob("team/app", digest, 500)) == BLOB[500:]
    return True


async def tags(client, read_whole):
    assert await client.list_tags("team/app") == ["v1"]
    return True


@pytest.mark.parametrize("ask", [manifest, head, blob, tags])
@pytest.mark.parametrize("more", [{}, {"cdn": True}], ids=["own bytes", "with a CDN"])
async def test_whoever_leads_to_a_registry_is_followed_as_nobody(read_whole, tmp_path, ask, more):
    """docker-registry-proxy#158 (lscr.io, cr.fluentbit.io), scarf-sh/gateway#35 (cr.l5d.io)."""
    (tmp_path / "password").write_text("p:w")
    login = {"username": "robot", "password_file": tmp_path / "password"}
    async with leading(TokenLogin(), **more) as (vanity, behind):
        async with client_of(vanity.url, credentials=login) as client:
            assert await ask(client, read_whole)
            assert await ask(client, read_whole)
        assert behind.count("token") == 1
        assert [one.status for one in behind.requests].count(401) == 1  # what it wants is known from then on
        said = base64.b64encode(b"robot:p:w").decode()
        assert all(said not in one.headers.get("authorization", "") for one in behind.requests)
        assert all("authorization" not in one.headers for one in behind.seen("cdn"))


async def test_the_scope_is_of_the_name_that_the_registry_knows(read_whole):
    async with leading(TokenLogin()) as (vanity, behind):
        vanity.heal()
        vanity.fail("manifest", Redirect(f"{behind.url}/v2/team/other/manifests/v1"))
        async with client_of(vanity.url) as client:
            assert await client.get_manifest("linkerd/proxy", "v1")
        assert parse_qs(behind.seen("token")[0].query)["scope"] == ["repository:team/other:pull"]


async def test_a_token_that_is_over_is_renewed(read_whole):
    async with leading(TokenLogin()) as (vanity, behind), client_of(vanity.url) as client:
        assert await client.get_manifest("team/app", "v1")
        behind.revoke_tokens()
        assert await client.get_manifest("team/app", "v1")
        assert behind.count("token") == 2


@pytest.mark.parametrize(
    ("login", "fault", "error"),
    [
        (BasicLogin({"robot": "x"}), None, UpstreamDenied),
        (TokenLogin(denied=["team/app"]), None, UpstreamDenied),
        (TokenLogin(denied=["team/app"], refuse_unknown=True), None, UpstreamDenied),  # ghcr.io
        (TokenLogin(anonymous=False), None, UpstreamDenied),
        (TokenLogin(realm="https://elsewhere.example/token"), None, UpstreamInvalid),
        (TokenLogin(realm="http://127.0.0.1:1/token"), None, UpstreamInvalid),
        (TokenLogin(body=lambda _: b"<html>"), None, UpstreamInvalid),
        (None, Status(401), UpstreamDenied),
        (None, Status(403), UpstreamDenied),
        (None, Challenge(("Negotiate",)), UpstreamDenied),
    ],
)
async def test_a_registry_that_gives_nobody_anything_is_named(impatient, login, fault, error):
    async with leading(login) as (vanity, behind):
        if fault is not None:
            behind.fail("manifest", fault)
        async with client_of(vanity.url) as client:
            with pytest.raises(error) as refused:
                await client.get_manifest("team/app", "v1")
        assert behind.origin in refused.value.what
        assert f"name {behind.origin} under `endpoints`" in refused.value.remedy


@pytest.mark.parametrize(
    "location",
    [
        "{behind}/v2/team/app/blobs/x?X-Amz-Signature=abc",
        "{behind}/bucket/data?sig=abc",
        "{behind}/bucket/v2/team/app/manifests/v1",
        "{behind}/v2/team/app/uploads/x",
    ],
)
@pytest.mark.parametrize("status", [401, 403])
async def test_a_signed_address_is_no_registry(impatient, location, status):
    """Guards against taking the end of a signature for a login: another is asked for, as before."""
    async with leading(None) as (vanity, behind):
        behind.fail("any", Status(status))
        vanity.heal()
        vanity.fail("manifest", Redirect(location.format(behind=behind.url)))
        async with client_of(vanity.url) as client:
            with pytest.raises(UpstreamUnavailable, match="signed for it"):
                await client.get_manifest("team/app", "v1")
        assert behind.count("token") == 0


async def test_as_many_places_are_remembered_as_are_bounded(monkeypatch):
    monkeypatch.setattr(guests, "_MOST_PLACES", 2)
    async with contextlib.AsyncExitStack() as stack:
        vanity = await stack.enter_async_context(ScriptedRegistry())
        places = [await stack.enter_async_context(ScriptedRegistry(login=TokenLogin())) for _ in range(3)]
        client = await stack.enter_async_context(client_of(vanity.url))
        for place in (*places, places[0]):
            place.add_image("team/app", "v1")
            vanity.heal()
            vanity.fail("manifest", Redirect(f"{place.url}{{path}}"))
            await client.get_manifest("team/app", "v1")
        # The first was forgotten and asks again; its token is still good.
        assert [one.status for one in places[0].seen("manifest")] == [401, 200, 401, 200]
        assert places[0].count("token") == 1
