"""Releases in archives: each gets its version and its tag from itself, and what belongs to it is found by digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.oci.digest import Digest
from mirror.offline import foreign
from mirror.offline.plan import Image
from tests.tools import images
from tests.tools.images import Manifest
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline import release_bed
from tests.unit.offline.foreign_bed import Bench
from tests.unit.offline.release_bed import COMPONENTS, ODD, RELEASES, VERSION

CLI, ETCD = bed.app("cli"), bed.app("etcd")
NAMED = {"cli": f"{COMPONENTS}@{CLI.digest}", "etcd": f"{COMPONENTS}@{ETCD.digest}"}
OKD = {name: spec.replace(COMPONENTS, "quay.io/okd/scos-content") for name, spec in NAMED.items()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "store")
    yield made
    made.close()


def surveyed(bench: Bench, path: Path, as_name: str = "") -> foreign.Survey:
    archive = bench.open(path)
    try:
        return bench.survey(archive, as_name)
    finally:
        archive.close()


def of(survey: foreign.Survey, image: Manifest) -> Image:
    (found,) = [one for one in survey.images if str(one.digest) == image.digest]
    return found


def tree(folder: Path, *listed: tuple[Manifest, str], name: str = "openshift/release-images", **more: bytes) -> Path:
    files = {f"working-dir/{path}": body for path, body in more.items()}
    return bed.lay(folder, {**bed.storage({name: listed, "openshift/release": [(CLI, "x-cli"), (ETCD, "")]}), **files})


@pytest.mark.parametrize("tag", ["", "latest", "4.16.3-x86_64", "the digest's hex"])
def test_a_release_is_tagged_as_a_sync_tags_it(bench: Bench, tmp_path: Path, tag: str) -> None:
    image = release_bed.release(components=NAMED)
    archived = image.digest[7:] if tag.startswith("the") else tag
    survey = surveyed(bench, tree(tmp_path / "tree", (image, archived)))
    kept = {tag} - {"", "the digest's hex"}
    assert set(of(survey, image).tags) == {"4.16.3-x86_64", *kept}
    assert [(one.version, one.architecture, one.source) for one in survey.releases] == [(VERSION, "amd64", RELEASES)]
    assert [of(survey, one).kind for one in (image, CLI, ETCD)] == ["release", "component", "component"]
    assert survey.warnings == ()


def test_a_list_is_multi_and_what_it_lists_is_no_release_of_its_own(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.multi()
    child = image.children[1]
    survey = surveyed(bench, tree(tmp_path / "tree", (image, "v1"), (child, "arm")))
    assert [(one.version, one.architecture, str(one.digest)) for one in survey.releases] == [
        (VERSION, "multi", image.digest)
    ]
    assert of(survey, image).tags == ("4.16.3-multi", "v1")
    assert (of(survey, child).kind, of(survey, child).tags) == ("component", ("arm",))


def test_a_list_of_one_is_of_its_architecture(bench: Bench, tmp_path: Path) -> None:
    image = images.index([release_bed.release(architecture="arm64")], docker=True)
    (found,) = surveyed(bench, tree(tmp_path / "tree", (image, ""))).releases
    assert (found.architecture, str(found.digest)) == ("arm64", image.digest)


def test_a_list_within_a_list_is_multi(bench: Bench, tmp_path: Path) -> None:
    image = images.index([release_bed.multi()])
    (found,) = surveyed(bench, tree(tmp_path / "tree", (image, ""))).releases
    assert (found.architecture, str(found.digest)) == ("multi", image.digest)


def test_two_that_say_the_same_version_do_not_share_a_tag(bench: Bench, tmp_path: Path) -> None:
    ours, other = release_bed.release(), release_bed.release(components=NAMED)
    survey = surveyed(bench, tree(tmp_path / "tree", (ours, "mine"), (other, "4.16.3-x86_64")))
    assert of(survey, ours).tags == ("mine",)
    assert of(survey, other).tags == ("4.16.3-x86_64",)
    assert len(survey.releases) == 2


def test_a_tag_that_says_another_version_is_told(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.release()
    survey = surveyed(bench, tree(tmp_path / "tree", (image, "4.17.1-x86_64")))
    assert [one.version for one in survey.releases] == [VERSION]
    assert any("archived as 4.17.1-x86_64, but says itself that it is 4.16.3" in one for one in survey.warnings)


def test_without_a_version_it_is_a_release_all_the_same(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.release(label=False, payload=False)
    survey = surveyed(bench, tree(tmp_path / "tree", (image, "v1")))
    assert (of(survey, image).kind, of(survey, image).tags, survey.releases) == ("release", ("v1",), ())
    assert any("does not say which version" in one for one in survey.warnings)
    assert [one.version for one in surveyed(bench, tree(tmp_path / "again", (image, "4.16.9-x86_64"))).releases] == [
        "4.16.9"
    ]


def test_a_label_that_is_no_version_is_no_name(bench: Bench, tmp_path: Path) -> None:
    layers = [bed.BASE]
    image = images.image(layers, docker=True, labels={"io.openshift.release": "$(reboot)"})
    survey = surveyed(bench, tree(tmp_path / "tree", (image, "v1"), name="team/thing"))
    assert (of(survey, image).kind, survey.releases) == ("release", ())


def test_components_are_found_in_any_archive_and_missed_aloud(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.release(components=NAMED)
    reference = "org.opencontainers.image.ref.name"
    listed = [(image, {reference: f"{ODD}:v1"}), (CLI, {reference: "quay.io/other/cli:v1"})]
    survey = surveyed(bench, bed.lay(tmp_path / "layout", bed.oci_layout(*listed)))
    assert (of(survey, image).kind, of(survey, CLI).kind) == ("release", "component")
    assert any(
        "not all of its components are in the archive or here (1 of 2 missing)" in one for one in survey.warnings
    )


@pytest.mark.parametrize("by", ["graph", "payload", "image set"])
def test_the_releases_of_others_are_named_as_the_archive_says(bench: Bench, tmp_path: Path, by: str) -> None:
    """oc-mirror calls OKD's repositories as it calls Red Hat's; nodes know them by the names in the payload."""
    image = release_bed.release("4.17.0-okd-scos.0", components=OKD)
    payload = f"quay.io/okd/scos-release@{image.digest}"
    graph = {"version": 1, "nodes": [{"version": "4.17.0-okd-scos.0", "payload": payload}], "edges": []}
    references = json.dumps(OKD).encode()
    more = {f"hold-release/scos-release@sha256/{image.digest[7:]}/release-manifests/image-references": references}
    path = tree(tmp_path / "tree", (image, image.digest[7:]), **more)
    if by == "graph":
        bed.lay(
            path,
            {"working-dir/hold-release/cincinnati-graph-data/amd64-stable-scos-4.json": json.dumps(graph).encode()},
        )
    elif by == "image set":
        asked = "mirror: {platform: {release: 'quay.io/okd/scos-release:4.17.0-okd-scos.0'}}\n"
        bed.lay(path, {"isc_2026-01-01T00:00:00Z": asked.encode()})
    survey = surveyed(bench, path)
    assert of(survey, image).source == (RELEASES if by == "payload" else "quay.io/okd/scos-release")
    assert of(survey, CLI).source == of(survey, ETCD).source == "quay.io/okd/scos-content"
    assert (of(survey, CLI).kind, of(survey, CLI).tags) == ("component", ())
    assert [one.channel for one in survey.graphs] == (["stable-scos-4"] if by == "graph" else [])


def test_namespaces_that_lead_elsewhere_rename_no_release(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.release(components=NAMED)
    sets = """\
