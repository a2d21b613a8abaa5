"""What makes an image a release: its repository, its label, what its layers hold; not what merely looks so."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mirror.oci import manifest as manifests
from mirror.oci.digest import Digest
from mirror.offline import payload as payloads
from mirror.offline import release_image
from mirror.offline.release_image import Configuration, Read, Recogniser, is_published_in, release_tag, runs
from tests.tools import images
from tests.tools.images import DOCKER_LAYER, Content, Manifest
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline import release_bed

MIB = 2**20


class Contents:
    """The content of images by digest, and how much of each was read."""

    def __init__(self, *wanted: Manifest) -> None:
        self.bodies = bed.contents(*wanted)
        self.read: dict[str, int] = {}

    @contextmanager
    def open(self, digest: Digest) -> Iterator[Read | None]:
        body = self.bodies.get(str(digest))

        def read(count: int) -> bytes:
            assert body is not None
            start = self.read.setdefault(str(digest), 0)
            self.read[str(digest)] = min(len(body), start + count)
            return body[start : start + count]

        yield None if body is None else read


def recognised(image: Manifest, limit: int = MIB, contents: Contents | None = None) -> bool:
    found = Recogniser((contents or Contents(image)).open, limit)
    return found.is_release(manifests.parse(image.body, image.media_type))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("quay.io/openshift-release-dev/ocp-release", True),
        ("openshift/release-images", True),
        ("lab/any/depth/openshift/release-images", True),
        ("quay.io/okd/scos-release", True),
        ("quay.io/openshift/okd", True),
        ("registry.ci.openshift.org/origin/release", True),
        ("quay.io/openshift-release-dev/ocp-v4.0-art-dev", False),
        ("quay.io/openshift-release-dev/ocp-release-nightly", False),
        ("quay.io/openshift/release", False),
        ("quay.io/my-openshift/okd", False),
        ("quay.io/openshift/okd-content", False),
    ],
)
def test_where_releases_are_published(name: str, published: bool) -> None:
    assert is_published_in(name) is published
    assert is_published_in("quay.io/team/app", name) is published


def test_what_runs_has_layers_of_files() -> None:
    assert runs(blob.media_type for blob in bed.app().blobs)
    assert runs(blob.media_type for blob in images.image([images.layer(b"", compression="zstd")]).blobs)
    for kind in ("application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.in-toto+json", "text/spdx+json"):
        assert not runs(["application/vnd.oci.image.config.v1+json", kind])


@pytest.mark.parametrize(
    ("architecture", "tag"), [("amd64", "4.16.3-x86_64"), ("arm64", "4.16.3-aarch64"), ("multi", "4.16.3-multi")]
)
def test_tags(architecture: str, tag: str) -> None:
    assert release_tag("4.16.3", architecture) == tag
    assert release_tag("4.16.3+1", "s390x") == "4.16.3_1-s390x"


def test_the_label_alone_or_the_payload_alone_is_enough() -> None:
    assert recognised(release_bed.release(payload=False))
    assert recognised(release_bed.release(label=False))
    assert not recognised(release_bed.release(label=False, payload=False))
    assert not recognised(bed.app())


def test_a_component_of_a_release_is_none() -> None:
    layers = [bed.BASE, images.layer(images.tree({"manifests/image-references": b"{}"}), docker=True)]
    labels = {"io.openshift.release.operator": "true", "io.openshift.build.versions": "4.16.3"}
    assert not recognised(images.image(layers, docker=True, labels=labels))


def test_a_payload_counts_in_any_layer_that_is_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster runs what all layers come to: an empty one on top makes no other image of a release."""
    top = images.layer(images.tree({"app": b"x"}), docker=True)
    payload = release_bed.release(label=False).blobs[-1]
    assert isinstance(payload, images.Layer)
    assert recognised(images.image([top, payload], docker=True))
    assert recognised(images.image([payload, top], docker=True))
    assert recognised(images.image([payload, *[top] * 15], docker=True))
    assert not recognised(images.image([payload, *[top] * 16], docker=True))
    monkeypatch.setattr(release_image, "LOWER_LAYER_LIMIT", len(payload.body) - 1)
    assert recognised(images.image([top, payload], docker=True))
    assert not recognised(images.image([payload, top], docker=True))


