"""A release comes to a plan of exactly what belongs to it: one architecture, several, or some of several."""

from __future__ import annotations

import functools

import pytest

from mirror.content.answers import ManifestAnswer, Target
from mirror.errors import UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.offline.image_set import Channel
from tests.tools import release_layers
from tests.tools.collecting import SIGNATURE, SIGNER, by_kind, collected, content, graphs, image_set, of_release
from tests.tools.image_source import Registries
from tests.tools.images import Manifest, image, index, layer, tree
from tests.tools.release import Release, content_of, make_release

_RELEASES = "quay.io/openshift-release-dev/ocp-release"
_COMPONENTS = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"


@functools.cache
def _release(version: str = "4.16.15", architecture: str = "amd64", components: int = 190) -> Release:
    return make_release(version, architecture, components=components, scale=0.01)


def _serving(*releases: Release, **more: bool) -> Registries:
    source = Registries(**more)
    for one in releases:
        source.put_release(one)
    return source


async def test_a_release_of_190_components_is_planned_whole() -> None:
    release = _release()
    said: list[str] = []
    found = await collected(
        _serving(release),
        image_set(Channel("stable-4.16"), kubevirt=True),
        graphs(release),
        progress=said.append,
    )
    plan = found.plan
    assert content(plan) == release.content()
    assert (found.failures, found.warnings, plan.lacking, found.unknown_hosts) == ((), (), (), {})
    kinds = by_kind(plan)
    names = {component.digest for component in release.components.values()}
    assert len(kinds["component"]) == len(names) >= 190
    assert {str(image.digest) for image in kinds["component"]} == names
    assert [str(image.digest) for image in kinds["kubevirt"]] == [release.kubevirt.digest if release.kubevirt else ""]
    assert len(kinds["signature"]) == len(release.attached)
    assert len(kinds["referrer"]) == len(release.referrers)
    assert [f"release 4.16.15 (amd64): signed by {SIGNER}, 194 components", "25 of 192 images read"] == said[:2]
    assert "192 of 192 images read" in said


async def test_the_plan_says_what_each_image_is_and_why() -> None:
    release = _release()
    plan = (await collected(_serving(release), image_set(Channel("stable-4.16")), graphs(release))).plan
    [planned] = plan.releases
    assert (planned.version, planned.architecture, planned.source) == ("4.16.15", "amd64", _RELEASES)
    assert (str(planned.digest), planned.channels, planned.signed_by) == (release.digest, ("stable-4.16",), (SIGNER,))
    assert planned.why
    [image] = by_kind(plan)["release"]
    assert (image.name, image.tags, image.why) == (_RELEASES, ("4.16.15-x86_64",), ("release 4.16.15 (amd64)",))
    components = {str(one.digest): one for one in by_kind(plan)["component"]}
    pod = components[release.components["pod"].digest]
    assert pod.why == ("release 4.16.15 (amd64): component hyperkube", "release 4.16.15 (amd64): component pod")
    assert (pod.name, pod.tags, pod.source) == (_COMPONENTS, (), _COMPONENTS)
    [signature] = plan.signatures
    raw = SIGNATURE + planned.digest.hex.encode()
    assert (signature.release, signature.number, signature.digest) == (planned.digest, 1, Digest.of(raw))
    [excerpt] = plan.graphs
    assert (excerpt.channel, excerpt.architecture) == ("stable-4.16", "amd64")
    assert [(node["version"], node["payload"]) for node in excerpt.graph["nodes"]] == [("4.16.15", release.pullspec)]


async def test_signatures_of_a_release_come_as_bytes() -> None:
    release = _release(components=3)
    found = await collected(_serving(release), of_release(release))
    digest = Digest.parse(release.digest)
    assert found.signatures == {digest: [(1, SIGNATURE + digest.hex.encode())]}


