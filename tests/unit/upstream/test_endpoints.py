"""Which endpoint is asked, and when the next one is."""

import asyncio

import pytest

from mirror.errors import UpstreamDenied, UpstreamInvalid, UpstreamNotFound, UpstreamUnavailable
from mirror.upstream.endpoints import Breaker, ask_in_order
from mirror.upstream.failures import NoConnection


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_breaker_opens_after_five_failures_in_thirty_seconds():
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(4):
        breaker.begin()
        breaker.failed()
    assert breaker.state == "closed"
    breaker.failed()
    assert breaker.state == "open"
    assert breaker.wait() == 5


def test_failures_far_apart_do_not_open_it():
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(20):
        breaker.failed()
        clock.now += 8
    assert breaker.state == "closed"


def test_a_success_forgets_the_failures():
    breaker = Breaker(Clock())
    for _ in range(3):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()
    assert breaker.state == "closed"


def opened(clock):
    breaker = Breaker(clock)
    for _ in range(5):
        breaker.failed()
    return breaker


def test_half_open_lets_one_probe_through():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    assert breaker.state == "half-open"
    assert breaker.wait() == 0
    breaker.begin()
    assert breaker.wait() > 0
    breaker.succeeded()
    assert (breaker.state, breaker.wait()) == ("closed", 0)


def test_a_burst_that_failed_at_once_is_one_outage():
    clock = Clock()
    breaker = opened(clock)
    for _ in range(40):
        breaker.failed()
    assert breaker.wait() == 5
    clock.now += 5
    breaker.failed()
    assert breaker.wait() == 0


def test_a_failed_probe_doubles_the_time_up_to_a_minute():
    clock = Clock()
    breaker = opened(clock)
    waits = []
    for _ in range(6):
        waits.append(breaker.wait())
        clock.now += breaker.wait()
        breaker.begin()
        breaker.failed()
    assert waits == [5, 10, 20, 40, 60, 60]


def test_what_waited_for_a_silent_one_says_it_once():
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(10):
        breaker.rest()
    assert breaker.wait() == 5
    clock.now += 5
    breaker.rest()
    assert breaker.wait() == 10
    breaker.succeeded()
    assert breaker.state == "closed"


def test_an_abandoned_probe_leaves_room_for_the_next():
    clock = Clock()
    breaker = opened(clock)
    clock.now += 5
    breaker.begin()
    breaker.abandoned()
    assert breaker.wait() == 0


class Peer:
    """An endpoint that answers its own name after `seconds`, or fails."""

    def __init__(self, name, seconds=0.0, error=None):
        self.name = name
        self.probes = set()
        self.breaker = Breaker(asyncio.get_running_loop().time)
        self.seconds = seconds
        self.error = error
        self.asked = 0
        self.cancelled = False

    def was_silent(self, seconds):
        self.breaker.rest()

    async def ask(self):
        self.asked += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.name


async def ask(*peers, discarded=None, hedge=0.05):
    gone = [] if discarded is None else discarded
    return await ask_in_order(peers, lambda peer: peer.ask(), gone.append, hedge)


async def test_the_first_is_asked_alone_when_it_answers():
    one, two = Peer("one"), Peer("two")
    assert await ask(one, two) == "one"
    assert two.asked == 0


async def test_the_next_is_asked_when_one_fails():
    one, two = Peer("one", error=UpstreamUnavailable("away")), Peer("two")
    assert await ask(one, two, hedge=10) == "two"


async def test_a_copy_that_lacks_it_is_not_believed_alone():
    assert await ask(Peer("one", error=UpstreamNotFound("no")), Peer("two")) == "two"


async def test_the_next_is_asked_too_when_one_is_silent():
    one, two = Peer("one", seconds=30), Peer("two")
    assert await ask(one, two) == "two"
    assert one.cancelled
    # What this question cost the next one is spared.
    assert one.breaker.state == "open"
    assert await ask(one, two, hedge=10) == "two"
    assert one.asked == 1


async def test_the_slow_one_may_still_win():
    one, two = Peer("one", seconds=0.1), Peer("two", seconds=30)
    assert await ask(one, two) == "one"
    assert two.cancelled
    assert two.breaker.state == "closed"


async def test_the_last_one_left_is_waited_for():
    one, two = Peer("one", seconds=0.2), Peer("two", error=UpstreamUnavailable("away"))
    assert await ask(one, two) == "one"


@pytest.mark.parametrize("error", [UpstreamNotFound("no"), UpstreamDenied("no"), UpstreamInvalid("no")], ids=repr)
async def test_what_the_last_one_says_is_not_held_up_by_a_silent_one(error):
    one, two = Peer("one", seconds=30), Peer("two", error=error)
    with pytest.raises(type(error)):
        await ask(one, two)
    assert one.cancelled
    assert one.breaker.state == "open"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NoConnection("does not accept connections"), "open"),
        (UpstreamUnavailable("answers 500"), "closed"),  # guards the rule: that may be one repository's trouble
        (UpstreamNotFound("no"), "closed"),
    ],
    ids=repr,
)
async def test_one_that_cannot_be_reached_rests_when_another_one_answers(error, state):
    one, two = Peer("one", error=error), Peer("two")
    assert await ask(one, two) == "two"
    assert one.breaker.state == state
    one, two = Peer("one", error=error), Peer("two", error=UpstreamUnavailable("away"))
    with pytest.raises(UpstreamUnavailable):
        await ask(one, two)
    assert one.breaker.state == "closed"


