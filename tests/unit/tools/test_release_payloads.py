"""The made release payloads have the shape of real ones, and the same seed makes the same bytes."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.tools.images import DOCKER_LIST, DOCKER_MANIFEST, Manifest
from tests.tools.payload import ALIASES, COMPONENT_REPOSITORY, HOST
from tests.tools.release import LISTED, Release, content_of, make_release


@pytest.fixture(scope="module")
def older() -> Release:
    return make_release("4.16.15", components=24, scale=0.05)


def files_on_top(image: Manifest) -> dict[str, bytes]:
    top = json.loads(image.body)["layers"][-1]["digest"]
    archive = io.BytesIO(gzip.decompress(image.all_blobs()[top].body))
    with tarfile.open(fileobj=archive) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}


def test_the_same_seed_makes_the_same_release(older: Release) -> None:
    again = make_release("4.16.15", components=24, scale=0.05)
    assert again.content() == older.content()
    assert make_release("4.16.15", components=24, scale=0.05, seed=1).digest != older.digest


def test_image_references_name_every_component(older: Release) -> None:
    references = json.loads(files_on_top(older.image)["release-manifests/image-references"])
    named = {tag["name"]: tag["from"]["name"] for tag in references["spec"]["tags"]}
    assert named == {
        name: f"{HOST}/{COMPONENT_REPOSITORY}@{component.digest}" for name, component in older.components.items()
    }
    assert older.components["machine-os-content"] is older.components[ALIASES["machine-os-content"]]
    assert set(named.values()) <= set(older.images())
    assert older.components[LISTED].media_type == DOCKER_LIST
    assert older.components["cli"].media_type == DOCKER_MANIFEST


def test_a_full_release_has_so_many_components_that_share_layers() -> None:
    release = make_release("4.16.15", scale=0.02)
    distinct = {component.digest: component for component in release.components.values()}
    assert len(distinct) == 190 < len(release.components)
    layers = [layer["digest"] for one in distinct.values() for layer in json.loads(one.body).get("layers", ())]
    assert len(set(layers)) < len(layers) / 2


def test_a_newer_release_keeps_most_of_its_base(older: Release) -> None:
    newer = make_release("4.16.20", components=24, scale=0.05, base=older, changed=0.2, previous=["4.16.15"])
    same = [name for name, one in newer.components.items() if one is older.components[name]]
    assert len(newer.components) / 2 < len(same) < len(newer.components)
    fresh = {digest: size for digest, size in newer.content().items() if digest not in older.content()}
    assert 0 < sum(fresh.values()) < sum(newer.content().values()) / 3
    metadata = json.loads(files_on_top(newer.image)["release-manifests/release-metadata"])
    assert metadata["previous"] == ["4.16.15"]


def test_a_release_for_several_architectures_is_lists_all_through() -> None:
    release = make_release("4.17.2", "multi", components=10, scale=0.02, architectures=("amd64", "s390x"))
    assert release.tag == "4.17.2-multi"
    assert [child.platform["architecture"] for child in release.image.children] == ["amd64", "s390x"]
    assert all(one.media_type == DOCKER_LIST for one in release.components.values())
    for child in release.image.children:
        metadata = json.loads(files_on_top(child)["release-manifests/release-metadata"])
        assert metadata["metadata"]["release.openshift.io/architecture"] == "multi"
    tags = {tag for placed in release.attached for tag in placed.tags}
    for signed in release.image.all_manifests():
        assert signed.digest.replace(":", "-") + ".sig" in tags


def test_sigstore_signatures_verify(older: Release) -> None:
    found = next(placed.manifest for placed in older.attached if older.digest[7:] in placed.tags[0])
    described = json.loads(found.body)["layers"][0]
    payload = found.all_blobs()[described["digest"]].body
    assert json.loads(payload)["critical"]["image"]["docker-manifest-digest"] == older.digest
    signature = base64.b64decode(described["annotations"]["dev.cosignproject.cosign/signature"])
    key = load_pem_public_key(older.policy_key)
    key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        key.verify(signature, payload + b" ", ec.ECDSA(hashes.SHA256()))


def test_content_counts_each_digest_once(older: Release) -> None:
    assert content_of([*older.placed(), *older.placed()]) == older.content()
    assert {older.digest, *(one.digest for one in older.components.values())} <= set(older.content())
