"""Real clients and who they are: logins, pull secrets, anonymous pulls beside them, client certificates."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from mirror.cli.secret_files import PullSecret
from mirror.config.access import Rule
from mirror.content.answers import TagPage
from mirror.registry.clients import Clients
from mirror.registry.gate import Gate
from mirror.registry.tls import ServerTls
from tests.clients.conftest import Authority
from tests.clients.test_forms import hosts_toml
from tests.tools import images
from tests.tools.clients import ClientError, Containerd, Podman, Skopeo, run
from tests.tools.processes import running
from tests.tools.programs import Programs
from tests.unit.registry.access_bed import PASSWORD, Bed, resolve, rule
from tests.unit.registry.stage import Face, FakeContent, serve_face

pytestmark = pytest.mark.clients

# alice may pull team, bob is a user and may not; what is in no rule is as open as `anonymous` says.
RULES = (rule("alice", "quay.io/team/**", "pull"), rule("cert:node7", "quay.io/team/**", "pull"))
TEAM, PUBLIC = "quay.io/team/app", "quay.io/public/app"


@pytest.fixture(scope="module")
def app() -> images.Manifest:
    layers = [images.layer(images.tree({f"etc/{name}": name.encode() * 1000})) for name in ("motd", "issue")]
    return images.index([images.image(layers), images.image(layers[:1], architecture="arm64")])


class Guarded:
    """A registry that holds one image under every name, on a loop in a thread of its own."""

    def __init__(
        self,
        folder: Path,
        image: images.Manifest,
        tls: tuple[Path, Path, Path] | None,
        *,
        rules: Sequence[Rule] = RULES,
        **more: Any,
    ) -> None:
        self.bed = Bed(folder / "bed", *rules, certificates=tls is not None, **more)
        self.content = FakeContent(folder)
        self.content.resolve = resolve  # type: ignore[method-assign] # with hosted names
        self.tls = ServerTls(*tls) if tls is not None else None
        self._image = image
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Guarded:
        for manifest in self._image.all_manifests():
            tags = ["v1", "1"] if manifest is self._image else []
            digest = self.content.add_manifest(manifest.body, *tags, media_type=manifest.media_type)
            assert str(digest) == manifest.digest
        for blob in self._image.all_blobs().values():
            self.content.add_blob(blob.body)
        self.content.page = TagPage(("v1",), more=False)
        self._thread.start()
        self.face = self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self.face.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self.bed.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.face.port}"

    def answers(self) -> list[tuple[str, int]]:
        """Return name and status of every request so far."""
        return [(one["name"], one["status"]) for one in self.face.lines.requests]

    async def _open(self) -> Face:
        gate = Gate(
            self.bed.access,
            Clients(anonymous=True),
            self.content.resolve,
            logins=self.bed.logins,
            certificates=self.tls is not None,
        )
        return await serve_face(self.content, tls=self.tls.context if self.tls else None, gate=gate)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


Open = Callable[..., Guarded]


@pytest.fixture
def guarded(app: images.Manifest, tmp_path: Path) -> Iterator[Open]:
    made: list[Guarded] = []

    def one(tls: tuple[Path, Path, Path] | None = None, **more: Any) -> Guarded:
        made.append(Guarded(tmp_path / f"guarded{len(made)}", app, tls, **more).__enter__())
        return made[-1]

    yield one
    for registry in made:
        registry.__exit__()


@pytest.fixture
def authfile(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Return a function that writes a pull secret with one login."""

    def write(host: str, user: str, password: str) -> Path:
        path = tmp_path / f"auth-{user}.json"
        PullSecret(path).put(host, {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()})
        return path

    return write


def secret_of(header: str) -> str:
    return base64.b64decode(header.partition(" ")[2]).decode().partition(":")[2]


