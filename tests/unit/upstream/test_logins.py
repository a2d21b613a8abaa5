"""Logins against a registry that asks for them."""

import asyncio
import base64
import time

import pytest

from mirror.errors import (
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamLoginRefused,
    UpstreamUnavailable,
    without_origins,
)
from mirror.oci.digest import Digest
from mirror.upstream.factory import open_upstreams
from tests.peers.faults import Challenge, HangHeaders, Redirect, Status
from tests.peers.images import noise
from tests.peers.scripted import BasicLogin, ScriptedRegistry, TokenLogin
from tests.peers.settings import client_of, config, upstream

USERS = {"robot": "p:w"}


def entry(user, password, **more):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode(), **more}


def registry_with(login, **more):
    registry = ScriptedRegistry(login=login, **more)
    registry.add_image("team/app", "v1")
    registry.add_image("team/other", "v1", seed=1)
    return registry


@pytest.fixture
def credentials(tmp_path):
    path = tmp_path / "password"
    path.write_text("p:w\n")
    return {"username": "robot", "password_file": path}


def state(client):
    return client.health()[0].credential


async def test_anonymous_tokens_are_one_per_repository():
    async with registry_with(TokenLogin()) as registry, client_of(registry.url) as client:
        for _ in range(3):
            await client.get_manifest("team/app", "v1")
        assert registry.count("token") == 1
        assert [one.status for one in registry.seen("manifest")] == [401, 200, 200, 200]
        await client.get_manifest("team/other", "v1")
        assert registry.count("token") == 2
        assert registry.count("manifest") == 5  # the challenge is known: no second 401
        assert "authorization" not in registry.seen("token")[0].headers
        assert state(client) == "none"


async def test_a_user_gets_private_content(credentials):
    login = TokenLogin(users=USERS, private=["team/app"])
    async with registry_with(login) as registry:
        async with client_of(registry.url) as client:
            with pytest.raises(UpstreamDenied, match="needs a login"):
                await client.get_manifest("team/app", "v1")
        async with client_of(registry.url, credentials=credentials) as client:
            await client.get_manifest("team/app", "v1")
            assert state(client) == "ok"


async def test_fifty_requests_share_one_token():
    async with registry_with(TokenLogin()) as registry, client_of(registry.url) as client:
        await asyncio.gather(*(client.get_manifest("team/app", "v1") for _ in range(50)))
        assert registry.count("token") == 1


async def test_a_revoked_token_is_renewed_once(read_whole):
    async with registry_with(TokenLogin()) as registry, client_of(registry.url) as client:
        content = noise(100_000)
        digest = Digest.parse(registry.add_blob("team/app", content))
        assert await read_whole(await client.get_blob("team/app", digest)) == content
        registry.revoke_tokens()
        assert await read_whole(await client.get_blob("team/app", digest, 500)) == content[500:]
        assert registry.count("token") == 2


async def test_a_401_loop_ends_after_one_renewal(impatient):
    async with registry_with(TokenLogin()) as registry, client_of(registry.url) as client:
        registry.fail("manifest", Challenge(('Bearer realm="{self}/token",service="x"',)))
        with pytest.raises(UpstreamDenied):
            await client.get_manifest("team/app", "v1")
        assert registry.count("manifest") == 2
        assert registry.count("token") == 1


async def test_a_refused_login_is_remembered_and_a_mended_one_tried_at_once(credentials, impatient):
    async with (
        registry_with(TokenLogin(users={"robot": "new"})) as registry,
        client_of(registry.url, credentials=credentials) as client,
    ):
        with pytest.raises(UpstreamLoginRefused) as refused:
            await client.get_manifest("team/app", "v1")
        assert str(credentials["password_file"]) in refused.value.remedy
        assert state(client) == "refused"
        seen = len(registry.requests)
        with pytest.raises(UpstreamLoginRefused):
            await client.head_manifest("team/other", "v1")
        assert len(registry.requests) == seen
        credentials["password_file"].write_text("new")
        deadline = time.monotonic() + 10
        while True:  # the file is looked at once a second
            try:
                await client.get_manifest("team/app", "v1")
                break
            except UpstreamLoginRefused:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)
        assert state(client) == "ok"


