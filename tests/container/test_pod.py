"""The pod that config/openshift makes, run as a node runs it: pulled through, restarted, told a new pull secret."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.container.conftest import NAME
from tests.container.engine import Container, Engine
from tests.container.pod import USER, Pod, configuration
from tests.tools import images, registries
from tests.tools.clients import ClientError, Skopeo
from tests.tools.processes import free_port, running, wait_until
from tests.tools.programs import Programs
from tests.tools.push import push
from tests.tools.registries import Registry

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(900)]

LAB = "lab.example"


@pytest.fixture(scope="module")
def app() -> images.Manifest:
    """An image of two layers, one of them some megabytes."""
    archive = images.tree({"usr/bin/perl": Path("/usr/bin/perl")})
    motd = images.tree({"etc/motd": b"pulled through a pod\n"})
    return images.image([images.layer(archive), images.layer(motd)])


@pytest.fixture
def upstream(programs: Programs, app: images.Manifest, tmp_path: Path) -> Iterator[Registry]:
    """A registry that lets nobody in without a login."""
    open_one = registries.docker_registry(programs, tmp_path / "filling", tmp_path / "storage")
    with running(open_one):
        push(open_one.address, "team/app", app, "1")
    registry = registries.docker_registry(programs, tmp_path / "upstream", tmp_path / "storage", basic=True)
    registry.start()
    yield registry
    registry.stop()


def secret(registry: Registry, password: str = registries.PASSWORD) -> bytes:
    """Return a pull secret with a login for a registry, as a cluster has it."""
    login = base64.b64encode(f"{registries.USER}:{password}".encode()).decode()
    return json.dumps({"auths": {registry.address: {"auth": login}}}).encode()


def login(container: Container, site: Site) -> str:
    """Make a token for nodes in the running pod, and return what a pull secret holds for it."""
    token = ["mirror", "token", "create", "nodes", "--repositories", "**", "--expires", "never", "--json"]
    made = json.loads(container.do(*token, "--registry", site.address))
    return str(made["pull_secret"]["auths"][site.address]["auth"])


class Site:
    """The pod on this host's network, with ports of its own."""

    def __init__(self, engine: Engine, upstream: Registry, folder: Path) -> None:
        self.pod = Pod(folder / "volumes")
        self.ports = {self.pod.port("registry"): free_port(), self.pod.port("metrics"): free_port()}
        # The name of the service and the Route's; a client here uses the second.
        issued = (ca := trustme.CA()).issue_cert("mirror.mirror.svc", "localhost", "127.0.0.1")
        self.ca = folder / "ca.crt"
        ca.cert_pem.write_to_path(self.ca)
        chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        self.pod.fill("mirror-tls", {"tls.crt": chain, "tls.key": issued.private_key_pem.bytes()})
        text = configuration({"upstreams": {LAB: {"endpoints": [upstream.url], "tags": {"fresh_for": "0s"}}}})
        for stated, ours in self.ports.items():
            assert text.count(f"0.0.0.0:{stated}".encode()) == 1
            text = text.replace(f"0.0.0.0:{stated}".encode(), f"127.0.0.1:{ours}".encode())
        self.pod.fill("mirror-config", {"mirror.yaml": text})
        self.pod.fill("mirror-pull-secret", {".dockerconfigjson": secret(upstream)})
        self.address = f"127.0.0.1:{self.ports[self.pod.port('registry')]}"
        self._engine = engine
        self._log = folder / "log"

    def run(self) -> Container:
        """Return the pod's container, not started yet."""
        command = self.pod.container["args"]
        return self._engine.container("pod", NAME, self._log, "--network=host", *self.pod.options(), command=command)

    def ask(self, scheme: str, port: str, path: str) -> int:
        """Return the status of a GET, as the kubelet asks: without looking at the certificate."""
        number = self.ports[self.pod.port(port)]
        connection = (
            http.client.HTTPSConnection("127.0.0.1", number, timeout=10, context=ssl._create_unverified_context())
            if scheme == "https"
            else http.client.HTTPConnection("127.0.0.1", number, timeout=10)
        )
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()


def test_it_is_pulled_through(
    engine: Engine, upstream: Registry, app: images.Manifest, programs: Programs, tmp_path: Path, home: Path
) -> None:
    site = Site(engine, upstream, tmp_path)
    skopeo = Skopeo(programs, home / "skopeo", {LAB: f"{site.address}/{LAB}"}, site.ca)
    with running(site.run()) as container:
        assert set(site.pod.probe(site.ask).values()) == {200}
        assert site.ask("http", "metrics", "/metrics") == 200
        with pytest.raises(ClientError, match=r"unauthorized|authentication required"):
            skopeo.pull(f"{LAB}/team/app:1", app)
        (home / "auth.json").write_text(json.dumps({"auths": {site.address: {"auth": login(container, site)}}}))
        skopeo.environment["REGISTRY_AUTH_FILE"] = str(home / "auth.json")
        skopeo.pull(f"{LAB}/team/app:1", app)
        status = json.loads(container.do("mirror", "status", "--json"))
        assert status["exit"] == 0, status["problems"]
    assert container.stop() == 0

    # What it stored is the namespace's, and sealed. The same pod again: another process, nothing hashed, nobody asked.
    blobs = [site.pod.store / "blobs/sha256" / digest.partition(":")[2] for digest in app.all_blobs()]
    assert {(one.stat().st_uid, one.stat().st_mode & 0o777) for one in blobs} == {(USER, 0o440)}
    upstream.stop()
    with running(site.run()) as container:
        shutil.rmtree(skopeo.folder / "copied")
        skopeo.pull(f"{LAB}/team/app@{app.digest}", app)
        assert "cache=MISS" not in container.log.rpartition("event=starting")[2]
    assert container.stop() == 0


def test_a_new_pull_secret_is_taken(engine: Engine, upstream: Registry, app: images.Manifest, tmp_path: Path) -> None:
    site = Site(engine, upstream, tmp_path)
    site.pod.fill("mirror-pull-secret", {".dockerconfigjson": secret(upstream, "of last year")})
    with running(site.run()) as container:
        asked = ["mirror", "explain", f"{LAB}/team/app:1", "--json"]
        assert upstream.address in container.do(*asked)
        headers = {"Authorization": f"Basic {login(container, site)}"}
        name = f"/v2/{LAB}/team/app/manifests/1"

        def pulled() -> bool:
            connection = http.client.HTTPSConnection(site.address, context=ssl._create_unverified_context(), timeout=30)
            try:
                connection.request("GET", name, headers=headers)
                return connection.getresponse().status == 200
            finally:
                connection.close()

        assert not pulled()
        site.pod.fill("mirror-pull-secret", {".dockerconfigjson": secret(upstream)})
        wait_until(pulled, "the new pull secret to be used", 30)
    assert container.stop() == 0
