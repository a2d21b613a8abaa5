"""The table of access through `mirror serve` itself: every route, every method, every kind of client, over TLS.

The rows are those of tests/unit/registry/test_access_table.py; here each request goes all the way, to content that is
there.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest
import trustme

from mirror.config.access import VERBS, Verb
from mirror.oci.digest import Digest
from mirror.registry.bearer import Signer
from mirror.registry.clients import ANONYMOUS
from mirror.registry.gate import PROBES
from mirror.registry.logins import basic
from mirror.registry.routes import Kind
from mirror.store.layout import Layout
from mirror.store.tokens import Tokens, new_secret
from tests.clients.conftest import Authority
from tests.tools import images
from tests.tools.mirror import Mirror
from tests.unit.registry.access_bed import PASSWORD, header_of
from tests.unit.registry.test_access_table import BESIDE, CLIENTS, CLOSED, METHODS, NEEDS, TARGETS

pytestmark = pytest.mark.clients

BLOB = b"x"
DIGEST = Digest.of(BLOB)
NOT_HERE = Digest.of(b"never pushed")
# What would change something for the requests after it is asked of what is not there.
DELETED = {
    Kind.MANIFEST: "/v2/apps/a/manifests/absent",
    Kind.BLOB: f"/v2/apps/a/blobs/{NOT_HERE}",
}
READS = ("GET", "HEAD")
WRITTEN = (Kind.MANIFEST, Kind.BLOB, Kind.UPLOAD)
AT_ONCE = 64  # requests: wrong logins are answered after a second
FLOOD = 1100  # refusals of made-up names, more than are told apart when identical lines are summed


@dataclass(frozen=True)
class Guarded:
    """A service, and for each client of the table its Authorization header and its certificate."""

    mirror: Mirror
    headers: dict[str, str | None]
    contexts: dict[str, ssl.SSLContext]

    def ask(
        self,
        client: str,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        kind: str = "",
        header: str | None = None,
    ) -> tuple[int, str, bytes]:
        """Send one request as a client; return the status, the challenge and the body of its answer."""
        header = header or self.headers[client]
        fields = {"Authorization": header} if header else {}
        if kind:
            fields["Content-Type"] = kind
        context = self.contexts.get(client, self.contexts[""])
        connection = http.client.HTTPSConnection(self.mirror.address, timeout=30, context=context)
        try:
            connection.request(method, target, body, fields)
            answer = connection.getresponse()
            return answer.status, answer.getheader("WWW-Authenticate", ""), answer.read()
        finally:
            connection.close()


def opened(folder: Path, authority: Authority, anonymous: str, *, public: bool = True) -> Iterator[Guarded]:
    people = trustme.CA()
    people.cert_pem.write_to_path(folder / "people.pem")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"alice:{hashed}\nbob:{hashed}\n")
    rules = [{"who": who, "repositories": ["apps/**"], "may": [*VERBS]} for who in ("alice", "cert:node7")]
    mirror = Mirror(
        folder,
        {
            "workers": 2,
            "tls": {
                "certificate": str(authority.certificate),
                "key": str(authority.key),
                "client_ca": str(folder / "people.pem"),
            },
            "clients": {"anonymous": anonymous, "htpasswd": str(folder / "htpasswd"), "rules": rules},
            **({} if public else {"releases": {"public": False}}),
        },
    )
    contexts = {"": ssl.create_default_context(cafile=str(authority.ca))}
    for client, name in (("certificate in a rule", "node7"), ("certificate in none", "other")):
        issued = people.issue_cert("node@lab", common_name=name)
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        contexts[client] = ssl.create_default_context(cafile=str(authority.ca))
        contexts[client].load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    headers: dict[str, str | None] = dict.fromkeys(contexts)
    guarded = Guarded(mirror, headers, contexts)
    mirror.start()
    try:
        headers |= logins(guarded, anonymous)
        fill(guarded)
        yield guarded
    finally:
        code = mirror.stop()
        print(mirror.log)
    assert code == 0
    assert "Traceback" not in mirror.log
    assert " status=5" not in mirror.log
    assert "mrt_" not in mirror.log


def logins(guarded: Guarded, anonymous: str) -> dict[str, str | None]:
    """Return the header of each client: users' from their passwords, robots' from the store, tokens from /token."""
    tokens = Tokens(Layout(guarded.mirror.store).tokens)

    def robot(name: str, scope: str = "apps/**", may: Sequence[Verb] = VERBS, expires: float | None = None) -> str:
        secret = new_secret()
        return basic(tokens.create(secret, name, [scope], may, expires).user, secret)

    def token(header: str | None, scope: str) -> str:
        """Ask /token and return a header with what it gives."""
        status, _, body = guarded.ask("", f"/token?service=lab&scope={scope}", header=header)
        assert status == 200, body
        return f"Bearer {json.loads(body)['token']}"

    revoked = robot("revoked")
    tokens.revoke(next(one.id for one in tokens.all() if one.user == "robot+revoked"))
    alice, bob = header_of("alice"), header_of("bob")
    over = Signer(tokens.key(), clock=lambda: time.time() - 301)
    signer = Signer(tokens.key())
    claims = signer.open((token(alice, "repository:apps/a:pull"))[7:])
    return {
        "nobody": None,
        "empty": "Basic Og==",
        # Where nothing is open to anonymous clients they are given none; one that was good before is as good as that.
        "anonymous token": token(None, "")
        if anonymous == "pull"
        else f"Bearer {signer.issue(ANONYMOUS.name, ANONYMOUS.kind, ANONYMOUS.proof, {})[0]}",
        "alice": alice,
        "alice's token": token(alice, "repository:apps/a:pull"),
        "alice's token for less": token(alice, "repository:other:pull"),
        "alice's token, over": f"Bearer {over.issue('alice', 'user', claims.proof, {'apps/a': ['pull']})[0]}",
        "bob": bob,
        "bob's token": token(bob, "repository:apps/a:pull"),
        "wrong password": header_of("alice", "wrong"),
        "robot in scope": robot("within"),
        "robot out of scope": robot("outside", "other/**"),
        "robot that may only pull": robot("pulls", may=["pull"]),
        "robot expired": robot("expired", expires=time.time() - 1),
        "robot revoked": revoked,
    }


def fill(guarded: Guarded) -> None:
    """Push what the table reads, as alice: apps/a:v1 with the blob that its targets name."""
    layer = images.Layer(images.OCI_LAYER, BLOB, diff_id=str(DIGEST))
    image = images.image([layer])
    for blob in image.blobs:
        path = f"/v2/apps/a/blobs/uploads/?digest={blob.digest}"
        assert guarded.ask("alice", path, "POST", blob.body)[0] == 201
    assert guarded.ask("alice", "/v2/apps/a/manifests/v1", "PUT", image.body, image.media_type)[0] == 201


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Guarded]:
    yield from opened(tmp_path_factory.mktemp("beside"), authority, "pull")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Guarded]:
    yield from opened(tmp_path_factory.mktemp("closed"), authority, "none")


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Guarded]:
    """Closed, and not even facts about releases are public."""
    yield from opened(tmp_path_factory.mktemp("private"), authority, "none", public=False)


@pytest.fixture(params=["beside", "closed", "private"])
def guarded(request: pytest.FixtureRequest) -> Guarded:
    found: Guarded = request.getfixturevalue(request.param)
    return found


def token_service(row: dict[str, str], client: str, method: str) -> str:
    """Return what /token has for a client, beyond what the gate has: it gives tokens for logins alone."""
    if method in READS and row["T"] == "in":
        if "token" in client:
            return "401 Basic"
        if row["O"] != "in":
            return row["O"]  # no login where it takes one, or a wrong one
    return row["T"] if method in (*READS, "POST") or row["T"] != "in" else "405"


def outcome(need: str, status: int, challenge: str) -> str:
    """Return what the table calls an answer: `in` for whatever is not a refusal."""
    words = [str(status)]
    if challenge:
        words.append(challenge.partition(" ")[0])
        words += [word for word in ("insufficient_scope", "invalid_token") if f'error="{word}"' in challenge]
    if need in "RL" and status == 200:
        return "in"  # 404 is what who may not read is told
    if status not in (401, 403, 405) and not (need in "RL" and status == 404):
        return "in"
    return " ".join(words)


def test_the_table(guarded: Guarded, request: pytest.FixtureRequest) -> None:
    world = request.node.callspec.params["guarded"]
    table = BESIDE if world == "beside" else CLOSED
    public = set() if world == "private" else {Kind.GRAPH, Kind.SIGNATURE}
    found: dict[tuple[str, str, str], str] = {}
    expected: dict[tuple[str, str, str], str] = {}

    def ask(client: str, kind: Kind, method: str, need: str) -> None:
        target = TARGETS[kind].format("apps/a")
        if method == "DELETE":
            target = DELETED.get(kind, target)
        if kind is Kind.UPLOAD and method == "POST":
            target = "/v2/apps/a/blobs/uploads/"
        status, challenge, _ = guarded.ask(client, target, method)
        key = client, str(kind), method
        found[key] = outcome(need, status, challenge)
        expected[key] = table[client][need if need in "RWDP" else "O"]
        if kind in public and method in READS:
            expected[key] = "in"  # whatever is shown
        elif need == "L" and method in READS:
            expected[key] = table[client]["L"]
        elif need == "T":
            expected[key] = token_service(table[client], client, method)
        elif expected[key] == "in" and (need == "-" or (kind not in WRITTEN and method not in READS)):
            expected[key] = "405"  # who is not let in learns no methods
        assert status < 500

    rows = [(kind, method, need) for kind, needs in NEEDS.items() for method, need in needs.items()]
    with ThreadPoolExecutor(AT_ONCE) as asking:
        for done in [asking.submit(ask, client, *row) for client in CLIENTS for row in rows]:
            done.result()
    assert len(found) == len(CLIENTS) * len(METHODS) * (len(Kind) - len(PROBES))
    assert {key: (found[key], expected[key]) for key in found if found[key] != expected[key]} == {}


def test_probes_are_open_and_metrics_are_elsewhere(guarded: Guarded) -> None:
    for client in ("nobody", "wrong password", "robot revoked", "certificate in none"):
        for path in ("/livez", "/readyz"):
            assert guarded.ask(client, path)[0] == 200
    assert guarded.ask("alice", "/metrics")[0] == 404


def test_nothing_was_changed(beside: Guarded, closed: Guarded, private: Guarded) -> None:
    """After all those requests: what was pushed is there, and nothing more."""
    for guarded in (beside, closed, private):
        assert guarded.ask("alice", "/v2/apps/a/manifests/v1")[0] == 200
        assert guarded.ask("alice", f"/v2/apps/a/blobs/{DIGEST}")[0] == 200
        listed = [path.name for path in Layout(guarded.mirror.store).repositories.glob("apps/a/_tags/*")]
        assert [name for name in listed if not name.endswith("~")] == ["v1"]


def test_names_that_are_not_hosted_take_no_pushes(beside: Guarded) -> None:
    for client in ("nobody", "alice", "robot in scope", "certificate in a rule"):
        status, _, _ = beside.ask(client, "/v2/gcr.io/app/manifests/v1", "PUT", b"{}")
        assert status == 403


def test_a_flood_of_refusals_hides_nobody_from_the_audit_log(tmp_path: Path) -> None:
    """Neither names that a user makes up, nor users that a client makes up, take the lines of what comes after them."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"alice:{hashed}\nbob:{hashed}\n")
    rules = [{"who": "bob", "repositories": ["apps/**"], "may": ["pull", "push"]}]
    clients = {"anonymous": "none", "htpasswd": str(tmp_path / "htpasswd"), "rules": rules}
    mirror = Mirror(tmp_path / "mirror", {"workers": 1, "clients": clients})
    mirror.start()
    try:
        connection = http.client.HTTPConnection(mirror.address, timeout=30)
        bob = {"Authorization": header_of("bob")}
        for number in range(FLOOD):
            connection.request("PUT", f"/v2/x{number}/y/manifests/v1", b"{}", bob)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 403
        connection.close()
        assert mirror.get("/v2/priv/secret/manifests/v1", "DELETE", bob)[0] == 403
        assert mirror.get("/v2/", headers={"Authorization": header_of("alice", "guess")})[0] == 401
    finally:
        assert mirror.stop() == 0
    said = [line for line in mirror.log.splitlines() if " event=audit " in line]
    assert len(said) == FLOOD + 2
    assert " who=bob client=127.0.0.1 verb=delete name=priv/secret " in said[-2]
    assert " who=alice client=127.0.0.1 verb=login " in said[-1]
