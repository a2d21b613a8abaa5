"""Which endpoint is asked, and when the next one is."""

import asyncio

import pytest

from mirror.errors import UpstreamNotFound, UpstreamUnavailable
from mirror.upstream.endpoints import Breaker, ask_in_order


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
        self.breaker = Breaker(asyncio.get_running_loop().time)
        self.seconds = seconds
        self.error = error
        self.asked = 0
        self.cancelled = False

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
    # Silence counts against it: five times, and it is passed over.
    for _ in range(4):
        await ask(one, two)
    assert one.breaker.state == "open"
    await ask(one, two)
    assert one.asked == 5


async def test_the_slow_one_may_still_win():
    one, two = Peer("one", seconds=0.1), Peer("two", seconds=30)
    assert await ask(one, two) == "one"
    assert two.cancelled
    assert two.breaker.state == "closed"


async def test_the_last_one_left_is_waited_for():
    one, two = Peer("one", seconds=0.2), Peer("two", error=UpstreamUnavailable("away"))
    assert await ask(one, two) == "one"


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
