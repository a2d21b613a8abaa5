"""The client against the scripted registry: what each operation returns."""

import pytest

from mirror.errors import UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.upstream.factory import open_upstreams
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.peers.settings import config, upstream


@pytest.fixture
async def registry():
    async with ScriptedRegistry() as peer:
        yield peer


@pytest.fixture
async def client(registry):
    clients = open_upstreams(config(upstream(registry.url)), None, {})
    yield clients["peer"]
    await clients.close()


async def whole(body):
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    return b"".join(pieces)


async def test_manifest_by_tag_and_digest(registry, client):
    image = registry.add_image("team/app", "v1")
    head = await client.head_manifest("team/app", "v1")
    assert str(head.digest) == image.digest
    assert head.size == len(image.manifest)
    assert head.got is None
    got = await client.get_manifest("team/app", image.digest)
    assert got.body == image.manifest
    assert got.media_type == image.media_type
    assert got.endpoint == registry.url


async def test_blob_whole_and_ranges(registry, client):
    content = noise(3 << 20)
    digest = Digest.parse(registry.add_blob("team/app", content))
    assert await client.head_blob("team/app", digest) == len(content)
    body = await client.get_blob("team/app", digest)
    assert (body.start, body.total) == (0, len(content))
    assert await whole(body) == content
    body = await client.get_blob("team/app", digest, 1000)
    assert (body.start, body.total) == (1000, len(content))
    assert await whole(body) == content[1000:]
    body = await client.get_blob("team/app", digest, 10, 20)
    assert await whole(body) == content[10:20]
    body = await client.get_blob("team/app", digest, 10, len(content) + 5)
    assert await whole(body) == content[10:]


async def test_absent(registry, client):
    with pytest.raises(UpstreamNotFound):
        await client.get_manifest("team/app", "v1")
    with pytest.raises(UpstreamNotFound):
        await client.head_manifest("team/app", "v1")
    with pytest.raises(UpstreamNotFound):
        await client.head_blob("team/app", Digest.of(b"x"))
    with pytest.raises(UpstreamNotFound):
        await client.list_tags("team/app")


async def test_tags_pages(registry, client):
    image = registry.add_image("team/app")
    registry.page = 3
    registry.absolute_links = True
    for number in range(10):
        registry.repository("team/app").tags[f"v{number}"] = image.digest
    assert await client.list_tags("team/app") == [f"v{number}" for number in range(10)]
    assert registry.count("tags") == 4


async def test_referrers(registry, client):
    image = registry.add_image("team/app", "v1")
    got = await client.list_referrers("team/app", Digest.parse(image.digest))
    assert b'"manifests": []' in got.body
    registry.has_referrers = False
    assert await client.list_referrers("team/app", Digest.parse(image.digest)) is None