async def test_a_working_login_without_the_right_is_denied(credentials):
    login = TokenLogin(users=USERS, denied=["team/app"])
    async with registry_with(login) as registry, client_of(registry.url, credentials=credentials) as client:
        with pytest.raises(UpstreamDenied, match="our login may not pull it"):
            await client.get_manifest("team/app", "v1")
        assert state(client) == "ok"
        await client.get_manifest("team/other", "v1")


@pytest.mark.parametrize("with_login", [False, True])
async def test_a_token_service_that_refuses_what_is_missing(credentials, with_login):
    """ghcr.io."""
    login = TokenLogin(users=USERS, denied=["team/gone"], refuse_unknown=True)
    more = {"credentials": credentials} if with_login else {}
    async with registry_with(login) as registry, client_of(registry.url, **more) as client:
        with pytest.raises(UpstreamDenied):
            await client.get_manifest("team/gone", "v1")
        await client.get_manifest("team/app", "v1")
        assert state(client) == ("ok" if with_login else "none")


async def test_basic(credentials):
    async with registry_with(BasicLogin(USERS)) as registry:
        async with client_of(registry.url, credentials=credentials) as client:
            await client.get_manifest("team/app", "v1")
            await client.get_manifest("team/app", "v1")
            assert [one.status for one in registry.seen("manifest")] == [401, 200, 200]
        async with client_of(registry.url) as client:
            with pytest.raises(UpstreamDenied):
                await client.get_manifest("team/app", "v1")


async def test_basic_refused_as_such(credentials):
    async with (
        registry_with(BasicLogin({"robot": "other"})) as registry,
        client_of(registry.url, credentials=credentials) as client,
    ):
        with pytest.raises(UpstreamLoginRefused):
            await client.get_manifest("team/app", "v1")
        assert registry.count("ping") == 1
        seen = len(registry.requests)
        with pytest.raises(UpstreamLoginRefused):
            await client.get_manifest("team/app", "v1")
        assert len(registry.requests) == seen


async def test_basic_stays_refused_until_an_answer_says_otherwise(credentials, monkeypatch):
    """Whoever looks while it is tried again must not be told that it works."""
    monkeypatch.setattr("mirror.upstream.login.REFUSED_SECONDS", 0.0)
    async with (
        registry_with(BasicLogin({"robot": "other"})) as registry,
        client_of(registry.url, credentials=credentials) as client,
    ):
        assert state(client) == "unknown"
        for _ in range(2):
            registry.fail("manifest", HangHeaders(0.1), times=2)
            asking = asyncio.create_task(client.get_manifest("team/app", "v1"))
            told = set()
            while not asking.done():
                told.add(state(client))
                await asyncio.sleep(0.01)
            with pytest.raises(UpstreamLoginRefused):
                await asking
            assert state(client) == "refused"
            assert told <= {"unknown", "refused"}
        registry.login.users["robot"] = "p:w"
        await client.get_manifest("team/app", "v1")
        assert state(client) == "ok"


async def test_basic_refused_for_one_repository(credentials):
    async with (
        registry_with(BasicLogin(USERS)) as registry,
        client_of(registry.url, credentials=credentials) as client,
    ):
        registry.fail("manifest", Challenge(('Basic realm="x"',)), times=2)
        with pytest.raises(UpstreamDenied):
            await client.get_manifest("team/app", "v1")
        await client.get_manifest("team/app", "v1")


