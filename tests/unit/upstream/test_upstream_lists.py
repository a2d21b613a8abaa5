"""Manifests, tag lists and referrers that are not as they should be."""

import pytest

from mirror.errors import NotOffered, UpstreamError, UpstreamInvalid
from mirror.oci.digest import Digest
from mirror.oci.media_types import ACCEPT, DOCKER_SCHEMA1_SIGNED
from tests.peers.faults import (
    Html,
    NoLength,
    Status,
    WithHeaders,
    WrongContentRange,
)
from tests.peers.settings import client_of
from tests.unit.upstream.conftest import CONTENT, DIGEST

# -- manifests


async def test_every_request_says_the_same(registry, client):
    await client.get_manifest("team/app", "v1")
    await client.head_manifest("team/app", "v1")
    for seen in registry.requests:
        assert seen.headers["accept"] == ACCEPT
        assert seen.headers["accept-encoding"] == "identity"
        assert seen.headers["user-agent"].startswith("mirror/")


@pytest.mark.parametrize("fault", [None, NoLength(chunked=True), NoLength(chunked=False)], ids=repr)
async def test_a_huge_manifest_is_refused(registry, fault):
    big = registry.add_manifest("team/app", b'{"x":"' + b"a" * 100_000 + b'"}', "application/json", "big")
    if fault:
        registry.fail("manifest", fault)
    async with client_of(registry.url, general={"limits": {"manifest": 65536}}) as client:
        with pytest.raises(UpstreamInvalid, match="over the limit of 65536"):
            await client.get_manifest("team/app", big)


async def test_a_manifest_of_four_mebibytes(registry, client):
    body = b'{"x":"' + b"a" * (4 * 2**20 - 8) + b'"}'
    digest = registry.add_manifest("team/app", body, "application/json")
    assert (await client.get_manifest("team/app", digest)).body == body


@pytest.mark.parametrize("status", [401, 403, 404, 405])
async def test_head_that_does_not_serve_becomes_get(registry, client, status):
    """Harbor answers 404 to HEAD, public ECR 401."""
    registry.fail("manifest", Status(status), method="HEAD")
    registry.fail("blob", Status(status), method="HEAD")
    head = await client.head_manifest("team/app", "v1")
    got = await client.get_manifest("team/app", "v1")
    assert (head.digest, head.got, head.size) == (Digest.of(got.body), got, len(got.body))
    assert await client.head_blob("team/app", DIGEST) == len(CONTENT)
    assert registry.seen("blob")[-1].headers["range"] == "bytes=0-0"


@pytest.mark.parametrize("missing", ["Docker-Content-Digest", "Content-Length"])
async def test_head_without_what_is_needed_becomes_get(registry, client, missing):
    fault = NoLength(chunked=False) if missing == "Content-Length" else WithHeaders({missing: ""})
    registry.fail("manifest", fault, method="HEAD")
    head = await client.head_manifest("team/app", "v1")
    assert head.got is not None
    assert head.digest == Digest.of(head.got.body)


async def test_a_tag_is_not_named_by_bytes_that_the_header_does_not_name(registry, client):
    registry.fail("manifest", Status(405), method="HEAD")
    registry.fail("manifest", WithHeaders({"Docker-Content-Digest": str(DIGEST)}), method="GET")
    head = await client.head_manifest("team/app", "v1")
    assert (head.digest, head.got.digest) == (None, DIGEST)


async def test_a_signed_schema1_manifest_is_named_by_its_header(registry, client):
    registry.add_manifest("team/app", b'{"schemaVersion":1}', DOCKER_SCHEMA1_SIGNED, "old")
    registry.fail("manifest", Status(405), method="HEAD")
    registry.fail("manifest", WithHeaders({"Docker-Content-Digest": str(DIGEST)}), method="GET")
    assert (await client.head_manifest("team/app", "old")).digest == DIGEST


@pytest.mark.parametrize("digest", ["", "sha256:ABC", "md5:" + "0" * 32, "sha256:" + "0" * 63])
async def test_a_digest_that_is_none_counts_as_missing(registry, client, digest):
    registry.fail("manifest", WithHeaders({"Docker-Content-Digest": digest}))
    assert (await client.get_manifest("team/app", "v1")).digest is None


async def test_sizes_that_are_not_told(registry, client):
    registry.fail("blob", NoLength(), method="HEAD")
    assert await client.head_blob("team/app", DIGEST) == len(CONTENT)
    registry.fail("blob", WrongContentRange("bytes 0-0/*"), method="GET")
    with pytest.raises(UpstreamInvalid, match="does not say how long"):
        await client.head_blob("team/app", DIGEST)


# -- lists


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"tags": {}}',
        b'{"tags": [1]}',
        b'{"tags": "v1"}',
        b"[" * 100_000,
        b"\xff",
        b"x" * (5 << 20),
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_tag_lists_that_are_none(registry, client, body):
    registry.fail("tags", Status(200, {"Content-Type": "application/json"}, body))
    with pytest.raises(UpstreamInvalid):
        await client.list_tags("team/app")


async def test_an_empty_repository_has_null(registry, client):
    registry.fail("tags", Status(200, {"Content-Type": "application/json"}, b'{"name":"x","tags":null}'))
    assert await client.list_tags("team/app") == []


async def test_names_that_nobody_could_pull_are_left_out(registry, client):
    body = b'{"tags": ["v1", "../../x", "", "-a", "\\u202e", "a/b", "v2\\n", "' + b"a" * 129 + b'"]}'
    registry.fail("tags", Status(200, {"Content-Type": "application/json"}, body))
    assert await client.list_tags("team/app") == ["v1"]


