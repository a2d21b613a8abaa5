"""A release payload is read from its layer as it is; whatever is hostile or senseless in it is refused."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import tarfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.oci.pullspec import Pullspec
from mirror.offline import layer as layers
from mirror.offline import manifests_yaml
from mirror.offline.payload import Payload, PayloadInvalid, read
from tests.tools import release_layers as payloads

_ART = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
_CLI = f"{_ART}@sha256:{'a' * 64}"
_ETCD = f"{_ART}@sha256:{'b' * 64}"
_GOOD = {"cli": _CLI, "etcd": _ETCD}


def _read(content: bytes) -> Payload | None:
    fd = payloads.descriptor(content)
    try:
        return read(fd)
    finally:
        os.close(fd)


def _refused(content: bytes) -> str:
    with pytest.raises(PayloadInvalid) as caught:
        _read(content)
    return str(caught.value)


def _entry(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.size, entry.linkname = kind, len(content), link
        archive.addfile(entry, io.BytesIO(content))
        end = out.tell()
    return out.getvalue()[:end]


def test_a_payload_is_read_whole() -> None:
    found = _read(
        payloads.payload_layer(
            "4.16.15",
            _GOOD,
            {
                "0000_50_installer_coreos-bootimages.yaml": payloads.boot_images(x86_64=_ETCD, s390x=_CLI),
                "0000_10_policy.yaml": b"---\n" + payloads.policy("quay.io/openshift-release-dev/ocp-release"),
                "0000_90_other.yaml": b"kind: Deployment\nmetadata: {name: x}\n",
                "broken.yaml": b"{{{ template, no YAML",
            },
        )
    )
    assert found is not None
    assert found.version == "4.16.15"
    assert [(one.name, str(one.pullspec)) for one in found.components] == [("cli", _CLI), ("etcd", _ETCD)]
    assert found.previous == ("4.15.30", "4.16.14")
    assert found.url == "https://example.com/errata/RHSA-0000:0000"
    assert found.architecture == ""
    assert found.kubevirt == {"x86_64": Pullspec.parse(_ETCD), "s390x": Pullspec.parse(_CLI)}
    assert found.sigstore_scopes == ("quay.io/openshift-release-dev/ocp-release",)
    assert found.warnings == ()


def test_a_plain_tar_and_a_gzip_of_several_streams_are_read_alike() -> None:
    plain = payloads.tar(
        {"./release-manifests/image-references": payloads.references("4.16.15", _GOOD)}, tarfile.USTAR_FORMAT
    )
    whole = _read(plain)
    assert whole is not None
    assert whole == _read(gzip.compress(plain[:700]) + gzip.compress(plain[700:]) + bytes(100))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_form_are_understood(form: int) -> None:
    name = "release-manifests/0000_" + "b" * 60 + "/" + "c" * 60
    long = "release-manifests/" + "d" * 90 + ("" if form == tarfile.USTAR_FORMAT else "d" * 200)
    fd = payloads.descriptor(payloads.tar({name: b"1" * 513, long + "/é": b"2", "release-manifests/x": b""}, form))
    found = [(one.name, one.content) for one in layers.members(fd, lambda name: name != "release-manifests/x")]
    os.close(fd)
    assert found == [
        ("release-manifests", None),
        (name, b"1" * 513),
        (long + "/é", b"2"),
        ("release-manifests/x", None),
    ]


def test_a_layer_without_references_leads_to_the_one_below() -> None:
    assert _read(payloads.layer({"0000_a.yaml": b"kind: A\n"})) is None
    assert _read(gzip.compress(bytes(1024))) is None


@pytest.mark.parametrize("gone", [".wh.image-references", ".wh..wh..opq"])
def test_a_layer_that_removes_references_is_no_reason_to_believe_the_one_below(gone: str) -> None:
    assert "removes" in _refused(payloads.layer({gone: b""}))


@pytest.mark.parametrize(
    ("annotations", "api", "asked"),
    [
        ({}, "config.openshift.io/v1", True),
        ({}, "config.openshift.io/v1alpha1", True),
        ({}, "example.com/v1", False),
        ({"release.openshift.io/feature-set": "Default"}, "config.openshift.io/v1", True),
        ({"release.openshift.io/feature-set": "TechPreviewNoUpgrade"}, "config.openshift.io/v1", False),
        (
            {"release.openshift.io/feature-set": "CustomNoUpgrade,DevPreviewNoUpgrade,TechPreviewNoUpgrade"},
            "config.openshift.io/v1alpha1",
            False,
        ),
        ({"release.openshift.io/feature-set": "TechPreviewNoUpgrade, Default"}, "config.openshift.io/v1", True),
        ({"release.openshift.io/delete": "true"}, "config.openshift.io/v1", False),
    ],
)
def test_scopes_of_the_default_feature_set_count(annotations: dict[str, str], api: str, asked: bool) -> None:
    found = _read(
        payloads.payload_layer(
            "4.21.0", _GOOD, {"p.yaml": payloads.policy("quay.io/x", api=api, annotations=annotations)}
        )
    )
    assert found is not None
    assert found.sigstore_scopes == (("quay.io/x",) if asked else ())


@pytest.mark.parametrize(
    "manifest",
    [
        b"kind: ClusterImagePolicy\n  bad: [",
        b"kind: ClusterImagePolicy\napiVersion: config.openshift.io/v1\n",
        payloads.policy("quay.io/\x1b[31m"),
        b"kind: ClusterImagePolicy\nx: " + b"[" * 5000 + b"]" * 5000,
        b"kind: ClusterImagePolicy\nx: [" + b"a," * 200_000 + b"]",
        b"&a [ClusterImagePolicy, *a]",
        payloads.boot_images(x86_64=f"{_ART}:tag"),
        payloads.boot_images(x86_64="not a pullspec"),
        b"\xff\xfe ClusterImagePolicy",
    ],
)
def test_a_manifest_that_cannot_be_read_is_a_warning(manifest: bytes) -> None:
    found = _read(payloads.payload_layer("4.21.0", _GOOD, {"p.yaml": manifest}))
    assert found is not None
    assert found.sigstore_scopes == ()
    assert found.kubevirt == {}
    assert [one.partition(" ")[0] for one in found.warnings] == ["release-manifests/p.yaml"]


@pytest.mark.parametrize(
    ("scope", "source", "matches"),
    [
        ("quay.io/a/b", "quay.io/a/b", True),
        ("quay.io/a/b", "quay.io/a/b/c", True),
        ("quay.io/a/b", "quay.io/a/bc", False),
        ("quay.io", "quay.io/a", True),
        ("quay.io", "quay.io.example/a", False),
        ("quay.io:443", "quay.io/a", False),
        ("quay.io:443/a", "quay.io:443/a", True),
        ("*.example.com", "reg.example.com/a", True),
        ("*.example.com", "a.reg.example.com/a", True),
        ("*.example.com", "example.com/a", False),
        ("*.example.com", "badexample.com/a", False),
        ("quay.io/a/b:v1", "quay.io/a/b", True),
        (f"quay.io/a/b@sha256:{'a' * 64}", "quay.io/a/b", True),
        ("quay.io/a/b:v1", "quay.io/a/b:v1/c", False),
    ],
)
def test_scopes_match_on_the_borders_of_components(scope: str, source: str, matches: bool) -> None:
    assert manifests_yaml.covers(scope, source) is matches


def _with_references(**over: object) -> bytes:
    return payloads.layer({"image-references": payloads.references("4.16.15", _GOOD, **over)})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_with_references(kind="ConfigMap"), "ImageStream"),
        (_with_references(apiVersion="v1"), "ImageStream"),
        (_with_references(metadata={"name": "latest"}), "version"),
        (_with_references(metadata={"name": "4.16.15\x1b[2J"}), "version"),
        (_with_references(metadata=None), "metadata"),
        (_with_references(spec={"tags": []}), "components"),
        (_with_references(spec={"tags": [{"name": "a"}]}), "from"),
        (
            _with_references(spec={"tags": [{"name": "a", "from": {"kind": "ImageStreamTag", "name": _CLI}}]}),
            "no image",
        ),
        (
            _with_references(spec={"tags": [{"name": "a\nb", "from": {"kind": "DockerImage", "name": _CLI}}]}),
            "malformed",
        ),
        (_with_references(spec={"tags": [{"name": "a", "from": {"kind": "DockerImage", "name": _CLI}}] * 2}), "twice"),
        (
            _with_references(spec={"tags": [{"name": "a", "from": {"kind": "DockerImage", "name": f"{_ART}:v1"}}]}),
            "tag",
        ),
        (
            _with_references(spec={"tags": [{"name": "a", "from": {"kind": "DockerImage", "name": "../x"}}]}),
            "malformed",
        ),
        (_with_references(spec={"tags": [{"name": str(n)} for n in range(3000)]}), "2000"),
        (payloads.layer({"image-references": b"[" * 10_000}), "JSON"),
        (payloads.layer({"image-references": b'{"kind": "a", "kind": "b"}'}), "twice"),
        (payloads.layer({"image-references": b"\xff"}), "JSON"),
        (payloads.layer({"image-references": b" " * (layers.FILE_LIMIT + 1)}), "more than"),
        (
            payloads.layer(
                {
                    "image-references": payloads.references("4.16.15", _GOOD),
                    "release-metadata": payloads.metadata("4.16.16"),
                }
            ),
            "4.16.16",
        ),
        (
            payloads.layer(
                {
                    "image-references": payloads.references("4.16.15", _GOOD),
                    "release-metadata": payloads.metadata("4.16.15", kind="x"),
                }
            ),
            "cincinnati-metadata-v0",
        ),
        (
            payloads.layer(
                {
                    "image-references": payloads.references("4.16.15", _GOOD),
                    "release-metadata": payloads.metadata("4.16.15", previous=[1]),
                }
            ),
            "previous",
        ),
    ],
)
def test_senseless_payloads_are_refused(content: bytes, why: str) -> None:
    assert why in _refused(content)


_REFERENCES = _entry("release-manifests/image-references", content=payloads.references("4.16.15", _GOOD))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_REFERENCES + _REFERENCES, "twice"),
        (_REFERENCES + _entry("a/../release-manifests//./image-references", content=b"{}"), "twice"),
        (_REFERENCES + _entry("/../release-manifests/image-references", content=b"{}"), "twice"),
        (_entry("release-manifests/image-references", tarfile.SYMTYPE, link="/etc/passwd"), "regular"),
        (_entry("release-manifests/image-references", tarfile.LNKTYPE, link="x"), "regular"),
        (_entry("release-manifests/image-references", tarfile.CHRTYPE), "regular"),
        (_entry("release-manifests/image-references", tarfile.FIFOTYPE), "regular"),
        (_entry("release-manifests/image-references/", tarfile.DIRTYPE), "regular"),
        (_entry("release-manifests/image-references/", content=b"{}"), "regular"),
        (_entry("release-manifests/image-references", b"S"), "regular"),
        (_REFERENCES[:-512], "short"),
        (_REFERENCES[:700], "short"),
        (_REFERENCES + bytes(512) + _REFERENCES, "after its end"),
        (_REFERENCES[:100] + b"7" + _REFERENCES[101:], "not a tar"),
        (b"<!DOCTYPE html><title>Sign in</title>" * 30, "tar"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
        (b"\x1f\x8b" + b"garbage" * 100, "gzip"),
        (gzip.compress(_REFERENCES + _entry("x", content=b"x" * 100_000))[:-100], "short"),
    ],
)
def test_hostile_tars_are_refused(content: bytes, why: str) -> None:
    assert why in _refused(content)


def test_links_and_devices_elsewhere_are_passed_over() -> None:
    found = _read(
        _entry("etc", tarfile.SYMTYPE, link="/etc")
        + _entry("dev/sda", tarfile.BLKTYPE)
        + _entry("../../etc/shadow", content=b"x")
        + _entry("release-manifests/p.yaml", tarfile.SYMTYPE, link="image-references")
        + _entry("\x1b[2J" + "a" * 300, content=b"y" * 1000)
        + _REFERENCES
    )
    assert found is not None
    assert len(found.components) == 2


def _header(size: bytes, kind: bytes = b"0", name: bytes = b"x") -> bytes:
    blank = bytearray(512)
    blank[: len(name)] = name
    blank[124:136] = size.ljust(12, b"\0")
    blank[148:156] = b" " * 8
    blank[156:157] = kind
    blank[148:156] = b"%06o\0 " % sum(blank)
    return bytes(blank)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (_header(b"\xff" * 12), "out of range"),
        (_header(b"\x80" + b"\xff" * 11), "short"),
        (_header(b"99999999999"), "an invalid number"),
        (_header(b"77777777777"), "short"),
        (_header(b"77777777777", b"L"), "header of"),
        (_header(b"77777777777", b"x"), "header of"),
        (_header(b"00000000005", b"x") + b"3 a=\n".ljust(512, b"\0"), "pax"),
        (_header(b"00000000011", b"x") + b"9 size=x\n".ljust(512, b"\0") + _header(b"0"), "size"),
        (_header(b"00000000012", b"x") + b"10 size=-5".ljust(512, b"\0") + _header(b"0"), "pax"),
        (_header(b"00000000003", b"x") + b"0 a".ljust(512, b"\0"), "pax"),
    ],
)
def test_odd_headers_are_refused(content: bytes, why: str) -> None:
    assert why in _refused(content)


def test_more_members_than_a_layer_has_are_refused() -> None:
    assert "entries" in _refused(gzip.compress(_header(b"0") * (layers.MEMBERS_LIMIT + 1), 1))


def test_a_bomb_is_stopped_with_little_memory() -> None:
    # 600 MiB of one file in 600 KiB, behind a name that is of no interest.
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1024 * 1024)
    bomb = squeeze.compress(_header(b"77777777777")) + b"".join(squeeze.compress(zeros) for _ in range(600))
    bomb += squeeze.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "holds more than" in _refused(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20) | st.just(_CLI),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["kind", "name", "from", "tags", "metadata", "spec", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["kind", "apiVersion", "metadata", "spec", "tags", "from", "tag"]), _JSON)
def test_any_json_is_read_or_refused(where: str, value: object) -> None:
    document = json.loads(payloads.references("4.16.15", _GOOD))
    if where == "tags":
        document["spec"]["tags"] = value
    elif where == "tag":
        document["spec"]["tags"][0] = value
    elif where == "from":
        document["spec"]["tags"][0]["from"] = value
    else:
        document[where] = value
    try:
        found = _read(payloads.layer({"image-references": json.dumps(document).encode()}))
    except PayloadInvalid:
        return
    assert found is not None
    assert all(one.pullspec.digest for one in found.components)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_read_or_refused(data: st.DataObject) -> None:
    whole = bytearray(payloads.tar({"release-manifests/image-references": payloads.references("4.16.15", _GOOD)}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, 2047))] = data.draw(st.integers(0, 255))
    content = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        _read(content if data.draw(st.booleans()) else gzip.compress(content))
    except PayloadInvalid:
        return
