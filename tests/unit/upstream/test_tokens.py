"""Tokens: fetched once, bounded, renewed ahead of time, gone when they end."""

import asyncio

import pytest

from mirror.errors import UpstreamUnavailable
from mirror.upstream import tokens as tokens_module
from mirror.upstream.auth import Grant
from mirror.upstream.secret import Secret
from mirror.upstream.tokens import TokenCache


class Service:
    def __init__(self, lifetime=300.0, seconds=0.0, error=None):
        self.lifetime, self.seconds, self.error, self.given, self.asked = lifetime, seconds, error, 0, 0

    async def __call__(self):
        self.asked += 1
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        self.given += 1
        return Grant(Secret(f"Bearer {self.given}"), self.lifetime)


@pytest.fixture
async def tokens():
    cache = TokenCache(most=3)
    yield cache
    await cache.close()


async def test_it_is_kept(tokens):
    service = Service()
    assert (await tokens.get("a", service)).reveal() == "Bearer 1"
    assert (await tokens.get("a", service)).reveal() == "Bearer 1"
    assert (await tokens.get("b", service)).reveal() == "Bearer 2"


async def test_many_callers_one_request(tokens):
    service = Service(seconds=0.02)
    got = await asyncio.gather(*(tokens.get("a", service) for _ in range(50)))
    assert {one.reveal() for one in got} == {"Bearer 1"}


async def test_a_cancelled_caller_harms_nobody(tokens):
    service = Service(seconds=0.05)
    first = asyncio.create_task(tokens.get("a", service))
    second = asyncio.create_task(tokens.get("a", service))
    await asyncio.sleep(0.01)
    first.cancel()
    assert (await second).reveal() == "Bearer 1"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_refused_one_is_replaced_once(tokens):
    service = Service()
    old = await tokens.get("a", service)
    new = await asyncio.gather(*(tokens.get("a", service, refused=old) for _ in range(10)))
    assert {one.reveal() for one in new} == {"Bearer 2"}
    # Who comes later with the old one's refusal gets the new one.
    assert (await tokens.get("a", service, refused=old)).reveal() == "Bearer 2"


async def test_near_its_end_it_is_renewed_behind_the_scenes(tokens, monkeypatch):
    service = Service()
    monkeypatch.setattr(tokens_module, "_REFRESH_SHARE", 0.0)  # at once
    assert (await tokens.get("a", service)).reveal() == "Bearer 1"
    monkeypatch.undo()
    assert (await tokens.get("a", service)).reveal() == "Bearer 1"
    while service.given < 2:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0)
    for _ in range(3):
        assert (await tokens.get("a", service)).reveal() == "Bearer 2"


async def test_at_its_end_it_is_gone(tokens):
    service = Service(lifetime=0.05)
    await tokens.get("a", service)
    await asyncio.sleep(0.08)
    assert (await tokens.get("a", service)).reveal() == "Bearer 2"


async def test_a_failed_renewal_ahead_of_time_is_silent(tokens, monkeypatch):
    service = Service()
    monkeypatch.setattr(tokens_module, "_REFRESH_SHARE", 0.0)
    await tokens.get("a", service)
    service.error = UpstreamUnavailable("away")
    for asked in (2, 3):
        assert (await tokens.get("a", service)).reveal() == "Bearer 1"
        while service.asked < asked:
            await asyncio.sleep(0.005)


async def test_failures_reach_everybody_and_are_not_kept(tokens):
    service = Service(seconds=0.01, error=UpstreamUnavailable("away"))
    got = await asyncio.gather(*(tokens.get("a", service) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(one, UpstreamUnavailable) for one in got)
    service.error = None
    assert (await tokens.get("a", service)).reveal() == "Bearer 1"


async def test_it_is_bounded_and_the_least_used_goes(tokens):
    service = Service()
    for key in "abc":
        await tokens.get(key, service)
    await tokens.get("a", service)
    await tokens.get("d", service)
    assert len(tokens) == 3
    assert (await tokens.get("a", service)).reveal() == "Bearer 1"
    assert (await tokens.get("b", service)).reveal() == "Bearer 5"
    for number in range(1000):
        await tokens.get(f"k{number}", service)
    assert len(tokens) == 3
    assert len(tokens._cache._cache) == 3
    assert len(tokens._cache._handlers) == 3
