"""What is pulled: blobs of one size that differ in their last bytes, and a manifest, laid out for each server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = "bench/app"
TAG = "v1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
# What clients send for a manifest; for a blob it says nothing.
ACCEPT = f"{MANIFEST_TYPE}, application/vnd.oci.image.index.v1+json, */*"
MIB = 1024 * 1024

_LAYERS = 8  # as many as an application's image has


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob: its digest (sha256:…), its size in bytes, the file that holds it, and a manifest that names it."""

    digest: str
    size: int
    path: Path
    manifest: str = ""

    @property
    def route(self) -> str:
        """The request's path below the repository."""
        return f"blobs/{self.digest}"


class Content:
    """Makes content in `folder`, which is the upstream's tree as well, and lays it out for other servers.

    `warm` is the size of the blob that is everywhere from the start, in bytes.
    """

    def __init__(self, folder: Path, warm: int = 256 * MIB) -> None:
        self._folder = folder
        self._made = 0
        self._bases: dict[int, tuple[Path, hashlib._Hash]] = {}
        self._repository = folder / "v2" / REPOSITORY
        (self._repository / "blobs").mkdir(parents=True)
        (self._repository / "manifests").mkdir()
        self._cold: Blob | None = None
        self.small = self._keep(os.urandom(300))
        self.warm = self.blob(warm)
        self.manifest = self._publish(self.warm, _LAYERS)
        os.link(self.manifest.path, self._repository / "manifests" / TAG)

    def cold(self, size: int) -> Blob:
        """Make a blob and its manifest, which no server has seen, instead of the last one of these."""
        if self._cold is not None:
            self._cold.path.unlink()
        self._cold = self.fresh(size)
        return self._cold

    def fresh(self, size: int) -> Blob:
        """Make a blob and its manifest, which no server has seen; whoever asked takes them away."""
        blob = self.blob(size)
        return replace(blob, manifest=self._publish(blob, 1).digest)

    def blob(self, size: int) -> Blob:
        """Make another blob; `size` in bytes is at least 1 MiB."""
        if size not in self._bases:
            self._bases[size] = self._base(size)
        base, hasher = self._bases[size]
        tail = b"%032d" % self._made
        self._made += 1
        hasher = hasher.copy()
        hasher.update(tail)
        path = self._repository / "blobs" / f"sha256:{hasher.hexdigest()}"
        with base.open("rb") as source, path.open("wb") as file:
            left = size - len(tail)
            while left:
                left -= os.copy_file_range(source.fileno(), file.fileno(), left)
            file.write(tail)
        return Blob(f"sha256:{hasher.hexdigest()}", size, path)

    def _base(self, size: int) -> tuple[Path, hashlib._Hash]:
        path = self._folder / f"base-{size}"
        piece, left = os.urandom(MIB), size - 32
        hasher = hashlib.sha256()
        with path.open("wb") as file:
            while left:
                part = piece[:left]
                file.write(part)
                hasher.update(part)
                left -= len(part)
        return path, hasher

    def _keep(self, body: bytes) -> Blob:
        name = hashlib.sha256(body).hexdigest()
        path = self._repository / "blobs" / f"sha256:{name}"
        path.write_bytes(body)
        return Blob(f"sha256:{name}", len(body), path)

    def _publish(self, layer: Blob, layers: int) -> Blob:
        """Make an image's manifest that names `layer` so many times."""

        def descriptor(blob: Blob, media_type: str) -> dict[str, object]:
            return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}

        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(self.small, "application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip")] * layers,
        }
        manifest = self._keep(json.dumps(document, indent=2).encode())
        os.link(manifest.path, self._repository / "manifests" / manifest.digest)
        return manifest

    # -- as servers want it ------------------------------------------------------------------------------------

    def lay_out_static(self, root: Path) -> None:
        """Copy what is warm to the tree of another nginx: <root>/v2/<repository>/…"""
        repository = root / "v2" / REPOSITORY
        (repository / "blobs").mkdir(parents=True)
        (repository / "manifests").mkdir()
        for blob in (self.small, self.warm):
            shutil.copyfile(blob.path, repository / blob.route)
        for name in (self.manifest.digest, TAG):
            shutil.copyfile(self.manifest.path, repository / "manifests" / name)

    def lay_out_distribution(self, root: Path) -> None:
        """Make the storage of distribution as pushes would leave it (its registry/storage/paths.go)."""
        top = root / "docker/registry/v2"
        repository = top / "repositories" / REPOSITORY
        for blob in (self.small, self.warm, self.manifest):
            name = blob.digest.removeprefix("sha256:")
            folder = top / "blobs/sha256" / name[:2] / name
            folder.mkdir(parents=True)
            shutil.copyfile(blob.path, folder / "data")
            if blob is not self.manifest:
                _write_link(repository / "_layers/sha256" / name, blob.digest)
        name = self.manifest.digest.removeprefix("sha256:")
        tag = repository / "_manifests/tags" / TAG
        _write_link(repository / "_manifests/revisions/sha256" / name, self.manifest.digest)
        _write_link(tag / "current", self.manifest.digest)
        _write_link(tag / "index/sha256" / name, self.manifest.digest)


def _write_link(folder: Path, digest: str) -> None:
    folder.mkdir(parents=True)
    (folder / "link").write_text(digest)
