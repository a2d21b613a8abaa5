"""Release payloads shaped like real ones: a release image that names a couple of hundred components by digest.

The same seed, key and arguments give the same digests. Sizes are a thousandth of the real ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.tools import cosign, payload
from tests.tools.cosign import SigstoreKey
from tests.tools.images import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Content,
    Layer,
    Manifest,
    artifact,
    index,
    layer,
    tree,
)
from tests.tools.payload import (
    ALIASES,
    COMPONENT_REPOSITORY,
    HOST,
    MACHINES,
    RELEASE_REPOSITORY,
    component_names,
    to_json,
)

MULTI = ("amd64", "arm64", "ppc64le", "s390x")
LISTED = "cli-artifacts"  # of a payload for one architecture, the component that is a list all the same
SIGNED_COMPONENTS = 3  # how many components have a signature of their own
KIB = 1024


class PublicKey(Protocol):
    """What a payload needs of the key that signs releases."""

    def armored_public(self) -> bytes: ...


@dataclass(frozen=True)
class Placed:
    """A manifest, with all under it, where it is found: the repository without its host, and its tags."""

    repository: str
    manifest: Manifest
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release:
    """One release with everything that belongs to it."""

    version: str
    architecture: str  # as Go and Cincinnati spell it
    image: Manifest = field(repr=False)
    components: Mapping[str, Manifest] = field(repr=False)  # by name; several names may mean one
    kubevirt: Manifest | None = field(repr=False, default=None)
    attached: tuple[Placed, ...] = field(repr=False, default=())  # signatures and attestations, by tag
    referrers: tuple[Manifest, ...] = field(repr=False, default=())  # artifacts whose subject is a component
    policy_key: bytes = b""

    @property
    def digest(self) -> str:
        return self.image.digest

    @property
    def tag(self) -> str:
        """`<version>-<architecture as machines call it>`."""
        return f"{self.version}-{MACHINES[self.architecture]}"

    @property
    def reference(self) -> str:
        """What its signature claims: host/repository:tag."""
        return f"{HOST}/{RELEASE_REPOSITORY}:{self.tag}"

    @property
    def pullspec(self) -> str:
        return f"{HOST}/{RELEASE_REPOSITORY}@{self.digest}"

    def images(self) -> dict[str, Manifest]:
        """Return what nodes pull, by its original name: the release image, components, kubevirt."""
        found = {self.pullspec: self.image}
        of_components = [*self.components.values(), *([self.kubevirt] if self.kubevirt else [])]
        found.update((f"{HOST}/{COMPONENT_REPOSITORY}@{one.digest}", one) for one in of_components)
        return found

    def placed(self) -> Iterator[Placed]:
        """Yield everything and where it is found."""
        yield Placed(RELEASE_REPOSITORY, self.image, (self.tag,))
        of_components = {one.digest: one for one in self.components.values()}
        for component in of_components.values():
            yield Placed(COMPONENT_REPOSITORY, component)
        if self.kubevirt:
            yield Placed(COMPONENT_REPOSITORY, self.kubevirt)
        yield from self.attached
        for referrer in self.referrers:
            yield Placed(COMPONENT_REPOSITORY, referrer)

    def content(self) -> dict[str, int]:
        """Return every digest of it, manifests and blobs, with its size in bytes."""
        return content_of(self.placed())


def content_of(placed: Iterable[Placed]) -> dict[str, int]:
    """Return every digest under some manifests, with its size in bytes."""
    found = {}
    for one in placed:
        found.update((manifest.digest, len(manifest.body)) for manifest in one.manifest.all_manifests())
        found.update((digest, len(blob.body)) for digest, blob in one.manifest.all_blobs().items())
    return found


def make_release(
    version: str,
    architecture: str = "amd64",
    *,
    components: int = 190,
    previous: Sequence[str] = (),
    base: Release | None = None,
    changed: float = 0.1,
    key: PublicKey | None = None,
    kubevirt: bool = True,
    sigstore: bool = True,
    image_policy: bool = True,
    architectures: Sequence[str] = MULTI,
    scale: float = 1.0,
    seed: int = 0,
) -> Release:
    """Return a release for one architecture, or for several (`multi`: those of `architectures`).

    Of `base`, an earlier release, all but the share `changed` of its components stay as they are, and what changes
    keeps its lower layers. `scale` multiplies the sizes of layers; 1.0 gives some 40 MB for 190 components.
    """
    made = _Workshop(seed, scale)
    platforms = tuple(architectures) if architecture == "multi" else (architecture,)
    images: dict[str, Manifest] = {}
    for name in component_names(components):
        if base is not None and name in base.components and not made.chance(f"{version} {name}", changed):
            images[name] = base.components[name]
        elif architecture == "multi" or name == LISTED:
            these = platforms if architecture == "multi" else ("amd64", "arm64")
            images[name] = index([made.component(name, version, one) for one in these], docker=True)
        else:
            images[name] = made.component(name, version, architecture)
    images.update((alias, images[name]) for alias, name in ALIASES.items() if name in images)
    virtual = made.component("rhel-coreos-kubevirt", version, "amd64") if kubevirt else None
    sigstore_key = SigstoreKey(str(seed))
    children = []
    for platform in platforms:
        files = payload.manifests(
            version,
            images,
            virtual,
            multi=architecture == "multi",
            previous=previous,
            armored=key.armored_public().decode() if key else "",
            policy_key=sigstore_key.public if image_policy else b"",
        )
        children.append(made.release(version, platform, files, images["cluster-version-operator"].digest))
    image = index(children, docker=True) if architecture == "multi" else children[0]
    return Release(
        version,
        architecture,
        image,
        images,
        virtual,
        tuple(_attached(image, images, sigstore_key)) if sigstore else (),
        (_sbom(images["cli"]),),
        sigstore_key.public,
    )


def _attached(image: Manifest, components: Mapping[str, Manifest], key: SigstoreKey) -> Iterator[Placed]:
    """Yield signatures of the release image, of each child of it, and of a few components."""
    signed = [(RELEASE_REPOSITORY, one) for one in image.all_manifests()]
    signed += [(COMPONENT_REPOSITORY, components[name]) for name in sorted(components)[:SIGNED_COMPONENTS]]
    for repository, one in signed:
        yield Placed(repository, key.sign(f"{HOST}/{repository}", one.digest), (cosign.tag(one.digest),))
    yield Placed(RELEASE_REPOSITORY, key.attest(image.digest), (cosign.tag(image.digest, "att"),))


def _sbom(subject: Manifest) -> Manifest:
    content = Content("application/spdx+json", to_json({"spdxVersion": "SPDX-2.3", "name": subject.digest}))
    return artifact("application/spdx+json", content, subject=subject)


class _Workshop:
    """Makes layers and images; each layer's bytes depend on the seed and the layer's name alone."""

    def __init__(self, seed: int, scale: float) -> None:
        self._seed = seed
        self._scale = scale
        self._layers: dict[str, Layer] = {}

    def chance(self, name: str, share: float) -> bool:
        """Tell whether `name` belongs to a share of all names."""
        return self._random(f"chance {name}").random() < share

    def component(self, name: str, version: str, architecture: str) -> Manifest:
        """Return a component: layers that many share, one of its own for all versions, one for this version."""
        common = ["ubi9", "base"]
        if name.startswith("rhel-coreos"):
            common = [f"{name}-{number}" for number in range(8)]
        elif "operator" in name:
            common = ["ubi9", "base", "operators"]
        elif self.chance(f"stack {name}", 0.2):
            common = ["ubi8", "base8", "python"]
        layers = [self._layer(one, architecture, 240 * KIB if "-" in one else 500 * KIB) for one in common]
        layers.append(self._layer(f"{name} lib", architecture, self._size(name, 60 * KIB)))
        layers.append(self._layer(f"{name} bin {version}", architecture, self._size(f"{name} {version}", 70 * KIB)))
        labels = {
            "io.openshift.build.source-location": f"https://github.com/openshift/{name}",
            "io.k8s.display-name": name,
            "version": f"v{version}",
            "architecture": MACHINES[architecture],
        }
        return _docker_image(layers, architecture, f"/usr/bin/{name}", labels)

    def release(self, version: str, architecture: str, files: Mapping[str, bytes], operator: str) -> Manifest:
        """Return a release image: the version operator's layers, and on top the files of the payload."""
        layers = [self._layer(one, architecture, 500 * KIB) for one in ("ubi9", "base", "operators")]
        layers.append(layer(tree({"usr/bin/cluster-version-operator": b"", **payload.decoy()}), docker=True))
        layers.append(layer(tree(files), docker=True))
        labels = {"io.openshift.release": version, "io.openshift.release.base-image-digest": operator}
        return _docker_image(layers, architecture, "/usr/bin/cluster-version-operator", labels)

    def _size(self, name: str, median: int) -> int:
        return int(min(median * self._random(f"size {name}").lognormvariate(0, 0.8), 12 * median))

    def _layer(self, name: str, architecture: str, size: int) -> Layer:
        key = f"{name} {architecture}"
        if key not in self._layers:
            generator = self._random(f"layer {key}")
            size = max(int(size * self._scale), KIB)
            folder = name.replace(" ", "/")
            text = f"{name} for {architecture}\n".encode() * (size // 256 + 1)
            self._layers[key] = layer(
                tree(
                    {
                        f"usr/lib/{folder}/program": generator.randbytes(size),
                        f"usr/share/doc/{folder}/README": text,
                        f"etc/{folder}.conf": generator.randbytes(24).hex().encode(),
                    }
                ),
                docker=True,
            )
        return self._layers[key]

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")


def _docker_image(layers: Sequence[Layer], architecture: str, command: str, labels: Mapping[str, str]) -> Manifest:
    created = "2024-10-02T00:00:00Z"
    config = Content(
        DOCKER_CONFIG,
        to_json(
            {
                "architecture": architecture,
                "os": "linux",
                "created": created,
                "config": {"Entrypoint": [command], "Env": ["PATH=/usr/bin"], "Labels": dict(labels)},
                "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
                "history": [{"created": created, "created_by": "/bin/sh -c #(nop) ADD file"} for _ in layers],
            }
        ),
    )
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config.descriptor(),
        "layers": [{**each.descriptor(), "mediaType": DOCKER_LAYER} for each in layers],
    }
    platform = {"architecture": architecture, "os": "linux"}
    return Manifest(DOCKER_MANIFEST, to_json(document), blobs=(config, *layers), platform=platform)
