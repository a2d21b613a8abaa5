"""Signatures, attestations and referrers are found by whichever way a registry has, and their absence is normal."""

from __future__ import annotations

import json

import pytest

from mirror.errors import NotHere, UpstreamInvalid, UpstreamUnavailable
from mirror.oci.reference import COSIGN_SUFFIXES, is_signature_tag
from mirror.offline.image_set import Channel
from tests.tools.collecting import by_kind, collected, content, graphs, image_set
from tests.tools.cosign import SigstoreKey, tag
from tests.tools.image_source import Registries
from tests.tools.images import OCI_INDEX, Content, Manifest, artifact, image, index, layer, tree
from tests.tools.release import make_release

_APP = "quay.io/acme/app"
_COMPONENTS = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
_KEY = SigstoreKey("tests")


def _image(name: str) -> Manifest:
    return image([layer(tree({name: b"x"}))])


def _referrer(subject: Manifest, what: str = "sbom") -> Manifest:
    return artifact("application/spdx+json", Content("application/spdx+json", what.encode()), subject=subject)


async def test_a_list_and_its_children_may_each_be_signed() -> None:
    made = index([_image("one"), _image("two")])
    source = Registries()
    source.put(_APP, made, "v1")
    child = made.children[0]
    for one in (made, child):
        source.put(_APP, _KEY.sign(_APP, one.digest), tag(one.digest))
    source.put(_APP, _KEY.attest(made.digest), tag(made.digest, "att"))
    plan = (await collected(source, image_set(images=[f"{_APP}:v1"]))).plan
    assert {(one.tags, one.why) for one in by_kind(plan)["signature"]} == {
        ((tag(made.digest),), (f"signature of {made.digest}",)),
        ((tag(child.digest),), (f"signature of {child.digest}",)),
        ((tag(made.digest, "att"),), (f"attestation of {made.digest}",)),
    }
    assert by_kind(plan)["image"][0].sigstore == "present"
    assert set(_KEY.sign(_APP, made.digest).all_blobs()) <= set(content(plan))


@pytest.mark.parametrize(("suffix", "word"), COSIGN_SUFFIXES.items())
@pytest.mark.parametrize("others", [0, 10], ids=["asked for by its tag", "found in the list of tags"])
async def test_whatever_cosign_keeps_under_a_tag_is_carried(suffix: str, word: str, others: int) -> None:
    """A `.sig` and an `.att` were carried before; they guard that one list says it all."""
    made, kept = _image("one"), _image("what cosign attached")
    source = Registries()
    source.put(_APP, made, "v1")
    source.put(_APP, kept, tag(made.digest, suffix))
    for number in range(others):
        source.put(_APP, _image(f"other {number}"), f"other{number}")
    names = [f"{_APP}:v1", *(f"{_APP}:other{number}" for number in range(others))]
    plan = (await collected(source, image_set(images=names))).plan
    [attached] = by_kind(plan)["signature"]
    assert (attached.tags, attached.why) == ((tag(made.digest, suffix),), (f"{word} of {made.digest}",))
    assert kept.digest in content(plan)
    image = next(one for one in plan.images if str(one.digest) == made.digest)
    assert image.sigstore == ("present" if suffix == "sig" else "none")
    assert is_signature_tag(attached.tags[0])


async def test_many_digests_are_looked_up_in_one_list_of_tags() -> None:
    release = make_release("4.16.15", components=40, scale=0.01)
    source = Registries()
    source.put_release(release)
    await collected(source, image_set(Channel("stable-4.16")), graphs(release))
    assert source.asked[f"tags {_COMPONENTS}"] == 1
    asked = [what for what in source.asked if what.startswith(f"{_COMPONENTS}:")]
    assert sorted(asked) == sorted(f"{_COMPONENTS}:{one}" for one in source.tags_of[_COMPONENTS])


