"""Stand-ins for the registries that people pull from, with what is particular to each (under their own names)."""

import base64
import contextlib
import json
import socket
import ssl

import pytest
import trustme

from mirror.errors import UpstreamDenied, UpstreamLoginRefused, UpstreamNotFound
from mirror.metrics import Metrics
from mirror.oci.digest import Digest
from tests.peers.faults import Challenge, Gzip, Status
from tests.peers.images import noise
from tests.peers.scripted import BasicLogin, ScriptedRegistry, TokenLogin
from tests.peers.settings import client_of

CONTENT = noise(100_000)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def authority(tmp_path):
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@pytest.fixture
def world(authority, tmp_path, monkeypatch):
    """Every name is this host; `world(name, …)` is a registry that is called so, over TLS."""

    async def resolve(self, host, port, traces=None):
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    monkeypatch.setattr("aiohttp.TCPConnector._resolve_host", resolve)

    @contextlib.asynccontextmanager
    async def make(name, *also, auths=None, metrics=None, **more):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, *also).configure_cert(context)
        async with ScriptedRegistry(tls=context, name=name, **more) as registry:
            registry.add_image("team/app", "v1")
            registry.add_blob("team/app", CONTENT)
            general = {"ca": (tmp_path / "ca.pem",)}
            if auths:
                path = tmp_path / "pull-secret.json"
                path.write_text(json.dumps({"auths": {f"{name}:{registry.port}": auths}}))
                general["pull_secrets"] = (path,)
            async with client_of(registry.url, general=general, metrics=metrics) as client:
                yield registry, client

    return make


def login(user, password, **more):
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode(), **more}


async def test_registry_redhat_io(world, read_whole):
    """A reverse proxy over quay: its own long realm, users with a bar, blobs on quay's CDN, UNKNOWN for absent, and
    configs that come gzipped now and then."""
    user = "12345678|service"
    tokens = TokenLogin(
        users={user: "ey.a:b.c"},
        anonymous=False,
        realm="{self}/token/realms/rhcc/protocol/redhat-docker-v2/auth",
        service="docker-registry",
    )
    async with world("registry.redhat.io", login=tokens, cdn=True, auths=login(user, "ey.a:b.c")) as (registry, client):
        assert await client.head_manifest("team/app", "v1")
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        registry.fail("cdn", Gzip(), times=1)
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        registry.fail("manifest", Status(404, body=b'{"errors":[{"code":"UNKNOWN","message":"Not Found"}]}'))
        with pytest.raises(UpstreamNotFound):
            await client.get_manifest("team/app", "absent")
        assert registry.seen("token")[0].path == "/token/realms/rhcc/protocol/redhat-docker-v2/auth"
        assert all("authorization" not in one.headers for one in registry.seen("cdn"))


async def test_a_long_pull_from_registry_redhat_io(world, read_whole):
    """Tokens live five minutes: a body outlives its token, what is resumed needs a new one (oc-mirror#526)."""
    tokens = TokenLogin(users={"u": "p"}, anonymous=False, expires_in=300)
    async with world("registry.redhat.io", login=tokens, cdn=True, auths=login("u", "p")) as (registry, client):
        body = await client.get_blob("team/app", DIGEST)
        registry.revoke_tokens()
        assert await read_whole(body) == CONTENT
        assert await read_whole(await client.get_blob("team/app", DIGEST, 40_000)) == CONTENT[40_000:]
        assert registry.count("token") == 2


async def test_quay_io(world, read_whole):
    """JWTs of an hour without expires_in, realm at /v2/auth's like, signed CDN URLs, absolute Links, 401 for absent."""
    tokens = TokenLogin(jwt=True, expires_in=None, lifetime=3600, private=["team/secret"])
    quay = world("quay.io", login=tokens, cdn=True, redirect_status=302, absolute_links=True, page=2)
    async with quay as (registry, client):
        for number in range(5):
            registry.repository("team/app").tags[f"t{number}"] = "x"
        assert len(await client.list_tags("team/app")) == 6
        assert await client.head_blob("team/app", DIGEST) == len(CONTENT)
        assert registry.count("cdn") == 0  # HEAD is answered by quay itself
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        assert registry.count("token") == 1
        with pytest.raises(UpstreamDenied):
            await client.get_manifest("team/secret", "v1")


async def test_docker_hub(world):
    """The token service has another name in the same domain, HEAD carries the budget and costs nothing of it."""
    metrics = Metrics()
    async with world("registry-1.docker.io", "auth.docker.io", metrics=metrics) as (registry, client):
        registry.login = TokenLogin(realm=f"https://auth.docker.io:{registry.port}/token", service="registry.docker.io")
        registry.add_image("library/busybox", "latest")
        registry.extra_headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
        head = await client.head_manifest("library/busybox", "latest")
        assert head.got is None
        assert registry.count("manifest", "GET") == 0
        assert not client.budget_low
        assert b"mirror_docker_hub_pulls_limit 100.0" in metrics.render()
        assert b"mirror_docker_hub_pulls_remaining 76.0" in metrics.render()
        registry.extra_headers["ratelimit-remaining"] = "9;w=21600"
        await client.head_manifest("library/busybox", "latest")
        assert client.budget_low
        registry.extra_headers["ratelimit-remaining"] = "10;w=21600"
        await client.head_manifest("library/busybox", "latest")
        assert not client.budget_low
        for nonsense in ("", "x", "-1", ";w=5", "9" * 30):
            registry.extra_headers["ratelimit-remaining"] = nonsense
            await client.head_manifest("library/busybox", "latest")
        assert not client.budget_low


