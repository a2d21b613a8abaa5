"""Sites and plans to make resources for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trustme
import yaml

from mirror.config import Config, load
from mirror.oci.digest import Digest
from mirror.offline.plan import Image, Kind, Plan, Release
from mirror.offline.resources import Resources, Site, make

RELEASES = "quay.io/openshift-release-dev/ocp-release"
COMPONENTS = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
REGISTRY = "mirror.example:5000"
CONNECTED: Mapping[str, Any] = {"upstreams": {"quay.io": {}, "docker.io": {}, "registry.redhat.io": {}}}


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def image(kind: Kind, source: str, label: str = "", tags: Sequence[str] = (), name: str = "") -> Image:
    """Return a planned image whose digest comes from its label; here it has its own name unless another is given."""
    return Image(name or source, digest(label or source), source, kind, tuple(tags), ("asked for",))


def release_plan(name: str = "prod", version: str = "4.16.15", *more: Image) -> Plan:
    """Return a plan of one release with two components and its signature, and of `more` images."""
    release = digest(f"release {version}")
    images = [
        image("release", RELEASES, f"release {version}", [f"{version}-x86_64"]),
        image("component", COMPONENTS, f"cli {version}"),
        image("component", COMPONENTS, f"etcd {version}"),
        image("signature", RELEASES, f"sig {version}", [f"sha256-{release.hex}.sig"]),
    ]
    found = Release(version, "amd64", RELEASES, release, ("stable-4.16",))
    return Plan.build(name, releases=[found], images=[*images, *more])


def configuration(folder: Path, document: Mapping[str, Any]) -> Config:
    """Return the configuration that a mirror.yaml of this document is."""
    path = folder / "mirror.yaml"
    path.write_text(yaml.safe_dump(dict(document)))
    return load(path)


class Authority:
    """A private CA and what it issues, as PEM."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def issue(self, *names: str) -> bytes:
        """Return the chain of a certificate for these names."""
        return b"".join(part.bytes() for part in self._ca.issue_cert(*names).cert_chain_pems)


def signatures(release: Digest) -> list[tuple[int, bytes]]:
    """Return two signatures, given in no order."""
    return [(2, b"second " + release.hex.encode()), (1, b"first " + release.hex.encode())]


def made(site: Site, *plans: Plan) -> Resources:
    """Return the resources of these plans, each the fifth generation of its set."""
    return make(labelled(*plans), site, signatures)


def labelled(*plans: Plan) -> list[tuple[str, Plan]]:
    return [(f"{plan.set}@5", plan) for plan in plans]


def documents(resources: Resources, path: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a file."""
    return list(yaml.safe_load_all(resources.files[path]))
