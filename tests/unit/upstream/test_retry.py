"""Retry-After, backoff, and the bounds of both."""

import asyncio
import datetime
import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamInterrupted, UpstreamNotFound, UpstreamUnavailable
from mirror.upstream.failures import Lasting
from mirror.upstream.pauses import Pauses
from mirror.upstream.retry import Retry, RetryAllowance, parse_retry_after

NOW = 1_750_000_000.0


def http_date(seconds):
    return email.utils.format_datetime(datetime.datetime.fromtimestamp(NOW + seconds, datetime.UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("900", 900),
        ("901", 900),
        ("9" * 400, 900),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
        ("soon", 0),
        (http_date(30), 30),
        (http_date(-30), 0),
        (http_date(86400), 900),
        ("Sun, 99 Foo 2025 25:61:61 GMT", 0),
    ],
)
def test_retry_after(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_retry_after_never_raises_and_is_bounded(value):
    assert 0 <= parse_retry_after(value) <= 900


class Script:
    """Fails with these errors, then succeeds; records the sleeps."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0
        self.sleeps = []

    async def ask(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"

    async def sleep(self, seconds):
        self.sleeps.append(seconds)

    def retry(self, allowance=None, **more):
        return Retry(allowance or RetryAllowance(), self.sleep, lambda: 0.5, **more)


def away(retry_after=0.0):
    return UpstreamUnavailable("away", retry_after=retry_after)


async def test_two_retries_with_growing_pauses():
    script = Script(away(), away())
    assert await script.retry().run(script.ask) == "answer"
    assert script.sleeps == [0.5, 1.0]


async def test_no_third_retry():
    script = Script(away(), away(), away())
    with pytest.raises(UpstreamUnavailable):
        await script.retry().run(script.ask)
    assert script.calls == 3


async def test_only_what_may_pass_is_retried():
    script = Script(UpstreamNotFound("no"))
    with pytest.raises(UpstreamNotFound):
        await script.retry().run(script.ask)
    assert script.calls == 1
    script = Script(Lasting("its breaker is open"))
    with pytest.raises(Lasting):
        await script.retry().run(script.ask)
    assert script.calls == 1
    script = Script(UpstreamInterrupted("cut"))
    assert await script.retry().run(script.ask) == "answer"


async def test_a_wish_is_followed_within_the_budget():
    script = Script(away(3))
    await script.retry().run(script.ask)
    assert script.sleeps == [pytest.approx(3.15)]
    script = Script(away(20))
    with pytest.raises(UpstreamUnavailable) as error:
        await script.retry().run(script.ask)
    assert error.value.retry_after == 20
    assert script.calls == 1


async def test_time_that_tries_took_counts():
    calls = []

    async def slow():
        calls.append(1)
        await asyncio.sleep(0.05)
        raise away()

    with pytest.raises(UpstreamUnavailable):
        await Retry(RetryAllowance(), jitter=lambda: 0.0, budget=0.1).run(slow)
    assert len(calls) == 1


async def test_retries_are_a_tenth_of_the_requests():
    allowance = RetryAllowance(share=0.1, reserve=10)
    tries = 0
    for _ in range(200):
        script = Script(away(), away(), away())
        with pytest.raises(UpstreamUnavailable):
            await script.retry(allowance).run(script.ask)
        tries += script.calls
    assert 200 + 10 + 15 <= tries <= 200 + 10 + 21


def test_pauses_grow_without_a_wish_and_are_kept_apart():
    now = [0.0]
    pauses = Pauses(lambda: now[0])
    lengths = []
    for _ in range(8):
        lengths.append(pauses.begin("manifest", "a", 0))
        now[0] += 100
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    pauses.end("manifest", "a")
    assert pauses.begin("manifest", "a", 0) == 1
    assert pauses.begin("tags", "a", 40) == 40
    assert (pauses.left("manifest", "a"), pauses.left("tags", "a"), pauses.left("blob", "a")) == (1, 40, 0)


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ([("a", 0, 900)], 0),
        ([("a", 0, 900), ("a", 1, 900), ("a", 2, 900)], 0),
        ([("a", 0, 900), ("b", 10, 600)], 590),
        ([("a", 0, 300), ("b", 10, 600)], 280),
        ([("a", 0, 5), ("b", 10, 600)], 0),
        ([("a", 0, 5), ("b", 10, 600), ("c", 11, 600)], 590),
        ([("a", 0, 900), ("b", 1, 600), ("c", 2, 30)], 581),
    ],
    ids=["one", "one, again and again", "two", "the shorter wish", "no more", "two of three", "a third takes nothing"],
)
def test_a_pause_is_everybodys_when_a_second_repository_agrees(said, left):
    now = [0.0]
    pauses = Pauses(lambda: now[0])
    for repository, at, wish in said:
        now[0] = at
        pauses.begin("manifest", repository, wish)
    now[0] = 20
    assert pauses.left("manifest", "of nobody") == left
    assert pauses.left("blob", "of nobody") == 0
    for repository, at, wish in said:
        assert pauses.left("manifest", repository) >= min(wish, at + wish - 20, 0)


def test_pauses_take_little_room():
    now = [0.0]
    pauses = Pauses(lambda: now[0])
    for number in range(5000):
        pauses.begin("manifest", f"a{number}", number % 2 * 900)
    assert len(pauses._until) + len(pauses._next) < 2100
    assert pauses.left("manifest", "a4999") == 900
    assert pauses.left("manifest", "of nobody") > 0
