"""Every route, every method, every kind of client: one table. A new route or method without a row fails here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.config.access import VERBS
from mirror.oci.digest import Digest
from mirror.registry.clients import ANONYMOUS, Principal
from mirror.registry.gate import PROBES
from mirror.registry.gate import VERBS as VERBS_OF
from mirror.registry.routes import Kind
from tests.unit.registry.access_bed import Bed, header_of, rule

DIGEST = Digest.of(b"x")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

# What each route is asked with, the repository left open.
TARGETS = {
    Kind.PING: "/v2/",
    Kind.MANIFEST: "/v2/{}/manifests/v1",
    Kind.BLOB: f"/v2/{{}}/blobs/{DIGEST}",
    Kind.TAGS: "/v2/{}/tags/list",
    Kind.REFERRERS: f"/v2/{{}}/referrers/{DIGEST}",
    Kind.UPLOAD: "/v2/{}/blobs/uploads/0a0f3f3e-9c4c-4f0b-8f0a-3d1f5b1f2a11",
    Kind.CATALOG: "/v2/_catalog",
    Kind.TOKEN: "/token",
    Kind.GRAPH: "/api/upgrades_info/v1/graph",
    Kind.SIGNATURE: f"/sha256={DIGEST.hex}/signature-1",
    Kind.NOWHERE: "/favicon.ico",
    Kind.LIVE: "/livez",
    Kind.READY: "/readyz",
}

# What each method of a route needs. R reads a repository, W writes to it, L lists, P is /v2/, T asks for a token, O is
# open to whoever is let in; - is no method of that route. Probes never come to the gate.
NEEDS = {
    Kind.PING: {"GET": "P", "HEAD": "P", "POST": "P", "PUT": "P", "PATCH": "P", "DELETE": "P"},
    Kind.MANIFEST: {"GET": "R", "HEAD": "R", "POST": "-", "PUT": "W", "PATCH": "-", "DELETE": "D"},
    Kind.BLOB: {"GET": "R", "HEAD": "R", "POST": "-", "PUT": "-", "PATCH": "-", "DELETE": "D"},
    Kind.TAGS: {"GET": "R", "HEAD": "R", "POST": "-", "PUT": "-", "PATCH": "-", "DELETE": "-"},
    Kind.REFERRERS: {"GET": "R", "HEAD": "R", "POST": "-", "PUT": "-", "PATCH": "-", "DELETE": "-"},
    Kind.UPLOAD: {"GET": "W", "HEAD": "W", "POST": "W", "PUT": "W", "PATCH": "W", "DELETE": "W"},
    Kind.CATALOG: {"GET": "L", "HEAD": "L", "POST": "L", "PUT": "L", "PATCH": "L", "DELETE": "L"},
    Kind.TOKEN: {"GET": "T", "HEAD": "T", "POST": "T", "PUT": "T", "PATCH": "T", "DELETE": "T"},
    Kind.GRAPH: dict.fromkeys(METHODS, "O"),
    Kind.SIGNATURE: dict.fromkeys(METHODS, "O"),
    Kind.NOWHERE: dict.fromkeys(METHODS, "O"),
    Kind.LIVE: {},
    Kind.READY: {},
}

# Who asks. Rules: alice may everything in apps/**, bob nothing there. Asked is always for apps/a.
CLIENTS = (
    "nobody",  # no Authorization
    "empty",  # Basic Og==
    "anonymous token",  # for nothing
    "alice",
    "alice's token",  # for pulling apps/a
    "alice's token for less",  # for another repository
    "alice's token, over",
    "bob",
    "bob's token",
    "wrong password",
    "robot in scope",
    "robot out of scope",
    "robot that may only pull",
    "robot expired",
    "robot revoked",
    "certificate in a rule",
    "certificate in none",
)

BESIDE_ANONYMOUS = {"P": "401 Bearer", "R": "401 Bearer", "W": "401 Bearer", "D": "401 Bearer", "L": "401 Bearer"}
INSUFFICIENT = dict.fromkeys("RWDL", "401 Bearer insufficient_scope")
DENIED = {"R": "404", "W": "403", "D": "403"}
ALL_OPEN = dict.fromkeys("PRWDLTO", "in")

# /token says itself which wrong login matters.
WRONG_BESIDE = {**dict.fromkeys("PRWDLO", "401 Bearer"), "T": "in"}

# What each is told where anonymous clients may pull what is in no rule.
BESIDE: dict[str, dict[str, str]] = {
    "nobody": {**ALL_OPEN, **BESIDE_ANONYMOUS},
    "empty": {**ALL_OPEN, **BESIDE_ANONYMOUS, "P": "in"},
    "anonymous token": {**ALL_OPEN, **INSUFFICIENT},
    "alice": ALL_OPEN,
    "alice's token": {**ALL_OPEN, **dict.fromkeys("WDL", "401 Bearer insufficient_scope")},
    "alice's token for less": {**ALL_OPEN, **INSUFFICIENT},
    "alice's token, over": dict.fromkeys("PRWDLTO", "401 Bearer invalid_token"),
    "bob": {**ALL_OPEN, **DENIED},
    "bob's token": {**ALL_OPEN, **DENIED, "L": "401 Bearer insufficient_scope"},
    "wrong password": WRONG_BESIDE,
    "robot in scope": ALL_OPEN,
    "robot out of scope": {**ALL_OPEN, **DENIED},
    "robot that may only pull": {**ALL_OPEN, "W": "403", "D": "403"},
    "robot expired": WRONG_BESIDE,
    "robot revoked": WRONG_BESIDE,
    "certificate in a rule": ALL_OPEN,
    "certificate in none": {**ALL_OPEN, **DENIED},
}
# And where nothing is open to them. A token that is good is taken all the same.
SHUT = {**dict.fromkeys("PRWDLO", "401 Basic"), "T": "in"}  # /token looks at a login itself
CLOSED: dict[str, dict[str, str]] = {
    **BESIDE,
    "nobody": SHUT,
    "empty": SHUT,
    "anonymous token": SHUT,
    "alice's token, over": dict.fromkeys("PRWDLTO", "401 Basic"),
    "wrong password": dict.fromkeys("PRWDLTO", "401 Basic"),
    "robot expired": dict.fromkeys("PRWDLTO", "401 Basic"),
    "robot revoked": dict.fromkeys("PRWDLTO", "401 Basic"),
}
# Where nobody can log in, nobody is asked to.
ALONE: dict[str, dict[str, str]] = {
    name: {**ALL_OPEN, **DENIED, "L": "404"} for name in ("nobody", "empty", "wrong password")
}
WORLDS: dict[str, dict[str, dict[str, str]]] = {"beside": BESIDE, "closed": CLOSED, "alone": ALONE}


class World(Bed):
    """A bed with everybody in it."""

    def __init__(self, folder: Path, anonymous: str, *, alone: bool = False) -> None:
        rules = [rule("alice", "apps/**", *VERBS), rule("cert:node7", "apps/**", *VERBS)]
        if alone:
            super().__init__(folder, *rules, anonymous=anonymous, users=None, robots=False)
            return
        super().__init__(folder, *rules, anonymous=anonymous, certificates=True)
        self.shown: Principal | None = None
        self.gate._certificates = self  # type: ignore[assignment] # no TLS here: it says what `shown` says

    def principal(self, _request: Any) -> Principal | None:
        return self.shown

    async def header(self, client: str) -> str | None:
        """Return the Authorization header of a client."""
        if client.startswith("certificate"):
            self.shown = Principal("cert:node7" if client.endswith("rule") else "cert:other", "certificate")
            return None
        if "token" in client:
            who = client.partition("'")[0]
            principal = ANONYMOUS if client == "anonymous token" else await self.logins.identify(header_of(who))
            names = {"other": ["pull"]} if client.endswith("less") else {"apps__a": ["pull"]}
            header = self.token(principal, **({} if principal is ANONYMOUS else names))
            if client.endswith("over"):
                self.now += 301
            return header
        if client.startswith("robot"):
            scope = "other/**" if "out of" in client else "apps/**"
            verbs = ["pull"] if "only pull" in client else VERBS
            identity, header = self.robot("ci", scope, *verbs, expires=self.now if "expired" in client else None)
            if "revoked" in client:
                self.tokens.revoke(identity)
            return header
        logins = {"nobody": None, "empty": "Basic Og==", "wrong password": header_of("alice", "wrong")}
        return logins[client] if client in logins else header_of(client)


@pytest.fixture
def open_world(tmp_path: Path) -> Iterator[Callable[[str], World]]:
    made: list[World] = []

    def one(world: str) -> World:
        made.append(World(tmp_path, "none" if world == "closed" else "pull", alone=world == "alone"))
        return made[-1]

    yield one
    for bed in made:
        bed.close()


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert set(TARGETS) == set(NEEDS) == set(Kind)
    for kind, needs in NEEDS.items():
        assert set(needs) == (set() if kind in PROBES else set(METHODS))
        methods = {method for method, need in needs.items() if need in "RWD"}
        assert methods == set(VERBS_OF.get(kind, ())), kind
    assert set(BESIDE) == set(CLOSED) == set(CLIENTS)
    for world in WORLDS.values():
        for row in world.values():
            assert set(row) == set("PRWDLTO")


@pytest.mark.parametrize(("world", "client"), [(world, client) for world, table in WORLDS.items() for client in table])
async def test_the_table(open_world: Callable[[str], World], world: str, client: str) -> None:
    bed = open_world(world)
    header = await bed.header(client)
    if world == "alone":
        # Robots of the table need their name in no rule; here there is nobody at all.
        assert not await bed.logins.exist()
    found, expected = {}, {}
    for kind, needs in NEEDS.items():
        for method, need in needs.items():
            target = TARGETS[kind].format("apps/a")
            found[kind, method] = await bed.outcome(target, method, header)
            expected[kind, method] = WORLDS[world][client][need] if need != "-" else "405"
            if need == "-" and WORLDS[world][client]["O"] != "in":
                expected[kind, method] = WORLDS[world][client]["O"]  # who is not let in learns no methods
    assert found == expected


@pytest.mark.parametrize("client", CLIENTS)
async def test_what_is_in_no_rule_is_as_open_as_anonymous_is(open_world: Callable[[str], World], client: str) -> None:
    bed = open_world("beside")
    header = await bed.header(client)
    wrong = client.endswith("over")
    for kind in (Kind.MANIFEST, Kind.BLOB, Kind.TAGS, Kind.REFERRERS):
        for name in ("quay.io/org/app", "hosted/app"):
            for method in ("GET", "HEAD"):
                outcome = await bed.outcome(TARGETS[kind].format(name), method, header)
                assert outcome == (BESIDE[client]["O"] if wrong else "in")  # a wrong login is as good as none
    refused = await bed.outcome(TARGETS[Kind.MANIFEST].format("hosted/app"), "PUT", header)
    assert refused != "in"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("name", "status"),
    [("quay.io/org/app", "405"), ("short/app", "405"), ("loaded.io/app", "403"), ("gcr.io/app", "403")],
)
async def test_nobody_pushes_to_a_name_that_is_not_hosted(
    open_world: Callable[[str], World], client: str, name: str, status: str
) -> None:
    bed = open_world("beside")
    header = await bed.header(client)
    for target, method in (
        (f"/v2/{name}/manifests/v1", "PUT"),
        (f"/v2/{name}/manifests/v1", "DELETE"),
        (f"/v2/{name}/blobs/{DIGEST}", "DELETE"),
        (f"/v2/{name}/blobs/uploads/", "POST"),
    ):
        outcome = await bed.outcome(target, method, header)
        assert outcome == (status if BESIDE[client]["O"] == "in" else BESIDE[client]["O"])


@pytest.mark.parametrize(
    "target", ["/v2/org/app/manifests/v1?ns=quay.io", "/quay.io/v2/org/app/manifests/v1", "/v2/short/app/manifests/v1"]
)
async def test_every_way_to_write_a_name_is_decided_by_the_canonical_one(tmp_path: Path, target: str) -> None:
    bed = Bed(tmp_path, rule("alice", "quay.io/org/**", "pull"))
    assert await bed.outcome(target) == "401 Bearer"
    assert await bed.outcome(target, header=header_of("bob")) == "404"
    assert await bed.outcome(target, header=header_of("alice")) == "in"
    token = bed.token(await bed.logins.identify(header_of("alice")), **{"quay.io__org__app": ["pull"]})
    assert await bed.outcome(target, header=token) == "in"
    bed.close()


async def test_a_robot_is_refused_also_when_it_was_the_last_that_could_log_in(tmp_path: Path) -> None:
    bed = Bed(tmp_path, rule("alice", "quay.io/org/**", "pull"), users=None)
    identity, header = bed.robot("ci", "quay.io/**")
    token = bed.token(await bed.logins.identify(header), **{"quay.io__org__app": ["pull"]})
    target = "/v2/quay.io/org/app/manifests/v1"
    for login in (header, token):
        assert await bed.outcome(target, header=login) == "in"
    bed.tokens.revoke(identity)
    # 404 would tell a mirror that pulls through this one that the image is gone.
    assert await bed.outcome(target, header=header) == "401 Bearer"
    assert await bed.outcome(target, header=token) == "401 Bearer invalid_token"
    assert await bed.outcome(target, header=header_of("stranger")) == "404"


async def test_an_alias_s_own_name_in_a_rule_means_nothing(tmp_path: Path) -> None:
    bed = Bed(tmp_path, rule("alice", "short/**", "pull"))
    assert await bed.outcome("/v2/short/app/manifests/v1") == "in"
    bed.close()
