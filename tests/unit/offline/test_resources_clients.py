"""Real clients read the generated files as we say they do: where each asks, in which order, whom it leaves alone."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from mirror.oci.digest import Digest
from mirror.offline.plan import Image, Plan
from mirror.offline.resources import Resources, Site, make
from tests.peers.images import Image as Pushed
from tests.peers.scripted import ScriptedRegistry
from tests.tools.clients import ClientError, Containerd, run
from tests.tools.images import layer, tree
from tests.tools.processes import running
from tests.tools.programs import Programs
from tests.unit.offline.resources_bed import COMPONENTS, RELEASES, configuration, labelled

pytestmark = pytest.mark.clients

NOWHERE = "nowhere.invalid"  # a host that nobody answers for
REPOSITORIES = (RELEASES, COMPONENTS, f"{NOWHERE}/team/app", "docker.io/library/busybox")


class Served:
    """A mirror under test: a registry that notes what it is asked, and the CA that vouches for it."""

    def __init__(self, registry: ScriptedRegistry, ca: bytes) -> None:
        self.registry = registry
        self.ca = ca
        self.pushed: dict[str, Pushed] = {}

    def stock(self) -> None:
        """Hold an image in each repository, under the name that it has here, and by the tag `v1`."""
        for seed, repository in enumerate(REPOSITORIES):
            self.pushed[repository] = self.registry.add_image(repository, "v1", seed=seed)

    def plan(self) -> Plan:
        kinds: Mapping[str, Any] = {RELEASES: "release", COMPONENTS: "component"}
        return Plan.build(
            "prod",
            images=[
                Image(name, Digest.parse(one.digest), name, kinds.get(name, "image"), ("v1",))
                for name, one in self.pushed.items()
            ],
        )

    @property
    def manifests(self) -> list[str]:
        return [f"{one.path}?{one.query}" if one.query else one.path for one in self.registry.seen("manifest")]


class PlainRegistry(ScriptedRegistry):
    """Speaks no TLS, and says so at once to clients that try it first."""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if first == b"\x16":  # a handshake
            writer.transport.abort()
            return
        reader._buffer[:0] = first
        await super()._accept(reader, writer)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Start mirrors, TLS with a private CA unless told otherwise."""
    started: list[ScriptedRegistry] = []
    authority = trustme.CA()

    async def start(*, secure: bool = True, host: str = "127.0.0.1") -> Served:
        context = None
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(host).configure_cert(context)
        registry = ScriptedRegistry(tls=context, host=host) if secure else PlainRegistry(host=host)
        served = Served(registry, authority.cert_pem.bytes())
        started.append(await served.registry.start())
        return served

    yield start
    for registry in started:
        await registry.stop()


def generated(folder: Path, served: Sequence[Served], plan: Plan, *, never: bool = False) -> tuple[Resources, Path]:
    """Write what these mirrors need, and return it with the folder that holds it."""
    config = configuration(folder, {"upstreams": {"quay.io": {}, "docker.io": {}}})
    registries = [one.registry.host if one.registry.scheme == "https" else one.registry.origin for one in served]
    site = Site(tuple(registries), config, ca=served[0].ca, never_contact_source=never)
    resources = make(labelled(plan), site, lambda release: [])
    for path, content in resources.files.items():
        (folder / "out" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "out" / path).write_bytes(content)
    return resources, folder / "out"


