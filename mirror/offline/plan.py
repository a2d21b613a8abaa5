"""The plan: everything that one generation of an image set holds, as a file that people read, diff and keep.

It is the seam between what knows releases and what moves bytes. Deterministic: the same content gives the same bytes.
What is here already is never written into it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mirror.errors import ConfigurationError, DigestInvalid, InvalidRequest, MirrorError, Problem
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name, check_set, check_tag

SCHEMA = 1
SIZE_LIMIT = 256 * 1024 * 1024  # bytes of a plan; one of 5 000 images has some 10 MiB

Kind = Literal["release", "component", "kubevirt", "image", "signature", "referrer"]
Sigstore = Literal["required", "present", "none"]
_KINDS = ("release", "component", "kubevirt", "image", "signature", "referrer")
_SIGSTORE = ("required", "present", "none")


FROM_ARCHIVE = "from an archive"  # why an image of another tool's archive is in a plan


class PlanInvalid(ConfigurationError):
    """A file that is no plan of ours, or of a newer schema."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__([Problem("plan_invalid", what, "", remedy)])


@dataclass(frozen=True, slots=True, order=True)
class Release:
    """A release: its version, architecture as Cincinnati spells it, and where it is.

    `signed_by` holds the fingerprints of the keys whose signatures were verified when the plan was made; empty where
    none was required. `risks` are the conditional updates into it, as sentences.
    """

    version: str
    architecture: str  # amd64, arm64, ppc64le, s390x, multi
    source: str  # quay.io/openshift-release-dev/ocp-release
    digest: Digest
    channels: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    why: str = ""
    risks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Image:
    """An image that somebody asked for, or that one of those needs.

    `name` is the repository here (`<upstream>/<repository>`), `source` the same as clients outside name it. `tags`
    name it here. `architectures` are the children of an index that were asked for; empty means all. `sigstore` says
    whether a sigstore signature is required (then one is in the plan, or the plan is incomplete), present, or none.
    """

    name: str
    digest: Digest
    source: str
    kind: Kind
    tags: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    sigstore: Sigstore = "none"


@dataclass(frozen=True, slots=True, order=True)
class PlannedManifest:
    """A manifest of repository `name`, and what of what it names is planned too; sizes are in bytes."""

    name: str
    digest: Digest
    media_type: str
    size: int
    manifests: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()
    subject: Digest | None = None


@dataclass(frozen=True, slots=True, order=True)
class PlannedBlob:
    """A blob with its size in bytes."""

    digest: Digest
    media_type: str
    size: int


