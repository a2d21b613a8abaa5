"""Who asks: addresses behind trusted proxies, and the pace of one client."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mirror.errors import NotYet
from mirror.registry import pace as module
from mirror.registry.clients import Clients
from mirror.registry.pace import Pace


class Asking:
    def __init__(self, remote: str | None, *forwarded: str) -> None:
        self.remote = remote
        self.headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])


@pytest.mark.parametrize(
    ("proxies", "remote", "forwarded", "expected"),
    [
        ((), "10.0.0.1", ["1.2.3.4"], "10.0.0.1"),
        (("10.0.0.0/8",), "192.0.2.1", ["1.2.3.4"], "192.0.2.1"),
        (("10.0.0.0/8",), "10.0.0.1", [], "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ["6.6.6.6", "1.2.3.4", "10.9.9.9"], "1.2.3.4"),
        (("10.0.0.0/8",), "10.0.0.1", ["10.2.2.2, 10.9.9.9"], "10.2.2.2"),
        (("10.0.0.1",), "10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        (("10.0.0.1",), "10.0.0.1", ["[2001:db8::1]:5678"], "2001:db8::1"),
        (("10.0.0.1",), "10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        (("10.0.0.1",), "10.0.0.1", ["6.6.6.6, unknown"], "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", ["6.6.6.6, evil\x00, 10.3.3.3"], "10.3.3.3"),
        (("10.0.0.1",), "10.0.0.1", [""], "10.0.0.1"),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        (("2001:db8::/32",), "2001:db8::5", ["1.2.3.4"], "1.2.3.4"),
        (("2001:db8::/32",), "10.0.0.1", ["1.2.3.4"], "10.0.0.1"),
        (("10.0.0.5/8",), "10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ((), "", ["1.2.3.4"], "unix"),
        ((), None, [], "unix"),
        (("10.0.0.1",), "", ["1.2.3.4"], "1.2.3.4"),
    ],
)
def test_the_address_is_the_last_hop_that_is_no_proxy_of_ours(proxies, remote, forwarded, expected):
    clients = Clients(anonymous=True, trusted_proxies=proxies)
    for _ in range(2):
        assert clients.address(Asking(remote, *forwarded)) == expected


@given(st.text(), st.lists(st.text(max_size=20), max_size=4))
def test_no_forwarded_field_breaks_it(remote, forwarded):
    clients = Clients(anonymous=True, trusted_proxies=("0.0.0.0/0", "::/0"))
    assert clients.address(Asking(remote, *forwarded))


def test_what_is_remembered_of_peers_is_bounded(monkeypatch):
    monkeypatch.setattr("mirror.registry.clients._REMEMBERED", 5)
    clients = Clients(anonymous=True, trusted_proxies=("10.0.0.1",))
    for number in range(50):
        assert clients.address(Asking(f"192.0.2.{number}")) == f"192.0.2.{number}"
        assert len(clients._trusted) <= 5


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.asyncio, "sleep", clock.sleep)
    return clock


async def test_within_its_rate_nobody_waits(clock):
    pace = Pace(10, clock)
    for _ in range(1000):
        await pace.wait("a")
        clock.now += 0.1
    assert clock.slept == []


async def test_a_burst_of_four_seconds_worth_is_free_and_what_follows_waits_its_turn(clock):
    pace = Pace(10, clock)
    for _ in range(40):
        await pace.wait("a")
    assert clock.slept == []
    for _ in range(10):
        await pace.wait("a")
    assert clock.slept == [pytest.approx(0.1 * turn) for turn in range(1, 11)]
    await pace.wait("b")
    assert len(clock.slept) == 10
    clock.now += 5.01
    await pace.wait("a")
    assert len(clock.slept) == 10


async def test_who_would_wait_longer_than_18_seconds_gets_not_yet_after_them(clock):
    pace = Pace(10, clock)
    for _ in range(40 + 180):
        await pace.wait("a")
    assert max(clock.slept) == pytest.approx(18)
    clock.slept.clear()
    for _ in range(5):
        with pytest.raises(NotYet):
            await pace.wait("a")
    assert clock.slept == [18.0] * 5
    # Who was refused took nobody's turn.
    clock.now += 0.11
    clock.slept.clear()
    await pace.wait("a")
    assert clock.slept == [pytest.approx(17.99, abs=0.02)]


async def test_an_ipv6_client_is_its_64(clock):
    pace = Pace(1, clock)
    for number in range(4):
        await pace.wait(f"2001:db8:1:1::{number:x}")
    assert clock.slept == []
    await pace.wait("2001:db8:1:1:ffff::1")
    assert clock.slept == [1.0]
    for other in ("2001:db8:1:2::1", "1.2.3.4", "::ffff:1.2.3.5", "fe80::1%eth0", "unix", "no:address"):
        await pace.wait(other)
    assert len(clock.slept) == 1
    for _ in range(3):
        await pace.wait("::ffff:1.2.3.4")
    await pace.wait("1.2.3.4")
    assert len(clock.slept) == 2


async def test_the_table_of_clients_is_bounded(clock, monkeypatch):
    monkeypatch.setattr(module, "_CLIENTS", 10)
    pace = Pace(1, clock)
    for number in range(100):
        await pace.wait(f"1.2.3.{number}")
        assert len(pace._empty_at) <= 10
    assert list(pace._empty_at)[-1] == "1.2.3.99"
    for _ in range(6):
        await pace.wait("busy")
    clock.now += 1.5  # the buckets of all others are empty by now: they are dropped, the busy one is not
    for number in range(9):
        await pace.wait(f"1.2.4.{number}")
    assert "busy" in pace._empty_at


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("ab")), max_size=60), st.integers(1, 5))
def test_never_more_than_the_rate_and_one_burst_in_any_span(steps, rate):
    clock = Clock()
    pace = Pace(rate, clock)
    turns: dict[str, list[float]] = {"a": [], "b": []}
    for gap, client in steps:
        clock.now += gap
        delay = pace._take(client)
        if delay is not None:
            assert 0 <= delay <= 18
            turns[client].append(clock.now + delay)
    for times in turns.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                most = rate * (times[last] - times[first] + 4) + 1
                assert last - first + 1 <= math.ceil(most + 1e-6)


async def test_over_the_wire_a_request_waits_and_is_never_told_429(content, open_face):
    face = await open_face(rate=20)
    content.add_manifest(b"{}", "v1")

    async def ask():
        wire = await face.connect()
        await wire.send("/v2/quay.io/a/manifests/v1")
        return (await wire.read()).status

    started = asyncio.get_running_loop().time()
    assert set(await asyncio.gather(*(ask() for _ in range(90)))) == {200}
    assert asyncio.get_running_loop().time() - started >= 0.45
    face.dispatcher._pace.wait = None
    assert (await face.ask("/livez")).status == 200  # no probe waits
    assert (await face.ask("/v2/")).status == 500