async def test_a_kubevirt_disk_is_left_out_unless_asked_for_and_missed_where_there_is_none() -> None:
    release = _release(components=3)
    found = await collected(_serving(release), of_release(release))
    assert release.kubevirt is not None
    assert release.kubevirt.digest not in content(found.plan)
    arm = make_release("4.16.15", "arm64", components=3, scale=0.01)
    found = await collected(_serving(arm), of_release(arm, kubevirt=True))
    assert "kubevirt" not in by_kind(found.plan)
    assert found.warnings == ("release 4.16.15 (arm64) has no kubevirt disk for aarch64",)


async def test_a_multi_release_is_planned_with_every_child() -> None:
    release = _release(architecture="multi", components=40)
    found = await collected(
        _serving(release), image_set(Channel("stable-4.16"), architectures=["multi"], kubevirt=True), graphs(release)
    )
    assert content(found.plan) == release.content()
    [image] = by_kind(found.plan)["release"]
    assert (image.tags, image.architectures) == (("4.16.15-multi",), ())
    assert found.warnings == ()
    assert len(found.plan.manifests) == 5 * len(release.images()) - 4 + len(release.attached) + len(release.referrers)


async def test_platforms_take_their_children_of_every_list_and_leave_the_lists_as_they_are() -> None:
    release = _release(architecture="multi", components=20)
    found = await collected(
        _serving(release),
        image_set(Channel("stable-4.16"), platforms=["linux/arm64", "linux/s390x"]),
        graphs(release),
    )
    plan = found.plan
    lists = {one.digest: one for one in plan.manifests if len(one.manifests)}
    assert {str(digest) for digest in lists} >= {component.digest for component in release.components.values()}
    assert {len(one.manifests) for one in lists.values()} == {2}
    for component in [release.image, *release.components.values()]:
        there = {child.platform["architecture"]: child.digest in content(plan) for child in component.children}  # type: ignore[index]
        assert there == {"amd64": False, "arm64": True, "ppc64le": False, "s390x": True}
    [image] = by_kind(plan)["release"]
    assert (image.tags, image.architectures) == (("4.16.15-multi",), ("arm64", "s390x"))
    assert found.warnings == ()


async def test_several_architectures_are_several_releases() -> None:
    amd, arm = _release(components=5), _release(architecture="arm64", components=5)
    found = await collected(
        _serving(amd, arm),
        image_set(Channel("stable-4.16"), architectures=["amd64", "arm64"]),
        graphs(amd, arm),
    )
    assert [(one.architecture, str(one.digest)) for one in found.plan.releases] == [
        ("amd64", amd.digest),
        ("arm64", arm.digest),
    ]
    assert {image.tags for image in by_kind(found.plan)["release"]} == {("4.16.15-x86_64",), ("4.16.15-aarch64",)}
    assert [(one.architecture, len(one.graph["nodes"])) for one in found.plan.graphs] == [("amd64", 1), ("arm64", 1)]


async def test_two_releases_share_what_they_have_in_common() -> None:
    old = _release("4.16.14", components=30)
    new = make_release("4.16.15", components=30, base=old, scale=0.01)
    source = _serving(old, new)
    found = await collected(
        source,
        image_set(Channel("stable-4.16", min_version="4.16.14")),
        graphs(old, new, edges=[("4.16.14", "4.16.15")]),
    )
    assert [one.version for one in found.plan.releases] == ["4.16.14", "4.16.15"]
    both = content_of([*old.placed(), *new.placed()])
    disks = {one.kubevirt.digest for one in (old, new) if one.kubevirt}
    assert set(content(found.plan)) == {digest for digest in both if digest not in disks} - _only_in_disks(old, new)
    shared = {one.digest for one in old.components.values()} & {one.digest for one in new.components.values()}
    assert len(shared) > 20
    for one in by_kind(found.plan)["component"]:
        if str(one.digest) in shared:
            assert {why.partition(":")[0] for why in one.why} == {
                "release 4.16.14 (amd64)",
                "release 4.16.15 (amd64)",
            }
    assert all(source.asked[f"{_COMPONENTS}@{digest}"] <= 1 for digest in shared)
    [excerpt] = found.plan.graphs
    assert excerpt.graph["edges"] == [[0, 1]]


