"""Content codings: which words mean encoded bytes, and how far a body is decoded."""

import gzip
import zlib

import pytest

from mirror.errors import UpstreamInvalid
from mirror.upstream import coding
from tests.peers.faults import Gzip, Status, WithHeaders
from tests.peers.logins import TokenLogin
from tests.peers.settings import client_of
from tests.unit.upstream.conftest import CONTENT, DIGEST

LIMIT = 65536
WORDS = ["aws-chunked", "none", "binary", "utf-8", "identity", "AWS-Chunked", "aws-chunked, binary", "base64", ""]
CODINGS = ["gzip", "x-gzip", "deflate", "br", "zstd", "compress", "GZIP", "aws-chunked, gzip", "gzip,aws-chunked"]


@pytest.fixture
async def client(registry, impatient):
    async with client_of(registry.url, general={"limits": {"manifest": LIMIT}}) as client:
        yield client


@pytest.mark.parametrize("word", WORDS)
async def test_a_word_that_is_no_coding_is_passed_over(registry, client, read_whole, word):
    """Object stores say the upload's `aws-chunked` again (versitygw#2398, noobaa-core#9138, rustfs#2009).

    `identity` and none at all guard what was so before.
    """
    registry.fail("any", WithHeaders({"Content-Encoding": word}))
    assert await read_whole(await client.get_blob("team/app", DIGEST)) == CONTENT
    assert await read_whole(await client.get_blob("team/app", DIGEST, 1000, 2000)) == CONTENT[1000:2000]
    assert await client.head_blob("team/app", DIGEST) == len(CONTENT)
    assert (await client.head_manifest("team/app", "v1")).got is None
    assert (await client.get_manifest("team/app", "v1")).body == registry.add_image("team/app").manifest
    assert await client.list_tags("team/app") == ["v1"]
    assert len(registry.requests) == 6


@pytest.mark.parametrize("word", CODINGS)
async def test_a_blob_in_a_coding_is_refused(registry, client, word):
    """Guards the rule above: its digest is of other bytes, or the proxy that encodes it lies about one or the other."""
    registry.fail("blob", WithHeaders({"Content-Encoding": word}))
    with pytest.raises(UpstreamInvalid, match="encoded although asked not to") as error:
        await client.get_blob("team/app", DIGEST)
    assert "exempt this registry" in error.value.remedy
    with pytest.raises(UpstreamInvalid, match="encoded although asked not to"):
        await client.head_blob("team/app", DIGEST)


async def test_documents_are_decoded(registry, client):
    image = registry.add_image("team/app", "v1")
    registry.fail("any", Gzip())
    assert (await client.get_manifest("team/app", "v1")).body == image.manifest
    assert await client.list_tags("team/app") == ["v1"]
    assert b"manifests" in (await client.list_referrers("team/app", DIGEST)).body
    assert len(registry.requests) == 3
    # What HEAD says of the length is the encoded body's.
    assert (await client.head_manifest("team/app", "v1")).size == len(image.manifest)


async def test_a_token_is_decoded(registry, client):
    registry.login = TokenLogin()
    registry.fail("token", Gzip())
    assert (await client.get_manifest("team/app", "v1")).body


def deflated(body):
    return zlib.compress(body)


@pytest.mark.parametrize(
    ("word", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZip", gzip.compress),
        ("aws-chunked, gzip", gzip.compress),
        ("deflate", deflated),
        ("gzip", lambda body: gzip.compress(body[:10]) + gzip.compress(body[10:])),
        ("gzip", lambda body: body),
    ],
    ids=["gzip", "x-gzip", "in another case", "beside a word", "deflate", "in two pieces", "says so and is not"],
)
async def test_what_is_decoded(registry, client, word, encode):
    image = registry.add_image("team/app", "v1")
    headers = {"Content-Type": image.media_type, "Content-Encoding": word}
    registry.fail("manifest", Status(200, headers, encode(image.manifest)))
    assert (await client.get_manifest("team/app", "v1")).body == image.manifest
    assert registry.count("manifest") == 1


BIG = b'{"a":"' + b" " * LIMIT + b'"}'


@pytest.mark.parametrize(
    ("word", "body", "says"),
    [
        ("gzip", gzip.compress(b" " * (LIMIT + 1)), "over the limit"),
        ("gzip", gzip.compress(b" " * (50 << 20)), "over the limit"),
        ("gzip", gzip.compress(b" " * LIMIT) + gzip.compress(b" "), "over the limit"),
        ("gzip", gzip.compress(b"") * 2000, "pieces"),
        ("gzip", gzip.compress(BIG)[:-20], "cut off|over the limit"),
        ("gzip", gzip.compress(b"{}")[:-3], "cut off"),
        ("gzip", gzip.compress(b"{}") + b"\0\0", "damaged"),
        ("gzip", b"\x1f\x8b\x08\x00" + b"\xff" * 30, "damaged"),
        ("deflate", b"\x78\x9c" + b"\xff" * 30, "damaged"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}")), "encoded although asked not to"),
        ("br", b"{}", "encoded although asked not to"),
        ("zstd", b"{}", "encoded although asked not to"),
    ],
    ids=[
        "a byte too much",
        "a bomb",
        "a bomb in pieces",
        "many pieces",
        "large and cut",
        "cut",
        "more behind",
        "damaged",
        "damaged deflate",
        "twice",
        "br",
        "zstd",
    ],
)
async def test_what_is_not_decoded(registry, client, word, body, says):
    registry.fail("manifest", Status(200, {"Content-Type": "application/json", "Content-Encoding": word}, body))
    with pytest.raises(UpstreamInvalid, match=says) as error:
        await client.get_manifest("team/app", "v1")
    assert error.value.endpoint == registry.url


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_up_to_the_limit(size):
    assert coding.decode(gzip.compress(b"x" * size), LIMIT) == b"x" * size