@pytest.mark.parametrize("anonymous", ["pull", "none"])
def test_podman(guarded: Open, programs: Programs, app: images.Manifest, short: Path, anonymous: str) -> None:
    registry = guarded(anonymous=anonymous)
    podman = Podman(programs, short / "podman")
    secret = secret_of(registry.bed.robot("ci", "quay.io/team/**", "pull")[1])
    login = [programs.find("podman"), "login", "--tls-verify=false", "--authfile", str(short / "auth.json")]
    for user, password in (("alice", "wrong"), ("nobody", PASSWORD), ("robot+ci", secret[:-1])):
        with pytest.raises(ClientError, match=r"(?i)unauthorized|invalid username"):
            run([*login, "--username", user, "--password", password, registry.address], podman.environment)
    with pytest.raises(ClientError):
        podman.pull(f"{registry.address}/{TEAM}:v1")
    for user, password in (("alice", PASSWORD), ("robot+ci", secret)):
        done = run([*login, "--username", user, "--password", password, registry.address], podman.environment)
        assert "Login Succeeded" in done
        podman.environment["REGISTRY_AUTH_FILE"] = str(short / "auth.json")
        described = podman.pull(f"{registry.address}/{TEAM}:v1")
        assert described["Digest"] == app.digest
    assert run([*login, "--get-login", registry.address], podman.environment).strip() == "robot+ci"


@pytest.mark.parametrize("anonymous", ["pull", "none"])
def test_skopeo(
    guarded: Open, programs: Programs, app: images.Manifest, short: Path, anonymous: str, authfile: Callable[..., Path]
) -> None:
    registry = guarded(anonymous=anonymous)
    host = registry.address
    nobody = Skopeo(programs, short / "nobody")
    nobody.environment["REGISTRY_AUTH_FILE"] = str(short / "none.json")
    if anonymous == "pull":
        nobody.pull(f"{host}/{PUBLIC}:v1", app)
        assert (f"/v2/{PUBLIC}/manifests/v1", 200) in registry.answers()
    else:
        with pytest.raises(ClientError, match=r"unauthorized|authentication required"):
            nobody.pull(f"{host}/{PUBLIC}:v1", app)
    with pytest.raises(ClientError, match=r"unauthorized|authentication required"):
        nobody.pull(f"{host}/{TEAM}:v1", app)
    alice = Skopeo(programs, short / "alice")
    alice.environment["REGISTRY_AUTH_FILE"] = str(authfile(host, "alice", PASSWORD))
    alice.pull(f"{host}/{TEAM}:v1", app)
    tags = [programs.find("skopeo"), "list-tags", "--tls-verify=false", f"docker://{host}/{TEAM}"]
    assert json.loads(run(tags, alice.environment))["Tags"] == ["v1"]
    bob = Skopeo(programs, short / "bob")
    bob.environment["REGISTRY_AUTH_FILE"] = str(authfile(host, "bob", PASSWORD))
    with pytest.raises(ClientError, match=r"manifest unknown|nothing here"):
        bob.pull(f"{host}/{TEAM}:v1", app)
    secret = secret_of(registry.bed.robot("node", "quay.io/team/**", "pull")[1])
    node = Skopeo(programs, short / "node")
    node.environment["REGISTRY_AUTH_FILE"] = str(authfile(host, "robot+node", secret))
    node.pull(f"{host}/{TEAM}:v1", app)


@pytest.mark.parametrize("anonymous", ["pull", "none"])
def test_crane(
    guarded: Open,
    programs: Programs,
    app: images.Manifest,
    tmp_path: Path,
    anonymous: str,
    authfile: Callable[..., Path],
) -> None:
    registry = guarded(anonymous=anonymous)
    host = registry.address
    crane = programs.find("crane")

    def as_(name: str, login: tuple[str, str] | None) -> Mapping[str, str]:
        folder = tmp_path / name
        folder.mkdir()
        if login is not None:
            (folder / "config.json").write_bytes(authfile(host, *login).read_bytes())
        return {"DOCKER_CONFIG": str(folder), "HOME": str(folder)}

    nobody, alice, bob = as_("nobody", None), as_("alice", ("alice", PASSWORD)), as_("bob", ("bob", PASSWORD))
    assert run([crane, "digest", f"{host}/{TEAM}:v1"], alice).strip() == app.digest
    assert run([crane, "ls", f"{host}/{TEAM}"], alice).split() == ["v1"]
    run([crane, "validate", "--remote", f"{host}/{TEAM}:v1"], alice)
    with pytest.raises(ClientError, match="MANIFEST_UNKNOWN"):
        run([crane, "manifest", f"{host}/{TEAM}:v1"], bob)
    with pytest.raises(ClientError, match="UNAUTHORIZED"):
        run([crane, "manifest", f"{host}/{TEAM}:v1"], nobody)
    if anonymous == "pull":
        run([crane, "validate", "--remote", f"{host}/{PUBLIC}:v1"], nobody)


