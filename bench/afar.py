"""Far away: a release as it is published, in a registry, an update graph and a signature store behind a link."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.link import Counts, Link
from bench.shelf import Shelf
from tests.tools.cincinnati import Cincinnati
from tests.tools.openpgp import TestKey
from tests.tools.payload import COMPONENT_REPOSITORY, RELEASE_REPOSITORY
from tests.tools.release import Release, make_release
from tests.tools.signature_store import SignatureStore
from tests.tools.stocking import Stockist

COMPONENTS = 190
CHANNEL = "stable-4.16"
VERSION = "4.16.15"


@dataclass(frozen=True, slots=True)
class Image:
    """An image as copying tools name it: its repository and digest."""

    repository: str
    digest: str


class Afar:
    """One release of `COMPONENTS` components, published behind a link; its files are in `folder`. A context manager.

    `scale` is the generator's: 1.0 gives some 45 MB. `port` of the registry is behind the link; `size` is the bytes of
    everything that the release needs, each digest once. `round_trip` (seconds) and `rate` (bytes a second of each
    connection) are the link's.
    """

    def __init__(self, folder: Path, scale: float, round_trip: float = 0.05, rate: float = 10e6) -> None:
        folder.mkdir()
        self._folder = folder
        self._running = ExitStack()
        key = TestKey.generate()
        release = make_release(VERSION, components=COMPONENTS, scale=scale, key=key)
        self.size = sum(release.content().values())
        self.images = sorted(
            {Image(_repository(name), one.digest) for name, one in release.images().items()},
            key=lambda image: image.digest,
        )
        self.keyring = folder / "release-key.asc"
        self.keyring.write_bytes(key.armored_public())
        self.signatures = SignatureStore(folder / "signatures")
        self.signatures.sign(release, key)
        self.graph = Cincinnati()
        self.graph.add(VERSION, release.pullspec, CHANNEL)
        self.registry = Shelf("upstream", folder / "registry")
        self._stock(release)
        ports = [self.registry.port, *map(_port, (self.graph.url, self.signatures.url))]
        self.link = Link(folder / "link", ports, round_trip, rate)

    def _stock(self, release: Release) -> None:
        with self.registry:
            self.registry.start()
            Stockist(f"http://127.0.0.1:{self.registry.port}").push(release.placed())

    def __enter__(self) -> Afar:
        with ExitStack() as running:
            running.enter_context(self.registry)
            self.registry.start()
            running.enter_context(self.graph)
            running.enter_context(self.signatures)
            running.enter_context(self.link)
            self._running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @property
    def port(self) -> int:
        """Where the registry is reached over the link."""
        return self.link.ports[self.registry.port]

    def carried(self) -> Counts:
        """Return what has come over the link so far, for everybody."""
        return self.link.counts()

    def configuration(self) -> dict[str, Any]:
        """Return the keys of mirror.yaml by which a site reaches all of it."""
        return {
            "upstreams": {"quay.io": {"endpoints": [f"http://127.0.0.1:{self.port}"], "plain_http": True}},
            "releases": {
                "graph": self._over(self.graph.url),
                "signature_stores": [self._over(self.signatures.url)],
                "keyring": str(self.keyring),
            },
        }

    def image_set(self, path: Path) -> Path:
        """Write the image set of the release and return its path."""
        platform = {
            "architectures": ["amd64"],
            "channels": [{"name": CHANNEL, "minVersion": VERSION, "maxVersion": VERSION}],
            "graph": True,
            "kubeVirtContainer": True,
        }
        document = {
            "kind": "ImageSetConfiguration",
            "apiVersion": "mirror.openshift.io/v2alpha1",
            "mirror": {"platform": platform},
        }
        path.write_text(json.dumps(document))  # YAML takes JSON as it is
        return path

    def _over(self, url: str) -> str:
        port = _port(url)
        return url.replace(f":{port}/", f":{self.link.ports[port]}/", 1)


def _port(url: str) -> int:
    return int(url.split("/")[2].rpartition(":")[2])


def _repository(pullspec: str) -> str:
    repository = pullspec.partition("/")[2].partition("@")[0]
    assert repository in (COMPONENT_REPOSITORY, RELEASE_REPOSITORY), pullspec
    return repository
