"""Small releases in every form: by label, by what their top layer holds, by where they are; signed or not."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.peers.scripted import ScriptedRegistry
from tests.tools import images, release_layers
from tests.tools.images import Manifest
from tests.tools.layouts import write_folder
from tests.tools.openpgp import TestKey, claim
from tests.tools.threads import LoopThread
from tests.unit.offline import foreign_bed as bed

VERSION = "4.16.3"
RELEASES = "quay.io/openshift-release-dev/ocp-release"
COMPONENTS = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
ODD = "quay.io/team/thing"  # where nobody would look for a release
KEY = TestKey.generate()


def release(
    version: str = VERSION,
    *,
    label: bool = True,
    payload: bool = True,
    components: Mapping[str, str] | None = None,
    architecture: str = "amd64",
    before: Mapping[str, bytes] | None = None,
    subject: Manifest | None = None,
) -> Manifest:
    """Return the image of a release; `components` are pullspecs, and `before` files of the top layer beside others."""
    named = components or {"cli": f"{COMPONENTS}@{bed.app('cli').digest}"}
    files = {
        "release-manifests/image-references": release_layers.references(version, named),
        "release-manifests/release-metadata": release_layers.metadata(version),
    }
    top = {**(before or {}), **files} if payload else {"etc/version": version.encode()}
    labels = {"io.openshift.release": version} if label else None
    layers = [bed.BASE, images.layer(images.tree(top), docker=True)]
    return images.image(layers, architecture=architecture, docker=True, labels=labels, subject=subject)


def multi(version: str = VERSION, *, label: bool = True, payload: bool = True) -> Manifest:
    """Return a list of a release for two architectures."""
    children = [release(version, label=label, payload=payload, architecture=one) for one in ("amd64", "arm64")]
    return images.index(children, docker=True)


def signature(image: Manifest, key: TestKey = KEY, reference: str = f"{RELEASES}:{VERSION}-x86_64") -> bytes:
    """Return an OpenPGP signature over an image."""
    return key.sign(claim(image.digest, reference))


def sign_in(store: Path, image: Manifest, *signatures: bytes) -> None:
    """Put signatures of an image into a folder that is a signature store."""
    for number, raw in enumerate(signatures or (signature(image),), 1):
        path = store / image.digest.replace(":", "=") / f"signature-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def docker_archive(path: Path, image: Manifest, *tags: str) -> Path:
    """Write what `docker save` wrote of an image."""
    layers = [gzip.decompress(one.body) for one in image.blobs[1:]]
    files, links = bed.docker_archive(image, layers, tags)
    return bed.pack(path, files, links)


def forms(folder: Path, image: Manifest, repository: str, tag: str = "v7") -> dict[str, tuple[Path, Sequence[str]]]:
    """Write an image in every form that `load` takes; return each with the words that load it from there."""
    name = f"{repository}:{tag}"
    reference = {"org.opencontainers.image.ref.name": name}
    storage = bed.storage({repository: [(image, tag)]})
    (folder / "oc-mirror").mkdir(parents=True)
    found: dict[str, tuple[Path, Sequence[str]]] = {
        "oci-layout": (bed.lay(folder / "layout", bed.oci_layout((image, reference))), ()),
        "oci-archive": (bed.pack(folder / "oci.tar", bed.oci_layout(image)), ("--as", name)),
        "dir": (write_folder(folder / "dir", image), ("--as", f"{name}@{image.digest}")),
        "oc-mirror": (bed.pack(folder / "oc-mirror" / "mirror_000001.tar", storage), ()),
        "distribution": (bed.lay(folder / "registry", storage), ()),
        "distribution, untagged": (bed.lay(folder / "untagged", bed.storage({repository: [(image, "")]})), ()),
    }
    if not image.children:
        found["docker-archive"] = (docker_archive(folder / "docker.tar", image, name), ())
    return found


class Published(LoopThread):
    """A registry with images by repository and tag. A context manager."""

    def __init__(self, *published: tuple[str, Manifest, str]) -> None:
        super().__init__()
        self.published = published
        self.registry = ScriptedRegistry()

    async def _open(self) -> None:
        await self.registry.start()
        for repository, image, tag in self.published:
            for blob in image.all_blobs().values():
                self.registry.add_blob(repository, blob.body)
            for manifest in image.all_manifests():
                tags = (tag,) if manifest is image else ()
                self.registry.add_manifest(repository, manifest.body, manifest.media_type, *tags)

    async def _close(self) -> None:
        await self.registry.stop()
