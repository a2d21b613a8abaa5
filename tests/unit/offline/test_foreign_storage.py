"""A registry's storage and the archives of oc-mirror: repositories named back to their sources, never by a guess."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.errors import Denied
from mirror.oci.digest import Digest
from mirror.oci.pullspec import Pullspec
from mirror.offline import foreign
from mirror.offline.foreign import working_dir
from mirror.offline.foreign.naming import COMPONENTS, RELEASES, Evidence
from mirror.offline.foreign.places import InMemory
from mirror.offline.plan import Plan, Release
from mirror.offline.tar import ArchiveInvalid
from mirror.outside import Direct
from tests.tools import images
from tests.tools.images import Content
from tests.tools.push import push
from tests.tools.registries import docker_registry
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline.foreign_bed import Bench

RELEASE = bed.many("release")
CLI, ETCD = bed.app("cli"), bed.app("etcd")
UBI, GRAPH, BUNDLE = bed.app("ubi"), bed.app("graph"), bed.app("bundle")

REPOSITORIES = {
    "openshift/release-images": [(RELEASE, "4.16.15-multi")],
    "openshift/release": [(CLI, "4.16.15-x86_64-cli"), (ETCD, "4.16.15-x86_64-etcd")],
    "openshift/graph-image": [(GRAPH, "latest")],
    "ubi9/ubi": [(UBI, "9.4")],
    "ns/bundle": [(BUNDLE, f"sha256-{BUNDLE.digest[7:]}")],
}

ISC = """\
kind: ImageSetConfiguration
apiVersion: mirror.openshift.io/v2alpha1
mirror:
  platform: {channels: [{name: stable-4.16}]}
  additionalImages:
  - name: registry.redhat.io/ubi9/ubi:9.4
  - name: docker.io/nginx:1.27
  operators:
  - catalog: registry.redhat.io/redhat/redhat-operator-index:v4.16
  - catalog: oci:///var/catalogs/mine
