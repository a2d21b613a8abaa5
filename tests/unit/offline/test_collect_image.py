"""Images asked for by name: tags resolved and kept, platforms, what is blocked, what cannot be had and why."""

from __future__ import annotations

import pytest

from mirror.errors import (
    ConfigurationError,
    Denied,
    StoreFull,
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline.image_set import Channel, Platform, WantedImage
from tests.tools.collecting import by_kind, collected, content, graphs, image_set
from tests.tools.image_source import Registries
from tests.tools.images import Manifest, image, index, layer, tree
from tests.tools.release import make_release

_APP = "quay.io/acme/app"


def _image(name: str, architecture: str = "amd64") -> Manifest:
    return image(
        [layer(tree({"base": b"shared by all"})), layer(tree({name: name.encode()}))], architecture=architecture
    )


def _list(name: str, *architectures: str) -> Manifest:
    return index([_image(f"{name} {one}", one) for one in architectures])


async def test_a_tag_is_resolved_now_and_kept() -> None:
    source = Registries()
    digest = source.put(_APP, _image("one"), "v1")
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    [planned] = found.plan.images
    assert (str(planned.digest), planned.tags, planned.kind) == (digest, ("v1",), "image")
    assert planned.why == ("asked for as quay.io/acme/app:v1",)
    assert (planned.name, planned.source) == (_APP, _APP)
    assert content(found.plan) == {digest: len(_image("one").body)} | {
        blob.digest: len(blob.body) for blob in _image("one").blobs
    }


async def test_a_tag_with_a_digest_is_pulled_by_digest() -> None:
    source = Registries()
    old = source.put(_APP, _image("old"))
    source.put(_APP, _image("new"), "v1")
    found = await collected(source, image_set(images=[f"{_APP}:v1@{old}"]))
    assert [(str(one.digest), one.tags) for one in found.plan.images] == [(old, ("v1",))]
    assert f"{_APP}:v1" not in source.asked


async def test_other_tags_are_given_and_another_repository_is_not() -> None:
    source = Registries()
    digest = source.put(_APP, _image("one"), "v1")
    wanted = WantedImage(Pullspec.parse(f"{_APP}:v1"), "base/app", "9", tags=("stable",))
    found = await collected(source, image_set(images=[wanted, f"{_APP}@{digest}"]))
    [planned] = found.plan.images
    assert (planned.name, planned.tags) == (_APP, ("9", "stable", "v1"))
    assert len(planned.why) == 2
    [warning] = found.warnings
    assert "targetRepo: base/app" in warning


async def test_one_tag_for_two_images_is_an_error() -> None:
    source = Registries()
    source.put(_APP, _image("one"), "v1")
    source.put(_APP, _image("two"), "v2")
    wanted = WantedImage(Pullspec.parse(f"{_APP}:v1"), target_tag="v2")
    with pytest.raises(ConfigurationError, match="v2 is to name two images"):
        await collected(source, image_set(images=[wanted, f"{_APP}:v2"]))


async def test_platforms_of_two_wishes_add_up() -> None:
    source = Registries()
    made = _list("app", "amd64", "arm64", "s390x")
    source.put(_APP, made, "v1", "v2")
    arm = WantedImage(Pullspec.parse(f"{_APP}:v1"), platforms=(Platform("linux", "arm64"),))
    z = WantedImage(Pullspec.parse(f"{_APP}:v2"), platforms=(Platform("linux", "s390x"),))
    amd, *others = (child.digest for child in made.children)
    found = await collected(source, image_set(images=[arm, z]))
    assert amd not in content(found.plan)
    assert set(others) <= set(content(found.plan))
    assert found.plan.images[0].architectures == ("arm64", "s390x")
    found = await collected(source, image_set(images=[arm, f"{_APP}:v2"]))
    assert amd in content(found.plan)
    assert found.plan.images[0].architectures == ()


async def test_a_platform_that_an_index_lacks_is_said() -> None:
    source = Registries()
    source.put(_APP, _list("app", "amd64", "arm64"), "v1")
    some = WantedImage(
        Pullspec.parse(f"{_APP}:v1"), platforms=(Platform("linux", "arm64"), Platform("linux", "ppc64le"))
    )
    found = await collected(source, image_set(images=[some]))
    assert [warning.rpartition("has nothing for ")[2] for warning in found.warnings] == ["linux/ppc64le"]
    none = WantedImage(Pullspec.parse(f"{_APP}:v1"), platforms=(Platform("linux", "s390x"),))
    found = await collected(source, image_set(images=[none]))
    assert found.plan.images == ()
    assert ["linux/s390x" in failure.why for failure in found.failures] == [True]


async def test_what_is_blocked_is_left_out_and_listed() -> None:
    release = make_release("4.16.15", components=6, scale=0.01)
    source = Registries()
    source.put_release(release)
    one = source.put(_APP, _image("one"), "v1")
    source.put(_APP, _image("two"), "v2-debug")
    cli = release.components["cli"].digest
    names = [name for name, component in release.components.items() if component.digest == cli]
    found = await collected(
        source,
        image_set(Channel("stable-4.16"), images=[f"{_APP}:v1", f"{_APP}:v2-debug"], blocked=["-debug$", cli]),
        graphs(release),
    )
    assert names == ["cli"]
    assert found.plan.blocked == (f"{_APP}:v2-debug", f"quay.io/openshift-release-dev/ocp-v4.0-art-dev@{cli}")
    assert one in content(found.plan)
    assert cli not in content(found.plan)
    assert (found.failures, found.plan.lacking) == ((), ())
    assert f"{_APP}:v2-debug" not in source.asked


async def test_a_pattern_on_the_digest_takes_out_what_a_tag_means() -> None:
    source = Registries()
    digest = source.put(_APP, _image("one"), "v1")
    found = await collected(source, image_set(images=[f"{_APP}:v1"], blocked=[digest]))
    assert found.plan.images == ()
    assert found.plan.blocked == (f"{_APP}:v1@{digest}",)


async def test_a_blocked_release_is_not_opened() -> None:
    release = make_release("4.16.15", components=3, scale=0.01)
    source = Registries()
    source.put_release(release)
    found = await collected(source, image_set(Channel("stable-4.16"), blocked=["ocp-release@"]), graphs(release))
    assert found.plan.images == ()
    assert found.plan.blocked == (release.pullspec,)
    assert found.plan.graphs[0].graph["nodes"] == []
    assert source.asked == {}


@pytest.mark.parametrize(
    "error",
    [
        UpstreamNotFound("it is not there", "look"),
        UpstreamDenied("upstream says no", "log in"),
        UpstreamInvalid("HTML came", "look"),
        UpstreamUnavailable("it is away", "wait"),
        Denied("repositories.deny", "allow it"),
    ],
)
async def test_one_image_that_cannot_be_had_does_not_stop_the_rest(error: Exception) -> None:
    release = make_release("4.16.15", components=20, scale=0.01)
    source = Registries()
    source.put_release(release)
    repository = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
    lost = f"{repository}@{release.components['cli'].digest}"
    source.failing[lost] = error  # type: ignore[assignment]
    source.failing[f"{_APP}:v1"] = error  # type: ignore[assignment]
    found = await collected(source, image_set(Channel("stable-4.16"), images=[f"{_APP}:v1"]), graphs(release))
    assert [(one.what, one.why, one.remedy) for one in found.failures] == [
        (what, *error.args, error.remedy)
        for what in (f"{_APP}:v1", lost)  # type: ignore[attr-defined]
    ]
    assert [sentence.partition(" ")[0] for sentence in found.plan.lacking] == [f"{_APP}:v1", lost]
    assert len(by_kind(found.plan)["component"]) == len({one.digest for one in release.components.values()}) - 1
    # Once it is there again, a rerun has it and nothing is lacking.
    source.failing.clear()
    source.put(_APP, _image("one"), "v1")
    again = await collected(source, image_set(Channel("stable-4.16"), images=[f"{_APP}:v1"]), graphs(release))
    assert (again.failures, again.plan.lacking) == ((), ())


async def test_a_list_that_lacks_a_child_is_left_out_whole() -> None:
    source = Registries()
    made = _list("app", "amd64", "arm64")
    source.put(_APP, made, "v1")
    source.forget(_APP, made.children[1].digest)
    found = await collected(source, image_set(images=[f"{_APP}:v1"]))
    assert content(found.plan) == {}
    assert [one.what for one in found.failures] == [f"{_APP}@{made.digest}"]
    assert made.children[1].digest in found.failures[0].why


async def test_a_release_whose_own_list_is_broken_is_no_release_of_the_plan() -> None:
    release = make_release("4.16.15", "multi", components=3, scale=0.01)
    source = Registries()
    source.put_release(release)
    source.forget("quay.io/openshift-release-dev/ocp-release", release.image.children[2].digest)
    found = await collected(source, image_set(Channel("stable-4.16"), architectures=["multi"]), graphs(release))
    assert (found.plan.releases, found.plan.images, found.plan.signatures) == ((), (), ())
    assert [one.what for one in found.failures] == [release.pullspec]
    assert found.plan.graphs[0].graph["nodes"] == []


async def test_upstreams_that_are_away_for_everything_end_it() -> None:
    release = make_release("4.16.15", components=3, scale=0.01)
    source = Registries()
    source.put_release(release)
    source.failing["*"] = UpstreamUnavailable("quay.io is away", "wait")
    with pytest.raises(UpstreamUnavailable, match="is away"):
        await collected(source, image_set(Channel("stable-4.16"), images=[f"{_APP}:v1"]), graphs(release))


async def test_a_full_store_ends_it() -> None:
    source = Registries()
    source.put(_APP, _image("one"), "v1")
    source.failing[f"{_APP}:v1"] = StoreFull("no room")
    with pytest.raises(StoreFull):
        await collected(source, image_set(images=[f"{_APP}:v1"]))


async def test_registries_without_an_upstream_are_named_with_who_needs_them() -> None:
    release = make_release("4.16.15", components=3, scale=0.01)
    source = Registries("registry.example")
    wanted = image_set(
        Channel("stable-4.16"),
        images=[WantedImage(Pullspec.parse("gcr.io/a/b:v1"), where="set.yaml:12"), "gcr.io/a/c:v1"],
    )
    found = await collected(source, wanted, graphs(release))
    assert found.unknown_hosts == {
        "gcr.io": ["gcr.io/a/c:v1", "set.yaml:12"],
        "quay.io": ["release 4.16.15 (amd64)"],
    }
    assert found.failures == ()


async def test_components_of_an_unknown_registry_are_named_once_with_the_release() -> None:
    release = make_release("4.16.15", components=10, scale=0.01)
    source = Registries("quay.example")
    moved = "quay.example/openshift-release-dev/ocp-release"
    source.put(moved, release.image)
    found = await collected(source, image_set(releases=[f"{moved}@{release.digest}"]))
    assert found.unknown_hosts == {"quay.io": ["release 4.16.15 (amd64)"]}
    assert Digest.parse(release.digest) in found.plan.content


async def test_an_empty_image_set_is_an_empty_plan() -> None:
    found = await collected(Registries(), image_set())
    assert (found.plan.images, found.plan.content, found.failures) == ((), {}, ())
