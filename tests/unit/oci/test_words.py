"""Digests, references, JSON and manifests: what the grammar takes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import DigestInvalid, ManifestInvalid, MirrorError, NameInvalid, TagInvalid
from mirror.oci import manifest, media_types, strict_json
from mirror.oci.descriptor import AlgorithmUnknown
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name, check_tag, fallback_tag, is_signature_tag, parse_reference

HEX = "0123456789abcdef"
SLOW_NAME = re.compile(r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*\Z", re.ASCII)


@given(st.binary(max_size=64), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_reads_back(content: bytes, algorithm: str) -> None:
    digest = Digest.of(content, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex == hashlib.new(algorithm, content).hexdigest()
    hasher = digest.hasher()
    hasher.update(content)
    assert hasher.hexdigest() == digest.hex


@pytest.mark.parametrize(
    "text",
    [
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "SHA256:" + "0" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
        "sha256:../../etc/passwd",
        "sha384:" + "0" * 96,
        "sha256:" + "\u0660" * 64,
        "sha512:" + "0" * 64,
        ":",
        "",
    ],
)
def test_no_other_spelling_is_a_digest(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@given(st.text(alphabet="ab0._-/A:%\n\u202e", max_size=24))
def test_names_agree_with_the_specification(text: str) -> None:
    try:
        check_name(text)
    except NameInvalid:
        assert SLOW_NAME.match(text) is None
    else:
        assert SLOW_NAME.match(text) is not None


def test_names_and_tags_have_limits() -> None:
    assert check_name("a" * 255)
    with pytest.raises(NameInvalid):
        check_name("a" * 256)
    assert check_tag("A" * 128)
    for wrong in ("a" * 129, "-a", ".a", "a b", "a\n", "ä"):
        with pytest.raises(TagInvalid):
            check_tag(wrong)


@given(st.text(max_size=80))
def test_a_reference_is_ours_to_refuse(text: str) -> None:
    try:
        found = parse_reference(text)
    except MirrorError:
        return
    assert str(found) == text


def test_tags_that_belong_to_a_digest() -> None:
    assert is_signature_tag(f"sha256-{'a' * 64}.sig")
    assert is_signature_tag(f"sha512-{'a' * 128}.att")
    assert not is_signature_tag(f"sha256-{'a' * 63}.sig")
    assert not is_signature_tag("latest")
    assert fallback_tag(Digest.of(b"")) == f"sha256-{Digest.of(b'').hex}"
    assert len(fallback_tag(Digest.of(b"", "sha512"))) == len("sha512-") + 64


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=4), inner, max_size=3),
    max_leaves=20,
)


@given(json_values)
def test_strict_json_agrees_with_the_library(value: object) -> None:
    assert strict_json.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 2}',
        b'{"layers": [], "Layers": []}',
        b'{"mediatype": "x"}',
        b"NaN",
        b"[Infinity]",
        b"{",
        b"\xff",
        b"[" * 65 + b"]" * 65,
        b"[" * 100_000,
    ],
)
def test_strict_json_refuses(raw: bytes) -> None:
    with pytest.raises(ValueError):
        strict_json.loads(raw)


def test_brackets_in_strings_do_not_nest() -> None:
    assert strict_json.loads(json.dumps({"a": "[" * 200, "b": '"[{'}).encode())["a"] == "[" * 200
    assert strict_json.loads(b'{"A": 1, "a": 2}') == {"A": 1, "a": 2}, "annotations may differ by case"


def image(**changes: object) -> bytes:
    blob = {"mediaType": "x", "digest": str(Digest.of(b"x")), "size": 1}
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": blob, "layers": [blob]}
    return json.dumps({**document, **changes}).encode()


def test_a_manifest_names_its_blobs() -> None:
    found = manifest.parse(image(), media_types.OCI_MANIFEST)
    assert found.media_type == media_types.OCI_MANIFEST
    assert [descriptor.digest for descriptor in found.named] == [Digest.of(b"x")] * 2
    assert manifest.parse(image(), f"{media_types.OCI_MANIFEST}; charset=utf-8").media_type == media_types.OCI_MANIFEST


def test_an_untyped_manifest_is_what_it_holds() -> None:
    body = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    assert manifest.parse(body, "application/json").media_type == media_types.OCI_INDEX
    assert manifest.parse(body, media_types.DOCKER_LIST).media_type == media_types.DOCKER_LIST


@pytest.mark.parametrize(
    ("body", "declared"),
    [
        (b"<html>", media_types.OCI_MANIFEST),
        (b"[]", media_types.OCI_MANIFEST),
        (b"{}", "application/json"),
        (image(), media_types.OCI_INDEX),
        (image(manifests=[]), media_types.OCI_MANIFEST),
        (image(layers={}), media_types.OCI_MANIFEST),
        (image(layers=[1]), media_types.OCI_MANIFEST),
        (image(layers=[{"digest": "sha256:../x", "size": 1}]), media_types.OCI_MANIFEST),
        (image(layers=[{"digest": str(Digest.of(b"")), "size": -1}]), media_types.OCI_MANIFEST),
        (image(layers=[{"digest": str(Digest.of(b"")), "size": 1.5}]), media_types.OCI_MANIFEST),
        (image(layers=[{"digest": str(Digest.of(b"")), "size": True}]), media_types.OCI_MANIFEST),
        (image(layers=[{"digest": str(Digest.of(b"")), "size": 2**60}]), media_types.OCI_MANIFEST),
        (image(mediaType=7), media_types.OCI_MANIFEST),
        (b'{"schemaVersion": 1}', media_types.DOCKER_SCHEMA1),
    ],
)
def test_what_is_no_manifest_is_refused(body: bytes, declared: str) -> None:
    with pytest.raises(ManifestInvalid):
        manifest.parse(body, declared)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    for declared in (media_types.OCI_MANIFEST, media_types.DOCKER_SCHEMA1_SIGNED, ""):
        with pytest.raises(ManifestInvalid):
            manifest.parse(body, declared)
        assert not manifest.matches(body, media_types.OCI_MANIFEST, Digest.of(b"other"))
    with pytest.raises(ManifestInvalid):
        manifest.schema1_payload(body)


def test_what_is_fetched_elsewhere_is_foreign() -> None:
    layer = {"mediaType": "x", "digest": str(Digest.of(b"x")), "size": 1, "urls": ["https://elsewhere.example/x"]}
    found = manifest.parse(image(layers=[layer]), media_types.OCI_MANIFEST)
    assert [descriptor.foreign for descriptor in found.named] == [False, True]


UNKNOWN = [
    "sha384:" + "a" * 96,
    "blake3:" + "b" * 64,
    "sha512_256:" + "c" * 64,
    "sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564",
]


def described(digest: str) -> dict[str, object]:
    return {"mediaType": "x", "digest": digest, "size": 1}


@pytest.mark.parametrize("digest", UNKNOWN)
@pytest.mark.parametrize("key", ["manifests", "config", "layers", "blobs", "subject"])
def test_a_digest_of_an_unknown_algorithm_passes_and_is_not_kept(key: str, digest: str) -> None:
    value: object = described(digest)
    known = described(str(Digest.of(b"x")))
    changes: dict[str, object] = {key: value if key in ("config", "subject") else [known, value]}
    body = image(**changes)
    if key == "manifests":
        index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, **changes}
        body = json.dumps(index).encode()
    found = manifest.parse(body, "", passing=True)
    assert found.unknown == (digest,)
    assert found.subject is None
    assert {one.digest for one in found.named} == {Digest.of(b"x")}
    with pytest.raises(AlgorithmUnknown, match=re.escape(digest)) as refused:
        manifest.parse(body, "")
    assert "sha256 or sha512" in refused.value.remedy


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "sha512:" + "a" * 64,
        "SHA384:" + "a" * 96,
        "md5:" + "d" * 32,
        "sha1:" + "d" * 40,
        "sha384:",
        "sha384:../../x",
        "sha384:" + "a" * 96 + "\n",
        "sha384",
        "",
        "x:" + "a" * 300,
    ],
)
def test_what_is_no_digest_does_not_pass(digest: str) -> None:
    """It guards against overshooting: these were refused, and are."""
    with pytest.raises(ManifestInvalid) as refused:
        manifest.parse(image(layers=[described(digest)]), media_types.OCI_MANIFEST, passing=True)
    assert not isinstance(refused.value, AlgorithmUnknown)


@pytest.mark.parametrize("media_type", [media_types.OCI_ARTIFACT, media_types.ORAS_ARTIFACT])
@pytest.mark.parametrize("declared", ["its own", "", "application/json"])
@pytest.mark.parametrize("typed", [True, False])
def test_the_retired_artifact_manifests_have_no_schema_version(media_type: str, declared: str, typed: bool) -> None:
    """That of OCI was taken before."""
    blob = described(str(Digest.of(b"x")))
    document = {
        "artifactType": "sbom/x",
        "blobs": [blob],
        "subject": blob,
        **({"mediaType": media_type} if typed else {}),
    }
    body = json.dumps(document).encode()
    sent = media_type if declared == "its own" else declared
    if not typed and sent != media_type:
        with pytest.raises(ManifestInvalid):
            manifest.parse(body, sent)
        return
    found = manifest.parse(body, sent)
    assert (found.media_type, [one.digest for one in found.named]) == (media_type, [Digest.of(b"x")])
    assert found.subject is not None
    assert media_type in media_types.ACCEPT


@pytest.mark.parametrize("media_type", [media_types.OCI_MANIFEST, media_types.OCI_INDEX, media_types.DOCKER_LIST])
def test_all_others_have_one(media_type: str) -> None:
    """It guards against overshooting."""
    with pytest.raises(ManifestInvalid, match="schemaVersion"):
        manifest.parse(json.dumps({"mediaType": media_type}).encode(), media_type)
