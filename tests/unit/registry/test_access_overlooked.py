"""A login that is wrong, and a pull that needs none: Docker shows its mirrors the login of Docker Hub (moby#30880)."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from mirror.line import Line
from mirror.oci.digest import Digest
from mirror.registry import logins, overlooked
from mirror.registry.logins import basic
from tests.unit.registry.access_bed import PASSWORD, Bed, Make, beds, header_of, rule
from tests.unit.registry.stage import Face, FakeContent, Reply, serve_face
from tests.unit.registry.test_access_token import granted

DIGEST = Digest.of(b"x")
PRIVATE = rule("alice", "quay.io/private/**", "pull", "push", "delete")
PUBLIC = "/v2/quay.io/org/app/manifests/v1"

# Logins that are none here. The robot's is made by the test.
LOGINS = {
    "unknown user": header_of("hubuser", "hubtoken"),
    "known user": header_of("alice", "hubtoken"),
    "token for a password": header_of("hubuser", "dckr_pat_" + "x" * 90),
    "no name": header_of("", "hubtoken"),
    "no password": header_of("hubuser", ""),
    "unknown robot": basic("robot+hub", "mrt_0000000000000000_x"),
    "robot that has expired": "",
    "scheme in capitals": "BASIC " + base64.b64encode(b"hubuser:hubtoken").decode(),
    "no colon": "Basic " + base64.b64encode(b"hubuser").decode(),
}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with beds(tmp_path) as make:
        yield make


def shown(bed: Bed, login: str) -> str:
    return LOGINS[login] or bed.robot("ci", "**", "pull", expires=bed.now)[1]


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize(
    ("method", "target", "outcome"),
    [
        ("GET", PUBLIC, "in"),
        ("HEAD", PUBLIC, "in"),
        ("GET", "/v2/org/app/manifests/v1?ns=quay.io", "in"),
        ("GET", "/v2/short/app/manifests/v1", "in"),
        ("GET", f"/v2/quay.io/org/app/manifests/{DIGEST}", "in"),
        ("GET", f"/v2/quay.io/org/app/blobs/{DIGEST}", "in"),
        ("GET", "/v2/quay.io/org/app/tags/list", "in"),
        ("GET", f"/v2/quay.io/org/app/referrers/{DIGEST}", "in"),
        ("GET", "/v2/team/app/manifests/v1", "in"),
        # All that follows was 401 before, and stays it.
        ("GET", "/v2/", "401 Bearer"),
        ("HEAD", "/v2/", "401 Bearer"),
        ("GET", "/v2/quay.io/private/app/manifests/v1", "401 Bearer"),
        ("GET", "/v2/private/app/manifests/v1?ns=quay.io", "401 Bearer"),
        ("GET", f"/v2/quay.io/private/app/blobs/{DIGEST}", "401 Bearer"),
        ("GET", "/v2/unknown.example/app/manifests/v1", "401 Bearer"),
        ("GET", "/v2/_catalog", "401 Bearer"),
        ("PUT", "/v2/team/app/manifests/v1", "401 Bearer"),
        ("DELETE", "/v2/team/app/manifests/v1", "401 Bearer"),
        ("DELETE", f"/v2/team/app/blobs/{DIGEST}", "401 Bearer"),
        ("POST", "/v2/team/app/blobs/uploads/", "401 Bearer"),
        ("GET", "/v2/team/app/blobs/uploads/0a0f3f3e-9c4c-4f0b-8f0a-3d1f5b1f2a11", "401 Bearer"),
    ],
)
async def test_it_is_anonymous_for_a_pull_that_anybody_may_do(
    make: Make, login: str, method: str, target: str, outcome: str
) -> None:
    bed = make(PRIVATE)
    assert await bed.outcome(target, method, shown(bed, login)) == outcome


@pytest.mark.parametrize("login", LOGINS)
async def test_where_anybody_may_push_it_may_not(make: Make, login: str) -> None:
    bed = make(anonymous="push")
    header = shown(bed, login)
    assert await bed.outcome("/v2/team/app/manifests/v1", "GET", header) == "in"
    for method in ("PUT", "DELETE"):  # as before
        assert await bed.outcome("/v2/team/app/manifests/v1", method, header) == "401 Bearer"


@pytest.mark.parametrize("login", LOGINS)
async def test_where_nothing_is_for_anybody_it_is_refused_as_before(make: Make, login: str) -> None:
    bed = make(anonymous="none")
    assert await bed.outcome(PUBLIC, "GET", shown(bed, login)) == "401 Basic"


async def test_a_certificate_beside_it_gives_no_right(make: Make) -> None:
    bed = make(rule("cert:node7", "quay.io/private/**", "pull"), certificates=True)
    assert await bed.outcome("/v2/quay.io/private/app/manifests/v1", "GET", LOGINS["known user"]) == "401 Bearer"
    assert (await bed.ask(PUBLIC, "GET", LOGINS["known user"])).is_anonymous


@pytest.mark.parametrize("user", ["alice", "hubuser"])
async def test_each_request_waits_for_the_end_of_the_same_second(
    make: Make, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    bed = make(delay=60)
    monkeypatch.setattr(logins.asyncio, "sleep", sleep)
    for _ in range(3):
        assert await bed.outcome(PUBLIC, "GET", header_of(user, "hubtoken")) == "in"
    assert len(waits) == 3
    assert all(0 < one <= 60 for one in waits)


async def test_where_too_many_are_checked_a_pull_that_anybody_may_do_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = make(PRIVATE)
    assert bed.htpasswd is not None
    monkeypatch.setattr(bed.htpasswd, "_line", Line(0, 0))
    assert await bed.outcome(PUBLIC, "GET", LOGINS["unknown user"]) == "in"
    assert await bed.outcome("/v2/quay.io/private/app/manifests/v1", "GET", LOGINS["known user"]) == "503"  # as before
    assert await bed.outcome("/v2/", "GET", LOGINS["known user"]) == "503"  # as before


async def test_it_is_said_once_for_each_client_and_login_without_the_password(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = make()
    for password in ("hubtoken", "hubtoken", "hubtoken", "a guess"):
        for target in (PUBLIC, f"/v2/quay.io/org/app/blobs/{DIGEST}"):
            await bed.ask(target, "GET", header_of("hubuser", password))
    lines = [line for line in capsys.readouterr().out.splitlines() if "audit" in line]
    assert len(lines) == 2
    assert all("who=hubuser" in line and "result=overlooked" in line and "192.0.2.1" in line for line in lines)
    assert not any("hubtoken" in line or "guess" in line for line in lines)
    monkeypatch.setattr(overlooked, "_REMEMBERED", 4)
    for number in range(20):
        await bed.ask(PUBLIC, "GET", header_of("hubuser", str(number)))
    assert len(bed.gate.overlooked._said) <= 4 + 2


# -- /token --------------------------------------------------------------------------------------------------

APP, OTHER, SECRET = "quay.io/org/app", "quay.io/org/other", "quay.io/private/app"


@pytest.fixture
async def face(make: Make, content: FakeContent) -> Any:
    bed = make(PRIVATE)
    served = await serve_face(content, gate=bed.gate)
    yield bed, served
    await served.close()


async def by_header(bed: Bed, face: Face, scopes: list[str], login: str) -> Reply:
    return await face.ask(f"/token?{urlencode([('scope', one) for one in scopes])}", Authorization=shown(bed, login))


async def by_password(bed: Bed, face: Face, scopes: list[str], login: str) -> Reply:
    user, _, password = base64.b64decode(shown(bed, login).partition(" ")[2]).decode().partition(":")
    return await _post(face, scopes, grant_type="password", username=user, password=password)


async def by_refresh_token(_bed: Bed, face: Face, scopes: list[str], _login: str) -> Reply:
    return await _post(face, scopes, grant_type="refresh_token", refresh_token="of another registry")


async def _post(face: Face, scopes: list[str], **fields: str) -> Reply:
    body = urlencode([*fields.items(), *(("scope", one) for one in scopes)])
    kind = "application/x-www-form-urlencoded"
    wire = await face.connect()
    await wire.send("/token", "POST", Content_Type=kind, Content_Length=str(len(body)))
    wire.writer.write(body.encode())
    return await wire.read()


@pytest.mark.parametrize("ask", [by_header, by_password, by_refresh_token])
@pytest.mark.parametrize("login", ["unknown user", "known user", "unknown robot", "robot that has expired"])
@pytest.mark.parametrize(
    ("scopes", "names"),
    [
        ([f"repository:{APP}:pull"], [APP]),
        ([f"repository(plugin):{APP}:pull"], [APP]),
        ([f"repository:{APP}:pull", f"repository:{OTHER}:pull"], [APP, OTHER]),
        ([f"repository:{APP}:pull repository:{OTHER}:pull"], [APP, OTHER]),
        ([f"repository:{APP}:pull", f"repository:{SECRET}:pull"], [APP]),
        # All that follows was 401 before, and stays it.
        ([], None),
        ([""], None),
        (["nonsense"], None),
        ([f"repository:{SECRET}:pull"], None),
        ([f"repository:{APP}:pull,push"], None),
        ([f"repository:{APP}:push"], None),
        ([f"repository:{APP}:*"], None),
        ([f"repository:{APP}:pull,delete"], None),
        ([f"repository:{APP}:pull", "repository:team/app:pull,push"], None),
        (["registry:catalog:*"], None),
        ([f"repository:{APP}:pull", "registry:catalog:*"], None),
        (["repository:unknown.example/app:pull"], None),
    ],
)
async def test_a_token_for_what_anybody_may_pull(
    face: tuple[Bed, Face],
    ask: Callable[[Bed, Face, list[str], str], Awaitable[Reply]],
    login: str,
    scopes: list[str],
    names: list[str] | None,
) -> None:
    bed, served = face
    reply = await ask(bed, served, scopes, login)
    if names is None:
        assert (reply.status, reply.error["code"]) == (401, "UNAUTHORIZED")
        return
    assert granted(bed, reply) == {name: {"pull"} for name in names}
    claims = bed.signer.open(json.loads(reply.body)["token"])
    assert claims.kind == "anonymous"


async def test_a_right_login_beside_wrong_ones_is_who_it_is(face: tuple[Bed, Face]) -> None:
    """Guards the row above: a login that is right gets all that it may."""
    bed, served = face
    scopes = [f"repository:{APP}:pull", f"repository:{SECRET}:pull,push"]
    replies = await asyncio.gather(
        *(by_header(bed, served, scopes, "known user") for _ in range(3)),
        served.ask(
            f"/token?{urlencode([('scope', one) for one in scopes])}", Authorization=header_of("alice", PASSWORD)
        ),
    )
    assert [reply.status for reply in replies] == [401, 401, 401, 200]
    assert granted(bed, replies[-1]) == {APP: {"pull"}, SECRET: {"pull", "push"}}
