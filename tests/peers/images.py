"""Small images with real digests for the scripted registry."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    """Return `algorithm:hex` of `content`."""
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def noise(size: int, seed: int = 0) -> bytes:
    """Return `size` bytes that depend on `seed` and look random."""
    return hashlib.shake_128(f"noise {seed}".encode()).digest(size)


def descriptor(content: bytes, media_type: str, **more: object) -> dict[str, object]:
    """Return the OCI descriptor of `content`."""
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content), **more}


@dataclass(frozen=True)
class Image:
    """One single-platform image: its manifest, its config and its layers as bytes."""

    manifest: bytes
    config: bytes
    layers: tuple[bytes, ...]
    media_type: str = OCI_MANIFEST

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return digest_of(self.manifest)


def make_image(*layers: bytes, seed: int = 0) -> Image:
    """Return an image of these layers, or of one small layer."""
    contents = layers or (noise(1000, seed),)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "seed": seed, "rootfs": {"type": "layers", "diff_ids": []}}
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config, OCI_CONFIG),
            "layers": [descriptor(layer, OCI_LAYER) for layer in contents],
        }
    ).encode()
    return Image(manifest, config, tuple(contents))


def make_index(*images: Image) -> bytes:
    """Return an OCI index of these images."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                descriptor(image.manifest, image.media_type, platform={"os": "linux", "architecture": f"a{number}"})
                for number, image in enumerate(images)
            ],
        }
    ).encode()
