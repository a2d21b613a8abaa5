"""Nothing of a release is believed before its signature; required sigstore signatures are there or missed by name."""

from __future__ import annotations

import functools
import random

import pytest

from mirror.errors import Corrupt, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.offline.collect_release import VersionMismatch
from mirror.offline.image_set import Channel, ImageSet
from mirror.offline.signatures import SignatureInvalid
from tests.tools import release_layers
from tests.tools.collecting import SIGNER, by_kind, collected, content, graphs, image_set, of_release
from tests.tools.cosign import tag
from tests.tools.image_source import Registries
from tests.tools.images import Manifest, image, index, layer, tree
from tests.tools.release import Release, make_release
from tests.unit.offline import release_bed

_RELEASES = "quay.io/openshift-release-dev/ocp-release"
_COMPONENTS = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"


@functools.cache
def _release(architecture: str = "amd64", **more: bool) -> Release:
    return make_release("4.16.15", architecture, components=6, scale=0.01, **more)


def _serving(release: Release) -> Registries:
    source = Registries()
    source.put_release(release)
    return source


async def _refuse(digest: Digest) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
    raise SignatureInvalid(f"release {digest} has no valid signature: there is none")


async def test_a_release_without_a_valid_signature_is_not_even_looked_at() -> None:
    release = _release()
    source = _serving(release)
    with pytest.raises(SignatureInvalid):
        await collected(source, of_release(release), verify=_refuse)
    assert source.asked == {}


async def test_the_list_is_what_must_be_signed() -> None:
    release = _release("multi")
    seen = []

    async def verify(digest: Digest) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
        seen.append(str(digest))
        return [(1, b"x")], ("A" * 40,)

    await collected(_serving(release), of_release(release), verify=verify)
    assert seen == [release.digest]


async def test_a_tag_is_resolved_before_it_is_verified() -> None:
    release = _release()
    source = _serving(release)
    with pytest.raises(SignatureInvalid, match=release.digest):
        await collected(source, image_set(releases=[f"{_RELEASES}:4.16.15-x86_64"]), verify=_refuse)
    assert set(source.asked) == {f"{_RELEASES}:4.16.15-x86_64"}


async def test_without_the_requirement_it_is_taken_and_said() -> None:
    release = _release()
    found = await collected(_serving(release), of_release(release), verify=_refuse, require_signature=False)
    assert content(found.plan)[release.digest]
    assert (found.plan.require_signature, found.plan.signatures, found.signatures) == (False, (), {})
    assert found.plan.releases[0].signed_by == ()
    assert any("without a valid signature" in warning for warning in found.warnings)


async def test_a_signature_store_that_is_away_leaves_the_release_out() -> None:
    release = _release()

    async def verify(digest: Digest) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
        raise UpstreamUnavailable("no signature store could be asked")

    source = _serving(release)
    other = source.put("quay.io/a/b", image([layer(tree({"a": b"a"}))]), "v1")
    found = await collected(source, of_release(release, images=["quay.io/a/b:v1"]), verify=verify)
    assert [str(one.digest) for one in found.plan.images] == [other]
    assert [(one.what, one.why) for one in found.failures] == [(release.pullspec, "no signature store could be asked")]
    assert [sentence.partition(" ")[0] for sentence in found.plan.lacking] == [release.pullspec]
    with pytest.raises(UpstreamUnavailable):
        await collected(source, of_release(release), verify=verify)


async def test_another_version_than_the_graph_says_is_refused() -> None:
    release = _release()
    source = _serving(release)
    said = {("stable-4.16", "amd64"): graphs(release)[("stable-4.16", "amd64")].replace(b"4.16.15", b"4.16.16")}
    with pytest.raises(VersionMismatch) as caught:
        await collected(source, image_set(Channel("stable-4.16")), said)
    assert isinstance(caught.value, Corrupt)
    assert "4.16.15" in str(caught.value)
    assert "4.16.16" in str(caught.value)


async def test_an_image_that_is_no_release_is_reported() -> None:
    source = Registries()
    digest = source.put("quay.io/a/b", image([layer(tree({"a": b"a"}))]))
    found = await collected(source, image_set(releases=[f"quay.io/a/b@{digest}"]))
    assert found.plan.images == ()
    [failure] = found.failures
    assert "no image-references" in failure.why


