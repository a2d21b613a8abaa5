"""Layers as a release image's top one: gzip tars of release-manifests."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Mapping
from typing import Any


def references(version: str, components: Mapping[str, str], **over: Any) -> bytes:
    """Return an image-references file naming `components` (name -> pullspec)."""
    document = {
        "kind": "ImageStream",
        "apiVersion": "image.openshift.io/v1",
        "metadata": {"name": version, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {
            "lookupPolicy": {"local": False},
            "tags": [
                {
                    "name": name,
                    "annotations": {"io.openshift.build.source-location": f"https://example.com/{name}"},
                    "from": {"kind": "DockerImage", "name": spec},
                    "generation": None,
                    "importPolicy": {},
                }
                for name, spec in components.items()
            ],
        },
        "status": {"dockerImageRepository": ""},
    }
    return json.dumps(document | over).encode()


def metadata(version: str, **over: Any) -> bytes:
    """Return a release-metadata file."""
    document = {
        "kind": "cincinnati-metadata-v0",
        "version": version,
        "previous": ["4.15.30", "4.16.14"],
        "next": [],
        "metadata": {"url": "https://example.com/errata/RHSA-0000:0000"},
    }
    return json.dumps(document | over).encode()


def policy(*scopes: str, api: str = "config.openshift.io/v1", annotations: Mapping[str, str] | None = None) -> bytes:
    """Return a ClusterImagePolicy manifest."""
    document = {
        "apiVersion": api,
        "kind": "ClusterImagePolicy",
        "metadata": {"name": "openshift", "annotations": dict(annotations or {})},
        "spec": {"scopes": list(scopes), "policy": {"rootOfTrust": {"policyType": "PublicKey"}}},
    }
    return json.dumps(document).encode()


def boot_images(**digest_refs: str) -> bytes:
    """Return the boot images ConfigMap (YAML) with a kubevirt disk for each architecture given."""
    stream = {
        "stream": "rhcos-4.16",
        "architectures": {
            architecture: {"artifacts": {}, "images": {"kubevirt": {"release": "416", "digest-ref": ref}}}
            for architecture, ref in digest_refs.items()
        }
        | {"ppc64le": {"artifacts": {}, "images": {}}},
    }
    text = json.dumps(json.dumps(stream))
    return (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: coreos-bootimages\n"
        f"  namespace: openshift-machine-config-operator\ndata:\n  releaseVersion: 4.16.15\n  stream: {text}\n"
    ).encode()


def tar(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a plain tar of `files`, in order, below a folder release-manifests."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        folder = tarfile.TarInfo("release-manifests/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def layer(files: Mapping[str, bytes]) -> bytes:
    """Return the gzip tar of `files` (named below release-manifests/), the same bytes every time."""
    return gzip.compress(tar({f"release-manifests/{name}": content for name, content in files.items()}), 6, mtime=0)


def payload_layer(version: str, components: Mapping[str, str], more: Mapping[str, bytes] | None = None) -> bytes:
    """Return a release's top layer."""
    return layer(
        {"image-references": references(version, components), "release-metadata": metadata(version), **(more or {})}
    )


def descriptor(content: bytes) -> int:
    """Return a descriptor of `content`, which the caller closes."""
    fd = os.memfd_create("layer", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    return fd
