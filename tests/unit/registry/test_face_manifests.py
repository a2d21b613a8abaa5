"""Manifests over the wire: fields, HEAD, conditions, and which content is asked."""

from __future__ import annotations

import json

import pytest

from mirror.content.answers import ManifestAnswer
from mirror.errors import UpstreamDenied, UpstreamUnavailable
from mirror.oci.digest import Digest
from mirror.oci.media_types import DOCKER_SCHEMA1_SIGNED, OCI_INDEX

BODY = json.dumps({"schemaVersion": 2, "é": "\r\n"}).encode()


async def test_the_bytes_and_fields_of_a_manifest(content, face):
    digest = content.add_manifest(BODY, "v1", media_type=OCI_INDEX)
    for reference in ("v1", str(digest), str(digest).replace(":", "%3A")):
        reply = await face.ask(f"/v2/quay.io/a/manifests/{reference}")
        assert reply.status == 200
        assert reply.body == BODY
        fields = reply.fields
        assert fields.pop("date").endswith(" GMT")
        assert fields == {
            "content-type": OCI_INDEX,
            "content-length": str(len(BODY)),
            "docker-content-digest": str(digest),
            "etag": f'"{digest}"',
            "x-cache": "HIT",
            "docker-distribution-api-version": "registry/2.0",
            "x-content-type-options": "nosniff",
        }


async def test_head_has_the_gets_fields_and_no_body(content, face):
    digest = content.add_manifest(BODY)
    wire = await face.connect()
    await wire.send(f"/v2/quay.io/a/manifests/{digest}", "HEAD")
    head = await wire.read("HEAD")
    await wire.send(f"/v2/quay.io/a/manifests/{digest}")  # a stray byte of a body would be read as its status line
    get = await wire.read()
    head.fields.pop("date")
    get.fields.pop("date")
    assert head.fields == get.fields
    assert get.body == BODY
    await wire.close()


async def test_a_head_that_needed_no_bytes_still_says_their_number(content, face):
    digest = Digest.of(BODY)
    content.manifests["v1"] = ManifestAnswer(digest, OCI_INDEX, len(BODY), None, "STALE", warning="old")
    reply = await face.ask("/v2/quay.io/a/manifests/v1", "HEAD")
    assert reply.fields["content-length"] == str(len(BODY))
    assert ("manifest", "v1", True) in content.calls


async def test_what_is_remembered_is_answered_without_waiting(content, face):
    digest = content.add_manifest(BODY)
    content.trouble = AssertionError("asked")
    assert (await face.ask(f"/v2/quay.io/a/manifests/{digest}")).status == 200


async def test_what_is_not_remembered_is_fetched(content, face):
    content.manifests["v1"] = ManifestAnswer(Digest.of(BODY), OCI_INDEX, len(BODY), BODY, "MISS", "quay.io")
    reply = await face.ask("/v2/quay.io/a/manifests/v1")
    assert (reply.status, reply.body, reply.fields["x-cache"]) == (200, BODY, "MISS")
    assert ("manifest", "v1", False) in content.calls


async def test_a_range_on_a_manifest_is_ignored(content, face):
    digest = content.add_manifest(BODY)
    reply = await face.ask(f"/v2/quay.io/a/manifests/{digest}", Range="bytes=0-3")
    assert (reply.status, reply.body) == (200, BODY)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_not_modified(content, face, method):
    digest = content.add_manifest(BODY, "v1")
    wire = await face.connect()
    await wire.send("/v2/quay.io/a/manifests/v1", method, If_None_Match=f'"{digest}"')
    reply = await wire.read(method)
    assert reply.status == 304
    assert reply.fields["etag"] == f'"{digest}"'
    assert reply.fields["x-cache"] == "HIT"
    assert "content-length" not in reply.fields
    await wire.send("/v2/quay.io/a/manifests/v1", "GET", If_None_Match='"other"')
    assert (await wire.read()).status == 200
    await wire.close()