async def test_a_payload_in_a_lower_layer_is_found_where_the_top_one_has_none() -> None:
    source = Registries()
    component = source.put(_COMPONENTS, image([layer(tree({"cli": b"cli"}))]))
    references = release_layers.references("4.16.15", {"cli": f"{_COMPONENTS}@{component}"})
    layers = [layer(tree({"release-manifests/image-references": references})), layer(tree({"etc/motd": b"hi"}))]
    release = source.put(_RELEASES, image(layers, architecture="ppc64le"))
    found = await collected(source, image_set(releases=[f"{_RELEASES}@{release}"]))
    assert [(one.version, one.architecture) for one in found.plan.releases] == [("4.16.15", "ppc64le")]
    assert component in content(found.plan)


# -- sigstore


async def test_required_signatures_are_planned_and_shown() -> None:
    release = _release("multi")
    found = await collected(_serving(release), of_release(release))
    assert found.plan.lacking == ()
    kinds = by_kind(found.plan)
    assert [one.sigstore for one in kinds["release"]] == ["required"]
    signed = {name: release.components[name].digest for name in sorted(release.components)[:3]}
    assert {one.sigstore for one in kinds["component"] if str(one.digest) in signed.values()} == {"present"}
    assert {one.sigstore for one in kinds["component"] if str(one.digest) not in signed.values()} == {"none"}
    tags = {tag for one in kinds["signature"] for tag in one.tags}
    assert tags == {tag(child.digest) for child in release.image.all_manifests()} | {
        tag(release.digest, "att"),
        *map(tag, signed.values()),
    }


async def test_a_signature_of_one_child_that_is_required_and_absent_makes_the_set_incomplete() -> None:
    release = _release("multi")
    source = _serving(release)
    child = release.image.children[1].digest
    del source.tags_of[_RELEASES][tag(child)]
    found = await collected(source, of_release(release))
    [sentence] = found.plan.lacking
    assert f"{_RELEASES}@{child}" in sentence
    assert sentence.startswith("release 4.16.15 (multi): nodes demand a sigstore signature")
    [image] = by_kind(found.plan)["release"]
    assert image.sigstore == "required"
    assert found.failures == ()


async def test_no_policy_requires_nothing() -> None:
    release = _release(sigstore=False, image_policy=False)
    found = await collected(_serving(release), of_release(release))
    assert found.plan.lacking == ()
    assert {one.sigstore for one in found.plan.images} == {"none"}


async def test_a_child_that_is_not_planned_needs_no_signature() -> None:
    release = _release("multi")
    source = _serving(release)
    del source.tags_of[_RELEASES][tag(release.image.children[1].digest)]  # arm64
    found = await collected(source, of_release(release, platforms=["linux/amd64"]))
    assert found.plan.lacking == ()


async def test_an_image_beside_the_release_is_held_to_the_policy_of_the_release() -> None:
    release = _release()
    source = _serving(release)
    other = index([image([layer(tree({"a": b"a"}))])])
    source.put(_RELEASES, other, "other")
    found = await collected(source, of_release(release, images=[f"{_RELEASES}:other"]))
    assert len(found.plan.lacking) == 2
    assert {one.sigstore for one in by_kind(found.plan)["image"]} == {"required"}
    alone = await collected(source, image_set(images=[f"{_RELEASES}:other"]))
    assert alone.plan.lacking == ()


async def test_a_required_signature_that_cannot_be_asked_for_is_missed_too() -> None:
    release = _release()
    source = _serving(release)
    source.failing[f"{_RELEASES}:{tag(release.digest)}"] = UpstreamUnavailable("upstream is away")
    found = await collected(source, of_release(release))
    assert [one.what for one in found.failures] == [f"{_RELEASES}:{tag(release.digest)}"]
    assert any("nodes demand" in sentence for sentence in found.plan.lacking)


def _policy_in(name: str, manifest: bytes) -> tuple[Registries, str]:
    source = Registries()
    component = source.put(_COMPONENTS, image([layer(tree({"cli": b"cli"}))]))
    files = {
        "release-manifests/image-references": release_layers.references(
            "4.21.0", {"cli": f"{_COMPONENTS}@{component}"}
        ),
        f"release-manifests/{name}": manifest,
    }
    return source, source.put(_RELEASES, image([layer(tree(files))]))


async def test_a_policy_that_cannot_be_read_is_a_warning_with_the_release() -> None:
    source, release = _policy_in("p.yaml", b"kind: ClusterImagePolicy\n{")
    found = await collected(source, image_set(releases=[f"{_RELEASES}@{release}"]))
    [warning] = found.warnings
    assert warning.startswith("release 4.21.0 (amd64): release-manifests/p.yaml cannot be read")


async def test_a_policy_over_a_whole_host_takes_in_the_components() -> None:
    source, release = _policy_in("p.yaml", release_layers.policy("quay.io"))
    found = await collected(source, image_set(releases=[f"{_RELEASES}@{release}"]))
    assert {one.kind: one.sigstore for one in found.plan.images} == {"release": "required", "component": "required"}
    assert len(found.plan.lacking) == 2


