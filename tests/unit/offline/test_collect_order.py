"""The plan depends on what was answered, never on when; and no more is asked at once than was allowed."""

from __future__ import annotations

import asyncio
import functools

import pytest

from mirror.errors import StoreFull, UpstreamNotFound
from mirror.oci.pullspec import Pullspec
from mirror.offline.each import each
from mirror.offline.image_set import Channel, WantedImage
from tests.tools.collecting import collected, graphs, image_set
from tests.tools.image_source import Registries
from tests.tools.images import image, layer, tree
from tests.tools.release import Release, make_release

_APP = "quay.io/acme/app"


@functools.cache
def _release() -> Release:
    return make_release("4.16.15", "multi", components=25, scale=0.01)


def _serving(seed: int | None) -> Registries:
    source = Registries(shuffle=seed)
    source.put_release(_release())
    for name in ("a", "b", "c"):
        source.put(_APP, image([layer(tree({name: b"x"}))]), name)
    source.failing[f"quay.io/openshift-release-dev/ocp-v4.0-art-dev@{_release().components['cli'].digest}"] = (
        UpstreamNotFound("gone")
    )
    return source


_WANTED = image_set(
    Channel("stable-4.16"),
    architectures=["multi"],
    images=[f"{_APP}:c", f"{_APP}:a", WantedImage(Pullspec.parse(f"{_APP}:b"), "x/y", "z"), f"{_APP}:gone"],
    blocked=["app:a"],
    kubevirt=True,
)


async def test_any_order_of_answers_gives_the_same_bytes() -> None:
    first = await collected(_serving(None), _WANTED, graphs(_release()), parallel=1)
    assert first.failures
    for seed in range(4):
        found = await collected(_serving(seed), _WANTED, graphs(_release()), parallel=3 + 7 * seed)
        assert found.plan.dump() == first.plan.dump()
        assert (found.warnings, found.failures, found.unknown_hosts) == (
            first.warnings,
            first.failures,
            first.unknown_hosts,
        )


async def test_no_more_is_asked_at_once_than_was_allowed() -> None:
    source = _serving(0)
    await collected(source, _WANTED, graphs(_release()), parallel=5)
    assert 2 <= source.most_at_once <= 5


async def test_each_keeps_the_order_of_things() -> None:
    async def work(thing: int) -> int:
        await asyncio.sleep(0.001 * (7 - thing % 7))
        return thing * 2

    assert await each(work, range(50), 8) == [thing * 2 for thing in range(50)]
    assert await each(work, [], 8) == []


async def test_the_first_error_ends_each_as_it_is() -> None:
    begun = []

    async def work(thing: int) -> None:
        begun.append(thing)
        await asyncio.sleep(0)
        if thing == 3:
            raise StoreFull("no room")
        await asyncio.sleep(1)

    with pytest.raises(StoreFull):
        await each(work, range(1000), 5)
    assert len(begun) <= 10


async def test_cancelling_ends_the_work() -> None:
    ended = []

    async def work(thing: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(thing)

    running = asyncio.create_task(each(work, range(20), 4))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(ended) == 4