@pytest.mark.parametrize("anonymous", ["pull", "none"])
def test_docker_login(guarded: Open, programs: Programs, tmp_path: Path, anonymous: str) -> None:
    registry = guarded(anonymous=anonymous)
    docker = programs.find("docker")
    # Without a daemon the command line logs in by itself.
    alone = {"DOCKER_CONFIG": str(tmp_path), "DOCKER_HOST": "unix:///nonexistent.sock"}
    login = [docker, "login", "--username", "alice", registry.address]
    with pytest.raises(ClientError, match=r"(?i)unauthorized"):
        run([*login, "--password", "wrong"], alone)
    assert "Login Succeeded" in run([*login, "--password", PASSWORD], alone)
    entry = json.loads((tmp_path / "config.json").read_text())["auths"][registry.address]
    assert base64.b64decode(entry["auth"]).decode() == f"alice:{PASSWORD}"


@pytest.mark.parametrize("anonymous", ["pull", "none"])
@pytest.mark.parametrize("form", ["ns", "prefix"])
def test_containerd(
    guarded: Open, programs: Programs, app: images.Manifest, short: Path, anonymous: str, form: str
) -> None:
    """It pings nothing: what it asked for is refused, and that says how to log in, by the canonical name."""
    registry = guarded(anonymous=anonymous)
    suffix = "" if form == "ns" else "/quay.io"
    mirror = hosts_toml(f"http://{registry.address}{suffix}")
    secret = secret_of(registry.bed.robot("node", "quay.io/team/**", "pull")[1])
    for user, password in (("alice", PASSWORD), ("robot+node", secret)):
        with running(Containerd(programs, short / user, {"quay.io": mirror})) as containerd:
            containerd.fetch(f"{TEAM}:v1", app, f"{user}:{password}")
    with running(Containerd(programs, short / "nobody", {"quay.io": mirror})) as containerd:
        if anonymous == "pull":
            containerd.fetch(f"{PUBLIC}:v1", app)
        with pytest.raises(ClientError):
            containerd.fetch(f"{TEAM}:v1", app)


def test_client_certificates(
    guarded: Open, programs: Programs, app: images.Manifest, short: Path, authority: Authority, tmp_path: Path
) -> None:
    people = trustme.CA()
    people.cert_pem.write_to_path(tmp_path / "people.pem")
    registry = guarded((authority.certificate, authority.key, tmp_path / "people.pem"), anonymous="none")
    name = f"{registry.address}/{TEAM}:v1"
    for common, right in (("node7", True), ("node8", False)):
        issued = people.issue_cert("node@lab", common_name=common)
        skopeo = Skopeo(programs, short / common, None, authority.ca)
        folder = short / common / "certs"
        issued.cert_chain_pems[0].write_to_path(folder / "client.cert")
        issued.private_key_pem.write_to_path(folder / "client.key")
        if right:
            skopeo.pull(name, app)
        else:
            with pytest.raises(ClientError, match=r"manifest unknown|nothing here"):
                skopeo.pull(name, app)
    stranger = Skopeo(programs, short / "stranger", None, authority.ca)
    with pytest.raises(ClientError, match=r"unauthorized|authentication required"):
        stranger.pull(name, app)
