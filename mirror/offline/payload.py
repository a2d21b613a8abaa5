"""A release payload: what the manifests inside a release image say that the release consists of.

Everything here is believed only because the release's signature was verified before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mirror.errors import InvalidRequest
from mirror.oci import strict_json
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.oci.reference import check_tag
from mirror.offline import manifests_yaml
from mirror.offline.layer import FILE_LIMIT, OUTPUT_LIMIT, Member, PayloadInvalid, members

__all__ = ["Component", "Payload", "PayloadInvalid", "is_in", "read"]

COMPONENTS_LIMIT = 2_000

_FOLDER = "release-manifests/"
_REFERENCES = f"{_FOLDER}image-references"
_METADATA = f"{_FOLDER}release-metadata"
_NEEDED = (_REFERENCES, _METADATA)
_MANIFEST = re.compile(rf"{_FOLDER}[A-Za-z0-9][A-Za-z0-9._-]{{0,250}}\.(?:yaml|yml|json)")
# What a layer above says is gone from those below (OCI image-spec, layer.md, Whiteouts).
_REMOVED = frozenset(
    (".wh.release-manifests", ".wh..wh..opq", f"{_FOLDER}.wh.image-references", f"{_FOLDER}.wh..wh..opq")
)

_VERSION = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}(?:[-+][0-9A-Za-z.+-]{1,80})?")


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """An image of a release under the name that the release gives it; `pullspec` has a digest."""

    name: str
    pullspec: Pullspec


@dataclass(frozen=True, slots=True)
class Payload:
    """What a release consists of.

    `previous` are the versions that it can be updated from; `architecture` is `multi` in a shard of a multi-arch
    payload and else mostly empty. `kubevirt` maps RPM architectures (x86_64) to disk images by digest.
    `sigstore_scopes` name the images that nodes of this release demand a sigstore signature of. `warnings` are
    sentences.
    """

    version: str
    components: tuple[Component, ...]
    previous: tuple[str, ...] = ()
    architecture: str = ""
    url: str = ""
    kubevirt: Mapping[str, Pullspec] = field(default_factory=dict)
    sigstore_scopes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def digests(self) -> Iterator[Digest]:
        """The digests of all images that belong to the release."""
        for pullspec in (*(one.pullspec for one in self.components), *self.kubevirt.values()):
            if pullspec.digest is not None:
                yield pullspec.digest


def is_in(layer: int | Iterable[bytes], *, limit: int = OUTPUT_LIMIT) -> bool:
    """Tell whether a layer holds a payload: its image-references, whatever these say.

    Looks at what the first `limit` bytes of the unpacked layer hold; what is no layer holds none. `layer` as for
    `read`. For threads. Raises OSError, and what giving the pieces raises.
    """
    try:
        return any(member.name == _REFERENCES for member in members(layer, lambda _: False, limit=limit))
    except PayloadInvalid:
        return False


def read(layer: int | Iterable[bytes]) -> Payload | None:
    """Return the payload that a layer holds; None where this layer does not hold one, but one below may.

    `layer` is a descriptor, which stays open, or the layer's bytes in pieces. For threads. Raises PayloadInvalid,
    OSError, and what giving the pieces raises.
    """
    needed: dict[str, bytes] = {}
    scopes: set[str] = set()
    kubevirt: dict[str, Pullspec] = {}
    warnings: list[str] = []
    removed = False
    for member in members(layer, _is_wanted):
        removed = removed or member.name in _REMOVED
        if member.name in _NEEDED:
            _keep(needed, member)
        elif member.content is not None:
            _read_manifest(member.name, member.content, scopes, kubevirt, warnings)
    if _REFERENCES not in needed:
        if removed:
            raise PayloadInvalid("a layer of the release removes its image-references")
        return None
    version, components = _references(needed[_REFERENCES])
    metadata = _metadata(needed.get(_METADATA), version)
    said = metadata.get("metadata") or {}
    return Payload(
        version,
        components,
        tuple(sorted(_strings(metadata.get("previous") or [], "release-metadata's previous"))),
        _string(said.get("release.openshift.io/architecture", "")),
        _string(said.get("url", "")),
        kubevirt,
        tuple(sorted(scopes)),
        tuple(sorted(warnings)),
    )


def _is_wanted(name: str) -> bool:
    return name in _NEEDED or _MANIFEST.fullmatch(name) is not None


def _keep(needed: dict[str, bytes], member: Member) -> None:
    if member.kind != "file":
        raise PayloadInvalid(f"{member.name} is not a regular file")
    if member.content is None:
        raise PayloadInvalid(f"{member.name} has more than {FILE_LIMIT} bytes")
    if member.name in needed:
        raise PayloadInvalid(f"{member.name} is there twice")
    needed[member.name] = member.content


def _read_manifest(
    name: str, content: bytes, scopes: set[str], kubevirt: dict[str, Pullspec], warnings: list[str]
) -> None:
    """Add what the manifest `name` says that matters here. One that cannot be read is a warning."""
    # Some thousand manifests of a payload say nothing of the kind, and parsing YAML takes long.
    if b"ClusterImagePolicy" not in content and b"coreos-bootimages" not in content:
        return
    try:
        for document in manifests_yaml.documents(content):
            scopes.update(manifests_yaml.sigstore_scopes(document))
            for architecture, spec in manifests_yaml.kubevirt_images(document).items():
                pullspec = Pullspec.parse(spec)
                if pullspec.digest is None:
                    raise ValueError(f"{spec[:160]} is not named by digest")
                kubevirt[architecture] = pullspec
    except (ValueError, InvalidRequest) as error:
        warnings.append(
            f"{name} cannot be read ({str(error)[:300]}): what it says of required signatures or of a kubevirt image"
            " is not known"
        )


def _references(raw: bytes) -> tuple[str, tuple[Component, ...]]:
    """Return the version and components that image-references names."""
    document = _object(raw, "image-references")
    if document.get("kind") != "ImageStream" or document.get("apiVersion") != "image.openshift.io/v1":
        raise PayloadInvalid("image-references is not an ImageStream of image.openshift.io/v1")
    version = _mapping(document.get("metadata"), "image-references' metadata").get("name")
    if not isinstance(version, str) or _VERSION.fullmatch(version) is None:
        raise PayloadInvalid(f"image-references names no version, but '{str(version)[:80]}'")
    tags = _mapping(document.get("spec"), "image-references' spec").get("tags")
    if not isinstance(tags, list) or not tags or len(tags) > COMPONENTS_LIMIT:
        raise PayloadInvalid(f"image-references does not list 1 to {COMPONENTS_LIMIT} components")
    found: dict[str, Component] = {}
    for tag in tags:
        component = _component(_mapping(tag, "a component"))
        if component.name in found:
            raise PayloadInvalid(f"image-references names component {component.name} twice")
        found[component.name] = component
    return version, tuple(sorted(found.values()))


def _component(tag: Mapping[str, Any]) -> Component:
    name = tag.get("name")
    source = _mapping(tag.get("from"), f"component {str(name)[:128]}'s from")
    spec = source.get("name")
    if not isinstance(name, str) or source.get("kind") != "DockerImage" or not isinstance(spec, str):
        raise PayloadInvalid(f"component {str(name)[:128]!r} of image-references names no image")
    try:
        check_tag(name)
        pullspec = Pullspec.parse(spec)
    except InvalidRequest as error:
        raise PayloadInvalid(f"component {name[:128]!r} of image-references is malformed ({error.what})") from None
    if pullspec.digest is None:
        raise PayloadInvalid(f"component {name} is named by tag ({pullspec}), which may mean anything tomorrow")
    return Component(name, pullspec)


def _metadata(raw: bytes | None, version: str) -> Mapping[str, Any]:
    if raw is None:
        return {}
    document = _object(raw, "release-metadata")
    if document.get("kind") != "cincinnati-metadata-v0":
        raise PayloadInvalid("release-metadata is not of kind cincinnati-metadata-v0")
    if document.get("version") != version:
        raise PayloadInvalid(
            f"image-references says version {version}, release-metadata says '{str(document.get('version'))[:80]}'"
        )
    _mapping(document.get("metadata") or {}, "release-metadata's metadata")
    return document


def _object(raw: bytes, what: str) -> Mapping[str, Any]:
    try:
        document = strict_json.loads(raw)
    except ValueError as error:
        raise PayloadInvalid(f"{what} is not valid JSON ({error})") from None
    return _mapping(document, what)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PayloadInvalid(f"{what} is not an object")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise PayloadInvalid("release-metadata holds something else where text is expected")
    return value[:1000]


def _strings(value: object, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise PayloadInvalid(f"{what} is not a list of texts")
    return value