@pytest.mark.parametrize("way", ["cut", "refused", "away"])
async def test_each_is_asked_for_where_the_list_does_not_serve(way: str) -> None:
    release = make_release("4.16.15", components=40, scale=0.01)
    source = Registries()
    source.put_release(release)
    whole = (await collected(source, image_set(Channel("stable-4.16")), graphs(release))).plan
    if way == "cut":
        source.tags_of[_COMPONENTS].update((f"aaa-{n}", release.digest) for n in range(10_000))
    elif way == "refused":
        source.failing[f"tags {_COMPONENTS}"] = NotHere("not for you")
    else:
        source.failing[f"tags {_COMPONENTS}"] = UpstreamUnavailable("timed out")
    source.asked.clear()
    found = await collected(source, image_set(Channel("stable-4.16")), graphs(release))
    assert found.plan.dump() == whole.dump()
    assert found.failures == ()
    asked = [what for what in source.asked if what.startswith(f"{_COMPONENTS}:")]
    assert len(asked) > 80


async def test_referrers_come_with_what_refers_to_them_and_no_further() -> None:
    made = _image("one")
    sbom = _referrer(made)
    signature = _referrer(sbom, "signature of the SBOM")
    further = _referrer(signature, "further")
    source = Registries()
    source.put(_APP, made, "v1")
    for one in (sbom, signature, further):
        source.put(_APP, one)
    plan = (await collected(source, image_set(images=[f"{_APP}:v1"]))).plan
    assert {str(one.digest): one.why for one in by_kind(plan)["referrer"]} == {
        sbom.digest: (f"refers to {made.digest}",),
        signature.digest: (f"refers to {sbom.digest}",),
    }
    subjects = {str(one.digest): str(one.subject) for one in plan.manifests if one.subject}
    assert subjects == {sbom.digest: made.digest, signature.digest: sbom.digest}


async def test_referrers_without_an_api_are_found_by_the_fallback_tag() -> None:
    made = _image("one")
    sbom = _referrer(made)
    source = Registries(referrers_api=False)
    source.put(_APP, made, "v1")
    source.put(_APP, index([sbom]), made.digest.replace(":", "-"))
    plan = (await collected(source, image_set(images=[f"{_APP}:v1"]))).plan
    [listing] = by_kind(plan)["referrer"]
    assert (str(listing.digest), listing.tags) == (index([sbom]).digest, (made.digest.replace(":", "-"),))
    assert [str(one.subject) for one in plan.manifests if one.subject] == [made.digest]
    assert sbom.digest in content(plan)


@pytest.mark.parametrize("made", [_image("one"), index([_image("one")])])
async def test_a_tag_of_that_form_that_names_the_image_is_no_list(made: Manifest) -> None:
    source = Registries(referrers_api=False)
    source.put(_APP, made, "v1", made.digest.replace(":", "-"))
    plan = (await collected(source, image_set(images=[f"{_APP}:v1"]))).plan
    assert [image.kind for image in plan.images] == ["image"]
    assert plan.images[0].tags == ("v1",)


@pytest.mark.parametrize(
    ("listed", "kinds"),
    [
        (index([_image("two"), _image("three")]), ["image"]),
        (index([_referrer(_image("two"))]), ["image"]),
        (_image("two"), ["image"]),
        (index([_referrer(_image("one"))]), ["image", "referrer"]),
        (index([_referrer(_image("one")), _image("two")]), ["image", "referrer"]),
    ],
    ids=["an index", "of another", "an image", "a list (guards against overshooting)", "a mixed one (the same)"],
)
async def test_an_index_under_the_fallback_tag_lists_what_refers(listed: Manifest, kinds: list[str]) -> None:
    """A registry that answers that tag with anything else (oras-go#1396) attaches nothing."""
    made = _image("one")
    source = Registries(referrers_api=False)
    source.put(_APP, made, "v1")
    source.put(_APP, listed, made.digest.replace(":", "-"))
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert sorted(image.kind for image in found.plan.images) == kinds
    assert found.failures == ()


@pytest.mark.parametrize("api", [True, False])
async def test_a_referrer_that_is_gone_is_a_warning(api: bool) -> None:
    """Clean-up jobs delete what has no tag, and leave the lists of it as they are."""
    made = _image("one")
    sbom, gone = _referrer(made), _referrer(made, "gone")
    source = Registries(referrers_api=api)
    source.put(_APP, made, "v1")
    source.put(_APP, index([sbom, gone]), made.digest.replace(":", "-"))
    source.forget(_APP, gone.digest)
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert found.failures == ()
    assert [gone.digest in one and "gone from upstream" in one for one in found.warnings] == [True]
    assert found.plan.left_out == found.warnings
    assert sbom.digest in content(found.plan)
    assert gone.digest not in content(found.plan)


