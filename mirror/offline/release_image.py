"""Which images are releases, told by their repository, by the label of their configuration, or by their payload.

`oc adm release new` labels what it makes, and `oc adm release info` reads the top layer alone; a cluster runs what all
layers come to. None of this is believed of a release: it decides of which images a signature is demanded, so whatever
speaks for a release makes one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.offline import payload as payloads
from mirror.offline.payload import Payload, PayloadInvalid

# Where Red Hat publishes releases, and what they consist of.
RELEASES = "quay.io/openshift-release-dev/ocp-release"
COMPONENTS = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"

LABEL = "io.openshift.release"
LAYERS_LIMIT = 16  # layers that are looked at from the top
LAYER_LIMIT = 256 * 1024 * 1024  # bytes of a layer that is looked at; a release's top layer has some 20 MiB
LOWER_LAYER_LIMIT = 64 * 1024 * 1024  # bytes of one below the top that is looked at: to unpack all would take long
CONFIGURATION_LIMIT = 4 * 1024 * 1024  # bytes

# How release tags and boot images spell architectures that Go spells otherwise.
MACHINES: Mapping[str, str] = {"amd64": "x86_64", "arm64": "aarch64"}

# Where Red Hat and OKD publish releases, on whatever registry they are mirrored to, and how oc-mirror calls that.
_REPOSITORIES = (
    "openshift-release-dev/ocp-release",
    "openshift/release-images",
    "okd/scos-release",
    "openshift/okd",
    "origin/release",
    "origin/release-scos",
)
_WORD = re.compile(r"[a-z0-9]{1,20}")
_STEP = 64 * 1024

Read = Callable[[int], bytes]
# Gives what reads content by its digest, from its first byte to its last; None where it cannot be had.
Open = Callable[[Digest], AbstractContextManager[Read | None]]


def is_published_in(*names: str) -> bool:
    """Tell whether a repository, by any of its names, is one of those that releases are published in."""
    return any(f"/{name}".endswith(f"/{repository}") for name in names for repository in _REPOSITORIES)


def runs(media_types: Iterable[str]) -> bool:
    """Tell whether what has blobs of these types is an image that runs: signatures and documents have no tars."""
    return any("tar" in one.rpartition("/")[2] for one in media_types)


def is_architecture(text: str) -> bool:
    """Tell whether this can be an architecture as Go spells them, or multi."""
    return _WORD.fullmatch(text) is not None


def release_tag(version: str, architecture: str) -> str:
    """Return what a release is called in its own repository; the architecture is as Go spells it, or multi."""
    # A tag has no plus sign.
    return f"{version}-{MACHINES.get(architecture, architecture)}".replace("+", "_")


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an image's configuration says: its architecture, and the version that a release is labelled with."""

    architecture: str = ""
    release: str | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Configuration:
        """Return what `raw` says; nothing where it is no configuration."""
        try:
            found: Any = json.loads(raw)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        labels = (labels for inner in _fields(found, "config") for labels in _fields(inner, "labels"))
        label = next((one[LABEL] for one in labels if isinstance(one, dict) and LABEL in one), None)
        architecture = found.get("architecture")
        return cls(architecture if isinstance(architecture, str) else "", str(label) if label is not None else None)


def _fields(document: object, name: str) -> list[Any]:
    """Return the fields of this name, in whichever case it is spelled: Go's JSON reads them all."""
    return [value for key, value in document.items() if key.lower() == name] if isinstance(document, dict) else []


def layers_of(manifest: Manifest) -> list[Descriptor]:
    """Return the layers of an image that are kept here, the lowest first."""
    return [blob for blob in manifest.blobs[1:] if not blob.foreign]


class Recogniser:
    """Looks into images, of whose layers `open_` gives the bytes. For threads. Raises what opening and reading raise.

    Of a layer, the first `limit` bytes of what it unpacks to are looked at.
    """

    def __init__(self, open_: Open, limit: int) -> None:
        self._open = open_
        self._limit = limit
        self._known: dict[Digest, bool] = {}

    def is_release(self, manifest: Manifest, *, by_label_alone: bool = False) -> bool:
        """Tell whether an image (no index) is a release by its label or by what its layers hold."""
        if self.configuration(manifest).release is not None:
            return True
        return not by_label_alone and self._has_payload(manifest)

    def configuration(self, manifest: Manifest) -> Configuration:
        """Return what an image's configuration says; nothing where it is not here, or too large to be one."""
        if not manifest.blobs or manifest.blobs[0].size > CONFIGURATION_LIMIT:
            return Configuration()
        with self._open(manifest.blobs[0].digest) as read:
            if read is None:
                return Configuration()
            return Configuration.parse(b"".join(_pieces(read, CONFIGURATION_LIMIT)))

    def payload(self, manifest: Manifest) -> Payload | None:
        """Return the payload from the highest layer that has one, None where none has.

        Those below it are not believed. Raises PayloadInvalid.
        """
        for layer in reversed(layers_of(manifest)[-LAYERS_LIMIT:]):
            if layer.size > LAYER_LIMIT:
                raise PayloadInvalid(f"layer {layer.digest} has {layer.size} bytes")
            with self._open(layer.digest) as read:
                found = payloads.read(_pieces(read)) if read is not None else None
            if found is not None:
                return found
        return None

    def _has_payload(self, manifest: Manifest) -> bool:
        most = LAYER_LIMIT
        for layer in reversed(layers_of(manifest)[-LAYERS_LIMIT:]):
            if layer.size <= most and self._holds_payload(layer.digest):
                return True
            most = LOWER_LAYER_LIMIT
        return False

    def _holds_payload(self, digest: Digest) -> bool:
        if digest not in self._known:
            with self._open(digest) as read:
                self._known[digest] = read is not None and payloads.is_in(_pieces(read), limit=self._limit)
        return self._known[digest]


def _pieces(read: Read, most: int = LAYER_LIMIT) -> Iterator[bytes]:
    while most > 0 and (piece := read(min(_STEP, most))):
        most -= len(piece)
        yield piece