@pytest.mark.parametrize(
    "challenges",
    [
        ('Basic realm="registry"', "{bearer}"),
        ('Basic realm="registry", {bearer}',),
        ('Basic realm="a registry, or Bearer realm=\\"x\\"", {bearer}',),
        ("Negotiate", 'Basic realm="registry"', "{bearer}"),
        ("Basic", "{bearer}"),
        ('Bearer realm="https://elsewhere.example/token"', "{bearer}"),
        ('Bearer realm="{self}/nothing",service="x"', 'Basic realm="registry"', "{bearer}"),
        ("{bearer}", 'Basic realm="registry"'),  # worked before
    ],
)
async def test_a_token_is_asked_for_whatever_is_offered_before(credentials, challenges):
    """go-containerregistry#1747, prowler#12691: a registry that offers Basic as well, and takes the token alone."""
    login = TokenLogin(users=USERS, anonymous=False, challenges=challenges)
    async with registry_with(login) as registry, client_of(registry.url, credentials=credentials) as client:
        await client.get_manifest("team/app", "v1")
        await client.get_manifest("team/app", "v1")
        await client.get_manifest("team/other", "v1")
        assert state(client) == "ok"
        assert [one.status for one in registry.seen("manifest")][:3] == [401, 200, 200]
        assert all("Basic" not in one.headers.get("authorization", "") for one in registry.seen("manifest"))


@pytest.mark.parametrize("order", [1, -1], ids=["Bearer first", "Basic first, as it worked before"])
@pytest.mark.parametrize(
    ("realm", "service"),
    [
        ("https://elsewhere.example/token", None),
        ("{self}/token", Status(404)),
        ("{self}/token", Status(401)),
        ("{self}/token", Status(503)),
        ("{self}/token", Status(200, body=b"<html>")),
        ("{self}/token", Status(200, body=b'{"token": "not-taken"}')),
    ],
)
async def test_basic_is_tried_where_no_token_helps(credentials, impatient, realm, service, order):
    lines = (f'Bearer realm="{realm}",service="x"', 'Basic realm="registry"')[::order]
    async with registry_with(BasicLogin(USERS, lines)) as registry:
        if service is not None:
            registry.fail("token", service)
        async with client_of(registry.url, credentials=credentials) as client:
            await client.get_manifest("team/app", "v1")
            asked = registry.count("token")
            await client.get_manifest("team/other", "v1")
            assert registry.count("token") == asked  # what worked is what is sent first from then on
            assert state(client) == "ok"


async def test_a_token_that_is_not_for_a_repository_is_no_refused_login(credentials):
    """The registry offers Basic and takes the token alone; its 401 to Basic says nothing of the login."""
    login = TokenLogin(users=USERS, denied=["team/app"], challenges=('Basic realm="registry"', "{bearer}"))
    async with registry_with(login) as registry, client_of(registry.url, credentials=credentials) as client:
        for _ in range(2):
            with pytest.raises(UpstreamDenied):
                await client.get_manifest("team/app", "v1")
        await client.get_manifest("team/other", "v1")
        assert state(client) == "ok"
        registry.forget()
        with pytest.raises(UpstreamDenied):
            await client.get_manifest("team/app", "v1")
        # Once a token was taken, nothing else is tried in its place.
        assert all("Basic" not in one.headers.get("authorization", "") for one in registry.seen("manifest"))


@pytest.mark.parametrize(
    ("service", "error", "match"),
    [
        (Status(401), UpstreamLoginRefused, "refuses our login"),  # as before
        (Status(503), UpstreamUnavailable, "token service"),
        (Status(200, body=b"<html>"), UpstreamInvalid, "does not answer in JSON"),
    ],
)
async def test_where_every_way_fails_the_first_is_told(credentials, impatient, service, error, match):
    login = BasicLogin({"robot": "other"}, ('Basic realm="registry"', 'Bearer realm="{self}/token"'))
    async with registry_with(login) as registry, client_of(registry.url, credentials=credentials) as client:
        registry.fail("token", service)
        with pytest.raises(error, match=match):
            await client.get_manifest("team/app", "v1")


async def test_where_only_ping_says_how():
    """gcr.io."""
    async with registry_with(TokenLogin(ping_challenge_only=True)) as registry, client_of(registry.url) as client:
        await client.get_manifest("team/app", "v1")
        assert registry.count("ping") == 1