"""

CATALOG = json.dumps(
    {
        "schema": "olm.bundle",
        "relatedImages": [{"name": "", "image": f"registry.redhat.io/ns/bundle@{BUNDLE.digest}"}],
        "description": "see https://github.com/ns/bundle and quay.io/ubi9/ubi@sha256:" + "0" * 64,
    }
).encode()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "store")
    yield made
    made.close()


def everything(**options) -> dict[str, bytes]:
    """Return the files of an archive of oc-mirror, in its own order."""
    return {
        **bed.storage(REPOSITORIES, **options),
        "working-dir/operator-catalogs/redhat-operator-index/abc/catalog-config/op/catalog.json": CATALOG,
        f"working-dir/signatures/4.16.15-multi-sha256-{RELEASE.digest[7:]}": b"a signature",
        "working-dir/hold-release/cincinnati-graph-data/multi-stable-4.16.json": graph(),
        "isc_2026-01-01T00:00:00Z": ISC.encode(),
    }


def graph() -> bytes:
    nodes = [
        {"version": version, "payload": f"quay.io/openshift-release-dev/ocp-release@{digest}", "metadata": {}}
        for version, digest in (
            ("4.16.14", f"sha256:{1:064x}"),
            ("4.16.15", RELEASE.digest),
            ("4.16.16", f"sha256:{2:064x}"),
        )
    ]
    return json.dumps({"version": 1, "nodes": nodes, "edges": [[0, 1], [1, 2]], "conditionalEdges": []}).encode()


def by_source(survey: foreign.Survey) -> dict[str, list[tuple[str, tuple[str, ...], str]]]:
    found: dict[str, list[tuple[str, tuple[str, ...], str]]] = {}
    for image in survey.images:
        found.setdefault(image.source, []).append((str(image.digest), image.tags, image.kind))
    return {source: sorted(listed) for source, listed in found.items()}


EXPECTED = {
    RELEASES: [(RELEASE.digest, ("4.16.15-multi",), "release")],
    COMPONENTS: sorted([(CLI.digest, (), "component"), (ETCD.digest, (), "component")]),
    "openshift/graph-image": [(GRAPH.digest, ("latest",), "image")],
    "registry.redhat.io/ubi9/ubi": [(UBI.digest, ("9.4",), "image")],
    "registry.redhat.io/ns/bundle": [(BUNDLE.digest, (), "image")],
}


def test_an_archive_of_oc_mirror_is_named_back(bench, tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    bed.pack(folder / "mirror_000001.tar", everything())
    survey, brought = bench.bring(folder)
    assert survey.foreign.kind == "oc-mirror"
    assert by_source(survey) == EXPECTED
    assert survey.hosted == ("openshift/graph-image",)
    assert survey.named["openshift/release"] == COMPONENTS
    assert (survey.left_out, survey.damaged, survey.missing, brought.damaged) == ((), (), {}, ())
    assert bench.holds(RELEASE, CLI, ETCD, UBI, GRAPH, BUNDLE)


def test_releases_come_with_signatures_and_graph(bench, tmp_path):
    path = bed.pack(tmp_path / "mirror_000001.tar", everything())
    survey, _ = bench.bring(path)
    digest = Digest.parse(RELEASE.digest)
    why = "archived as 4.16.15-multi"
    assert survey.releases == (Release("4.16.15", "multi", RELEASES, digest, why=why),)
    (signature,) = survey.signatures
    assert (signature.release, signature.number, signature.size) == (digest, 1, 11)
    assert survey.signature_bytes == {signature.digest: b"a signature"}
    (excerpt,) = survey.graphs
    assert (excerpt.channel, excerpt.architecture) == ("stable-4.16", "multi")
    assert [node["version"] for node in excerpt.graph["nodes"]] == ["4.16.15"]
    plan = survey.plan("oc-mirror", require_signature=False)
    assert Plan.parse(plan.dump()) == plan


def test_archives_of_one_folder_are_one_set(bench, tmp_path):
    """The first holds the repositories, the others blobs: in any of them, and the last has no storage at all."""
    files = everything()
    parts: list[dict[str, bytes]] = [{}, {}, {}]
    for number, (name, body) in enumerate(files.items()):
        parts[2 if "docker/" not in name else number % 2 if "/blobs/" in name else 0][name] = body
    folder = tmp_path / "archives"
    folder.mkdir()
    for number, part in enumerate(parts, start=1):
        bed.pack(folder / f"mirror_{number:06}.tar", part)
    (folder / "working-dir").mkdir()
    assert by_source(bench.bring(folder)[0]) == EXPECTED
    assert bench.holds(RELEASE, CLI, ETCD, UBI, GRAPH, BUNDLE)


def test_files_and_folders_together_are_one_set(bench, tmp_path):
    files = everything()
    one = {name: body for name, body in files.items() if "/blobs/" not in name}
    folder = tmp_path / "rest"
    folder.mkdir()
    bed.pack(tmp_path / "mirror_000001.tar", one)
    bed.pack(folder / "mirror_000002.tar", {name: body for name, body in files.items() if name not in one})
    assert by_source(bench.bring(folder, tmp_path / "mirror_000001.tar")[0]) == EXPECTED


def test_a_lost_archive_is_named_digest_by_digest(bench, tmp_path):
    path = bed.pack(tmp_path / "mirror_000001.tar", everything(leave=[ETCD.blobs[2].digest, CLI.digest]))
    survey, _ = bench.bring(path)
    assert {str(digest): image for digest, image in survey.missing.items()} == {
        ETCD.blobs[2].digest: f"{COMPONENTS}@{ETCD.digest}",
        CLI.digest: f"{COMPONENTS}@{CLI.digest}",
    }
    assert {left.what for left in survey.left_out} == {f"{COMPONENTS}@{ETCD.digest}", f"{COMPONENTS}@{CLI.digest}"}
    assert COMPONENTS not in by_source(survey)
    assert bench.holds(RELEASE, UBI)


def test_a_later_archive_needs_what_an_earlier_one_brought(bench, tmp_path):
    """oc-mirror lists every repository in each archive, and leaves out the blobs of earlier ones."""
    new = bed.app("newer cli")
    repositories = {
        **REPOSITORIES,
        "openshift/release": [*REPOSITORIES["openshift/release"], (new, "4.16.16-x86_64-cli")],
    }
    old = bed.contents(RELEASE, CLI, ETCD, UBI, GRAPH, BUNDLE)
    second = bed.pack(tmp_path / "mirror_000002.tar", bed.storage(repositories, leave=old))
    survey, _ = bench.bring(second)
    assert (survey.images, bench.here(Digest.parse(new.digest))) == ((), None)
    bench.bring(bed.pack(tmp_path / "mirror_000001.tar", everything()))
    survey, brought = bench.bring(second)
    assert {digest for digest, _, _ in by_source(survey)[COMPONENTS]} == {CLI.digest, ETCD.digest, new.digest}
    assert brought.contents == 3
    assert survey.missing == {}


def test_a_child_that_the_storage_lists_and_lacks_is_missing(bench, tmp_path):
    files = everything(leave=[RELEASE.children[1].digest])
    survey, _ = bench.bring(bed.pack(tmp_path / "mirror_000001.tar", files))
    assert [str(digest) for digest in survey.missing] == [RELEASE.children[1].digest]
    assert (survey.releases, survey.signatures, survey.graphs) == ((), (), ())


def test_a_child_that_the_storage_does_not_list_was_left_out(bench, tmp_path):
    child = RELEASE.children[1]
    files = everything(leave=[child.digest, child.blobs[0].digest])
    del files[f"{bed.V2}/repositories/openshift/release-images/_manifests/revisions/sha256/{child.digest[7:]}/link"]
    survey, _ = bench.bring(bed.pack(tmp_path / "mirror_000001.tar", files))
    assert survey.missing == {}
    (release,) = (image for image in survey.images if image.kind == "release")
    assert release.architectures == ("amd64",)


def test_signatures_and_referrers_are_told_apart(bench, tmp_path):
    signature = images.artifact("application/vnd.dev.cosign.simplesigning.v1+json", Content("text/plain", b"signed"))
    attached = images.artifact("application/spdx+json", Content("text/plain", b"sbom"), subject=CLI)
    tag = f"sha256-{CLI.digest[7:]}.sig"
    repositories = {"openshift/release": [(CLI, "4.16.15-x86_64-cli"), (signature, tag), (attached, "")]}
    survey, _ = bench.bring(bed.pack(tmp_path / "mirror_000001.tar", bed.storage(repositories)))
    found = {str(image.digest): image for image in survey.images}
    assert (found[signature.digest].kind, found[signature.digest].tags) == ("signature", (tag,))
    assert found[attached.digest].kind == "referrer"
    assert (found[CLI.digest].kind, found[CLI.digest].sigstore) == ("component", "present")


def test_what_nobody_names_is_kept_under_its_own_path(bench, tmp_path):
    survey, _ = bench.bring(bed.pack(tmp_path / "mirror_000001.tar", bed.storage(REPOSITORIES)))
    assert survey.hosted == ("ns/bundle", "openshift/graph-image", "ubi9/ubi")
    hosted = next(image for image in survey.images if image.name == "ubi9/ubi")
    assert (hosted.source, hosted.tags) == ("ubi9/ubi", ("9.4",))


def test_what_may_not_be_hosted_is_left_out(bench, tmp_path):
    archive = bench.open(bed.pack(tmp_path / "mirror_000001.tar", bed.storage(REPOSITORIES)))
    survey = bench.survey(archive, may_host=lambda name: not name.startswith("ubi9/"))
    archive.close()
    assert "ubi9/ubi" not in {image.name for image in survey.images}
    (left,) = survey.left_out
    assert left.what == f"ubi9/ubi@{UBI.digest}"
    assert left.remedy.endswith(f"--as HOST/REPOSITORY@{UBI.digest}")


def test_what_the_configuration_denies_is_left_out(bench, tmp_path):
    archive = bench.open(bed.pack(tmp_path / "mirror_000001.tar", everything()))

    def name(pullspec):
        if pullspec.host == "registry.redhat.io":
            raise Denied(f"{pullspec.source} is denied here", "look at repositories.allow")
        return pullspec.source

    survey = foreign.survey(archive, as_name=None, name=name, here=bench.here, has=bench.intake.has)
    archive.close()
    assert RELEASES in by_source(survey)
    assert {left.why for left in survey.left_out} == {
        "registry.redhat.io/ubi9/ubi is denied here",
        "registry.redhat.io/ns/bundle is denied here",
    }


def test_one_image_of_an_archive_can_be_taken(bench, tmp_path):
    path = bed.pack(tmp_path / "mirror_000001.tar", everything())
    survey, _ = bench.bring(path, as_name=f"registry.example/mine/ubi:9@{UBI.digest}")
    assert [(image.name, image.tags) for image in survey.images] == [("registry.example/mine/ubi", ("9",))]
    assert bench.holds(UBI)
    assert bench.here(Digest.parse(CLI.digest)) is None
    with pytest.raises(foreign.ImageNotFound, match="several images"):
        bench.bring(path, as_name="registry.example/mine/ubi")


# -- a tree on a disk ------------------------------------------------------------------------------------------------


def test_a_storage_tree_is_read_where_it_lies(bench, tmp_path):
    tree = bed.lay(tmp_path / "registry", everything())
    survey, _ = bench.bring(tree)
    assert survey.foreign.kind == "distribution"
    assert by_source(survey) == EXPECTED
    assert bench.holds(RELEASE, CLI, ETCD, UBI, GRAPH, BUNDLE)


def test_the_storage_of_a_real_registry_is_read(bench, tmp_path, programs):
    image, other = bed.many(), bed.app("other")
    registry = docker_registry(programs, tmp_path / "registry", tmp_path / "storage")
    registry.start()
    try:
        push(registry.address, "quay.io/ns/app", image, "v1", "latest")
        push(registry.address, "mine/other", other, "v2")
    finally:
        registry.stop()
    survey, _ = bench.bring(tmp_path / "storage")
    assert by_source(survey) == {
        "quay.io/ns/app": [(image.digest, ("latest", "v1"), "image")],
        "mine/other": [(other.digest, ("v2",), "image")],
    }
    assert survey.hosted == ("mine/other",)
    assert bench.holds(image, other)


def test_a_storage_tree_of_a_mirror_by_host_needs_no_names(bench, tmp_path):
    repositories = {
        "quay.io/ns/app": [(CLI, "v1")],
        "docker.io/library/nginx": [(UBI, "1")],
        "localhost/x": [(GRAPH, "1")],
    }
    survey, _ = bench.bring(bed.lay(tmp_path / "registry", bed.storage(repositories)))
    assert sorted(by_source(survey)) == ["docker.io/library/nginx", "localhost/x", "quay.io/ns/app"]
    assert survey.hosted == ("localhost/x",)


def test_deleted_manifests_stay_deleted(bench, tmp_path):
    tree = bed.lay(tmp_path / "registry", bed.storage({"ns/app": [(CLI, "v1"), (ETCD, "")]}))
    (tree / bed.V2 / f"repositories/ns/app/_manifests/revisions/sha256/{ETCD.digest[7:]}/link").unlink()
    survey, _ = bench.bring(tree)
    assert [str(image.digest) for image in survey.images] == [CLI.digest]
    assert survey.left_out == ()


def test_links_of_the_file_system_lead_nowhere(bench, tmp_path):
    tree = bed.lay(tmp_path / "registry", bed.storage({"ns/app": [(CLI, "v1")]}))
    repositories = tree / bed.V2 / "repositories"
    (repositories / "ns" / "loop").symlink_to(repositories)
    (repositories / "ns" / "stolen").symlink_to("/etc")
    (tree / "working-dir" / "signatures").mkdir(parents=True)
    (tree / "working-dir" / "signatures" / f"x-sha256-{CLI.digest[7:]}").symlink_to("/etc/hostname")
    survey, _ = bench.bring(tree)
    assert survey.hosted == ("ns/app",)
    assert survey.warnings == ()


def test_odd_names_are_left_out_and_said(bench, tmp_path):
    files = bed.storage({"ns/app": [(CLI, "v1")]})
    folder = f"{bed.V2}/repositories"
    hexed = CLI.digest[7:]
    files |= {
        f"{folder}/UPPER/_manifests/revisions/sha256/{hexed}/link": CLI.digest.encode(),
        f"{folder}/ns/app/_manifests/tags/-bad/current/link": CLI.digest.encode(),
        f"{folder}/ns/app/_manifests/tags/odd/current/link": b"../../../etc/passwd",
        f"{folder}/ns/app/_manifests/revisions/sha256/{'0' * 64}/link": b"sha256:" + b"1" * 64,
        f"{folder}/ns/app/_manifests/revisions/sha256/{'0' * 63}/link": b"x",
        f"{folder}/ns/app/_uploads/1/startedat": b"2026",
        f"{bed.V2}/blobs/sha256/zz/{hexed}/data": b"x",
    }
    for path in (bed.pack(tmp_path / "mirror_000001.tar", files), bed.lay(tmp_path / "tree", files)):
        survey, brought = bench.bring(path)
        assert [str(image.digest) for image in survey.images] == [CLI.digest]
        assert len([one for one in survey.warnings if one.startswith("left out")]) == 5
        assert brought.damaged == ()


def test_a_link_too_long_is_damage(bench, tmp_path):
    files = bed.storage({"ns/app": [(CLI, "v1")]})
    files[f"{bed.V2}/repositories/ns/app/_manifests/tags/v1/current/link"] = b"x" * 1000
    with pytest.raises(ArchiveInvalid, match="more than 256"):
        bench.open(bed.pack(tmp_path / "mirror_000001.tar", files))


def test_an_archive_cut_anywhere_is_refused(bench, tmp_path):
    whole = bed.pack(tmp_path / "whole.tar", everything()).read_bytes()
    path = tmp_path / "mirror_000001.tar"
    end = len(whole.rstrip(b"\0"))
    for twentieth in range(20):
        path.write_bytes(whole[: end * twentieth // 20])
        with pytest.raises(ArchiveInvalid, match="cut short"):
            bench.open(path)


def test_the_store_of_another_owner_hands_it_over(bench, tmp_path):
    """As root runs it: the tree is read through what opens files for others."""
    opened: list[Path] = []

    class Watched(Direct):
        def open(self, path, flags, mode=0o644):
            opened.append(path)
            assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            return super().open(path, flags, mode)

    tree = bed.lay(tmp_path / "registry", everything())
    archive = foreign.recognise([tree], Watched())
    survey = bench.survey(archive)
    foreign.bring(survey, bench.intake)
    assert bench.holds(RELEASE, CLI)
    assert all(path.is_relative_to(tmp_path / "registry") for path in opened)


def test_memory_stays_flat(bench, tmp_path):
    import tracemalloc

    big = images.image([images.layer(os.urandom(30_000_000), compression="none")])
    path = bed.pack(tmp_path / "mirror_000001.tar", bed.storage({"quay.io/ns/big": [(big, "v1")]}))
    tracemalloc.start()
    try:
        bench.bring(path)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()
    shutil.rmtree(tmp_path / "store" / "blobs")


# -- names -----------------------------------------------------------------------------------------------------------


def digest(number: int) -> Digest:
    return Digest("sha256", f"{number:064x}")


def evidence(**repositories: int) -> Evidence:
    return Evidence({name.replace("_", "/"): {digest(number)} for name, number in repositories.items()})


def test_two_hosts_of_one_path_are_told_apart_by_digest_or_tag():
    found = Evidence({"ubi9/ubi": {digest(1), digest(2), digest(3)}})
    for source in ("registry.redhat.io", "registry.access.redhat.com"):
        found.image(Pullspec(source, "ubi9/ubi"))
    found.image(Pullspec("registry.redhat.io", "ubi9/ubi", "", digest(1)))
    found.image(Pullspec("registry.access.redhat.com", "ubi9/ubi", "9.4"))
    assert found.source("ubi9/ubi", digest(1)) == "registry.redhat.io/ubi9/ubi"
    assert found.source("ubi9/ubi", digest(2), ["9.4"]) == "registry.access.redhat.com/ubi9/ubi"
    assert found.source("ubi9/ubi", digest(3)) is None
    assert found.source("ubi9/other", digest(3)) is None


def test_a_digest_that_is_not_there_proves_nothing():
    found = evidence(ns_app=1)
    found.image(Pullspec("quay.io", "ns/app", "", digest(2)))
    assert found.source("ns/app", digest(1)) is None


@pytest.mark.parametrize(
    ("source", "mirror", "name", "expected"),
    [
        ("registry.redhat.io/ubi9", "reg.lab:5000/ubi9", "ubi9/ubi", "registry.redhat.io/ubi9/ubi"),
        ("registry.redhat.io/ubi9", "reg.lab:5000/deep/er/ubi9", "ubi9/ubi", "registry.redhat.io/ubi9/ubi"),
        ("quay.io/org/app", "reg.lab/renamed/app", "renamed/app", "quay.io/org/app"),
        ("quay.io/org/app", "reg.lab/org/app", "org/application", None),
        ("quay.io", "reg.lab/proxy", "proxy", None),
        ("../../etc", "reg.lab/etc", "etc", None),
    ],
)
def test_mirror_sets_lead_back(source, mirror, name, expected):
    found = Evidence({name: {digest(1)}})
    found.mirrored(source, mirror)
    assert found.source(name, digest(1)) == expected


def told(files: dict[str, bytes], *names: str) -> tuple[dict[str, str | None], list[str]]:
    """Return what files of a working-dir say of repositories, and what they complain about."""
    folder = working_dir.WorkingDir()
    for name, body in files.items():
        folder.add(name, InMemory(body))
    found = Evidence({name: {digest(1)} for name in names})
    folder.testify(found)
    return {name: found.source(name, digest(1)) for name in names}, folder.warnings


def test_mirror_sets_and_mappings_of_an_earlier_run_name_repositories():
    idms = """\