class Skopeo:
    """skopeo that knows the generated nodes/containers and nothing of this machine."""

    def __init__(self, programs: Programs, folder: Path, written: Path) -> None:
        self._program = programs.find("skopeo")
        self._tree = written / "nodes" / "containers"
        self._home = folder / "home"
        containers = self._home / ".config" / "containers"
        containers.mkdir(parents=True)
        (containers / "certs.d").symlink_to(self._tree / "certs.d")
        (self._home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    async def copy(self, name: str, target: str = "copied") -> None:
        await asyncio.to_thread(self._copy, name, target)

    def _copy(self, name: str, target: str) -> None:
        command = [
            *(self._program, "--registries-conf", str(self._tree / "registries.conf")),
            *("--registries.d", str(self._tree / "registries.d"), "--policy", str(self._home / "policy.json")),
            *("copy", "--quiet", f"docker://{name}", f"dir:{self._home / target}"),
        ]
        run(command, {"HOME": str(self._home), "TMPDIR": str(self._home), "XDG_RUNTIME_DIR": str(self._home)})


@pytest.mark.parametrize("secure", [True, False], ids=["tls", "http"])
@pytest.mark.parametrize("never", [True, False], ids=["never-contact", "fallback"])
async def test_skopeo_finds_every_image_here(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path, secure: bool, never: bool
) -> None:
    served: Served = await serve(secure=secure)
    served.stock()
    _, written = generated(tmp_path, [served], served.plan(), never=never)
    skopeo = Skopeo(programs, tmp_path, written)
    for number, (name, image) in enumerate(served.pushed.items()):
        served.registry.forget()
        await skopeo.copy(f"{name}@{image.digest}", f"digest-{number}")
        # the image, and its signature looked for beside it: by the repository's name here, at the mirror
        signature = f"/v2/{name}/manifests/{image.digest.replace(':', '-')}.sig"
        assert served.manifests == [f"/v2/{name}/manifests/{image.digest}", signature]
        served.registry.forget()
        await skopeo.copy(f"{name}:v1", f"tag-{number}")
        assert served.manifests[0] == f"/v2/{name}/manifests/v1"


async def test_skopeo_tries_registries_in_their_order(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path
) -> None:
    first, second = await serve(), await serve(secure=False)
    second.stock()
    _, written = generated(tmp_path, [first, second], second.plan())
    image = second.pushed[RELEASES]
    await Skopeo(programs, tmp_path, written).copy(f"{RELEASES}@{image.digest}")
    path = f"/v2/{RELEASES}/manifests/{image.digest}"
    assert first.manifests == [path]
    assert second.manifests[0] == path


async def test_skopeo_leaves_a_closed_source_alone(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path
) -> None:
    served, source = await serve(), await serve(secure=False)
    name = f"{source.registry.host}/team/app"
    image = source.registry.add_image("team/app", "v1")
    plan = Plan.build("prod", images=[Image("lab/team/app", Digest.parse(image.digest), name, "image", ("v1",))])
    _, written = generated(tmp_path, [served], plan, never=True)
    skopeo = Skopeo(programs, tmp_path, written)
    for reference in (f"{name}:v1", f"{name}@{image.digest}"):
        with pytest.raises(ClientError, match="is blocked"):
            await skopeo.copy(reference)
    assert len(served.manifests) == 2
    assert source.registry.requests == []


@pytest.fixture
def home() -> Iterator[Path]:
    """A home whose path is short: podman's folders may have 50 characters."""
    with tempfile.TemporaryDirectory(prefix="podman-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


async def test_podman_reads_them_as_a_drop_in(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path, home: Path
) -> None:
    served: Served = await serve()
    image = served.registry.add_image(RELEASES, "v1", layers=[layer(tree({"etc/motd": b"here"})).body])
    served.pushed[RELEASES] = image
    _, written = generated(tmp_path, [served], served.plan())
    containers = home / ".config" / "containers"
    (containers / "registries.conf.d").mkdir(parents=True)
    # beside a registries.conf of the host's own, as the README says
    (containers / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
    (containers / "registries.conf.d" / "50-mirror.conf").symlink_to(written / "nodes/containers/registries.conf")
    (containers / "certs.d").symlink_to(written / "nodes/containers/certs.d")
    (containers / "registries.d").symlink_to(written / "nodes/containers/registries.d")
    (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    command = [
        *(programs.find("podman"), "--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/tmp"),
        *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
        *("pull", "--quiet", "--signature-policy", str(home / "policy.json"), f"{RELEASES}@{image.digest}"),
    ]
    environment = {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "TMPDIR": str(home),
        "CONTAINERS_REGISTRIES_CONF": "",
    }
    await asyncio.to_thread(run, command, environment)
    assert served.manifests[0] == f"/v2/{RELEASES}/manifests/{image.digest}"


class GeneratedContainerd(Containerd):
    """A containerd whose certs.d is the generated one, certificates and all."""

    def __init__(self, programs: Programs, folder: Path, written: Path) -> None:
        super().__init__(programs, folder, {})
        self._hosts = written / "nodes" / "containerd" / "certs.d"

    async def get(self, name: str, trusted: Path | None = None) -> None:
        """Fetch an image by name; `trusted` is what the host trusts for hosts that no file speaks of."""
        command = [self._ctr, "--address", str(self._socket), "content", "fetch", "--hosts-dir", str(self._hosts), name]
        await asyncio.to_thread(run, command, {"SSL_CERT_FILE": str(trusted)} if trusted else {})


@pytest.mark.parametrize("never", [True, False], ids=["never-contact", "fallback"])
async def test_containerd_finds_every_image_here(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path, never: bool
) -> None:
    served: Served = await serve()
    served.stock()
    _, written = generated(tmp_path, [served], served.plan(), never=never)
    with running(GeneratedContainerd(programs, tmp_path / "containerd", written)) as containerd:
        for name, image in served.pushed.items():
            served.registry.forget()
            await containerd.get(f"{name}:v1")
            host = name.partition("/")[0]
            asked = served.manifests
            assert asked[0] == f"/v2/{name}/manifests/v1?ns={host}"
            assert f"/v2/{name}/manifests/{image.digest}?ns={host}" in asked
            assert all(one.query == f"ns={host}" for one in served.registry.seen("blob"))


async def test_containerd_tries_registries_in_their_order(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path
) -> None:
    first, second = await serve(), await serve(secure=False)
    second.stock()
    _, written = generated(tmp_path, [first, second], second.plan())
    with running(GeneratedContainerd(programs, tmp_path / "containerd", written)) as containerd:
        await containerd.get(f"{RELEASES}:v1")
    assert first.manifests[0] == second.manifests[0] == f"/v2/{RELEASES}/manifests/v1?ns=quay.io"


@pytest.mark.parametrize("never", [True, False], ids=["never-contact", "fallback"])
async def test_containerd_goes_to_the_source_only_where_it_may(
    serve: Callable[..., Any], programs: Programs, tmp_path: Path, never: bool
) -> None:
    served, source = await serve(), await serve()
    name = f"{source.registry.host}/team/app"  # a host with a port, whose folder has its name
    image = source.registry.add_image("team/app", "v1")
    plan = Plan.build("prod", images=[Image("lab/team/app", Digest.parse(image.digest), name, "image", ("v1",))])
    _, written = generated(tmp_path, [served], plan, never=never)
    (tmp_path / "ca.pem").write_bytes(source.ca)
    outcome = pytest.raises(ClientError) if never else contextlib.nullcontext()
    with running(GeneratedContainerd(programs, tmp_path / "containerd", written)) as containerd, outcome:
        await containerd.get(f"{name}:v1", tmp_path / "ca.pem")
    # the mirror does not have it
    assert set(served.manifests) >= {f"/v2/lab/team/app/manifests/v1?ns={source.registry.host.replace(':', '%3A')}"}
    assert bool(source.registry.requests) is not never