kind: ImageDigestMirrorSet
spec: {imageDigestMirrors: [{source: quay.io/openshift, mirrors: [reg.lab:5000/openshift]}]}
"""
    path = tree(tmp_path / "tree", (image, "v1"), **{"cluster-resources/idms.yaml": sets.encode()})
    assert of(surveyed(bench, path), image).source == RELEASES


def test_one_image_that_is_asked_for_is_a_release_too(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.release()
    name = f"working-dir/signatures/x-sha256-{image.digest[7:]}"
    files = {**bed.storage({"a/b": [(image, ""), (CLI, "")]}), name: b"a signature"}
    survey = surveyed(bench, bed.lay(tmp_path / "tree", files), f"{ODD}@{image.digest}")
    assert [(one.version, one.source) for one in survey.releases] == [(VERSION, ODD)]
    assert of(survey, image).tags == ("4.16.3-x86_64",)
    assert [one.release for one in survey.signatures] == [Digest.parse(image.digest)]


def test_a_damaged_layer_is_told_by_who_brings_it(bench: Bench, tmp_path: Path) -> None:
    image = release_bed.release(label=False)
    path = tree(tmp_path / "tree", (image, "v1"), name="team/thing")
    layer = image.blobs[-1]
    (path / bed.V2 / f"blobs/sha256/{layer.digest[7:9]}/{layer.digest[7:]}/data").write_bytes(bytes(len(layer.body)))
    survey, brought = bench.bring(path)
    assert (of(survey, image).kind, survey.releases) == ("image", ())
    assert [one.what for one in brought.damaged] == [layer.digest]
