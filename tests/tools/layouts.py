"""Made images as folders that clients push from and pull into: OCI image layouts, and what skopeo calls `dir:`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.tools.images import OCI_INDEX, Manifest


def write_layout(folder: Path, image: Manifest, tag: str, leave: frozenset[str] = frozenset()) -> Path:
    """Write an OCI image layout with one image under `tag`; blobs whose digests are in `leave` are not in it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, content in {one.digest: one for one in (*image.all_manifests(), *image.all_blobs().values())}.items():
        if digest not in leave:
            (blobs / digest[7:]).write_bytes(content.body)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    listed = image.descriptor(annotations={"org.opencontainers.image.ref.name": tag})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def write_folder(folder: Path, image: Manifest, leave: frozenset[str] = frozenset()) -> Path:
    """Write what skopeo reads as `dir:folder`, docker's media types included."""
    folder.mkdir(parents=True)
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
    for manifest in image.all_manifests():
        name = "manifest.json" if manifest is image else f"{manifest.digest[7:]}.manifest.json"
        (folder / name).write_bytes(manifest.body)
    for digest, blob in image.all_blobs().items():
        if digest not in leave:
            (folder / digest[7:]).write_bytes(blob.body)
    return folder


def assert_layout_holds(folder: Path, image: Manifest, leave: frozenset[str] = frozenset()) -> None:
    """Compare an image in an OCI image layout with what was made, byte for byte."""
    listed = json.loads((folder / "index.json").read_bytes())["manifests"]
    assert image.digest in {one["digest"] for one in listed}
    for one in (*image.all_manifests(), *image.all_blobs().values()):
        if one.digest not in leave:
            assert (folder / "blobs" / "sha256" / one.digest[7:]).read_bytes() == one.body


def assert_folder_holds(folder: Path, image: Manifest, leave: frozenset[str] = frozenset()) -> None:
    """Compare an image in a `dir:` with what was made, byte for byte."""
    assert (folder / "manifest.json").read_bytes() == image.body
    for digest, blob in image.all_blobs().items():
        if digest not in leave:
            assert (folder / digest[7:]).read_bytes() == blob.body
