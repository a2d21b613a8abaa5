"""Lanes, several endpoints, and what an error may not show."""

import asyncio
import traceback

import pytest

from mirror.errors import (
    UpstreamError,
    UpstreamNotFound,
)
from mirror.oci.digest import Digest
from mirror.upstream.client import SMALL_BLOB
from tests.peers.faults import (
    CloseBeforeHeaders,
    HangHeaders,
    Html,
    Redirect,
    Stall,
    Status,
    Truncate,
)
from tests.peers.scripted import ScriptedRegistry, TokenLogin
from tests.peers.settings import client_of
from tests.unit.upstream.conftest import CONTENT, DIGEST


async def collect(body):
    """Return what came, and the error that ended it."""
    content = bytearray()
    try:
        while piece := await body.read():
            content += piece
    except UpstreamError as error:
        return bytes(content), error
    finally:
        await body.close()
    return bytes(content), None


# -- lanes and cancelling


async def test_small_requests_never_queue_behind_blobs(registry):
    registry.fail("blob", Stall(1000))
    async with client_of(registry.url, general={"limits": {"fetches_per_upstream": 2}}) as client:
        bodies = [await client.get_blob("team/app", DIGEST) for _ in range(2)]
        third = asyncio.create_task(client.get_blob("team/app", DIGEST))
        await asyncio.sleep(0.05)
        assert not third.done()
        assert registry.count("blob") == 2
        assert await client.get_manifest("team/app", "v1")
        assert await client.list_tags("team/app")
        assert await client.head_blob("team/app", DIGEST) == len(CONTENT)
        fourth = asyncio.create_task(client.get_blob("team/app", DIGEST))
        await asyncio.sleep(0)
        third.cancel()
        with pytest.raises(asyncio.CancelledError):
            await third
        registry.heal()
        await bodies[0].close()
        assert await collect(await fourth) == (CONTENT, None)
        await bodies[1].close()
        for _ in range(5):  # no place was lost
            assert await collect(await client.get_blob("team/app", DIGEST)) == (CONTENT, None)


async def test_small_blobs_never_queue_behind_large_ones(registry):
    registry.fail("blob", Stall(1000))
    async with client_of(registry.url, general={"limits": {"fetches_per_upstream": 2}}) as client:
        large = [await client.get_blob("team/app", DIGEST, size=SMALL_BLOB + 1) for _ in range(2)]
        small = [await client.get_blob("team/app", DIGEST, size=SMALL_BLOB) for _ in range(2)]
        waiting = [asyncio.create_task(client.get_blob("team/app", DIGEST, size=size)) for size in (1, SMALL_BLOB + 1)]
        await asyncio.sleep(0.05)
        assert registry.count("blob") == 4  # as many small ones beside them as large ones, and no more
        assert not any(task.done() for task in waiting)
        registry.heal()
        for body in (small[0], large[0]):
            await body.close()
        for task in waiting:
            assert await collect(await task) == (CONTENT, None)
        for body in (small[1], large[1]):
            await body.close()


async def test_small_blobs_take_the_places_that_no_large_one_wants(registry):
    registry.fail("blob", Stall(1000))
    async with client_of(registry.url, general={"limits": {"fetches_per_upstream": 3}}) as client:
        bodies = [await client.get_blob("team/app", DIGEST, size=1) for _ in range(6)]
        for body in bodies:
            await body.close()


async def test_referrers_do_not_queue_behind_manifests(registry):
    registry.fail("manifest", HangHeaders())
    async with client_of(registry.url) as client:
        asking = [asyncio.create_task(client.get_manifest("team/app", "v1")) for _ in range(20)]
        await asyncio.sleep(0.05)
        await client.list_referrers("team/app", DIGEST)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_failed_blob_gives_its_place_back(registry, impatient):
    async with client_of(registry.url, general={"limits": {"fetches_per_upstream": 1}}) as client:
        for _ in range(3):
            with pytest.raises(UpstreamNotFound):
                await client.get_blob("team/app", Digest.of(b"absent"))
        registry.fail("blob", Truncate(10), times=1)
        assert (await collect(await client.get_blob("team/app", DIGEST)))[1] is not None
        assert await collect(await client.get_blob("team/app", DIGEST)) == (CONTENT, None)


async def test_no_limit(registry):
    async with client_of(registry.url, general={"limits": {"fetches_per_upstream": 0}}) as client:
        registry.fail("blob", Stall(1000))
        bodies = [await client.get_blob("team/app", DIGEST) for _ in range(40)]
        for body in bodies:
            await body.close()


async def test_cancelling_leaves_no_connection_behind(registry, client):
    registry.fail("manifest", HangHeaders())
    asking = asyncio.create_task(client.get_manifest("team/app", "v1"))
    while not registry.count("manifest"):
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    for _ in range(100):
        if not registry.open_connections:
            break
        await asyncio.sleep(0.01)
    assert registry.open_connections == 0


# -- several endpoints


async def test_the_next_endpoint_takes_over(registry, impatient):
    async with ScriptedRegistry() as second:
        image = second.add_image("team/app", "v1", seed=9)
        second.add_blob("team/app", CONTENT)
        async with client_of(registry.url, second.url) as client:
            registry.fail("any", Status(503))
            got = await client.get_manifest("team/app", "v1")
            assert (got.body, got.endpoint) == (image.manifest, second.url)
            await registry.stop()
            assert await collect(await client.get_blob("team/app", DIGEST)) == (CONTENT, None)


