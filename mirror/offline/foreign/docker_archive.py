"""The archive of `docker save` and of skopeo's docker-archive: configurations, layers, and a manifest.json.

It keeps no manifest of a registry, so one is made (image-manifest-v2-2): its digest is not the source's.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from mirror.config.values import count_text
from mirror.errors import DigestInvalid, InvalidRequest
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.reference import check_tag
from mirror.offline.foreign.model import MANIFEST_LIMIT, Accompaniment, ForeignImage
from mirror.offline.foreign.oci_layout import stated_name
from mirror.offline.foreign.places import InMemory, InTar, Place
from mirror.offline.tar import ArchiveInvalid, FormatUnsupported, Member, Tar

MANIFEST = "manifest.json"
IMAGES_LIMIT = 1_000
LAYERS_LIMIT = 1_000

_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_PACKED = ((b"\x1f\x8b", ".gzip"), (b"\x28\xb5\x2f\xfd", ".zstd"))
_LINKS_LIMIT = 8  # followed for one layer: older dockers write one
_STEP = 1024 * 1024


class _Layer(NamedTuple):
    digest: Digest
    media_type: str
    place: Place


class DockerArchive:
    """An archive whose files and symbolic links are `members` by name; `tar` is closed with it.

    Layers that are compressed are read once to learn their digests. Raises ArchiveInvalid, FormatUnsupported.
    """

    kind: Literal["docker-archive"] = "docker-archive"

    def __init__(self, tar: Tar, members: dict[str, Member]) -> None:
        self.label = tar.label
        self._tar = tar
        self._members = members
        self._places: dict[Digest, Place] = {}
        self._layers: dict[tuple[str, str], _Layer] = {}
        listed = self._json(self._file(MANIFEST), MANIFEST)
        if not isinstance(listed, list) or not 0 < len(listed) <= IMAGES_LIMIT:
            raise self._damaged(f"{MANIFEST} lists no images, or more than {IMAGES_LIMIT}")
        images = {(image.name, image.digest): image for entry in listed for image in self._read(entry)}
        self._images = tuple(images[key] for key in sorted(images))

    @property
    def warnings(self) -> Sequence[str]:
        """Say that the digests are not those of the source."""
        digests = ", ".join(sorted({str(image.digest) for image in self._images}))
        said = (
            f"{self.label} is a docker-archive, which keeps no manifest: one was made, with the digest {digests},"
            " which is not the source's. Pulls by the source's digest will not find it"
        )
        return (said,)

    def images(self) -> Sequence[ForeignImage]:
        """Return the images with the manifests that were made for them."""
        return self._images

    def place(self, digest: Digest) -> Place | None:
        """Return where a configuration or a layer is, or a manifest that was made."""
        return self._places.get(digest)

    def lists(self, name: str, digest: Digest) -> bool:  # noqa: ARG002 - part of what every format answers
        """Tell whether the archive has an image of this digest."""
        return any(image.digest == digest for image in self._images)

    def source(self, image: ForeignImage) -> str | None:
        """Return the name that the archive gives an image, where that says the registry too."""
        return image.name or None

    def is_chosen(self, image: ForeignImage) -> bool:  # noqa: ARG002
        """Return False: an image has the name of its source, or none."""
        return False

    def is_component(self, image: ForeignImage) -> bool:  # noqa: ARG002
        """Return False: nothing is said of what an image belongs to."""
        return False

    def tags(self, image: ForeignImage) -> tuple[str, ...]:
        """Return the tags of RepoTags."""
        return image.tags

    def beside(self, releases: Collection[Digest]) -> Accompaniment:  # noqa: ARG002
        """Return that there is nothing beside images."""
        return Accompaniment()

    def close(self) -> None:
        """Close the archive."""
        self._tar.close()

    def _read(self, entry: Any) -> list[ForeignImage]:
        """Return an image, once for each repository that it is tagged in, making its manifest."""
        if not isinstance(entry, dict) or not isinstance(entry.get("Config"), str):
            raise self._damaged(f"{MANIFEST} has an image without Config")
        files = entry.get("Layers") or []
        if not isinstance(files, list) or len(files) > LAYERS_LIMIT or not all(isinstance(one, str) for one in files):
            raise self._damaged(f"{MANIFEST} has an image whose Layers are not a list of at most {LAYERS_LIMIT} names")
        place = self._file(entry["Config"])
        body = place.read(MANIFEST_LIMIT)
        config = Digest.of(body)
        self._places[config] = place
        diff_ids = self._diff_ids(body, entry["Config"])
        if len(diff_ids) != len(files):
            raise self._damaged(
                f"{entry['Config']} names {count_text(len(diff_ids), 'layer')}, {MANIFEST} {len(files)}"
            )
        layers = [self._layer(name, diff_id) for name, diff_id in zip(files, diff_ids, strict=True)]
        manifest = _manifest(_descriptor(_CONFIG, config, place.size), layers)
        digest = Digest.of(manifest)
        self._places[digest] = InMemory(manifest)
        tags: dict[str, list[str]] = {}
        stated = entry.get("RepoTags")
        for one in stated if isinstance(stated, list) else ():
            name, tag = stated_name(one)
            if not name and isinstance(one, str) and ":" in one:
                tag = one.rpartition(":")[2]  # a short name is another image on every machine, but its tag is one
            with suppress(InvalidRequest):
                tags.setdefault(name, []).append(check_tag(tag))
        return [
            ForeignImage(name, digest, media_types.DOCKER_MANIFEST, len(manifest), tuple(sorted(set(found))))
            for name, found in (tags or {"": []}).items()
        ]

    def _diff_ids(self, body: bytes, name: str) -> list[Digest]:
        try:
            config = _loads(body)
            return [Digest.parse(str(one)) for one in config["rootfs"]["diff_ids"] or []]
        except (ValueError, LookupError, TypeError, DigestInvalid):
            raise self._damaged(f"{name} is not the configuration of an image") from None

    def _layer(self, name: str, diff_id: Digest) -> _Layer:
        """Return a layer. One that is not compressed has the digest that the configuration says; that is verified when
        it is brought in."""
        known = self._layers.get((name, str(diff_id)))
        if known is not None:
            return known
        place = self._file(name)
        with place.open() as read:
            start = read(8)
        packed = next((suffix for magic, suffix in _PACKED if start.startswith(magic)), "")
        if start.startswith((b"BZh", b"\xfd7zXZ")):
            raise FormatUnsupported(f"{name} in {self.label} is compressed in a way that nodes do not know")
        digest = _hashed(place) if packed else diff_id
        self._places[digest] = place
        found = self._layers[name, str(diff_id)] = _Layer(digest, _LAYER + packed, place)
        return found

    def _file(self, name: str) -> Place:
        """Return a file by its name; a symbolic link is followed within the archive."""
        wanted = name
        for _ in range(_LINKS_LIMIT):
            member = self._members.get(wanted)
            if member is None:
                break
            if not member.link:
                return InTar(self._tar, member)
            wanted = posixpath.normpath(posixpath.join(posixpath.dirname(wanted), member.link))
        raise self._damaged(f"it has no {name[:160]!a}, or that is a link that leads nowhere")

    def _json(self, place: Place, name: str) -> Any:
        try:
            return _loads(place.read(MANIFEST_LIMIT))
        except ValueError as error:
            raise self._damaged(f"{name} is damaged ({error})") from None

    def _damaged(self, what: str) -> ArchiveInvalid:
        return ArchiveInvalid(f"{self.label}: {what}", "save the image again")


def _loads(raw: bytes) -> Any:
    """Return the value of JSON whose keys are Go's names (`Config`, `Layers`) and people's labels; raise ValueError."""
    try:
        return json.loads(raw.decode())
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _hashed(place: Place) -> Digest:
    hasher = Digest.of(b"").hasher()
    with place.open() as read:
        while content := read(_STEP):
            hasher.update(content)
    return Digest("sha256", hasher.hexdigest())


def _manifest(config: dict[str, Any], layers: Sequence[_Layer]) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.DOCKER_MANIFEST,
        "config": config,
        "layers": [_descriptor(one.media_type, one.digest, one.place.size) for one in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "size": size, "digest": str(digest)}
