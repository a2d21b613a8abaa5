"""The world outside: releases, the registry they come from, the update graph, the signatures and who signs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
import yaml

from tests.tools import images
from tests.tools.cincinnati import Cincinnati, Risk
from tests.tools.openpgp import TestKey
from tests.tools.programs import Programs
from tests.tools.release import Placed, Release, make_release
from tests.tools.signature_store import SignatureStore
from tests.tools.token_registry import TokenRegistry, upstreams

CHANNEL = "stable-4.16"
MULTI_CHANNEL = "stable-4.17"
EXTRA = "registry.redhat.io/ubi9/ubi"  # an image beside the releases, by tag `latest`
HOSTS = ("quay.io", "registry.redhat.io")


@dataclass(frozen=True)
class Authority:
    """A private CA and a certificate for the loopback, as PEM files."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Releases:
    """What is published: a release, a newer one that shares most with it, one for several architectures, an image."""

    key: TestKey
    older: Release
    newer: Release
    multi: Release
    extra: images.Manifest

    @property
    def placed(self) -> Iterator[Placed]:
        for release in (self.older, self.newer, self.multi):
            yield from release.placed()
        yield Placed("ubi9/ubi", self.extra, ("latest",))


@dataclass(frozen=True)
class World:
    """Everything that a site outside can reach; `front` of the registry counts it, and takes it away."""

    releases: Releases
    registry: TokenRegistry
    graph: Cincinnati
    signatures: SignatureStore
    authority: Authority
    keyring: Path
    pull_secret: Path

    def configuration(self) -> dict[str, Any]:
        """Return the keys of mirror.yaml by which a site reaches all of it."""
        return {
            "upstreams": dict(upstreams(self.registry, HOSTS)),
            "ca": [str(self.authority.ca)],
            "pull_secrets": [str(self.pull_secret)],
            "clients": {"anonymous": "pull"},
            "releases": {
                "graph": self.graph.url,
                "signature_stores": [self.signatures.url],
                "keyring": str(self.keyring),
            },
        }


def make_authority(folder: Path) -> Authority:
    """Make a CA and a certificate for the loopback in a folder."""
    folder.mkdir(parents=True)
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for place, part in enumerate(issued.cert_chain_pems):
        part.write_to_path(folder / "certificate.pem", append=place > 0)
    return Authority(folder / "ca.pem", folder / "certificate.pem", folder / "key.pem")


def make_releases(components: int = 190, scale: float = 1.0) -> Releases:
    """Make what is published."""
    key = TestKey.generate()
    older = make_release("4.16.15", components=components, scale=scale, key=key)
    newer = make_release("4.16.20", components=components, scale=scale, key=key, base=older, previous=[older.version])
    multi = make_release("4.17.2", "multi", components=10, scale=scale * 0.1, key=key)
    layers = [images.layer(images.tree({"etc/os-release": b"ID=rhel\n"}))]
    extra = images.index([images.image(layers, architecture=one) for one in ("amd64", "arm64")])
    return Releases(key, older, newer, multi, extra)


@contextmanager
def opened(programs: Programs, folder: Path, releases: Releases) -> Iterator[World]:
    """Publish releases in a folder and serve them until the end."""
    authority = make_authority(folder / "authority")
    tls = (authority.certificate, authority.key)
    keyring = folder / "release-key.asc"
    keyring.write_bytes(releases.key.armored_public())
    with ExitStack() as stack:
        registry = stack.enter_context(TokenRegistry(programs, folder / "registry", tls))
        registry.stock(releases.placed)
        graph = stack.enter_context(Cincinnati())
        signatures = stack.enter_context(SignatureStore(folder / "signatures"))
        for release in (releases.older, releases.newer, releases.multi):
            signatures.sign(release, releases.key)
        _draw(graph, releases)
        secret = registry.pull_secret(folder / "pull-secret.json")
        yield World(releases, registry, graph, signatures, authority, keyring, secret)


def _draw(graph: Cincinnati, releases: Releases) -> None:
    older, newer, multi = releases.older, releases.newer, releases.multi
    graph.add(older.version, older.pullspec, CHANNEL)
    graph.add(newer.version, newer.pullspec, CHANNEL)
    graph.add("4.16.30", "quay.io/openshift-release-dev/ocp-release@sha256:" + "9" * 64, "candidate-4.16")
    graph.add(multi.version, multi.pullspec, MULTI_CHANNEL, architecture="multi")
    graph.edge(older.version, newer.version)
    graph.conditional(older.version, "4.16.30", Risk("SlowBoot", "Nodes take longer to boot."))


def image_set(
    path: Path,
    *,
    versions: tuple[str, str] = ("4.16.15", "4.16.15"),
    channel: str = CHANNEL,
    architecture: str = "amd64",
    extra: bool = True,
    **platform: Any,
) -> Path:
    """Write an ImageSetConfiguration for the releases of a channel from one version to another; return its path."""
    mirror: Mapping[str, Any] = {
        "platform": {
            "architectures": [architecture],
            "channels": [{"name": channel, "minVersion": versions[0], "maxVersion": versions[1]}],
            "graph": True,
            "kubeVirtContainer": True,
            **platform,
        },
        **({"additionalImages": [{"name": f"{EXTRA}:latest"}]} if extra else {}),
    }
    document = {"kind": "ImageSetConfiguration", "apiVersion": "mirror.openshift.io/v2alpha1", "mirror": mirror}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
