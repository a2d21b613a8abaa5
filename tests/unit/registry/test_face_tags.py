"""Tag lists and referrers over the wire."""

from __future__ import annotations

import json

import pytest

from mirror.content.answers import ReferrersAnswer, TagPage, Target
from mirror.oci.digest import Digest
from mirror.oci.media_types import OCI_INDEX

DIGEST = Digest.of(b"subject")


async def test_a_whole_list(content, face):
    content.page = TagPage(("a", "b"), more=False)
    reply = await face.ask("/v2/quay.io/a/b/tags/list")
    assert reply.status == 200
    assert reply.fields["content-type"] == "application/json"
    assert json.loads(reply.body) == {"name": "quay.io/a/b", "tags": ["a", "b"]}
    assert "link" not in reply.fields
    assert "x-cache" not in reply.fields
    assert ("tags", None, "") in content.calls


async def test_an_empty_list_is_a_list(content, face):
    assert json.loads((await face.ask("/v2/quay.io/a/tags/list")).body) == {"name": "quay.io/a", "tags": []}


@pytest.mark.parametrize(
    ("target", "link"),
    [
        ("/v2/quay.io/a/tags/list?n=2", "/v2/quay.io/a/tags/list?n=2&last=b"),
        ("/v2/a/tags/list?n=2&ns=quay.io", "/v2/a/tags/list?n=2&last=b&ns=quay.io"),
        ("/quay.io/v2/a/tags/list?last=Z&n=2", "/quay.io/v2/a/tags/list?n=2&last=b"),
        ("/v2/quay.io/a/tags/list?n=5000", "/v2/quay.io/a/tags/list?n=1000&last=b"),
        ("/v2/quay.io/a/tags/list", "/v2/quay.io/a/tags/list?last=b"),
    ],
)
async def test_the_next_page_is_at_the_same_address(content, face, target, link):
    content.page = TagPage(("a", "b"), more=True)
    reply = await face.ask(target)
    assert reply.fields["link"] == f'<{link}>; rel="next"'
    following = await face.ask(link)
    assert following.status == 200
    assert content.calls[-1] == ("tags", content.calls[1][1], "b")
    assert content.calls[0] == content.calls[2]


async def test_ns_with_a_port_is_escaped_in_the_link(content, face):
    content.page = TagPage(("a",), more=True)
    content.resolve = lambda name, ns, prefix: Target("lab", name, f"lab/{name}")
    reply = await face.ask("/v2/a/tags/list?n=1&ns=lab:5000")
    assert reply.fields["link"] == '</v2/a/tags/list?n=1&last=a&ns=lab%3A5000>; rel="next"'
    assert reply.fields["oci-namespace"] == "lab:5000"


async def test_a_tag_that_upstream_should_not_have_cannot_break_out(content, face):
    content.page = TagPage(('a>"\r\nX-Evil: é',), more=True)
    reply = await face.ask("/v2/quay.io/a/tags/list?n=1")
    assert "x-evil" not in reply.fields
    assert reply.fields["link"].count(">") == 1
    assert json.loads(reply.body)["tags"] == ['a>"\r\nX-Evil: é']


@pytest.mark.parametrize(("query", "count"), [("n=0", 0), ("n=1", 1), ("n=1000", 1000), ("n=99999999", 1000)])
async def test_n_is_clamped(content, face, query, count):
    content.page = TagPage((), more=False)
    assert (await face.ask(f"/v2/quay.io/a/tags/list?{query}")).status == 200
    assert ("tags", count, "") in content.calls


async def test_content_that_gives_more_than_a_page_is_cut_to_it(content, face):
    content.page = TagPage(("a", "b"), more=False)
    reply = await face.ask("/v2/quay.io/a/tags/list?n=1")
    assert json.loads(reply.body)["tags"] == ["a"]
    assert reply.fields["link"] == '</v2/quay.io/a/tags/list?n=1&last=a>; rel="next"'


async def test_n_0_is_an_empty_list_without_a_link_whatever_content_says(content, face):
    content.page = TagPage(("a",), more=True)
    reply = await face.ask("/v2/quay.io/a/tags/list?n=0")
    assert json.loads(reply.body)["tags"] == []
    assert "link" not in reply.fields


@pytest.mark.parametrize("query", ["n=-1", "n=x", "n=1&n=2", "last=%0a", "n="])
async def test_a_malformed_query_is_400(content, face, query):
    reply = await face.ask(f"/v2/quay.io/a/tags/list?{query}")
    assert (reply.status, reply.error["code"]) == (400, "UNSUPPORTED")
    assert content.calls == []


async def test_a_list_that_is_old_says_so(content, face):
    content.page = TagPage(("a",), more=False, warning="quay.io is away")
    reply = await face.ask("/v2/quay.io/a/tags/list?ns=quay.io")
    assert reply.fields["warning"] == '299 - "quay.io is away"'
    assert reply.fields["oci-namespace"] == "quay.io"


async def test_an_unknown_name_is_name_unknown(face):
    reply = await face.ask("/v2/gcr.io/a/tags/list")
    assert (reply.status, reply.error["code"]) == (404, "NAME_UNKNOWN")


async def test_referrers(content, face):
    content.index = ReferrersAnswer(b'{"schemaVersion":2}', filtered=False)
    reply = await face.ask(f"/v2/quay.io/a/referrers/{DIGEST}")
    assert (reply.status, reply.body) == (200, b'{"schemaVersion":2}')
    assert reply.fields["content-type"] == OCI_INDEX
    assert "oci-filters-applied" not in reply.fields
    assert ("referrers", DIGEST, None) in content.calls


@pytest.mark.parametrize(("filtered", "said"), [(True, "artifactType"), (False, None)])
async def test_referrers_say_whether_they_were_filtered(content, face, filtered, said):
    content.index = ReferrersAnswer(b"{}", filtered)
    reply = await face.ask(f"/v2/quay.io/a/referrers/{DIGEST}?artifactType=application%2Fx%2Bjson")
    assert reply.fields.get("oci-filters-applied") == said
    assert ("referrers", DIGEST, "application/x+json") in content.calls


async def test_an_upstream_without_referrers_sends_the_client_to_the_fallback_tag(face):
    reply = await face.ask(f"/v2/quay.io/a/referrers/{DIGEST}")
    assert (reply.status, reply.error["code"]) == (404, "NAME_UNKNOWN")


async def test_a_bad_digest_is_400(face):
    reply = await face.ask("/v2/quay.io/a/referrers/sha256:x")
    assert (reply.status, reply.error["code"]) == (400, "DIGEST_INVALID")
