"""The gate before a generation is complete: whatever its plan says, no release in it is without a signature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.oci import manifest as manifests
from mirror.oci.digest import Digest
from mirror.offline.complete import complete
from mirror.offline.keyring import Keyring, shipped
from mirror.offline.plan import Image, Kind, Plan, PlannedBlob, PlannedManifest, Release
from mirror.offline.signatures import SignatureInvalid
from mirror.offline.trust import called_releases, unsigned
from mirror.store import ingest
from tests.tools import images
from tests.tools.images import Manifest
from tests.tools.openpgp import TestKey
from tests.tools.release import make_release
from tests.unit.offline import foreign_bed as bed
from tests.unit.offline import release_bed
from tests.unit.offline.gap_bed import Site
from tests.unit.offline.release_bed import COMPONENTS, KEY, ODD, RELEASES

KEYRING = Keyring.read(KEY.armored_public(), "ours.asc")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "store")
    yield made
    made.close()


def planned(
    *wanted: tuple[str, Manifest], kind: Kind = "image", named: bool = True, releases: tuple[Release, ...] = ()
) -> Plan:
    """Return the plan of some images by repository; not `named`: of their manifests alone."""
    found: list[PlannedManifest] = []
    blobs: list[PlannedBlob] = []
    for name, image in wanted:
        for one in image.all_manifests():
            parsed = manifests.parse(one.body, one.media_type)
            found.append(
                PlannedManifest(
                    name,
                    Digest.parse(one.digest),
                    one.media_type,
                    len(one.body),
                    tuple(child.digest for child in parsed.children),
                    tuple(dict.fromkeys(blob.digest for blob in parsed.blobs)),
                )
            )
            blobs += [PlannedBlob(blob.digest, blob.media_type, blob.size) for blob in parsed.blobs]
    listed = [Image(name, Digest.parse(image.digest), name, kind, ("v1",)) for name, image in wanted]
    return Plan.build("prod", images=listed if named else (), manifests=found, blobs=blobs, releases=releases)


def brought(
    site: Site, *wanted: tuple[str, Manifest], sign: tuple[Manifest, ...] = (), number: int = 1, **options: object
) -> Plan:
    """Have images here, and signatures of some; return the plan of the images."""
    for digest, body in bed.contents(*(image for _, image in wanted)).items():
        ingest.store_bytes(site.layout, Digest.parse(digest), body)
    for image in sign:
        site.store.signatures.add(Digest.parse(image.digest), release_bed.signature(image))
    plan = planned(*wanted, **options)  # type: ignore[arg-type] # of a test
    site.sets.write("prod", number, plan.dump())
    return plan


def found_in(site: Site, plan: Plan) -> list[str]:
    return sorted(str(digest) for digest in unsigned(plan, site.store, KEYRING))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    ("name", "image"),
    [
        (RELEASES, release_bed.release(label=False, payload=False)),
        (ODD, release_bed.release(payload=False)),
        (ODD, release_bed.release(label=False)),
        (ODD, release_bed.multi(label=False)),
        (ODD, release_bed.release(label=False, before={"a/large": bytes(6 * 2**20)})),
    ],
)
def test_no_generation_is_complete_with_a_release_that_nobody_signed(
    site: Site, name: str, image: Manifest, named: bool
) -> None:
    plan = brought(site, (name, image), ("quay.io/team/app", bed.app()), named=named)
    with pytest.raises(SignatureInvalid) as caught:
        complete(plan, 1, "loaded", site.store, site.sets, lambda: KEYRING)
    assert caught.value.what.startswith(f"release {name}@{image.digest}")
    assert "the keyring in use is ours.asc" in caught.value.remedy
    assert site.sets.current() == ()
    assert not list(site.layout.repositories.rglob("*")), "nothing is served of it"
    assert not complete(plan, 1, "loaded", site.store, site.sets, None)
    site.store.signatures.add(Digest.parse(image.digest), release_bed.signature(image))
    assert not complete(plan, 1, "loaded", site.store, site.sets, lambda: KEYRING)


def test_who_says_nothing_of_keys_means_red_hats(site: Site) -> None:
    plan = brought(site, (ODD, release_bed.release()))
    with pytest.raises(SignatureInvalid, match="no valid signature"):
        complete(plan, 1, "loaded", site.store, site.sets)


def test_a_plan_that_calls_nothing_a_release_is_not_believed(site: Site) -> None:
    image = release_bed.release()
    for kind in ("signature", "referrer", "component", "kubevirt", "image", "release"):
        plan = planned((ODD, image), kind=kind)
        assert bool(called_releases(plan)) is (kind == "release")
        brought(site, (ODD, image))
        assert found_in(site, plan) == [image.digest]


def test_media_types_of_a_plan_hide_nothing(site: Site) -> None:
    image = release_bed.release(label=False, payload=False)
    plan = brought(site, (RELEASES, image))
    blobs = [replace(one, media_type="text/plain") for one in plan.blobs]
    lying = Plan.build("prod", images=plan.images, manifests=plan.manifests, blobs=blobs)
    assert called_releases(lying) == {}
    assert found_in(site, lying) == [image.digest]


def test_a_signature_vouches_for_what_its_list_and_its_payload_name(site: Site) -> None:
    """A component that looks like a release itself is one of the release's own affairs."""
    component = release_bed.release("4.16.1")
    of = {"strange": f"{COMPONENTS}@{component.digest}"}
    image = images.index(
        [release_bed.release(components=of, architecture=one) for one in ("amd64", "arm64")], docker=True
    )
    plan = brought(site, (RELEASES, image), (COMPONENTS, component), sign=(image,))
    assert found_in(site, plan) == []
    alone = brought(site, (COMPONENTS, component))
    assert found_in(site, alone) == [component.digest]


