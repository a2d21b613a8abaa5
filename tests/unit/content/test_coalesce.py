"""One piece of work for everybody who asks: kept for who may ask again, dropped where all have left."""

from __future__ import annotations

import asyncio

import pytest

from mirror.content import coalesce
from mirror.content.callers import Caller, caller
from mirror.content.coalesce import Coalesced
from mirror.line import Line


class Bed:
    """Work by the name "tag" behind a line whose only place is taken."""

    def __init__(self) -> None:
        self.line = Line(1)
        self.works: Coalesced[str, int] = Coalesced()
        self.began = 0
        self.go_on = asyncio.Event()

    async def work(self) -> int:
        self.began += 1
        await self.go_on.wait()
        return self.began

    def ask(self, asking: Caller | None = None) -> asyncio.Task[int]:
        async def request() -> int:
            caller.set(asking)
            return await self.works.run("tag", self.work, self.line)

        return asyncio.create_task(request())


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def end(request: asyncio.Task[int], asking: Caller | None, *, hangs_up: bool) -> None:
    """End a request as its client's hanging up does, or as the end of its patience does."""
    if asking is not None:
        asking.left = hangs_up
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await turns()


@pytest.mark.parametrize(
    ("hang_ups", "kept"),
    [
        ([True], False),
        ([True, True, True], False),
        ([False], True),
        ([True, False], True),
        ([False, True], True),
    ],
)
async def test_work_that_waits_is_dropped_when_all_have_hung_up(hang_ups: list[bool], kept: bool) -> None:
    bed = Bed()
    await bed.line.enter("other")
    callers = [Caller(f"client {number}") for number in range(len(hang_ups))]
    requests = [bed.ask(one) for one in callers]
    await turns()
    for request, asking, hangs_up in zip(requests, callers, hang_ups, strict=True):
        await end(request, asking, hangs_up=hangs_up)
    assert bed.works.running("tag") is kept
    bed.line.leave()
    await turns()
    assert bed.began == kept
    await bed.works.stop()


async def test_what_nobody_asked_for_over_http_is_dropped_with_who_waits() -> None:
    bed = Bed()
    await bed.line.enter("other")
    request = bed.ask()
    await turns()
    await end(request, None, hangs_up=True)
    assert not bed.works.running("tag")


async def test_a_place_is_held_until_the_client_may_ask_again_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "_HELD", 0.0)
    bed = Bed()
    await bed.line.enter("other")
    asking = Caller("client")
    request = bed.ask(asking)
    await turns()
    await end(request, asking, hangs_up=False)
    await asyncio.sleep(0.01)
    assert not bed.works.running("tag")


async def test_who_comes_again_joins_the_work_whose_place_was_held() -> None:
    bed = Bed()
    await bed.line.enter("other")
    asking = Caller("client")
    first = bed.ask(asking)
    await turns()
    await end(first, asking, hangs_up=False)
    second = bed.ask(Caller("client"))
    await turns()
    bed.line.leave()
    bed.go_on.set()
    assert await second == 1


async def test_work_that_has_begun_goes_on_whoever_leaves() -> None:
    bed = Bed()
    asking = Caller("client")
    request = bed.ask(asking)
    await turns()
    assert bed.began == 1
    await end(request, asking, hangs_up=True)
    assert bed.works.running("tag")
    later = bed.ask(Caller("another"))
    bed.go_on.set()
    assert await later == 1


async def test_who_comes_while_work_is_being_dropped_begins_anew() -> None:
    bed = Bed()
    await bed.line.enter("other")
    asking = Caller("client", left=True)
    request = bed.ask(asking)
    await turns()
    request.cancel()
    await asyncio.sleep(0)  # the request has ended; the task that it waited for has not
    later = bed.ask(Caller("another"))
    await turns()
    bed.line.leave()
    bed.go_on.set()
    assert await later == 1


async def test_who_finds_an_answer_too_old_gets_another_though_the_work_of_the_old_one_has_only_just_ended() -> None:
    """A worker stood still for ever: what had ended in that same turn of the loop answered every further question."""
    bed = Bed()
    answers: list[int] = []

    async def ask_until_new() -> None:
        while len(answers) < 3 and (not answers or answers[-1] == 1):
            answers.append(await bed.works.run("tag", bed.work))

    first = bed.ask()
    await turns()
    bed.go_on.set()
    later = asyncio.create_task(ask_until_new())  # its turn comes after that of the work, before what takes that off
    await asyncio.gather(first, later)
    assert answers == [2]
    assert not bed.works.running("tag")