@pytest.mark.parametrize("inner", ["config", "Config", "CONFIG"])
@pytest.mark.parametrize("labels", ["Labels", "labels", "LABELS"])
def test_a_label_counts_however_its_field_is_spelled(inner: str, labels: str) -> None:
    """Go reads the fields of JSON whatever their case, and each of two that differ by it alone."""
    said = {inner: {labels: {"io.openshift.release": "4.16.3"}}}
    assert Configuration.parse(json.dumps(said).encode()).release == "4.16.3"
    assert Configuration.parse(json.dumps({"config": {"Labels": {}}, **said}).encode()).release == "4.16.3"


def test_what_is_said_of_a_layer_does_not_hide_what_it_holds() -> None:
    files = {"./release-manifests/image-references": b"not even JSON"}
    for body in (
        images.tree(files),
        gzip.compress(images.tree(files)),
        gzip.compress(b"") + gzip.compress(images.tree(files)),
    ):
        layer = images.Layer("application/octet-stream", body)
        assert recognised(images.image([layer]))


def test_a_layer_is_looked_at_as_far_as_is_wanted() -> None:
    image = release_bed.release(label=False, before={"a/large": bytes(2 * MIB)})
    assert not recognised(image, MIB)
    assert recognised(image, 4 * MIB)


def test_the_label_can_be_all_that_is_looked_at() -> None:
    for made, labelled in ((release_bed.release(label=False), False), (release_bed.release(payload=False), True)):
        contents = Contents(made)
        manifest = manifests.parse(made.body, made.media_type)
        assert Recogniser(contents.open, MIB).is_release(manifest, by_label_alone=True) is labelled
        assert contents.read.keys() == {made.blobs[0].digest}


def test_it_is_read_no_further_than_to_what_tells() -> None:
    noise = random.Random(1).randbytes(4 * MIB)
    layers = [images.layer(images.tree({"release-manifests/image-references": b"{}", "usr/noise": noise}), docker=True)]
    image = images.image(layers, docker=True)
    contents = Contents(image)
    assert recognised(image, 16 * MIB, contents)
    assert contents.read[layers[0].digest] < MIB


@pytest.mark.parametrize("body", [b"", b"\x1f\x8b", b"\x1f\x8bcut short", b"\x28\xb5\x2f\xfd zstd", b"{}", bytes(1024)])
def test_what_is_no_layer_holds_no_payload(body: bytes) -> None:
    assert not payloads.is_in([body])
    assert not payloads.is_in([body[:1], body[1:]])
    assert not recognised(images.image([images.Layer(DOCKER_LAYER, body)], docker=True))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        b'{"config": []}',
        b'{"config": {"Labels": []}}',
        b'{"config": {"Labels": {"io.openshift.release": null}}}',
        b'{"architecture": 7}',
    ],
)
def test_a_configuration_that_is_none_says_nothing(body: bytes) -> None:
    assert Configuration.parse(body) == Configuration()


@pytest.mark.parametrize("label", ["", "4.16.3", 7, ["x"]])
def test_whatever_the_label_says_it_is_there(label: object) -> None:
    document = {"architecture": "arm64", "config": {"Labels": {"io.openshift.release": label}}}
    found = Configuration.parse(json.dumps(document).encode())
    assert found.release is not None
    assert found.architecture == "arm64"


def test_what_cannot_be_had_tells_nothing() -> None:
    image = release_bed.release()
    contents = Contents(image)
    contents.bodies.clear()
    assert not recognised(image, MIB, contents)
    artifact = images.artifact("application/spdx+json", Content("text/plain", b"x"))
    assert not recognised(artifact)
    assert Recogniser(contents.open, MIB).payload(manifests.parse(image.body, image.media_type)) is None