@pytest.mark.parametrize(("jwt", "expires_in"), [(True, None), (False, 300)])
async def test_how_long_a_token_is_used(jwt, expires_in):
    login = TokenLogin(jwt=jwt, expires_in=expires_in, lifetime=3600)
    async with registry_with(login) as registry, client_of(registry.url) as client:
        await client.get_manifest("team/app", "v1")
        await client.get_manifest("team/app", "v1")
        assert registry.count("token") == 1


async def test_an_identity_token(pull_secret):
    login = TokenLogin(refresh_tokens=["refresh-me"], anonymous=False)
    async with registry_with(login) as registry:
        path = pull_secret({registry.host: {**entry("0000", ""), "identitytoken": "refresh-me"}})
        async with client_of(registry.url, general={"pull_secrets": (path,)}) as client:
            await client.get_manifest("team/app", "v1")
            (token,) = registry.seen("token")
            assert token.method == "POST"
            assert b"refresh-me" in token.body
            assert "authorization" not in token.headers


@pytest.mark.parametrize("status", [400, 401, 404, 405])
async def test_an_identity_token_where_post_is_unsupported(pull_secret, status):
    login = TokenLogin(users={"0000": "refresh-me"}, post=status, anonymous=False)
    async with registry_with(login) as registry:
        path = pull_secret({registry.host: {**entry("0000", "x"), "identitytoken": "refresh-me"}})
        async with client_of(registry.url, general={"pull_secrets": (path,)}) as client:
            await client.get_manifest("team/app", "v1")
            assert [one.method for one in registry.seen("token")] == ["POST", "GET"]


async def test_credentials_by_repository(pull_secret):
    login = TokenLogin(users={"one": "1", "two": "2"}, anonymous=False)
    async with registry_with(login) as registry:
        path = pull_secret({f"{registry.host}/team/app": entry("one", "1"), registry.host: entry("two", "2")})
        async with client_of(registry.url, general={"pull_secrets": (path,)}) as client:
            await client.get_manifest("team/app", "v1")
            await client.get_manifest("team/other", "v1")
            users = [
                base64.b64decode(one.headers["authorization"].split()[1]).decode() for one in registry.seen("token")
            ]
            assert users == ["one:1", "two:2"]
            assert await client.credential_source("team/app") == f"{path}, entry {registry.host}/team/app"


async def test_a_token_outlives_its_service(impatient):
    async with registry_with(TokenLogin()) as registry, client_of(registry.url) as client:
        await client.get_manifest("team/app", "v1")
        registry.fail("token", Status(503))
        for _ in range(8):
            with pytest.raises(UpstreamUnavailable, match="token service"):
                await client.get_manifest("team/other", "v1")
        # Its failures are its own: the registry is still asked, with the token there is.
        await client.get_manifest("team/app", "v1")
        assert client.health()[0].breaker == "closed"
        registry.heal()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"token": ""}', b'{"token": "a\\r\\nb"}', b"x" * (2 << 20)],
)
async def test_token_answers_that_make_no_sense(body):
    async with registry_with(TokenLogin(body=lambda _: body)) as registry, client_of(registry.url) as client:
        with pytest.raises(UpstreamInvalid):
            await client.get_manifest("team/app", "v1")


async def test_an_evil_realm_sees_nothing(credentials):
    async with ScriptedRegistry() as evil, registry_with(TokenLogin(users=USERS)) as registry:
        registry.login.realm = f"http://{evil.host}/token"
        async with client_of(registry.url, credentials=credentials) as client:
            with pytest.raises(UpstreamInvalid, match="sends us to log in at"):
                await client.get_manifest("team/app", "v1")
        assert evil.connections == 0
        assert registry.count("token") == 0


