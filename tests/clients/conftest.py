"""Upstream registries filled with real images, and mirrors in front of them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.tools import images, registries
from tests.tools.mirror import Mirror
from tests.tools.programs import Programs
from tests.tools.push import push
from tests.tools.registries import Registry
from tests.tools.token_server import TokenServer

MakeMirror = Callable[..., Mirror]


@dataclass(frozen=True)
class Shelf:
    """What the upstreams hold, under `team/<name>` and the tag `1` each."""

    tool: images.Manifest  # one static program: runs anywhere
    app: images.Manifest  # three layers, several MB each
    multi: images.Manifest  # an index for two architectures
    docker: images.Manifest  # a docker manifest list over schema 2
    zstd: images.Manifest  # a zstd layer
    sbom: images.Manifest  # an OCI artifact
    bulk: images.Manifest  # one layer of 48 MiB that does not compress

    def names(self) -> Mapping[str, images.Manifest]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class Authority:
    """A private CA and a certificate for the loopback, as PEM files."""

    ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def shelf() -> Shelf:
    """Images from files that every Debian has."""
    libraries = {f"lib/{path.name}": path for name in ("libc", "libcrypto", "libm") for path in _library(name)}
    scripts = {
        f"usr/lib/perl/{path.name}": path for path in Path("/usr/lib").glob("*/perl-base/*.p[lm]") if path.is_file()
    }
    busybox = images.tree({"bin/busybox": Path("/bin/busybox")}, {"bin/sh": "busybox", "bin/cat": "busybox"})
    perl = images.tree({"usr/bin/perl": Path("/usr/bin/perl"), **scripts})
    libc = images.tree(libraries)
    motd = images.tree({"etc/motd": b"pulled through\n"})
    layers = [images.layer(archive) for archive in (busybox, libc, perl)]
    app = images.image(layers)
    arm = images.image([images.layer(perl), images.layer(motd)], architecture="arm64")
    docker = [images.layer(archive, docker=True) for archive in (busybox, motd)]
    dpkg = images.Content("application/vnd.debian.status", Path("/var/lib/dpkg/status").read_bytes())
    noise = images.tree({"srv/noise": random.Random(7).randbytes(48 * 2**20)})
    return Shelf(
        tool=images.image([images.layer(busybox), images.layer(motd)], command=["/bin/cat", "/etc/motd"]),
        app=app,
        multi=images.index([app, arm]),
        docker=images.index(
            [
                images.image(docker, docker=True),
                images.image(docker[1:], docker=True, architecture="arm64"),
            ],
            docker=True,
        ),
        zstd=images.image([images.layer(libc, compression="zstd"), images.layer(motd)]),
        sbom=images.artifact("application/vnd.debian.status", dpkg),
        bulk=images.image([images.layer(noise, compression="none")]),
    )


def _library(name: str) -> list[Path]:
    return sorted(path for path in Path("/usr/lib").glob(f"*-linux-gnu*/{name}.so.*") if not path.is_symlink())


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for index, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(folder / "certificate.pem", append=index > 0)
    return Authority(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")


@pytest.fixture(scope="session")
def storage(programs: Programs, shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One filled storage for every docker-registry: pushed once, read by each."""
    folder = tmp_path_factory.mktemp("registry")
    registry = registries.docker_registry(programs, folder, folder / "storage")
    registry.start()
    try:
        for name, manifest in shelf.names().items():
            push(registry.address, f"team/{name}", manifest, "1")
        push(registry.address, "library/tool", shelf.tool, "latest")
    finally:
        registry.stop()
    return folder / "storage"


def _running(registry: Registry) -> Iterator[Registry]:
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture
def plain(programs: Programs, storage: Path, tmp_path: Path) -> Iterator[Registry]:
    """An upstream that asks for no login."""
    yield from _running(registries.docker_registry(programs, tmp_path / "plain", storage))


@pytest.fixture
def basic(programs: Programs, storage: Path, tmp_path: Path) -> Iterator[Registry]:
    """An upstream with a basic login."""
    yield from _running(registries.docker_registry(programs, tmp_path / "basic", storage, basic=True))


@pytest.fixture
def issuer(authority: Authority, tmp_path: Path) -> Iterator[TokenServer]:
    """The token server of the upstream `token`."""
    tls = (authority.certificate, authority.key)
    with TokenServer(tmp_path / "issuer", registries.USER, registries.PASSWORD, tls) as server:
        yield server


@pytest.fixture
def token(programs: Programs, storage: Path, issuer: TokenServer, tmp_path: Path) -> Iterator[Registry]:
    """An upstream whose login is by bearer token."""
    yield from _running(registries.docker_registry(programs, tmp_path / "token", storage, token=issuer))


@pytest.fixture
def secure(programs: Programs, storage: Path, authority: Authority, tmp_path: Path) -> Iterator[Registry]:
    """An upstream over TLS, its certificate signed by a private CA."""
    tls = (authority.certificate, authority.key)
    yield from _running(registries.docker_registry(programs, tmp_path / "secure", storage, tls=tls))


@pytest.fixture
def attached(shelf: Shelf, tmp_path: Path) -> Iterator[Registry]:
    """An upstream that knows referrers: `team/tool:1` with an SBOM attached to it."""
    registry = registries.hosting(tmp_path / "attached")
    for running in _running(registry):
        sbom = images.artifact("application/spdx+json", images.Content("text/spdx", b"SPDX"), subject=shelf.tool)
        push(registry.address, "team/tool", shelf.tool, "1")
        push(registry.address, "team/tool", sbom)
        yield running


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(registries.PASSWORD + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: podman's runroot may have 50 characters, a socket's path 107."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def make_mirror(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeMirror]:
    """Start mirrors; at the end each must exit with 0, and what it logged is shown beside a failure."""
    made: list[Mirror] = []

    def make(document: Mapping[str, Any], name: str = "mirror") -> Mirror:
        mirror = Mirror(tmp_path / name, document)
        made.append(mirror)
        mirror.start()
        return mirror

    yield make
    codes = [mirror.stop() for mirror in reversed(made)]
    for mirror in made:
        print(f"--- {mirror.configuration}\n{mirror.log}")
    for mirror, code in zip(reversed(made), codes, strict=True):
        assert mirror.killed or code == 0, f"{mirror.configuration}: mirror serve ended with {code}"
        assert "Traceback" not in mirror.log, f"{mirror.configuration}: a traceback in the log"
