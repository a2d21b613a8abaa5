"""Readers of a download that stands still: they are cut after a while, one timer for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mirror.content.answers import Target
from mirror.errors import NotYet
from mirror.oci.digest import Digest
from tests.peers import faults
from tests.peers.images import noise
from tests.peers.scripted import ScriptedRegistry
from tests.unit.content.conftest import Room, read

LAB = Target("lab", "team/app", "lab/team/app")
MIB = 1024 * 1024


async def test_who_reads_a_download_that_stands_still_is_cut(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.content.fill.PROGRESS_LIMIT", 0.3)
    digest = Digest.parse(upstream.add_blob("team/app", noise(2 * MIB)))
    upstream.fail("blob", faults.Stall(MIB))
    content = make_room().content
    answers = [await content.blob(LAB, digest, None) for _ in range(3)]
    cut = await asyncio.gather(*map(read, answers[:2]), return_exceptions=True)
    assert [type(error) for error in cut] == [NotYet, NotYet]
    # Who comes when nothing has moved for long gets what is here, and then waits no longer than the others did.
    with pytest.raises(NotYet, match="came for two minutes"):
        await read(answers[2])


async def test_who_reads_a_slow_download_is_not_cut(
    make_room: Callable[..., Room], upstream: ScriptedRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.content.fill.PROGRESS_LIMIT", 1.5)
    body = noise(MIB)
    digest = Digest.parse(upstream.add_blob("team/app", body))
    upstream.fail("blob", faults.Drip(MIB // 64, 0.05))  # 3.2 seconds in all
    content = make_room().content
    answers = [await content.blob(LAB, digest, None) for _ in range(2)]
    assert await asyncio.gather(*map(read, answers)) == [body, body]
