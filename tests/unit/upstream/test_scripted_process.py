"""The scripted registry as a process of its own."""

from mirror.errors import UpstreamInterrupted
from mirror.oci.digest import Digest
from tests.peers.images import noise
from tests.peers.process import running
from tests.peers.settings import client_of


async def test_it_serves_fails_and_tells():
    with running("team/app:v1", 100_000) as registry:
        image = registry.images["team/app:v1"]
        async with client_of(registry.url) as client:
            head = await client.head_manifest("team/app", "v1")
            assert str(head.digest) == image["digest"]
            registry.fail("blob", "Truncate", {"at": 1000}, times=1)
            body = await client.get_blob("team/app", Digest.parse(image["layers"][0]))
            assert await body.read() == noise(100_000)[:1000]
            try:
                await body.read()
                raise AssertionError("the body ended cleanly")
            except UpstreamInterrupted:
                pass
            await body.close()
        (blob,) = registry.requests("blob")
        assert blob["sent"] == 1000
        registry.heal()
        registry.forget()
        assert registry.requests() == []