---
kind: ImageDigestMirrorSet
spec:
  imageDigestMirrors:
  - {source: registry.redhat.io/ubi9, mirrors: [reg.lab:5000/ubi9]}
  - {source: quay.io/org/app, mirrors: ["reg.lab:5000/x/app", 7]}
  - {source: 7}
  - text
---
kind: ImageTagMirrorSet
spec: {imageTagMirrors: [{source: quay.io/tagged, mirrors: [reg.lab:5000/tagged]}]}
---
[1, 2]
"""
    mapping = b"""\
docker://quay.io/far/away:v1=docker://localhost:55000/far/away:v1
docker://quay.io/other/name@sha256:%s=docker://reg.lab:5000/ns/moved/name:v1
oci:///var/x=docker://localhost:55000/x:1
rubbish
""" % (b"0" * 63 + b"1")
    sources, warnings = told(
        {
            "working-dir/cluster-resources/idms-oc-mirror.yaml": idms.encode(),
            "working-dir/dry-run/mapping.txt": mapping,
        },
        "ubi9/ubi",
        "x/app",
        "tagged/it",
        "far/away",
        "moved/name",
        "unknown",
    )
    assert sources == {
        "ubi9/ubi": "registry.redhat.io/ubi9/ubi",
        "x/app": "quay.io/org/app",
        "tagged/it": "quay.io/tagged/it",
        "far/away": "quay.io/far/away",
        "moved/name": "quay.io/other/name",
        "unknown": None,
    }
    assert warnings == []


def test_images_of_the_hub_lose_their_library():
    sources, _ = told({"isc_now": ISC.encode()}, "library/nginx", "nginx", "redhat/redhat-operator-index")
    assert sources == {
        "library/nginx": "docker.io/library/nginx",
        "nginx": "docker.io/library/nginx",
        "redhat/redhat-operator-index": "registry.redhat.io/redhat/redhat-operator-index",
    }


@pytest.mark.parametrize("step", [600, 700, 1000, 4096])
def test_catalogs_of_any_length_are_searched_whole(monkeypatch, step):
    """A name may lie across the border of what is read at once, wherever that is."""
    monkeypatch.setattr(working_dir, "_STEP", step)
    text = b"".join(
        b" " * (number % 97) + f'"image": "registry.redhat.io/ns/op-{number}@{digest(1)}"\n'.encode()
        for number in range(120)
    )
    names = [f"ns/op-{number}" for number in range(120)]
    sources, _ = told({"working-dir/operator-catalogs/i/d/catalog-config/c.yaml": text}, *names)
    assert sources == {name: f"registry.redhat.io/{name}" for name in names}


@pytest.mark.parametrize(
    "text",
    [
        b"x" * 600 + b"/ns/app@" + str(digest(1)).encode(),
        b"https://quay.io/ns/app@" + str(digest(1)).encode(),
        b"ns/app@" + str(digest(1)).encode(),
        b"quay.io/ns/app@sha256:" + b"g" * 64,
        b"quay.io/ns/app:latest",
    ],
)
def test_texts_that_name_no_image(text):
    sources, _ = told({"working-dir/operator-catalogs/i/d/c.json": text}, "ns/app")
    assert sources == {"ns/app": None}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("isc_now", b"a: &x [*x]"),
        ("isc_now", b"[" * 5000),
        ("isc_now", b"\xff\xfe"),
        ("isc_now", b"a: ["),
        ("isc_now", b"x" * (5 * 1024 * 1024)),
        ("isc_now", b"- " * 500_000),
        ("working-dir/cluster-resources/a.yaml", b"!!python/object/apply:os.system [ls]"),
    ],
)
def test_documents_that_are_traps_are_left_out_and_said(name, body):
    sources, warnings = told({name: body}, "ns/app")
    assert sources == {"ns/app": None}
    assert len(warnings) == 1
    assert "left out" in warnings[0]


def test_signatures_and_graphs_that_are_none_are_left_out(bench, tmp_path):
    files = everything()
    files[f"working-dir/signatures/big-sha256-{RELEASE.digest[7:]}"] = b"x" * 100_000
    files["working-dir/hold-release/cincinnati-graph-data/amd64-fast-4.16.json"] = b'{"nodes": 7}'
    files["working-dir/signatures/readme"] = b"text"
    survey, _ = bench.bring(bed.pack(tmp_path / "mirror_000001.tar", files))
    assert [one.number for one in survey.signatures] == [1]
    assert len(survey.graphs) == 1
    assert [warning.split(" ")[0] for warning in survey.warnings] == [
        f"signatures/big-sha256-{RELEASE.digest[7:]}",
        "hold-release/cincinnati-graph-data/amd64-fast-4.16.json",
    ]


@given(st.lists(st.text(st.sampled_from("abc/:.@-_ \n{}[]*&!"), max_size=60), max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_document_is_read_or_left_out(lines):
    text = "\n".join(lines).encode()
    sources, _ = told(
        {"isc_now": text, "working-dir/cluster-resources/a.yaml": text, "working-dir/dry-run/mapping.txt": text},
        "a",
        "a/b",
    )
    assert all(source is None or source.endswith(name) for name, source in sources.items())
