"""The registry that releases come from asks for a login, counts, and breaks in the ways that tests want."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.tools.clients import ClientError, run
from tests.tools.processes import wait_until
from tests.tools.programs import Programs
from tests.tools.registries import PASSWORD, USER
from tests.tools.release import Placed, Release, make_release
from tests.tools.token_registry import TokenRegistry

pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def release() -> Release:
    return make_release("4.16.15", components=12, scale=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("upstream")
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    (made / "certs").mkdir()
    ca.cert_pem.write_to_path(made / "certs" / "ca.crt")
    issued.private_key_and_cert_chain_pem.write_to_path(made / "server.pem")
    return made


@pytest.fixture(scope="module")
def stocked(programs: Programs, folder: Path, release: Release) -> Iterator[TokenRegistry]:
    with TokenRegistry(programs, folder, (folder / "server.pem", folder / "server.pem"), 5) as made:
        made.stock(release.placed())
        yield made


@pytest.fixture
def registry(stocked: TokenRegistry) -> Iterator[TokenRegistry]:
    stocked.front.forget()
    yield stocked
    stocked.front.rate = stocked.front.cut_after = stocked.front.token_lifetime = stocked.front.unavailable = None


class Client:
    """One connection with a login."""

    def __init__(self, registry: TokenRegistry, folder: Path) -> None:
        self._context = ssl.create_default_context(cafile=folder / "certs" / "ca.crt")
        self._registry = registry
        self.token = ""

    def log_in(self, repository: str, password: str = PASSWORD) -> None:
        scope = quote(f"repository:{repository}:pull")
        basic = base64.b64encode(f"{USER}:{password}".encode()).decode()
        status, body = self._get(self._registry.issuer.address, f"/token?scope={scope}", f"Basic {basic}")
        assert status == 200
        self.token = json.loads(body)["token"]

    def get(self, path: str) -> tuple[int, bytes]:
        return self._get(self._registry.address, path, f"Bearer {self.token}" if self.token else "")

    def _get(self, address: str, path: str, authorization: str) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(address, timeout=10, context=self._context)
        try:
            connection.request("GET", path, headers={"Authorization": authorization} if authorization else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def client(registry: TokenRegistry, folder: Path) -> Client:
    return Client(registry, folder)


def largest(release: Release) -> tuple[str, bytes]:
    blob = max(release.image.all_blobs().values(), key=lambda one: len(one.body))
    return f"/v2/openshift-release-dev/ocp-release/blobs/{blob.digest}", blob.body


def test_skopeo_copies_the_release(
    registry: TokenRegistry, release: Release, programs: Programs, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    secret = registry.pull_secret(tmp_path / "secret.json")
    skopeo = [programs.find("skopeo"), "--policy", str(tmp_path / "policy.json"), "copy", "--all"]
    skopeo += ["--src-cert-dir", str(folder / "certs")]
    for placed in release.placed():
        reference = f":{placed.tags[0]}" if placed.tags else f"@{placed.manifest.digest}"
        name = f"docker://{registry.address}/{placed.repository}{reference}"
        if placed.tags == (release.tag,):
            with pytest.raises(ClientError, match=r"authentication required|unauthorized"):
                run([*skopeo, name, f"dir:{tmp_path / 'refused'}"], {"HOME": str(tmp_path)})
            registry.front.forget()
        if "subject" not in json.loads(placed.manifest.body):
            run([*skopeo, "--src-authfile", str(secret), name, f"dir:{tmp_path / placed.manifest.digest[7:]}"])
    assert (tmp_path / release.digest[7:] / "manifest.json").read_bytes() == release.image.body
    body = largest(release)[1]
    sent = registry.front.sent[max(release.image.all_blobs().values(), key=lambda one: len(one.body)).digest]
    assert sent % len(body) == 0
    assert sent > 0


def test_a_login_is_needed_and_a_token_ends(registry: TokenRegistry, release: Release, client: Client) -> None:
    path, body = largest(release)
    assert client.get(path)[0] == 401
    client.log_in("openshift-release-dev/ocp-release", "wrong")
    assert client.get(path)[0] == 401
    client.log_in("openshift-release-dev/ocp-release")
    assert client.get(path) == (200, body)
    registry.front.token_lifetime = -1
    assert client.get(path)[0] == 401
    registry.front.token_lifetime = 30
    assert client.get(path) == (200, body)
    assert registry.issuer.lifetime == 5
    wait_until(lambda: len(registry.front.asked) == 5, "the last answer to be noted")
    assert [one.status for one in registry.front.asked] == [401, 401, 200, 401, 200]


def test_bytes_are_counted_and_bodies_cut(registry: TokenRegistry, release: Release, client: Client) -> None:
    path, body = largest(release)
    client.log_in("openshift-release-dev/ocp-release")
    digest = path.rpartition("/")[2]
    registry.front.cut_after = 1000
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        client.get(path)
    assert registry.front.sent[digest] == 1000
    registry.front.cut_after = None
    assert client.get(path) == (200, body)
    assert registry.front.sent[digest] == registry.front.total == 1000 + len(body)


def test_it_goes_away_and_comes_back(registry: TokenRegistry, release: Release, client: Client) -> None:
    path, body = largest(release)
    client.log_in("openshift-release-dev/ocp-release")
    registry.front.go_away()
    with pytest.raises(ConnectionRefusedError):
        client.get(path)
    registry.front.come_back()
    assert client.get(path) == (200, body)
    registry.front.unavailable = 503
    assert client.get(path)[0] == 503


def test_referrers_are_known(registry: TokenRegistry, release: Release, client: Client) -> None:
    subject = release.components["cli"].digest
    path = f"/v2/openshift-release-dev/ocp-v4.0-art-dev/referrers/{subject}"
    assert client.get(path)[0] == 401
    client.log_in("openshift-release-dev/ocp-v4.0-art-dev")
    status, body = client.get(path)
    assert status == 200
    assert [one["digest"] for one in json.loads(body)["manifests"]] == [release.referrers[0].digest]


def test_what_is_stocked_again_costs_nothing(registry: TokenRegistry, release: Release) -> None:
    registry.stock([Placed("ubi9/ubi", release.components["cli"], ("latest",))])
    registry.stock(release.placed())
