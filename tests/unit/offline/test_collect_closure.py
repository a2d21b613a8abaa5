"""What makes an image whole, and what is refused: nesting, schema 1, foreign layers, sizes that contradict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import ManifestInvalid, MirrorError, NotHere, UpstreamDenied, UpstreamInvalid, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline import closure as closures
from mirror.offline.closure import Closure, Closures, PlatformAbsent
from mirror.offline.image_set import ImageSet, Platform, WantedImage
from mirror.offline.plan import Plan
from tests.tools.collecting import collected, content, image_set
from tests.tools.image_source import Registries
from tests.tools.images import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Content,
    Manifest,
    artifact,
    image,
    index,
    layer,
    tree,
)

_APP = "quay.io/acme/app"


def _image(name: str = "app", architecture: str = "amd64") -> Manifest:
    return image([layer(tree({name: architecture.encode()}))], architecture=architecture)


async def _closure(made: Manifest, *platforms: str) -> Closure:
    source = Registries()
    digest = source.put(_APP, made)
    target = source.target(Pullspec.parse(_APP + ":x"))
    return await Closures(source).read(target, Digest.parse(digest), [Platform.parse(one) for one in platforms])


def _nested(depth: int) -> Manifest:
    made = _image()
    for _ in range(depth):
        made = index([made])
    return made


def _with(made: Manifest, **over: Any) -> Manifest:
    document = {**json.loads(made.body), **over}
    return Manifest(made.media_type, json.dumps(document).encode(), made.blobs, made.children, made.platform)


async def test_indexes_nest_to_a_bound() -> None:
    found = await _closure(_nested(3))
    assert len(found.manifests) == 4
    assert found.manifests[0].digest == found.digest
    with pytest.raises(ManifestInvalid, match="deeper"):
        await _closure(_nested(4))


async def test_a_manifest_that_is_reached_twice_is_read_once() -> None:
    one = _image()
    source = Registries()
    digest = source.put(_APP, index([one, index([one]), one]))
    found = await Closures(source).read(source.target(Pullspec.parse(_APP)), Digest.parse(digest))
    assert len(found.manifests) == 3
    assert source.asked[f"{_APP}@{one.digest}"] == 1
    assert [len(manifest.manifests) for manifest in found.manifests] == [2, 0, 1]


async def test_more_manifests_than_an_image_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closures, "MANIFESTS_LIMIT", 10)
    assert len((await _closure(index(_image(str(n)) for n in range(9)))).manifests) == 10
    with pytest.raises(ManifestInvalid, match="more than 10"):
        await _closure(index(_image(str(n)) for n in range(10)))


async def test_platforms_reach_into_nested_indexes() -> None:
    amd, arm = _image(architecture="amd64"), _image(architecture="arm64")
    found = await _closure(index([index([amd, arm]), arm]), "linux/arm64")
    digests = {str(manifest.digest) for manifest in found.manifests}
    assert arm.digest in digests
    assert amd.digest not in digests


@pytest.mark.parametrize(
    ("listed", "asked", "taken"),
    [
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, "linux/arm64", True),
        ({"os": "linux", "architecture": "arm64"}, "linux/arm64/v8", True),
        ({"os": "linux", "architecture": "arm", "variant": "v6"}, "linux/arm", True),
        ({"os": "linux", "architecture": "arm", "variant": "v6"}, "linux/arm/v7", False),
        ({"os": "linux", "architecture": "arm"}, "linux/arm/v7", True),
        ({"os": "windows", "architecture": "amd64"}, "linux/amd64", False),
        ({"architecture": "amd64"}, "linux/amd64", True),
        ({"os": "linux", "architecture": "amd64"}, "linux/arm64", False),
    ],
)
async def test_platforms_are_compared_as_clients_do(listed: Mapping[str, str], asked: str, taken: bool) -> None:
    child = _image()
    made = _with(index([child]), manifests=[child.descriptor(platform=listed)])
    if taken:
        assert len((await _closure(made, asked)).manifests) == 2
    else:
        with pytest.raises(PlatformAbsent):
            await _closure(made, asked)


_UNKNOWN = {"os": "unknown", "architecture": "unknown"}
_SAYS = {"vnd.docker.reference.type": "attestation-manifest"}


@pytest.mark.parametrize("platforms", [(), ("linux/amd64",)], ids=["all", "one platform"])
@pytest.mark.parametrize("depth", [0, 1], ids=["in the index", "in an index of it"])
@pytest.mark.parametrize(
    ("entry", "error", "left_out"),
    [
        ({"platform": _UNKNOWN, "annotations": _SAYS}, UpstreamNotFound, True),
        ({"annotations": _SAYS}, UpstreamNotFound, True),
        ({"platform": _UNKNOWN}, UpstreamNotFound, True),
        ({"platform": {**_UNKNOWN, "variant": "v1"}}, UpstreamNotFound, True),
        ({"platform": {}, "annotations": _SAYS}, UpstreamNotFound, True),
        # These guard against overshooting.
        ({"platform": {"os": "linux", "architecture": "amd64"}}, UpstreamNotFound, False),
        ({"platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"a": "b"}}, UpstreamNotFound, False),
        ({"platform": {"os": "linux", "architecture": "amd64"}, "annotations": _SAYS}, UpstreamNotFound, False),
        ({"platform": {"os": "linux", "architecture": "unknown"}}, UpstreamNotFound, False),
        ({}, UpstreamNotFound, False),
        ({"platform": _UNKNOWN, "annotations": _SAYS}, UpstreamDenied, False),
        ({"platform": _UNKNOWN, "annotations": _SAYS}, UpstreamInvalid, False),
        ({"platform": _UNKNOWN, "annotations": _SAYS}, NotHere, False),  # which we may not have, or ask for
    ],
)
async def test_an_attestation_that_upstream_has_lost(
    entry: dict[str, Any], error: type[MirrorError], left_out: bool, depth: int, platforms: tuple[str, ...]
) -> None:
    """Clean-up jobs delete what has no tag (delete-untagged-ghcr-action#45, ghcr-cleanup-action#71, moneyman#789)."""
    amd, lost = _image(), _image("lost")
    about = {**entry.get("annotations", {}), "vnd.docker.reference.digest": amd.digest}
    listed = [
        amd.descriptor(platform={"os": "linux", "architecture": "amd64"}),
        lost.descriptor(**{**entry, "annotations": about}),
    ]
    made = _with(index([amd, lost]), manifests=listed)
    for _ in range(depth):
        made = index([made])
    source = Registries()
    source.put(_APP, made, "v1")
    source.failing[f"{_APP}@{lost.digest}"] = error("it is not had")
    asked = WantedImage(Pullspec.parse(f"{_APP}:v1"), platforms=tuple(map(Platform.parse, platforms)))
    found = await collected(source, ImageSet(Path("set.yaml"), images=(asked,)))
    assert (amd.digest in content(found.plan)) == left_out
    assert (found.failures == ()) == left_out
    if left_out:
        [warning] = found.warnings
        assert lost.digest in warning
        assert amd.digest in warning
        assert "gone from upstream" in warning
        assert lost.digest not in content(found.plan)
        assert not found.plan.lacking
        assert found.plan.left_out == (warning,)
        assert Plan.parse(found.plan.dump()).left_out == (warning,), "whoever verifies it behind the gap is told"


async def test_attestations_go_with_the_child_that_they_are_about() -> None:
    amd, arm = _image(architecture="amd64"), _image(architecture="arm64")
    about = {
        one.digest: artifact("application/vnd.in-toto+json", Content("application/json", one.digest.encode()))
        for one in (amd, arm)
    }
    unknown = {"os": "unknown", "architecture": "unknown"}
    listed = [amd.descriptor(platform=amd.platform), arm.descriptor(platform=arm.platform)]
    listed += [
        one.descriptor(platform=unknown, annotations={"vnd.docker.reference.digest": digest})
        for digest, one in about.items()
    ]
    made = Manifest(
        OCI_INDEX,
        json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode(),
        children=(amd, arm, *about.values()),
    )
    found = await _closure(made, "linux/arm64")
    assert {str(one.digest) for one in found.manifests} == {made.digest, arm.digest, about[arm.digest].digest}


async def test_what_has_no_platform_may_be_for_any() -> None:
    child = artifact("application/vnd.example", Content("text/plain", b"x"))
    assert len((await _closure(index([child]), "linux/arm64")).manifests) == 2


async def test_foreign_layers_are_left_out_and_said() -> None:
    made = _image()
    document = json.loads(made.body)
    foreign = Content("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", b"windows")
    document["layers"].append(foreign.descriptor(urls=["https://user:secret@mcr.example/blob"]))
    found = await _closure(Manifest(OCI_MANIFEST, json.dumps(document).encode(), made.blobs))
    assert {str(blob.digest) for blob in found.blobs} == {blob.digest for blob in made.blobs}
    assert foreign.digest not in {str(digest) for digest in found.manifests[0].blobs}
    [warning] = found.warnings
    assert foreign.digest in warning
    assert "secret" not in warning


async def test_schema_1_cannot_be_kept() -> None:
    old = Manifest(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        json.dumps({"schemaVersion": 1, "fsLayers": [], "signatures": []}).encode(),
    )
    source = Registries()
    source.put(_APP, old, "v1")
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    [failure] = found.failures
    assert "schema 1" in failure.why
    assert failure.remedy


@pytest.mark.parametrize("size", [0, 1, 10**9])
async def test_an_index_that_lies_about_a_child_is_refused(size: int) -> None:
    child = _image()
    with pytest.raises(ManifestInvalid, match="size"):
        await _closure(_with(index([child]), manifests=[child.descriptor(size=size)]))


async def test_a_manifest_with_two_sizes_of_one_blob_is_refused() -> None:
    made = _image()
    layers = json.loads(made.body)["layers"]
    with pytest.raises(ManifestInvalid, match="impossible size"):
        await _closure(_with(made, layers=[*layers, {**layers[0], "size": 7}]))
    with pytest.raises(ManifestInvalid, match="impossible size"):
        await _closure(_with(made, layers=[{**layers[0], "size": 2**53}]))


async def test_of_images_that_contradict_the_one_that_more_vouches_for_stays() -> None:
    good = _image()
    layers = json.loads(good.body)["layers"]
    liar = _with(good, layers=[{**layers[0], "size": layers[0]["size"] + 1}])
    source = Registries("quay.io", "aaa.example")
    source.put("aaa.example/x", liar, "v1")
    source.put(_APP, good, "v1")
    found = await collected(source, image_set(images=["aaa.example/x:v1", f"{_APP}:v1"]))
    # Both are equals here: the first by name stays, and the other is reported.
    assert [str(image.digest) for image in found.plan.images] == [liar.digest]
    assert [one.what for one in found.failures] == [f"{_APP}@{good.digest}"]
    assert content(found.plan)[layers[0]["digest"]] == layers[0]["size"] + 1


async def test_one_layer_twice_is_one_blob() -> None:
    made = _image()
    layers = json.loads(made.body)["layers"]
    found = await _closure(_with(made, layers=layers * 3))
    assert len(found.manifests[0].blobs) == len(found.blobs) == 2


async def test_artifacts_and_odd_types_are_content_like_any() -> None:
    chart = artifact("application/vnd.cncf.helm.config.v1+json", Content("application/x-whatever", b"chart"))
    found = await _closure(chart)
    assert {str(blob.digest) for blob in found.blobs} == {blob.digest for blob in chart.blobs}
    empty = Manifest(OCI_INDEX, json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode())
    assert len((await _closure(empty)).manifests) == 1


async def test_a_manifest_of_two_minds_is_refused() -> None:
    both = _with(_image(), manifests=[])
    with pytest.raises(ManifestInvalid):
        await _closure(both)
    with pytest.raises(ManifestInvalid):
        await _closure(_with(_image(), mediaType=DOCKER_MANIFEST))


async def test_a_large_manifest_is_parsed_off_the_loop() -> None:
    made = image([layer(tree({"a": b"a"}))])
    many = _with(made, layers=[Content("application/x", str(n).encode()).descriptor() for n in range(2000)])
    assert len(many.body) > 64 * 1024
    assert len((await _closure(many)).blobs) == 2001


@pytest.mark.parametrize("key", ["manifests", "config", "layers"])
async def test_a_digest_of_an_unknown_algorithm_cannot_be_kept_and_is_named(key: str) -> None:
    other = {"mediaType": OCI_MANIFEST, "digest": "sha384:" + "a" * 96, "size": 500}
    made = index([_image()]) if key == "manifests" else _image()
    made = _with(made, **{key: other if key == "config" else [*json.loads(made.body)[key], other]})
    source = Registries()
    source.put(_APP, made, "v1")
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    [failure] = found.failures
    assert "sha384:aaaa" in failure.why
    assert "sha256" in failure.remedy