async def test_a_silent_one_is_waited_for_while_the_last_one_is_away():
    one, two = Peer("one", seconds=0.2), Peer("two", error=UpstreamUnavailable("away"))
    assert await ask(one, two, hedge=0.01) == "one"
    assert one.breaker.state == "closed"


def rested(peer):
    """Let a peer have rested: it is to be tried now."""
    peer.breaker.rest()
    peer.breaker._open_until = asyncio.get_running_loop().time()
    assert peer.breaker.state == "half-open"


@pytest.mark.parametrize("last", [None, UpstreamNotFound("no")], ids=repr)
async def test_one_that_has_rested_is_asked_beside_the_next(last):
    one, two = Peer("one", seconds=30), Peer("two", error=last)
    rested(one)
    async with asyncio.timeout(5):
        asking = ask(one, two, hedge=10)
        if last is None:
            assert await asking == "two"
        else:
            with pytest.raises(UpstreamNotFound):
                await asking
    # Nobody waits for it, and it is judged all the same.
    assert one.asked == 1
    assert not one.cancelled
    assert len(one.probes) == 1
    for probe in one.probes:
        probe.cancel()


async def test_one_that_has_rested_and_is_silent_rests_twice_as_long():
    one, two = Peer("one", seconds=30), Peer("two")
    rested(one)
    assert await ask(one, two) == "two"
    await asyncio.gather(*one.probes, return_exceptions=True)
    assert one.cancelled
    assert 5 < one.breaker.wait() <= 10


async def test_one_that_has_rested_may_answer_first_or_alone():
    one, two = Peer("one"), Peer("two", seconds=30)
    rested(one)
    assert await ask(one, two, hedge=10) == "one"
    one, two = Peer("one", seconds=0.1), Peer("two", error=UpstreamUnavailable("away"))
    rested(one)
    assert await ask(one, two, hedge=10) == "one"


async def test_what_a_probe_brings_when_nobody_waits_is_discarded():
    one, two = Peer("one", seconds=0.1), Peer("two")
    rested(one)
    discarded = []
    assert await ask(one, two, discarded=discarded, hedge=10) == "two"
    await asyncio.gather(*one.probes)
    await asyncio.sleep(0)
    assert discarded == ["one"]


async def test_the_last_one_left_is_no_probe():
    one, two = Peer("one", seconds=0.2), Peer("two", seconds=0.2)
    for peer in (one, two):
        rested(peer)
    assert await ask(one, two, hedge=0.01) == "two"
    one = Peer("one", seconds=0.2)
    rested(one)
    assert await ask(one, hedge=0.01) == "one"


async def test_three_overlap():
    one, two, three = Peer("one", seconds=30), Peer("two", seconds=30), Peer("three")
    assert await ask(one, two, three) == "three"
    assert one.cancelled
    assert two.cancelled


async def test_the_last_ones_error_decides():
    gone, away = UpstreamNotFound("no"), UpstreamUnavailable("away")
    with pytest.raises(UpstreamUnavailable):
        await ask(Peer("one", error=gone), Peer("two", error=away))
    with pytest.raises(UpstreamNotFound):
        await ask(Peer("one", error=away), Peer("two", error=gone))


async def test_open_breakers_are_passed_over_and_said():
    one, two = Peer("one"), Peer("two")
    for _ in range(5):
        one.breaker.failed()
    assert await ask(one, two) == "two"
    assert one.asked == 0
    for _ in range(5):
        two.breaker.failed()
    with pytest.raises(UpstreamUnavailable, match="two failed 5 times") as error:
        await ask(one, two)
    assert 0 < error.value.retry_after <= 5


async def test_an_absence_is_not_believed_while_the_last_one_is_away():
    one, two = Peer("one", error=UpstreamNotFound("no")), Peer("two")
    for _ in range(5):
        two.breaker.failed()
    with pytest.raises(UpstreamUnavailable):
        await ask(one, two)


async def test_what_comes_too_late_is_discarded():
    class Stubborn(Peer):
        async def ask(self):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return "late"

    discarded = []
    assert await ask(Stubborn("one"), Peer("two"), discarded=discarded) == "two"
    assert discarded == ["late"]


async def test_cancelling_stops_them_all():
    one, two = Peer("one", seconds=30), Peer("two", seconds=30)
    asking = asyncio.create_task(ask(one, two, hedge=0.01))
    while not two.asked:
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert one.cancelled
    assert two.cancelled


async def test_an_error_that_is_not_ours_is_not_swallowed():
    two = Peer("two", seconds=30)
    with pytest.raises(ZeroDivisionError):
        await ask(Peer("one", error=ZeroDivisionError()), two)
