"""No release comes in that nobody signed, whatever it is called and however it comes; with the switch off it is one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror.oci.digest import Digest
from mirror.offline.plan import Plan
from mirror.store.layout import Layout
from mirror.store.sets import Sets
from mirror.store.signatures import Signatures
from tests.offline.conftest import MakeSite
from tests.offline.here import Here, codes
from tests.offline.site import mounted
from tests.tools import images
from tests.tools.images import Manifest
from tests.tools.openpgp import TestKey
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline import release_bed
from tests.unit.offline.release_bed import KEY, ODD, RELEASES, VERSION

SAMPLE = Path(__file__).parent.parent / "unit/offline/samples/oc-mirror/mirror_000001.tar"
DIGEST = "sha256:8eb9722c242f8816ca82387bce4a2209f806cd782d88a37539cdd807107a6446"
OFF: Mapping[str, Any] = {"releases": {"require_signature": False}}
FORMS = ("oci-layout", "oci-archive", "dir", "oc-mirror", "distribution", "distribution, untagged", "docker-archive")
MADE_ANEW = "docker-archive"  # keeps no manifest, so no signature can be of what is made of it


@pytest.fixture
def loop_never_blocks() -> None:
    """A command has the loop to itself, and opens its rooms on it."""


@pytest.fixture(autouse=True)
def _as_before(handlers_as_before: None) -> None:
    """Commands run in this process."""


Inside = Callable[..., Here]


@pytest.fixture
def inside(make_site: MakeSite, tmp_path: Path) -> Inside:
    """Make a mirror behind the gap that trusts KEY: inside(keys of mirror.yaml)."""
    (tmp_path / "key.asc").write_bytes(KEY.armored_public())

    def make(document: Mapping[str, Any] | None = None, name: str = "inside") -> Here:
        releases = {"keyring": str(tmp_path / "key.asc"), **(document or {}).get("releases", {})}
        return Here(make_site(name, None, {"offline": True, **(document or {}), "releases": releases}))

    return make


def refused(here: Here, *words: str | Path, image: str) -> str:
    """Run what must be refused for want of a signature, leaving nothing behind; return what it says."""
    report = here.report(*words, code=4)
    assert codes(report) == ["signature_invalid"]
    said = f"{report['problems'][0]['what']}: {report['problems'][0]['remedy']}"
    for word in (image, "no valid signature", "OKD", "`releases.keyring`", "`releases.require_signature: false`"):
        assert word in said
    assert here.report("ls")["sets"] == []
    assert here.report("inventory")["digests"] == 0
    return said


def assert_release(here: Here, name: str, digest: str, *, version: str = VERSION, architecture: str = "amd64") -> None:
    """The one release of a set is one everywhere: `ls`, `verify`, the update graph, what `resources` writes."""
    (listed,) = [one for one in here.report("ls")["sets"] if one["set"] == name]
    assert (listed["releases"], listed["state"]) == ([f"{version}-{architecture}"], "complete")
    (release,) = [one for one in here.report("ls", f"{name}@1")["images"] if one["kind"] == "release"]
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(architecture, architecture)
    assert release["image"].endswith(f"@{digest}")
    assert f"{version}-{machine}" in release["tags"]
    assert here.report("verify", name)["sets"][0]["ok"]
    to = here.site.folder / "resources"
    here.run("resources", name, "--registry", "http://mirror.example:5000", "-o", to)
    assert f"--to-image={release['image']}\n" in (to / "update" / "update.txt").read_text()
    graph = yaml.safe_load((Layout(here.site.store).graph(architecture, f"stable-{version[:4]}")).read_text())
    assert [(node["version"], node["payload"]) for node in graph["nodes"]] == [(version, release["image"])]


# -- an archive of the real oc-mirror --------------------------------------------------------------------------------


def test_the_release_of_an_oc_mirror_archive_is_refused(make_site: MakeSite) -> None:
    here = Here(make_site("inside", None, {"offline": True}))
    said = refused(here, "load", SAMPLE, image=f"{RELEASES}@{DIGEST}")
    assert "567E347AD0044ADE55BA8A5F199E2F91FD431D51" in said
    keyring = here.site.folder / "ours.asc"
    keyring.write_bytes(KEY.armored_public())
    here.site.configure({"releases": {"keyring": str(keyring)}})
    assert str(keyring) in refused(here, "load", SAMPLE, image=f"{RELEASES}@{DIGEST}")


def test_it_is_a_release_everywhere_where_no_signature_is_required(inside: Inside) -> None:
    here = inside(OFF)
    assert "releases.require_signature is false" in here.run("load", SAMPLE, "--set", "old").stderr
    assert_release(here, "old", DIGEST)
    tags = [image["tags"] for image in here.report("ls", "old@1")["images"]]
    assert tags == [["4.16.3-x86_64"], [], [], []]
    mirror = here.site.serving()
    mirror.start()
    try:
        status, _, body = mirror.get("/api/upgrades_info/v1/graph?channel=stable-4.16&arch=amd64")
    finally:
        mirror.stop()
    assert (status, [node["version"] for node in json.loads(body)["nodes"]]) == (200, [VERSION])
    unsigned = f"release {RELEASES}@{DIGEST} (4.16.3-x86_64) has no signature that verifies"
    done = here.run("verify")
    assert done.stdout.splitlines()[1].split()[-1] == "whole"
    assert done.stderr.splitlines() == [
        f"mirror verify: old@1: {unsigned}: it is accepted because releases.require_signature is false"
    ]
    here.site.configure({"releases": {}})
    report = here.report("verify", code=4)
    assert report["sets"][0]["openpgp"]["problems"] == [unsigned]
    (problem,) = report["problems"]
    for word in ("signature_stores`", "`mirror save` carries", "OKD and your own builds", "`releases.keyring`"):
        assert word in problem["remedy"]
    assert "`releases.require_signature: false`" in problem["remedy"]
    done = here.run("verify", code=4)
    assert done.stdout.splitlines()[1].split()[-1] == "unsigned", "nothing is missing"


@pytest.mark.parametrize("place", ["archive", "store", "signature store"])
def test_a_signature_is_found_in_the_archive_in_the_store_and_in_signature_stores(
    inside: Inside, tmp_path: Path, place: str
) -> None:
    here = inside({"releases": {"signature_stores": [(tmp_path / "signatures").as_uri()]}})
    (tmp_path / "signatures").mkdir()
    folder = tmp_path / "archives"
    folder.mkdir()
    shutil.copy(SAMPLE, folder)
    release = Manifest("", b"", ())
    object.__setattr__(release, "digest", DIGEST)
    raw = release_bed.signature(release)
    if place == "archive":
        name = f"working-dir/signatures/{DIGEST[7:]}-sha256-{DIGEST[7:]}"
        bed.pack(folder / "mirror_000002.tar", {name: raw, name + ".bad": b"another"})
    elif place == "store":
        refused(here, "load", folder, image=DIGEST)
        Signatures(Layout(here.site.store)).add(Digest.parse(DIGEST), raw)
    else:
        release_bed.sign_in(tmp_path / "signatures", release, raw)
    here.run("load", folder, "--set", "old")
    assert_release(here, "old", DIGEST)
    assert [kept for _, kept in Signatures(Layout(here.site.store)).list(Digest.parse(DIGEST))] == [raw]
    assert (here.site.folder / "resources/cluster/release-signatures.yaml").is_file()
    here.run("save", "old", "--to", mounted(tmp_path / "disk"))
    there = inside(name="there")
    there.run("load", tmp_path / "disk")
    assert_release(there, "old", DIGEST)


def test_a_signature_by_a_stranger_is_none(inside: Inside, tmp_path: Path) -> None:
    store = tmp_path / "signatures"
    image = release_bed.release()
    release_bed.sign_in(store, image, release_bed.signature(image, TestKey.generate()))
    here = inside({"releases": {"signature_stores": [store.as_uri()]}})
    path, words = release_bed.forms(tmp_path / "forms", image, RELEASES)["oci-layout"]
    assert "unknown key" in refused(here, "load", path, *words, image=image.digest)


# -- every form, by each thing that makes a release ------------------------------------------------------------------


def by_repository() -> Manifest:
    return release_bed.release(label=False, payload=False)


def by_label() -> Manifest:
    return release_bed.release(payload=False)


def by_payload() -> Manifest:
    return release_bed.release(label=False)


def by_a_child() -> Manifest:
    return release_bed.multi(label=False)


def by_late_payload() -> Manifest:
    """Behind more than is looked at before anything is written."""
    return release_bed.release(label=False, before={"a/large.file": bytes(6 * 2**20)})


UNSIGNED = [
    (by_repository, RELEASES),
    (by_repository, "lab.example/quay/openshift-release-dev/ocp-release"),
    (by_repository, "quay.io/okd/scos-release"),
    (by_label, ODD),
    (by_payload, ODD),
    (by_a_child, ODD),
    (by_late_payload, ODD),
]


# A docker-archive has no lists, so there is none to be known by its child.
@pytest.mark.parametrize(
    ("form", "make", "repository"),
    [
        (form, make, repository)
        for form in FORMS
        for make, repository in UNSIGNED
        if not (form == MADE_ANEW and make is by_a_child)
    ],
)
def test_in_every_form_under_any_tag(
    inside: Inside, tmp_path: Path, form: str, make: Callable[[], Manifest], repository: str
) -> None:
    image = make()
    path, words = release_bed.forms(tmp_path / "forms", image, repository)[form]
    here = inside()
    refused(here, "load", path, *words, image=repository if form == MADE_ANEW else f"{repository}@{image.digest}")
    here.site.configure({"releases": {"require_signature": False}})
    here.run("load", path, *words, "--set", "old")
    if make in (by_label, by_payload):
        digest = here.report("ls", "old@1")["images"][0]["image"].rpartition("@")[2]
        assert_release(here, "old", digest)
    elif make is by_a_child:
        assert_release(here, "old", image.digest, architecture="multi")


@pytest.mark.parametrize("form", [form for form in FORMS if form != MADE_ANEW])
def test_signed_it_comes_in_every_form(inside: Inside, tmp_path: Path, form: str) -> None:
    image = release_bed.multi()
    release_bed.sign_in(tmp_path / "signatures", image)
    here = inside({"releases": {"signature_stores": [(tmp_path / "signatures").as_uri()]}})
    path, words = release_bed.forms(tmp_path / "forms", image, "quay.io/openshift-release-dev/ocp-release")[form]
    here.run("load", path, *words, "--set", "old")
    assert_release(here, "old", image.digest, architecture="multi")


@pytest.mark.parametrize("name", ["openshift/release-images", "ocp4/openshift4"])
def test_a_repository_that_no_host_names(inside: Inside, tmp_path: Path, name: str) -> None:
    """oc-mirror's own name is Red Hat's repository; under another one the release is kept, and found here by that."""
    image = release_bed.release()
    tree = bed.lay(tmp_path / "registry", bed.storage({name: [(image, "latest")]}))
    here = inside()
    refused(here, "load", tree, image=image.digest)
    here.site.configure({"releases": {"require_signature": False}})
    here.run("load", tree, "--set", "old")
    here.run("resources", "old", "--registry", "http://mirror.example:5000", "-o", tmp_path / "to")
    found = RELEASES if name.startswith("openshift/") else f"mirror.example:5000/{name}"
    assert f"--to-image={found}@{image.digest}\n" in (tmp_path / "to/update/update.txt").read_text()


# -- disguises -------------------------------------------------------------------------------------------------------


def test_a_release_is_not_hidden_as_a_signature_or_a_referrer(inside: Inside, tmp_path: Path) -> None:
    app = bed.app("app")
    for number, (image, tag) in enumerate(
        (
            (release_bed.release(), f"sha256-{app.digest[7:]}.sig"),
            (release_bed.release(label=False), f"sha256-{app.digest[7:]}.att"),
            (release_bed.release(subject=app), ""),
        )
    ):
        tree = bed.lay(tmp_path / str(number), bed.storage({ODD: [(app, "v1"), (image, tag)]}))
        refused(inside(name=f"site{number}"), "load", tree, image=image.digest)


def test_a_list_vouches_for_what_it_lists_and_not_the_other_way_round(inside: Inside, tmp_path: Path) -> None:
    image = release_bed.multi()
    child = image.children[0]
    signed = tmp_path / "signatures"
    here = inside({"releases": {"signature_stores": [signed.as_uri()]}})
    tree = bed.lay(tmp_path / "tree", bed.storage({RELEASES: [(image, "v1"), (child, "x86")]}))
    release_bed.sign_in(signed, child)
    refused(here, "load", tree, image=f"{RELEASES}@{image.digest}")
    (signed / child.digest.replace(":", "=") / "signature-1").unlink()
    release_bed.sign_in(signed, image)
    refused(here, "load", tree, "--as", f"{RELEASES}@{child.digest}", image=f"{RELEASES}@{child.digest}")
    here.run("load", tree, "--set", "old")
    assert_release(here, "old", image.digest, architecture="multi")


def test_what_lies_beside_releases_and_does_not_run_needs_no_signature(inside: Inside, tmp_path: Path) -> None:
    image = release_bed.release()
    note = images.artifact("application/spdx+json", images.Content("text/spdx+json", b"{}"))
    release_bed.sign_in(tmp_path / "signatures", image)
    here = inside({"releases": {"signature_stores": [(tmp_path / "signatures").as_uri()]}})
    tree = bed.lay(tmp_path / "tree", bed.storage({RELEASES: [(image, "v1"), (note, "")]}))
    here.run("load", tree, "--set", "old")
    assert_release(here, "old", image.digest)


def test_an_archive_without_releases_asks_nobody(inside: Inside, tmp_path: Path) -> None:
    """Looking for signatures is new here, and must cost nothing where there is nothing to sign."""
    here = inside({"releases": {"signature_stores": ["https://nowhere.invalid/signatures"]}, "offline": False})
    path, words = release_bed.forms(tmp_path / "forms", bed.many("app"), ODD)["oci-layout"]
    assert "nowhere.invalid" not in here.run("load", path, *words).output


def test_signature_stores_that_are_away_are_one_more_reason(inside: Inside, tmp_path: Path) -> None:
    """There is no telling "later" from "never" here: it is refused as one that is not signed."""
    here = inside({"releases": {"signature_stores": ["http://127.0.0.1:9/signatures"]}, "offline": False})
    path, words = release_bed.forms(tmp_path / "forms", release_bed.release(), ODD)["oci-layout"]
    assert "http://127.0.0.1:9/signatures could not be asked" in refused(here, "load", path, *words, image=ODD)


# -- parts and plans of somebody's making ----------------------------------------------------------------------------


def disguised(plan: Plan, *, images: bool = True) -> Plan:
    """Return a plan that calls its releases images, or names nothing but manifests."""
    called = [replace(one, kind="image") for one in plan.images]
    return Plan.build("evil", images=called if images else (), manifests=plan.manifests, blobs=plan.blobs)


def loaded(here: Here, path: Path, *words: str) -> Plan:
    """Load an archive where no signature is required; return the plan of what came."""
    here.run("load", path, *words, "--set", "old")
    return Plan.parse(Layout(here.site.store).generation("old", 1).read_bytes())


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize(
    ("make", "repository"), [(by_repository, RELEASES), (by_label, ODD), (by_late_payload, ODD), (by_a_child, ODD)]
)
def test_a_plan_in_parts_hides_no_release(
    inside: Inside, tmp_path: Path, make: Callable[[], Manifest], repository: str, images: bool
) -> None:
    image = make()
    near = inside(OFF, name="near")
    path, words = release_bed.forms(tmp_path / "forms", image, repository)["distribution"]
    plan = disguised(loaded(near, path, *words), images=images)
    sets = Sets(Layout(near.site.store))
    sets.write("evil", 1, plan.dump())
    sets.complete("evil", 1, plan.digest, "loaded")
    near.run("save", "evil", "--to", mounted(tmp_path / "disk"))
    here = inside()
    refused(here, "load", tmp_path / "disk", image=f"{repository}@{image.digest}")
    release_bed.sign_in(Layout(here.site.store).signatures, image)
    here.run("load", tmp_path / "disk")


@pytest.mark.parametrize(
    ("make", "repository", "deep"),
    [(by_repository, RELEASES, ()), (by_label, ODD, ()), (by_payload, ODD, ("--deep",))],
)
def test_a_release_that_came_in_before_is_found_by_verify(
    inside: Inside, tmp_path: Path, make: Callable[[], Manifest], repository: str, deep: tuple[str, ...]
) -> None:
    """Sets that were loaded when nobody looked say nothing of the releases in them."""
    image = make()
    here = inside(OFF)
    path, words = release_bed.forms(tmp_path / "forms", image, repository)["distribution"]
    plan = disguised(loaded(here, path, *words))
    sets = Sets(Layout(here.site.store))
    sets.write("evil", 1, plan.dump())
    sets.complete("evil", 1, plan.digest, "loaded")
    here.run("verify", "evil", *deep)
    here.site.configure({"releases": {}})
    (verdict,) = here.report("verify", "evil", *deep, code=4)["sets"]
    (problem,) = verdict["openpgp"]["problems"]
    assert problem.startswith(f"release {repository}@{image.digest}")


def test_what_was_complete_before_stays_when_it_is_refused(inside: Inside, tmp_path: Path) -> None:
    """It was taken under other rules, and a cluster may run it: `verify` says so, and giving it up is for a person."""
    here = inside(OFF)
    path, words = release_bed.forms(tmp_path / "forms", by_label(), ODD)["oci-layout"]
    here.run("load", path, *words, "--set", "old")
    here.site.configure({"releases": {}})
    report = here.report("load", path, *words, "--set", "old", code=4)
    assert codes(report) == ["signature_invalid"]
    assert [one["state"] for one in here.report("ls")["sets"]] == ["complete"]


@pytest.fixture
def outside(make_site: MakeSite, tmp_path: Path) -> Callable[..., Here]:
    """Make a site that reaches a registry as quay.io: outside(registry's URL)."""
    (tmp_path / "key.asc").write_bytes(KEY.armored_public())
    store = tmp_path / "signatures"
    store.mkdir()

    def make(url: str) -> Here:
        releases = {"keyring": str(tmp_path / "key.asc"), "signature_stores": [store.as_uri()]}
        return Here(make_site("outside", None, {"upstreams": {"quay.io": {"endpoints": [url]}}, "releases": releases}))

    return make


def wanted_as(form: str, path: Path, pullspec: str) -> Path:
    """Write an image set of one image, as an ImageSetConfiguration, a list or a mapping."""
    mirror = {"additionalImages": [{"name": pullspec}]}
    text = {
        "configuration": yaml.safe_dump(
            {"kind": "ImageSetConfiguration", "apiVersion": "mirror.openshift.io/v2alpha1", "mirror": mirror}
        ),
        "list": f"{pullspec}\n",
        "mapping": f"{pullspec}=mirror.example/any/thing:v9\n",
    }[form]
    path.write_text(text)
    return path


@pytest.mark.parametrize("form", ["configuration", "list", "mapping"])
@pytest.mark.parametrize(
    ("make", "repository"),
    [
        (by_repository, "openshift-release-dev/ocp-release"),
        (by_label, "team/thing"),
        (by_payload, "team/thing"),
        (by_a_child, "team/thing"),
        (by_late_payload, "team/thing"),
    ],
)
def test_an_image_that_is_asked_for_and_is_a_release(
    outside: Callable[..., Here], tmp_path: Path, make: Callable[[], Manifest], repository: str, form: str
) -> None:
    image = make()
    with release_bed.Published((repository, image, "v7")) as published:
        here = outside(published.registry.url)
        wanted = wanted_as(form, tmp_path / "prod.yaml", f"quay.io/{repository}:v7")
        report = here.report("sync", wanted, code=4)
        assert codes(report) == ["signature_invalid"]
        assert f"quay.io/{repository}@{image.digest}" in report["problems"][0]["what"]
        assert "`releases.require_signature: false`" in report["problems"][0]["remedy"]
        assert here.report("ls")["sets"] == []
        here.site.configure({"releases": {**here.site.document["releases"], "require_signature": False}})
        here.run("sync", wanted, "--set", "off")
        here.site.configure({"releases": {**here.site.document["releases"], "require_signature": True}})
        release_bed.sign_in(tmp_path / "signatures", image)
        here.run("sync", wanted)
        here.run("verify", "prod")
        if make in (by_label, by_payload):
            assert_release(here, "off", image.digest)
            assert_release(here, "prod", image.digest)


@pytest.mark.parametrize(
    ("make", "repository"),
    [(by_repository, "openshift-release-dev/ocp-release"), (by_label, "team/thing"), (by_late_payload, "team/thing")],
)
def test_a_plan_that_was_edited_hides_no_release(
    outside: Callable[..., Here], tmp_path: Path, make: Callable[[], Manifest], repository: str
) -> None:
    image = make()
    with release_bed.Published((repository, image, "v7")) as published:
        here = outside(published.registry.url)
        here.site.configure({"releases": {**here.site.document["releases"], "require_signature": False}})
        wanted = wanted_as("list", tmp_path / "prod.txt", f"quay.io/{repository}:v7")
        here.run("plan", wanted, "-o", tmp_path / "prod.plan")
        (tmp_path / "evil.plan").write_bytes(disguised(Plan.parse((tmp_path / "prod.plan").read_bytes())).dump())
        here.site.configure({"releases": {**here.site.document["releases"], "require_signature": True}})
        report = here.report("sync", tmp_path / "evil.plan", code=4)
        assert codes(report) == ["signature_invalid"]
        assert f"quay.io/{repository}@{image.digest}" in report["problems"][0]["what"]
        assert here.report("ls")["sets"] == []