def _only_in_disks(*releases: Release) -> set[str]:
    disks = [blob for one in releases if one.kubevirt for blob in one.kubevirt.all_blobs()]
    others = {
        digest
        for one in releases
        for placed in one.placed()
        if placed.manifest is not one.kubevirt
        for digest in placed.manifest.all_blobs()
    }
    return set(disks) - others


@pytest.mark.parametrize(
    ("architecture", "tag"),
    [("amd64", "4.16.15-x86_64"), ("arm64", "4.16.15-aarch64"), ("s390x", "4.16.15-s390x"), ("multi", "4.16.15-multi")],
)
async def test_a_release_by_pullspec_says_itself_what_it_is(architecture: str, tag: str) -> None:
    release = make_release("4.16.15", architecture, components=3, scale=0.01)
    found = await collected(_serving(release), of_release(release))
    [planned] = found.plan.releases
    assert (planned.version, planned.architecture, planned.channels) == ("4.16.15", architecture, ())
    [image] = by_kind(found.plan)["release"]
    assert image.tags == (tag,)
    assert found.plan.graphs == ()


async def test_a_multi_list_of_one_child_is_still_multi() -> None:
    release = make_release("4.16.15", "multi", components=3, architectures=["arm64"], scale=0.01)
    found = await collected(_serving(release), of_release(release))
    assert found.plan.releases[0].architecture == "multi"


async def test_a_release_by_tag_is_its_digest_and_keeps_the_tag() -> None:
    release = _release(components=3)
    source = _serving(release)
    source.tags_of[_RELEASES]["stable"] = release.digest
    found = await collected(source, image_set(releases=[f"{_RELEASES}:stable"]))
    [image] = by_kind(found.plan)["release"]
    assert (str(image.digest), image.tags) == (release.digest, ("4.16.15-x86_64", "stable"))


async def test_a_release_by_channel_and_by_pullspec_is_one() -> None:
    release = _release(components=3)
    wanted = image_set(Channel("stable-4.16"), releases=[release.pullspec])
    found = await collected(_serving(release), wanted, graphs(release))
    assert [one.channels for one in found.plan.releases] == [("stable-4.16",)]


async def test_a_lower_layer_is_not_believed() -> None:
    # The release image holds, one layer down, image-references of images that are nowhere.
    release = _release(components=3)
    found = await collected(_serving(release), of_release(release))
    assert found.failures == ()
    assert not any(str(image.digest) == f"sha256:{'0' * 64}" for image in found.plan.images)


def _payload_list(*children: Manifest) -> tuple[Registries, str]:
    source = Registries()
    return source, source.put(_RELEASES, index(children))


def _shard(architecture: str, files: dict[str, bytes]) -> Manifest:
    return image([layer(tree({"base": b"x"})), layer(tree(files))], architecture=architecture)


async def test_a_list_of_several_is_multi_whatever_it_says_and_is_read_by_its_amd64_child() -> None:
    component = image([layer(tree({"cli": b"x"}))])
    references = release_layers.references("4.16.15", {"cli": f"{_COMPONENTS}@{component.digest}"})
    source, release = _payload_list(
        _shard("arm64", {"nothing": b"here"}), _shard("amd64", {"release-manifests/image-references": references})
    )
    source.put(_COMPONENTS, component)
    found = await collected(source, image_set(releases=[f"{_RELEASES}@{release}"]))
    assert [(one.version, one.architecture) for one in found.plan.releases] == [("4.16.15", "multi")]
    assert found.failures == ()


async def test_a_release_that_goes_while_it_is_planned_is_no_release_of_the_plan() -> None:
    release = _release(components=3)
    source = _serving(release)
    read = source.manifest

    async def manifest(target: Target, digest: Digest) -> ManifestAnswer:
        if str(digest) == release.digest and source.asked[release.pullspec]:
            raise UpstreamNotFound("it is gone")
        return await read(target, digest)

    source.manifest = manifest  # type: ignore[method-assign]
    found = await collected(source, image_set(Channel("stable-4.16")), graphs(release))
    assert (found.plan.releases, found.plan.signatures, found.signatures) == ((), (), {})
    assert found.plan.graphs[0].graph["nodes"] == []
    assert [one.what for one in found.failures] == [release.pullspec]