async def test_the_three_forms_of_address(content, face):
    content.add_manifest(BODY, "v1")
    plain = await face.ask("/v2/quay.io/a/b/manifests/v1")
    query = await face.ask("/v2/a/b/manifests/v1?ns=quay.io")
    prefix = await face.ask("/quay.io/v2/a/b/manifests/v1")
    assert [reply.status for reply in (plain, query, prefix)] == [200, 200, 200]
    assert content.calls == [
        ("resolve", "quay.io/a/b", None, None),
        ("resolve", "a/b", "quay.io", None),
        ("resolve", "a/b", None, "quay.io"),
    ]
    assert query.fields["oci-namespace"] == "quay.io"
    assert "oci-namespace" not in plain.fields
    assert "oci-namespace" not in prefix.fields


async def test_an_unknown_upstream_is_a_manifest_that_is_not_there(content, face):
    reply = await face.ask("/v2/a/manifests/v1?ns=gcr.io")
    assert reply.status == 404
    assert reply.error == {"code": "MANIFEST_UNKNOWN", "message": "no upstream 'gcr.io' is configured here"}
    assert "x-cache" not in reply.fields
    assert "oci-namespace" not in reply.fields


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (UpstreamDenied("quay.io does not give this repository"), 404, "MANIFEST_UNKNOWN", None),
        (UpstreamUnavailable("quay.io is away", retry_after=12), 503, "UNKNOWN", "12"),
    ],
)
async def test_upstreams_troubles(content, face, error, status, code, retry):
    content.trouble = error
    reply = await face.ask("/v2/quay.io/a/manifests/v1")
    assert (reply.status, reply.error["code"], reply.fields.get("retry-after")) == (status, code, retry)
    assert reply.error["message"] == error.what
    assert reply.fields["content-type"] == "application/json"
    assert "www-authenticate" not in reply.fields


async def test_a_warning_can_neither_break_out_nor_grow(content, face):
    content.add_manifest(BODY, "v1", cache="STALE", warning='old\r\nX-Evil: 1 "quoted" \\ \u202e ' + "x" * 9000)
    reply = await face.ask("/v2/quay.io/a/manifests/v1")
    assert "x-evil" not in reply.fields
    assert reply.fields["warning"].startswith("299 - \"old X-Evil: 1 'quoted' /   xxx")
    assert reply.fields["warning"].endswith('x"')
    assert len(reply.fields["warning"]) < 600


@pytest.mark.parametrize("bad", ["a/b\r\nX-Evil: 1", "", "é/b", "a/b\x00"])
async def test_a_media_type_that_cannot_stand_in_a_field_is_not_sent(content, face, bad):
    content.add_manifest(BODY, "v1", media_type=bad)
    reply = await face.ask("/v2/quay.io/a/manifests/v1")
    assert "x-evil" not in reply.fields
    assert reply.fields["content-type"] == "application/octet-stream"
    assert reply.body == BODY


async def test_the_media_type_is_the_stored_one_whatever_the_client_accepts(content, face):
    content.add_manifest(BODY, "v1", media_type=DOCKER_SCHEMA1_SIGNED)
    reply = await face.ask("/v2/quay.io/a/manifests/v1", Accept="text/html", Accept_Encoding="gzip")
    assert reply.fields["content-type"] == DOCKER_SCHEMA1_SIGNED
    assert "content-encoding" not in reply.fields
    assert reply.body == BODY


async def test_four_mebibytes_to_a_slow_reader(content, face):
    body = bytes(range(256)) * (4 << 12)
    digest = content.add_manifest(body)
    wire = await face.connect(limit=1 << 14)
    for _ in range(2):
        await wire.send(f"/v2/quay.io/a/manifests/{digest}")
        assert (await wire.read()).body == body
    await wire.close()
    assert (await face.noted(2))["bytes"] == len(body)