async def test_a_referrer_that_we_may_not_have_is_a_failure() -> None:
    """It guards against overshooting: somebody has to give us the right to it."""
    made = _image("one")
    sbom = _referrer(made)
    source = Registries()
    source.put(_APP, made, "v1")
    source.put(_APP, sbom)
    source.failing[f"{_APP}@{sbom.digest}"] = NotHere("not for you")
    assert (await collected(source, image_set(images=[f"{_APP}:v1"]))).failures


async def test_a_registry_without_the_api_is_asked_once() -> None:
    release = make_release("4.16.15", components=40, scale=0.01)
    source = Registries(referrers_api=False)
    source.put_release(release)
    found = await collected(source, image_set(Channel("stable-4.16")), graphs(release), parallel=1)
    assert found.failures == ()
    assert sum(what.startswith(f"referrers {_COMPONENTS}") for what in source.asked) == 1


async def test_a_referrer_that_refers_to_something_else_is_left_out() -> None:
    made, other = _image("one"), _image("two")
    stray = _referrer(other)
    source = Registries(referrers_api=False)
    source.put(_APP, made, "v1")
    source.put(_APP, stray)
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [stray.descriptor()]}).encode()

    async def referrers(*_: object) -> bytes:
        return body

    source.referrers = referrers  # type: ignore[method-assign]
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert stray.digest not in content(found.plan)
    assert ["does not refer to it" in warning for warning in found.warnings] == [True]


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"schemaVersion": 2, "manifests": [1]}'])
async def test_referrers_that_are_no_index_are_a_failure(body: bytes) -> None:
    source = Registries()
    made = _image("one")
    source.put(_APP, made, "v1")

    async def referrers(*_: object) -> bytes:
        return body

    source.referrers = referrers  # type: ignore[method-assign]
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert made.digest in content(found.plan)
    assert [one.what for one in found.failures] == [f"the referrers of {_APP}@{made.digest}"]


async def test_a_registry_that_answers_nonsense_has_no_api() -> None:
    source = Registries()
    made = _image("one")
    source.put(_APP, made, "v1")
    source.failing[f"referrers {_APP}@{made.digest}"] = UpstreamInvalid("HTML came")
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert found.failures == ()


async def test_signatures_that_cannot_be_asked_for_leave_the_set_incomplete() -> None:
    source = Registries()
    made = _image("one")
    source.put(_APP, made, "v1")
    source.failing[f"referrers {_APP}@{made.digest}"] = UpstreamUnavailable("away")
    source.failing[f"{_APP}:{tag(made.digest)}"] = UpstreamUnavailable("away")
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert made.digest in content(found.plan)
    assert {one.what for one in found.failures} == {
        f"the referrers of {_APP}@{made.digest}",
        f"{_APP}:{tag(made.digest)}",
    }
    assert len(found.plan.lacking) == 2


async def test_a_signature_tag_that_leads_nowhere_is_a_failure() -> None:
    source = Registries()
    made = _image("one")
    source.put(_APP, made, "v1")
    source.tags_of[_APP][tag(made.digest)] = "sha256:" + "0" * 64
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert [one.what for one in found.failures] == [f"{_APP}:{tag(made.digest)}"]
    assert by_kind(found.plan)["image"][0].sigstore == "none"


async def test_a_referrer_of_an_unknown_algorithm_hinders_no_other() -> None:
    made = _image("one")
    sbom = _referrer(made)
    source = Registries()
    source.put(_APP, made, "v1")
    source.put(_APP, sbom)
    other = {**sbom.descriptor(), "digest": "blake3:" + "b" * 64}
    listed = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [other, sbom.descriptor()]}

    async def referrers(_: object, digest: object) -> bytes:
        return json.dumps(listed if str(digest) == made.digest else {**listed, "manifests": []}).encode()

    source.referrers = referrers  # type: ignore[method-assign, assignment]
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert sbom.digest in content(found.plan)
    assert found.failures == ()
    assert ["blake3:bbbb" in warning for warning in found.warnings] == [True]