async def test_ten_thousand_tags_are_enough(registry, client):
    registry.repository("team/app").tags = {f"v{number:05}": "x" for number in range(12_000)}
    registry.page = 1000
    tags = await client.list_tags("team/app")
    assert len(tags) == 10_000
    assert registry.count("tags") == 10


@pytest.mark.parametrize(
    "link",
    [
        '</v2/team/app/tags/list?last=v1&n=1>; rel="next"',
        "<tags/list?last=v1&n=1>;rel=next",
        '<https://elsewhere.example/v2/x/tags/list?last=v1&n=1>; rel="next"',
        '</a>; rel="prev", </v2/x?last=v1&n=1>; title="a,b"; rel="next"',
    ],
)
async def test_links(registry, client, link):
    registry.fail("tags", WithHeaders({"Link": link}), times=1)
    registry.repository("team/app").tags["v2"] = "x"
    assert await client.list_tags("team/app") == ["v1", "v2"]
    assert registry.requests[-1].target == "/v2/team/app/tags/list?last=v1&n=1"


@pytest.mark.parametrize("cursors", [["v1", "v1"], ["a", "b", "a", "b"], ["a", "b", "c", "d"]], ids="-".join)
async def test_a_cursor_that_leads_nowhere_ends_the_list(registry, client, cursors):
    """Artifactory (renovate#15080): the same page again, under the same cursor or another one."""
    tags = b'{"name":"x","tags":["v1","v2"]}'
    for cursor in cursors:
        link = f'</v2/team/app/tags/list?last={cursor}&n=1000>; rel="next"'
        registry.fail("tags", Status(200, {"Content-Type": "application/json", "Link": link}, tags), times=1)
    registry.fail("tags", Status(500))
    assert await client.list_tags("team/app") == ["v1", "v2"]
    assert registry.count("tags") <= 2


async def test_an_empty_page_is_not_the_last_one(registry, client):
    """Guards the rule above: registries that filter after they have read a page send empty ones."""
    empty = {"Content-Type": "application/json", "Link": '<?last=a&n=1000>; rel="next"'}
    registry.fail("tags", Status(200, empty, b'{"name":"x","tags":[]}'), times=1)
    assert await client.list_tags("team/app") == ["v1"]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("page", [0, 2, 100])
async def test_pages_of_our_size_that_are_refused(registry, client, status, page):
    """Registries with pages of at most 100 say PAGINATION_NUMBER_INVALID to more."""
    registry.page = page
    registry.repository("team/app").tags.update({f"v{number}": "x" for number in range(2, 6)})
    registry.fail("tags", Status(status), times=1)
    assert await client.list_tags("team/app") == ["v1", "v2", "v3", "v4", "v5"]
    assert [one.query for one in registry.requests[:2]] == ["n=1000", ""]


@pytest.mark.parametrize(("status", "requests"), [(400, 2), (405, 1), (403, 1), (404, 1), (418, 1)])
async def test_a_refusal_is_asked_about_once(registry, client, status, requests):
    """Guards the rule above: what another size of page does not change is believed."""
    registry.fail("tags", Status(status))
    with pytest.raises(UpstreamError):
        await client.list_tags("team/app")
    assert registry.count("tags") == requests


async def test_a_list_in_pages_is_gone_through_once(registry, client):
    registry.page = 2
    registry.repository("team/app").tags.update({f"v{number}": "x" for number in range(2, 6)})
    assert await client.list_tags("team/app") == ["v1", "v2", "v3", "v4", "v5"]
    assert registry.count("tags") == 3


async def test_referrers_in_pages(registry, client):
    def page(number):
        entry = {"mediaType": "m", "digest": f"sha256:{number}", "size": 1}
        return f'{{"schemaVersion":2,"mediaType":"i","manifests":[{str(entry).replace(chr(39), chr(34))}]}}'.encode()

    first = {"Content-Type": "application/json", "Link": '<?page=2>; rel="next"', "OCI-Filters-Applied": "artifactType"}
    registry.fail("referrers", Status(200, first, page(1)), times=1)
    registry.fail("referrers", Status(200, {"OCI-Filters-Applied": "artifactType"}, page(2)), times=1)
    got = await client.list_referrers("team/app", DIGEST, "application/x+y")
    assert got.filtered
    assert b"sha256:1" in got.body
    assert b"sha256:2" in got.body
    assert registry.requests[0].query == "artifactType=application%2Fx%2By"


async def test_referrers_that_are_none(registry, client):
    registry.fail("referrers", Status(200, body=b'{"manifests": 7}'))
    with pytest.raises(NotOffered):
        await client.list_referrers("team/app", DIGEST)


@pytest.mark.parametrize("second", [Status(400), Status(501), Html(), Status(200, body=b"{}")], ids=repr)
async def test_referrers_that_break_off_are_not_taken_for_none(registry, client, second):
    """It overshoots to say `not offered` of a list that has begun: signatures would be absent."""
    registry.fail("referrers", Status(200, {"Link": '<?page=2>; rel="next"'}, b'{"manifests": [{}]}'), times=1)
    registry.fail("referrers", second)
    with pytest.raises(UpstreamInvalid, match="breaks off") as raised:
        await client.list_referrers("team/app", DIGEST)
    assert not isinstance(raised.value, NotOffered)