@pytest.mark.parametrize("auths", [None, login("user", "ghp_x")])
async def test_ghcr_io(world, auths):
    """/v2/ names an example scope; the token service itself refuses what is missing or private."""
    tokens = TokenLogin(users={"user": "ghp_x"}, denied=["team/gone"], refuse_unknown=True)
    async with world("ghcr.io", login=tokens, auths=auths) as (registry, client):
        ping = 'Bearer realm="{self}/token",service="ghcr.io",scope="repository:user/image:pull"'
        registry.fail("manifest", Challenge((ping,)), times=1)
        assert await client.get_manifest("team/app", "v1")
        assert registry.seen("token")[0].query.startswith("service=ghcr.io&scope=repository:team/app:pull")
        with pytest.raises(UpstreamDenied):
            await client.get_manifest("team/gone", "v1")
        assert client.health()[0].credential != "refused"


async def test_public_ecr(world, read_whole):
    """One scope for everything, and 401 to every HEAD of a blob."""
    async with world("public.ecr.aws", login=TokenLogin(scope="aws")) as (registry, client):
        refusal = Challenge(('Bearer realm="{self}/token",service="public.ecr.aws",scope="aws"',))
        registry.fail("blob", refusal, method="HEAD")
        registry.fail("manifest", refusal, method="HEAD")
        assert await client.head_blob("team/app", DIGEST) == len(CONTENT)
        assert (await client.head_manifest("team/app", "v1")).digest
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        assert all("scope=aws" in one.query for one in registry.seen("token"))


async def test_private_ecr(world):
    """Basic with a token of twelve hours; over, it is the login that is refused."""
    secret = login("AWS", "twelve-hours")
    async with world("1.dkr.ecr.eu-west-1.amazonaws.com", login=BasicLogin({"AWS": "twelve-hours"}), auths=secret) as (
        registry,
        client,
    ):
        assert await client.get_manifest("team/app", "v1")
        registry.login = BasicLogin({"AWS": "the next"})
        with pytest.raises(UpstreamLoginRefused):
            await client.get_manifest("team/app", "v1")


async def test_gcr(world):
    """No POST, a challenge at /v2/ only, a JSON key as password."""
    key = json.dumps({"type": "service_account", "private_key": "-----BEGIN\n:\n"})
    tokens = TokenLogin(users={"_json_key": key}, anonymous=False, post=404, ping_challenge_only=True)
    async with world("gcr.io", login=tokens, auths=login("_json_key", key)) as (_, client):
        assert await client.get_manifest("team/app", "v1")


async def test_acr(world, read_whole):
    """Identity tokens by POST, blobs in storage that refuses an Authorization header."""
    nobody = "00000000-0000-0000-0000-000000000000"
    tokens = TokenLogin(refresh_tokens=["identity"], anonymous=False, realm="{self}/token/oauth2", field="access_token")
    secret = login(nobody, "", identitytoken="identity")
    async with world("team.azurecr.io", login=tokens, cdn=True, auths=secret) as (registry, client):
        assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
        assert [one.method for one in registry.seen("token")] == ["POST"]


async def test_harbor(world):
    """404 to HEAD of what its proxy cache has not fetched yet, robots with a dollar."""
    user = "robot$team+pull"
    async with world(
        "harbor.example", login=TokenLogin(users={user: "p"}, anonymous=False), auths=login(user, "p")
    ) as (
        registry,
        client,
    ):
        registry.fail("manifest", Status(404), method="HEAD")
        registry.fail("blob", Status(404), method="HEAD")
        assert (await client.head_manifest("team/app", "v1")).got
        assert await client.head_blob("team/app", DIGEST) == len(CONTENT)


async def test_artifactory(world):
    """A path before /v2, names in scopes without it, and 401 to POST."""
    tokens = TokenLogin(users={"u": "t"}, anonymous=False, post=401)
    secret = login("u", "x", identitytoken="t")
    jfrog = world("team.jfrog.io", login=tokens, prefix="/artifactory/api/docker/remote", auths=secret)
    async with jfrog as (registry, client):
        assert await client.get_manifest("team/app", "v1")
        assert registry.seen("manifest")[0].path == "/artifactory/api/docker/remote/v2/team/app/manifests/v1"


async def test_a_mirror_that_names_its_prefix_in_scopes(world):
    tokens = TokenLogin(scope="repository:quay.io/{name}:pull")
    async with world("bastion.lab", login=tokens) as (registry, client):
        assert await client.get_manifest("team/app", "v1")
        assert await client.get_manifest("team/app", "v1")
        assert registry.count("token") == 1
