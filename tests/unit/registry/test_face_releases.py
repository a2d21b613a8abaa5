"""The update graph and release signatures over the wire, as clusters ask for them."""

from __future__ import annotations

import json

import pytest

from mirror.oci.digest import Digest

DIGEST = Digest.of(b"release")
NAME = f"sha256={DIGEST.hex}"


@pytest.mark.parametrize("path", ["/api/upgrades_info/v1/graph", "/api/upgrades_info/graph"])
async def test_the_graph_of_a_channel(face, path):
    reply = await face.ask(f"{path}?channel=stable-4.16&arch=arm64&version=4.16.3&id=x")
    assert (reply.status, reply.fields["content-type"]) == (200, "application/json")
    assert json.loads(reply.body) == {"channel": "stable-4.16", "arch": "arm64"}


async def test_amd64_is_meant_where_no_architecture_is_named(face):
    assert json.loads((await face.ask("/api/upgrades_info/v1/graph?channel=a")).body)["arch"] == "amd64"


async def test_a_channel_must_be_named(face):
    reply = await face.ask("/api/upgrades_info/v1/graph?arch=amd64")
    assert reply.status == 400
    assert json.loads(reply.body)["kind"] == "missing_params"


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("application/vnd.redhat.cincinnati.v1+json", 200),
        ("text/html, */*;q=0.1", 200),
        ("text/html", 406),
        ("application/xml", 406),
    ],
)
async def test_the_graph_is_json(face, accept, status):
    reply = await face.ask("/api/upgrades_info/v1/graph?channel=a", Accept=accept)
    assert reply.status == status


async def test_a_query_without_end_is_refused(face):
    reply = await face.ask("/api/upgrades_info/v1/graph?" + "&".join(f"a{number}=1" for number in range(40)))
    assert reply.status == 400


@pytest.mark.parametrize(
    "path",
    [
        f"/{NAME}/signature-1",
        f"/api/upgrades_info/signatures/{NAME}/signature-1",
        f"/openshift-release-dev/ocp-release@{NAME}/signature-1",
    ],
)
async def test_a_signature_under_each_of_its_addresses(content, face, path):
    content.signatures = {(DIGEST, 1): b"\xa3\x01"}
    reply = await face.ask(path)
    assert (reply.status, reply.body) == (200, b"\xa3\x01")
    assert reply.fields["content-type"] == "application/octet-stream"
    assert (await face.ask(path, method="HEAD")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/{NAME}/signature-2",
        f"/{NAME}/signature-0",
        f"/{NAME}/signature-100",
        f"/{NAME[:-1]}/signature-1",
        f"/../{NAME}/signature-1",
        "/api/upgrades_info/v1/graphs",
    ],
)
async def test_what_is_not_there_is_404(content, face, path):
    content.signatures = {(DIGEST, 1): b"\xa3\x01"}
    assert (await face.ask(path)).status == 404