@dataclass(frozen=True, slots=True, order=True)
class Signature:
    """One OpenPGP signature of a release: `number` as in `signature-<number>`, the digest and size of its bytes."""

    release: Digest
    number: int
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class GraphExcerpt:
    """What the update graph says of the planned releases of a channel, in Cincinnati's own JSON."""

    channel: str
    architecture: str
    graph: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. Make one with `build`, which sorts and removes doubles."""

    set: str
    releases: tuple[Release, ...] = ()
    images: tuple[Image, ...] = ()
    manifests: tuple[PlannedManifest, ...] = ()
    blobs: tuple[PlannedBlob, ...] = ()
    signatures: tuple[Signature, ...] = ()
    graphs: tuple[GraphExcerpt, ...] = ()
    blocked: tuple[str, ...] = ()  # pullspecs that blockedImages took out
    lacking: tuple[str, ...] = ()  # what is required and could not be found, as sentences: the set is incomplete
    require_signature: bool = True
    left_out: tuple[str, ...] = ()  # what upstream has not got and no image needs, as sentences: the set is whole
    _bytes: list[bytes] = field(default_factory=list, compare=False, repr=False)

    @classmethod
    def build(
        cls,
        name: str,
        *,
        releases: Iterable[Release] = (),
        images: Iterable[Image] = (),
        manifests: Iterable[PlannedManifest] = (),
        blobs: Iterable[PlannedBlob] = (),
        signatures: Iterable[Signature] = (),
        graphs: Iterable[GraphExcerpt] = (),
        blocked: Iterable[str] = (),
        lacking: Iterable[str] = (),
        require_signature: bool = True,
        left_out: Iterable[str] = (),
    ) -> Plan:
        """Return the plan of these parts, sorted, each once. Images of one name and digest become one."""
        return cls(
            name,
            tuple(sorted(set(releases))),
            _merged(images),
            tuple(
                sorted(
                    {(one.name, one.digest): one for one in manifests}.values(), key=lambda one: (one.name, one.digest)
                )
            ),
            tuple(sorted({one.digest: one for one in blobs}.values(), key=lambda one: one.digest)),
            tuple(sorted(set(signatures))),
            tuple(sorted(graphs, key=lambda one: (one.architecture, one.channel))),
            tuple(sorted(set(blocked))),
            tuple(sorted(set(lacking))),
            require_signature,
            tuple(sorted(set(left_out))),
        )

    @property
    def of_archive(self) -> bool:
        """Whether an archive of another tool was loaded and planned where that happened: no sync gives it again."""
        return any(FROM_ARCHIVE in image.why for image in self.images)

    @property
    def content(self) -> dict[Digest, int]:
        """Every digest that must be here, with its size in bytes: manifests and blobs."""
        found = {one.digest: one.size for one in self.manifests}
        found.update((one.digest, one.size) for one in self.blobs)
        return found

    @property
    def totals(self) -> dict[str, int]:
        """Numbers for people: how many of what, and the bytes of all content, each digest once."""
        kinds: Counter[str] = Counter(image.kind for image in self.images)
        return {
            "releases": len(self.releases),
            "images": len(self.images),
            **{f"images_{kind}": kinds[kind] for kind in _KINDS if kinds[kind]},
            "manifests": len({one.digest for one in self.manifests}),
            "blobs": len(self.blobs),
            "bytes": sum(self.content.values()),
        }

    @property
    def digest(self) -> Digest:
        """The digest of the plan's own bytes: two plans are equal when these are."""
        return Digest.of(self.dump())

    def dump(self) -> bytes:
        """Return the file: JSON of one indented line a fact, ending with a line feed."""
        if not self._bytes:
            self._bytes.append(_dump(self))
        return self._bytes[0]

    @classmethod
    def parse(cls, raw: bytes) -> Plan:
        """Return the plan that `raw` holds; raise PlanInvalid."""
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise PlanInvalid(f"this is not a plan: {error}", "give the file that `mirror plan -o` wrote") from None
        if not isinstance(found, dict) or found.get("kind") != "plan":
            raise PlanInvalid("this is not a plan", "give the file that `mirror plan -o` wrote")
        if found.get("schema") != SCHEMA:
            raise PlanInvalid(f"this plan has schema {str(found.get('schema'))[:20]}", "upgrade this mirror")
        try:
            return _parse(found)
        except (LookupError, TypeError, ValueError, AttributeError, MirrorError) as error:
            raise PlanInvalid(
                f"this plan is damaged ({str(error)[:200]})", "make it again with `mirror plan`"
            ) from None


def _merged(images: Iterable[Image]) -> tuple[Image, ...]:
    """Return images sorted, those of one repository and digest as one, with all their tags and reasons."""
    found: dict[tuple[str, Digest], Image] = {}
    for image in images:
        old = found.get((image.name, image.digest))
        if old is not None:
            asked = (
                tuple(sorted({*old.architectures, *image.architectures}))
                if old.architectures and image.architectures
                else ()
            )
            image = Image(
                image.name,
                image.digest,
                min(old.source, image.source),
                min(old.kind, image.kind, key=_KINDS.index),
                tuple({*old.tags, *image.tags}),
                tuple({*old.why, *image.why}),
                asked,
                min(old.sigstore, image.sigstore, key=_SIGSTORE.index),
            )
        found[(image.name, image.digest)] = image
    return tuple(
        Image(
            one.name,
            one.digest,
            one.source,
            one.kind,
            tuple(sorted(set(one.tags))),
            tuple(sorted(set(one.why))),
            tuple(sorted(set(one.architectures))),
            one.sigstore,
        )
        for one in sorted(found.values(), key=lambda one: (one.name, one.digest))
    )


def _dump(plan: Plan) -> bytes:
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": "plan",
        "set": plan.set,
        "totals": plan.totals,
        "requireSignature": plan.require_signature,
        "releases": [
            {
                "version": one.version,
                "architecture": one.architecture,
                "image": f"{one.source}@{one.digest}",
                "channels": list(one.channels),
                "signedBy": list(one.signed_by),
                "why": one.why,
                "risks": list(one.risks),
            }
            for one in plan.releases
        ],
        "lacking": list(plan.lacking),
        "blocked": list(plan.blocked),
        **({"leftOut": list(plan.left_out)} if plan.left_out else {}),
        "images": [
            {
                "image": f"{one.source}@{one.digest}",
                "name": one.name,
                "kind": one.kind,
                "tags": list(one.tags),
                "why": list(one.why),
                "architectures": list(one.architectures),
                "sigstore": one.sigstore,
            }
            for one in plan.images
        ],
        "signatures": [
            {"release": str(one.release), "number": one.number, "digest": str(one.digest), "size": one.size}
            for one in plan.signatures
        ],
        "graphs": [
            {"channel": one.channel, "architecture": one.architecture, "graph": one.graph} for one in plan.graphs
        ],
        "manifests": [
            {
                "name": one.name,
                "digest": str(one.digest),
                "mediaType": one.media_type,
                "size": one.size,
                "manifests": [str(digest) for digest in one.manifests],
                "blobs": [str(digest) for digest in one.blobs],
                **({"subject": str(one.subject)} if one.subject else {}),
            }
            for one in plan.manifests
        ],
        "blobs": [{"digest": str(one.digest), "mediaType": one.media_type, "size": one.size} for one in plan.blobs],
    }
    return (json.dumps(document, indent=1, ensure_ascii=True) + "\n").encode()