async def test_a_token_service_on_another_port_sees_the_login_where_it_is_listed(credentials, tmp_path):
    """model-runner#1053; docker_auth and its like beside a lab registry."""
    login = TokenLogin(users=USERS, anonymous=False)
    async with registry_with(login) as service, registry_with(login) as registry:
        registry.login.realm = f"{service.url}/token"
        registry._desk = service._desk  # the registry knows the tokens of its service
        async with client_of(registry.url, credentials=credentials) as client:
            with pytest.raises(UpstreamInvalid) as refused:
                await client.get_manifest("team/app", "v1")
            assert f"list {service.host} under `auth_realms`" in refused.value.remedy
            assert service.connections == 0
        async with client_of(registry.url, credentials=credentials, auth_realms=[service.host]) as client:
            await client.get_manifest("team/app", "v1")
            assert state(client) == "ok"


async def test_a_challenge_that_was_wrong_once_is_forgotten(impatient):
    async with registry_with(TokenLogin()) as registry, client_of(registry.url) as client:
        registry.fail("manifest", Challenge(('Bearer realm="https://evil.example/token"',)), times=1)
        with pytest.raises(UpstreamInvalid):
            await client.get_manifest("team/app", "v1")
        await client.get_manifest("team/app", "v1")


async def test_a_token_service_that_moved_is_found(impatient):
    async with registry_with(TokenLogin(realm="{self}/token/old")) as registry, client_of(registry.url) as client:
        await client.get_manifest("team/app", "v1")
        registry.login.realm = "{self}/token/new"
        for _ in range(4):
            await client.get_manifest("team/app", "v1")  # the old token is still good
        registry.fail("token", Status(404), times=1)
        with pytest.raises(UpstreamInvalid):
            await client.get_manifest("team/other", "v1")
        await client.get_manifest("team/other", "v1")
        assert [one.path for one in registry.seen("token")] == ["/token/old", "/token/old", "/token/new"]


async def test_a_token_redirect_elsewhere_is_not_followed(credentials):
    async with ScriptedRegistry() as evil, registry_with(TokenLogin(users=USERS)) as registry:
        registry.fail("token", Redirect(f"http://{evil.host}/token"))
        async with client_of(registry.url, credentials=credentials) as client:
            with pytest.raises(UpstreamInvalid):
                await client.get_manifest("team/app", "v1")
        assert evil.connections == 0


async def test_a_token_redirect_at_home_is_followed(credentials):
    async with registry_with(TokenLogin(users=USERS, anonymous=False)) as registry:
        registry.fail("token", Redirect("{self}/token/v2?service=x&scope=repository:team/app:pull"), times=1)
        async with client_of(registry.url, credentials=credentials) as client:
            await client.get_manifest("team/app", "v1")
        assert registry.count("token") == 2


async def test_logins_stay_at_their_origin(credentials, read_whole):
    login = TokenLogin(users=USERS, anonymous=False)
    async with registry_with(login, cdn=True) as registry, client_of(registry.url, credentials=credentials) as client:
        content = noise(300_000)
        digest = Digest.parse(registry.add_blob("team/app", content))
        assert await read_whole(await client.get_blob("team/app", digest)) == content
        assert await read_whole(await client.get_blob("team/app", digest, 1000, 2000)) == content[1000:2000]
        for seen in registry.seen("cdn"):
            assert "authorization" not in seen.headers
            assert "cookie" not in seen.headers
        assert registry.seen("cdn")[1].headers["range"] == "bytes=1000-1999"


async def test_no_login_comes_back_from_a_detour(credentials, impatient):
    """What another origin redirects to gets no login, though it is the endpoint's own origin."""
    login = BasicLogin(USERS)
    async with ScriptedRegistry() as other, registry_with(login) as registry:
        async with client_of(registry.url, credentials=credentials) as client:
            await client.get_manifest("team/other", "v1")
            registry.fail("manifest", Redirect(f"{other.url}{{path}}"))
            other.fail("manifest", Redirect(f"{registry.url}/v2/team/other/tags/list"))
            with pytest.raises(UpstreamUnavailable):
                await client.get_manifest("team/app", "v1")
        assert "authorization" not in other.requests[0].headers
        assert registry.count("tags") > 0
        assert all("authorization" not in one.headers for one in registry.seen("tags"))