# -- releases among the images that were asked for by name


_THING = "quay.io/team/thing"


def _asked_for(image_: Manifest, repository: str = _THING) -> tuple[Registries, ImageSet]:
    source = Registries()
    source.put(repository, image_, "v7")
    return source, image_set(images=[f"{repository}:v7"])


@pytest.mark.parametrize(
    ("made", "repository"),
    [
        (release_bed.release(payload=False), _THING),
        (release_bed.release(label=False), _THING),
        (release_bed.multi(label=False), _THING),
        (release_bed.release(label=False, payload=False), _RELEASES),
        (release_bed.release(label=False, payload=False), "quay.io/okd/scos-release"),
    ],
)
async def test_an_image_that_is_a_release_must_be_signed(made: Manifest, repository: str) -> None:
    source, wanted = _asked_for(made, repository)
    with pytest.raises(SignatureInvalid, match=f"release {repository}@{made.digest} has no valid signature"):
        await collected(source, wanted, verify=_refuse)


async def test_it_is_planned_as_what_it_is_and_nothing_is_added_to_it() -> None:
    made = release_bed.release()
    source, wanted = _asked_for(made)
    found = await collected(source, wanted)
    assert [(one.kind, one.tags, one.source) for one in found.plan.images] == [
        ("release", ("4.16.3-x86_64", "v7"), _THING)
    ]
    [release] = found.plan.releases
    assert (release.version, release.architecture, release.signed_by) == ("4.16.3", "amd64", (SIGNER,))
    assert [one.release for one in found.plan.signatures] == [Digest.parse(made.digest)]
    assert any(
        "not all of its components were asked for (1 component left out)" in warning for warning in found.warnings
    )
    assert any("`mirror.platform.release`" in warning for warning in found.warnings)


async def test_without_the_requirement_it_is_a_release_as_well() -> None:
    source, wanted = _asked_for(release_bed.multi())
    found = await collected(source, wanted, verify=_refuse, require_signature=False)
    assert [(one.version, one.architecture) for one in found.plan.releases] == [("4.16.3", "multi")]
    assert [one.tags for one in found.plan.images] == [("4.16.3-multi", "v7")]
    assert found.plan.signatures == ()


async def test_what_is_signed_and_cannot_be_opened_keeps_its_signatures() -> None:
    made = release_bed.release(label=False, payload=False)
    source, wanted = _asked_for(made, _RELEASES)
    found = await collected(source, wanted)
    assert ([one.kind for one in found.plan.images], found.plan.releases) == (["image"], ())
    assert [one.release for one in found.plan.signatures] == list(found.signatures) == [Digest.parse(made.digest)]


async def test_a_signature_store_that_is_away_leaves_such_an_image_out() -> None:
    async def verify(digest: Digest) -> tuple[list[tuple[int, bytes]], tuple[str, ...]]:
        raise UpstreamUnavailable("no signature store could be asked")

    source, _ = _asked_for(release_bed.release())
    other = source.put("quay.io/a/b", image([layer(tree({"a": b"a"}))]), "v1")
    found = await collected(source, image_set(images=[f"{_THING}:v7", "quay.io/a/b:v1"]), verify=verify)
    assert [str(one.digest) for one in found.plan.images] == [other]
    assert [one.why for one in found.failures] == ["no signature store could be asked"]


async def test_a_large_top_layer_is_not_fetched_while_planning() -> None:
    """A bound on what is new here: what it is shows when it has come (complete), and no plan waits for gigabytes."""
    made = release_bed.release(label=False, before={"a/noise": random.Random(1).randbytes(2**20)})
    source, wanted = _asked_for(made)
    found = await collected(source, wanted, verify=_refuse)
    assert [one.kind for one in found.plan.images] == ["image"]
    assert source.asked[f"blob {made.blobs[-1].digest}"] == 0


async def test_an_image_whose_configuration_cannot_be_had_is_planned_for_the_sync_to_miss() -> None:
    made = image([layer(tree({"a": b"a"}))])
    source, wanted = _asked_for(made)
    source.failing[f"blob {made.blobs[0].digest}"] = UpstreamUnavailable("away")
    found = await collected(source, wanted)
    assert [str(one.digest) for one in found.plan.images] == [made.digest]
    assert found.failures == ()


async def test_components_are_not_looked_into() -> None:
    release = _release()
    source = _serving(release)
    await collected(source, of_release(release))
    configurations = {one.blobs[0].digest for one in release.components.values() if one.blobs}
    assert not any(source.asked[f"blob {digest}"] for digest in configurations)