def _parse(found: dict[str, Any]) -> Plan:
    plan = Plan.build(
        check_set(_text(found["set"])),
        releases=[
            Release(
                _text(one["version"]),
                _text(one["architecture"]),
                *_pinned(one["image"]),
                _texts(one["channels"]),
                _texts(one["signedBy"]),
                _text(one["why"]),
                _texts(one["risks"]),
            )
            for one in found["releases"]
        ],
        images=[_image(one) for one in found["images"]],
        manifests=[
            PlannedManifest(
                check_name(_text(one["name"])),
                Digest.parse(_text(one["digest"])),
                _text(one["mediaType"]),
                _size(one["size"]),
                _digests(one["manifests"]),
                _digests(one["blobs"]),
                Digest.parse(_text(one["subject"])) if "subject" in one else None,
            )
            for one in found["manifests"]
        ],
        blobs=[
            PlannedBlob(Digest.parse(_text(one["digest"])), _text(one["mediaType"]), _size(one["size"]))
            for one in found["blobs"]
        ],
        signatures=[
            Signature(
                Digest.parse(_text(one["release"])),
                _size(one["number"]),
                Digest.parse(_text(one["digest"])),
                _size(one["size"]),
            )
            for one in found["signatures"]
        ],
        graphs=[
            GraphExcerpt(_label(one["channel"]), _label(one["architecture"]), dict(one["graph"]))
            for one in found["graphs"]
        ],
        blocked=_texts(found["blocked"]),
        lacking=_texts(found["lacking"]),
        require_signature=found["requireSignature"] is not False,
        left_out=_texts(found.get("leftOut", [])),
    )
    _check_closed(plan)
    return plan


def _image(one: dict[str, Any]) -> Image:
    if one["kind"] not in _KINDS or one["sigstore"] not in _SIGSTORE:
        raise ValueError(f"an image is of kind {str(one['kind'])[:40]}")
    source, digest = _pinned(one["image"])
    return Image(
        check_name(_text(one["name"])),
        digest,
        source,
        one["kind"],
        tuple(check_tag(tag) for tag in _texts(one["tags"])),
        _texts(one["why"]),
        _texts(one["architectures"]),
        one["sigstore"],
    )


def _check_closed(plan: Plan) -> None:
    """Raise ValueError where an image or a manifest names what the plan does not hold."""
    manifests = {(one.name, one.digest) for one in plan.manifests}
    blobs = {one.digest for one in plan.blobs}
    for image in plan.images:
        if (image.name, image.digest) not in manifests:
            raise ValueError(f"the manifest of {image.name}@{image.digest} is not listed")
    for manifest in plan.manifests:
        if any((manifest.name, child) not in manifests for child in manifest.manifests):
            raise ValueError(f"a child of {manifest.name}@{manifest.digest} is not listed")
        if any(blob not in blobs for blob in manifest.blobs):
            raise ValueError(f"a blob of {manifest.name}@{manifest.digest} is not listed")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is expected where there is none")
    return value


def _texts(values: object) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError("a list is expected where there is none")
    return tuple(_text(value) for value in values)


def _label(value: object) -> str:
    """Return a channel or an architecture; both become parts of a file's name."""
    try:
        return check_tag(_text(value))
    except InvalidRequest:
        raise ValueError(f"'{str(value)[:60]}' names no channel or architecture") from None


def _digests(values: object) -> tuple[Digest, ...]:
    return tuple(Digest.parse(value) for value in _texts(values))


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError("a size is not a whole number")
    return value


def _pinned(value: object) -> tuple[str, Digest]:
    source, at, digest = _text(value).partition("@")
    if not at or not source:
        raise DigestInvalid(f"'{source[:160]}' is not named by digest")
    return source, Digest.parse(digest)