async def test_a_redirect_at_home_keeps_the_login(credentials):
    async with (
        registry_with(BasicLogin(USERS)) as registry,
        client_of(registry.url, credentials=credentials) as client,
    ):
        await client.get_manifest("team/other", "v1")
        registry.fail("manifest", Redirect("/v2/team/other/manifests/v1"), times=1)
        assert await client.get_manifest("team/app", "v1")


async def test_no_cookies_are_kept():
    async with ScriptedRegistry(extra_headers={"Set-Cookie": "session=1; Path=/"}) as registry:
        registry.add_image("team/app", "v1")
        async with client_of(registry.url) as client:
            await client.get_manifest("team/app", "v1")
            await client.get_manifest("team/app", "v1")
        assert all("cookie" not in one.headers for one in registry.requests)


async def test_probe_and_health(credentials):
    async with registry_with(TokenLogin(users=USERS)) as registry:
        async with client_of(registry.url, credentials=credentials) as client:
            (result,) = await client.probe()
            assert (result.ok, result.what) == (True, "it answers, and our login works")
            assert str(credentials["password_file"]) in result.credential
        credentials["password_file"].write_text("wrong")
        async with client_of(registry.url, credentials=credentials) as client:
            (result,) = await client.probe()
            assert not result.ok
            assert "refuses our login" in result.what
            assert "renew it" in result.remedy
        async with client_of(registry.url) as client:
            (result,) = await client.probe()
            assert (result.ok, result.credential) == (True, "")
    async with client_of(registry.url) as client:
        (result,) = await client.probe()
        assert not result.ok
        assert "refuses connections" in result.what
        assert client.health()[0].last_error


@pytest.mark.parametrize("name", ["peer", "127.0.0.1", "127.0.0.1:1", "https://peer/v2/"])
@pytest.mark.parametrize("login", [BasicLogin(USERS), TokenLogin(users=USERS, private=["team/app"])])
async def test_an_entry_that_is_not_named_after_the_endpoint_is_said_and_helps_once_it_is(pull_secret, name, login):
    async with registry_with(login) as registry:
        host = registry.url.removeprefix("http://")
        general = {"pull_secrets": [pull_secret({"other.lab": entry("x", "y"), name: entry("robot", "p:w")})]}
        async with client_of(registry.url, general=general) as client:
            with pytest.raises(UpstreamDenied) as caught:
                await client.get_manifest("team/app", "v1")
            assert caught.value.remedy == (
                f"pull_secrets has an entry for {name}, but the endpoint is {registry.url}: "
                "name it after that host, if meant for it"
            )
            assert host not in without_origins(str(caught.value))  # what clients are told
            (result,) = await client.probe()
            if isinstance(login, BasicLogin):
                assert (result.ok, result.remedy) == (False, caught.value.remedy)
        pull_secret({host: entry("robot", "p:w")})
        async with client_of(registry.url, general=general) as client:
            await client.get_manifest("team/app", "v1")
            (result,) = await client.probe()
            assert result.ok


async def test_an_entry_that_another_upstream_uses_is_no_misnamed_one(pull_secret):
    async with registry_with(BasicLogin(USERS)) as registry, registry_with(BasicLogin(USERS)) as other:
        path = pull_secret({other.url.removeprefix("http://"): entry("robot", "p:w")})
        both = config(upstream(registry.url), upstream(other.url, name="other"), pull_secrets=[path])
        opened = open_upstreams(both, None, {})
        try:
            with pytest.raises(UpstreamDenied, match="needs a login: `credentials` of the upstream"):
                await opened["peer"].get_manifest("team/app", "v1")
        finally:
            await opened.close()


async def test_a_token_service_that_knows_no_anonymous_clients_leads_to_a_login():
    login = TokenLogin(users=USERS, anonymous=False)
    async with registry_with(login) as registry, client_of(registry.url) as client:
        with pytest.raises(UpstreamDenied, match="gives no anonymous token") as caught:
            await client.get_manifest("team/app", "v1")
        assert "needs a login" in caught.value.remedy