def test_what_is_not_signed_vouches_for_nothing(site: Site) -> None:
    component = release_bed.release("4.16.1")
    image = release_bed.release(components={"strange": f"{COMPONENTS}@{component.digest}"})
    plan = brought(site, (RELEASES, image), (COMPONENTS, component))
    assert found_in(site, plan) == sorted([image.digest, component.digest])


def test_a_list_of_a_signed_and_another_release_is_not_signed(site: Site) -> None:
    good, bad = release_bed.release(), release_bed.release("4.16.4", architecture="arm64")
    both = images.index([good, bad], docker=True)
    plan = brought(site, (ODD, both), sign=(good,))
    assert found_in(site, plan) == [both.digest]
    assert found_in(site, brought(site, (ODD, images.index([good], docker=True)), sign=(good,))) == []


def test_a_signature_by_a_stranger_or_of_another_digest_vouches_for_nothing(site: Site) -> None:
    image, other = release_bed.release(), release_bed.release("4.16.4")
    plan = brought(site, (ODD, image))
    site.store.signatures.add(Digest.parse(image.digest), release_bed.signature(image, TestKey.generate()))
    site.store.signatures.add(Digest.parse(image.digest), release_bed.signature(other))
    with pytest.raises(SignatureInvalid, match=r"unknown key.*signs another digest"):
        complete(plan, 1, "loaded", site.store, site.sets, lambda: KEYRING)


def test_every_release_without_a_signature_is_named(site: Site) -> None:
    made = [release_bed.release(f"4.16.{number}") for number in range(7)]
    plan = brought(site, *((ODD, image) for image in made))
    with pytest.raises(SignatureInvalid) as caught:
        complete(plan, 1, "loaded", site.store, site.sets, lambda: KEYRING)
    assert sum(image.digest in caught.value.what for image in made) == 5
    assert caught.value.what.endswith("; 2 more have none")


def test_signatures_and_documents_beside_releases_are_none(site: Site) -> None:
    note = images.artifact("application/spdx+json", images.Content("text/spdx+json", b"{}"))
    plan = brought(site, (RELEASES, note))
    assert found_in(site, plan) == []


