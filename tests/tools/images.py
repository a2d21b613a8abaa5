"""Container images made byte for byte: layers from this machine's own files, manifests, indexes, artifacts.

The same files give the same digests: no clock, no owner and no random name gets into them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_ZSTD_BLOCK = 128 * 1024  # RFC 8878 3.1.1.2.4: no block is larger


@dataclass(frozen=True)
class Content:
    """Bytes with the media type that a descriptor gives them."""

    media_type: str
    body: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        return "sha256:" + hashlib.sha256(self.body).hexdigest()

    def descriptor(self, **more: Any) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body), **more}


@dataclass(frozen=True)
class Layer(Content):
    """A compressed layer; `diff_id` is the digest of its tar archive."""

    diff_id: str = ""


@dataclass(frozen=True)
class Manifest(Content):
    """A manifest or index with all that it names: blobs first, then the manifests under it."""

    blobs: tuple[Content, ...] = ()
    children: tuple[Manifest, ...] = ()
    platform: Mapping[str, str] | None = None

    def all_manifests(self) -> list[Manifest]:
        """Return this manifest and every one under it, those under it first."""
        return [*(below for child in self.children for below in child.all_manifests()), self]

    def all_blobs(self) -> dict[str, Content]:
        """Return every blob needed, by digest."""
        return {blob.digest: blob for manifest in self.all_manifests() for blob in manifest.blobs}


def tree(files: Mapping[str, Path | bytes], links: Mapping[str, str] | None = None) -> bytes:
    """Return a tar archive of `files` (path in the image: file here, or its content) and symbolic `links`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in sorted({str(p) for name in [*files, *(links or {})] for p in Path(name).parents} - {"."}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, source in sorted(files.items()):
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644 if isinstance(source, bytes) else source.stat().st_mode & 0o777
            archive.addfile(entry, io.BytesIO(content))
        for name, target in sorted((links or {}).items()):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def zstd_stored(body: bytes) -> bytes:
    """Return a zstd frame of raw blocks (RFC 8878): what any decoder reads, without a compressor here."""
    frame = bytearray((0xFD2FB528).to_bytes(4, "little"))
    frame += bytes([0b1110_0000]) + len(body).to_bytes(8, "little")  # 8-byte content size, single segment
    steps = range(0, len(body), _ZSTD_BLOCK) if body else range(1)
    for start in steps:
        block = body[start : start + _ZSTD_BLOCK]
        last = start + _ZSTD_BLOCK >= len(body)
        frame += (len(block) << 3 | last).to_bytes(3, "little") + block
    return bytes(frame)


def layer(archive: bytes, *, compression: str = "gzip", docker: bool = False) -> Layer:
    """Return a layer of a tar archive, compressed by `gzip`, `zstd`, or not at all (`none`)."""
    diff_id = "sha256:" + hashlib.sha256(archive).hexdigest()
    if compression == "gzip":
        packed = gzip.compress(archive, compresslevel=1, mtime=0)
        return Layer(DOCKER_LAYER if docker else f"{OCI_LAYER}+gzip", packed, diff_id=diff_id)
    if compression == "zstd":
        return Layer(f"{OCI_LAYER}+zstd", zstd_stored(archive), diff_id=diff_id)
    return Layer(OCI_LAYER, archive, diff_id=diff_id)


def image(
    layers: Iterable[Layer],
    *,
    architecture: str = "amd64",
    command: Iterable[str] = ("/bin/sh",),
    docker: bool = False,
    labels: Mapping[str, str] | None = None,
    subject: Manifest | None = None,
) -> Manifest:
    """Return an image for one platform, in OCI's or docker's schema 2 media types."""
    layers = tuple(layers)
    labelled = {"Labels": dict(labels)} if labels else {}
    referring = {"subject": subject.descriptor()} if subject else {}
    config = Content(
        DOCKER_CONFIG if docker else OCI_CONFIG,
        _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": list(command), "Env": ["PATH=/bin:/usr/bin"], "WorkingDir": "/", **labelled},
                "rootfs": {"type": "layers", "diff_ids": [each.diff_id for each in layers]},
                "history": [{"created_by": "tests"} for _ in layers],
            }
        ),
    )
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    body = _json(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config.descriptor(),
            "layers": [each.descriptor() for each in layers],
            **referring,
        }
    )
    platform = {"architecture": architecture, "os": "linux"}
    return Manifest(media_type, body, blobs=(config, *layers), platform=platform)


def index(children: Iterable[Manifest], *, docker: bool = False) -> Manifest:
    """Return an index (docker: a manifest list) of images for several platforms."""
    children = tuple(children)
    media_type = DOCKER_LIST if docker else OCI_INDEX
    body = _json(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [child.descriptor(platform=dict(child.platform or {})) for child in children],
        }
    )
    return Manifest(media_type, body, children=children)


def artifact(artifact_type: str, payload: Content, *, subject: Manifest | None = None) -> Manifest:
    """Return an OCI artifact around one payload; with a `subject` it is one of that manifest's referrers."""
    empty = Content(EMPTY_TYPE, b"{}")
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": empty.descriptor(),
        "layers": [payload.descriptor()],
    }
    if subject is not None:
        document["subject"] = subject.descriptor()
    return Manifest(OCI_MANIFEST, _json(document), blobs=(empty, payload))


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2).encode()