async def test_the_next_endpoint_is_asked_when_the_first_is_silent(registry, monkeypatch):
    monkeypatch.setattr("mirror.upstream.endpoints.ask_in_order.__defaults__", (0.1,))
    async with ScriptedRegistry() as second:
        second.add_blob("team/app", CONTENT)
        async with client_of(registry.url, second.url) as client:
            registry.fail("blob", HangHeaders())
            body = await client.get_blob("team/app", DIGEST)
            assert body.endpoint == second.url
            assert await collect(body) == (CONTENT, None)


OPERATIONS = {
    "head": lambda client: client.head_manifest("team/app", "v1"),
    "manifest": lambda client: client.get_manifest("team/app", "v1"),
    "blob": lambda client: client.get_blob("team/app", DIGEST),
    "size": lambda client: client.head_blob("team/app", DIGEST),
    "tags": lambda client: client.list_tags("team/app"),
    "absent": lambda client: client.get_manifest("team/app", "absent"),
}


@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize("first", OPERATIONS)
async def test_what_one_request_learned_of_a_silent_endpoint_the_next_one_uses(registry, monkeypatch, first, second):
    """It accepts, and never answers: once somebody waits for it, and when it has rested nobody does."""
    monkeypatch.setattr("mirror.upstream.endpoints.ask_in_order.__defaults__", (0.1,))
    registry.fail("any", HangHeaders())
    async with ScriptedRegistry() as good:
        good.add_image("team/app", "v1")
        good.add_blob("team/app", CONTENT)

        async def ask(operation):
            try:
                answer = await OPERATIONS[operation](client)
            except UpstreamNotFound:
                assert operation == "absent"
            else:
                if operation == "blob":
                    await answer.close()

        async with client_of(registry.url, good.url) as client:
            await ask(first)
            assert len(registry.requests) == 1
            monkeypatch.setattr("mirror.upstream.endpoints.ask_in_order.__defaults__", (30.0,))
            async with asyncio.timeout(10):
                await ask(second)
            assert len(registry.requests) == 1
            assert "sent no answer within" in client.health()[0].last_error
            breaker = client._endpoints[0].breaker
            breaker._open_until = 0.0
            async with asyncio.timeout(10):
                await ask(second)
                while len(registry.requests) < 2:
                    await asyncio.sleep(0.01)
                # While that question is open nobody else is sent there.
                await ask(first)
            assert len(registry.requests) == 2


async def test_a_silent_endpoint_that_answers_again_is_asked_first_again(registry, monkeypatch):
    monkeypatch.setattr("mirror.upstream.endpoints.ask_in_order.__defaults__", (0.1,))
    async with ScriptedRegistry() as good, client_of(registry.url, good.url) as client:
        good.add_image("team/app", "v1")
        registry.fail("any", HangHeaders(), times=1)
        assert (await client.get_manifest("team/app", "v1")).endpoint == good.url
        (first, _) = client._endpoints
        first.breaker._open_until = 0.0
        await client.get_manifest("team/app", "v1")
        await asyncio.gather(*first.probes)
        assert first.breaker.state == "closed"
        assert (await client.get_manifest("team/app", "v1")).endpoint == registry.url


async def test_a_path_in_an_endpoint(read_whole):
    async with ScriptedRegistry(prefix="/quay.io") as registry:
        registry.add_image("team/app", "v1")
        async with client_of(registry.url) as client:
            await client.get_manifest("team/app", "v1")
            assert registry.requests[0].path == "/quay.io/v2/team/app/manifests/v1"


# -- secrets


async def test_no_error_shows_a_query_or_a_secret(impatient, tmp_path):
    canary = "CANARY"
    password = tmp_path / "password"
    password.write_text(canary)
    login = TokenLogin(users={"robot": canary})
    credentials = {"username": "robot", "password_file": password}
    async with ScriptedRegistry(cdn=True, login=login) as registry:
        registry.add_blob("team/app", CONTENT)
        faults = [
            ("blob", Redirect(f"http://127.0.0.1:1/x?sig={canary}")),
            ("blob", Redirect(f"http://no-such-host.invalid/x?sig={canary}")),
            ("blob", Redirect(f"ftp://x/{canary}?sig={canary}")),
            ("blob", Redirect(f"http://u:{canary}@127.0.0.1/x")),
            ("blob", Redirect(f"{{self}}/v2/?sig={canary}")),
            ("cdn", Status(403)),
            ("cdn", Status(404)),
            ("cdn", CloseBeforeHeaders()),
            ("cdn", Html()),
            ("token", Status(500, body=canary.encode())),
            ("token", Status(200, body=canary.encode())),
            ("token", CloseBeforeHeaders()),
            ("token", Redirect(f"http://evil.example/?{canary}")),
        ]
        for kind, fault in faults:
            async with client_of(registry.url, credentials=credentials) as client:
                registry.heal()
                registry.fail(kind, fault)
                with pytest.raises(UpstreamError) as error:
                    await client.get_blob("team/app", DIGEST)
                text = "".join(traceback.format_exception(error.value)) + repr(error.value) + repr(client.health())
                assert canary not in text
                assert "sig=" not in text
                assert "robot%2Bsecret" not in text