def test_a_whole_release_is_looked_into_no_further_than_its_payload(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = make_release("4.16.15", components=12, scale=0.01)
    wanted = [(f"quay.io/{one.repository}", one.manifest) for one in release.placed()]
    plan = brought(site, *wanted, sign=(release.image,))
    read: list[str] = []
    reading = site.store.reading
    monkeypatch.setattr(site.store, "reading", lambda digest: (read.append(str(digest)), reading(digest))[1])
    assert found_in(site, plan) == []
    layers = {blob.digest for one in release.components.values() for blob in one.all_blobs().values()}
    assert not layers & set(read)


def test_what_is_complete_already_is_unpacked_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = bed.app("old"), bed.app("new")
    assert not complete(brought(site, (ODD, old)), 1, "loaded", site.store, site.sets, lambda: KEYRING)
    plan = brought(site, (ODD, old), (ODD, new), (ODD, release_bed.release(payload=False)), number=2)
    read: list[str] = []
    reading = site.store.reading
    monkeypatch.setattr(site.store, "reading", lambda digest: (read.append(str(digest)), reading(digest))[1])
    with pytest.raises(SignatureInvalid):
        complete(plan, 2, "loaded", site.store, site.sets, lambda: KEYRING)
    assert new.blobs[-1].digest in read
    assert old.blobs[0].digest in read, "its label is looked at"
    assert old.blobs[-1].digest not in read


def test_a_look_can_be_stopped(site: Site) -> None:
    plan = brought(site, (ODD, bed.app()))

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(plan, 1, "loaded", site.store, site.sets, lambda: KEYRING, stop)


# -- what is served of releases that came without a graph


def graphs(site: Site) -> dict[str, list[tuple[str, str]]]:
    folder = site.layout.root / "graph"
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {
        path.name: [(node["version"], node["payload"]) for node in json.loads(path.read_bytes())["nodes"]]
        for path in files
    }


def row(image: Manifest, version: str, source: str = RELEASES, architecture: str = "amd64") -> Release:
    return Release(version, architecture, source, Digest.parse(image.digest))


def test_it_stands_alone_in_the_channels_of_its_minor_version(site: Site) -> None:
    older, newer = release_bed.release("4.16.3"), release_bed.release("4.16.9")
    releases = (row(older, "4.16.3"), row(newer, "4.16.9"))
    plan = brought(site, (RELEASES, older), (RELEASES, newer), releases=releases)
    assert not complete(plan, 1, "loaded", site.store, site.sets, None)
    both = [("4.16.3", f"{RELEASES}@{older.digest}"), ("4.16.9", f"{RELEASES}@{newer.digest}")]
    assert graphs(site) == {f"amd64-{kind}-4.16.json": both for kind in ("candidate", "eus", "fast", "stable")}
    for path in (site.layout.root / "graph").iterdir():
        assert json.loads(path.read_bytes())["edges"] == [], "nobody said that one leads to the other"


def test_okd_has_channels_of_its_own(site: Site) -> None:
    image = release_bed.release("4.17.0-okd-scos.0")
    source = "quay.io/okd/scos-release"
    plan = brought(site, (source, image), releases=(row(image, "4.17.0-okd-scos.0", source),))
    assert not complete(plan, 1, "loaded", site.store, site.sets, None)
    assert {"amd64-stable-scos-4.json", "amd64-stable-4.json", "amd64-stable-4.17.json"} <= graphs(site).keys()


@pytest.mark.parametrize(
    "release",
    [
        row(release_bed.release(), "no version"),
        row(release_bed.release(), "4.16.3", architecture="../../etc"),
        row(release_bed.release(), "4.16.3", source="kept/here"),
    ],
)
def test_what_no_cluster_could_ask_for_is_in_no_graph(site: Site, release: Release) -> None:
    plan = brought(site, (RELEASES, release_bed.release()), releases=(release,))
    assert not complete(plan, 1, "loaded", site.store, site.sets, None)
    assert graphs(site) == {}


def test_the_shipped_keyring_says_whose_it_is() -> None:
    assert "Red Hat" in shipped().name
    assert KEYRING.name == "ours.asc"
