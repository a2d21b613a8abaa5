"""/livez and /readyz."""

from __future__ import annotations

import asyncio

import pytest

from mirror.errors import StoreError
from mirror.registry import health
from tests.unit.registry.stage import until


@pytest.mark.parametrize("target", ["/livez", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_all_is_well(face, target, method):
    reply = await face.ask(target, method)
    assert (reply.status, reply.fields["content-type"]) == (200, "text/plain")
    assert reply.body == (b"ok\n" if method == "GET" else b"")
    assert face.lines.requests == []  # a probe every second is not worth a line


async def test_not_ready_tells_the_log_why_and_the_probe_nothing(content, face):
    content.trouble = StoreError("the disk at /var/lib/mirror is gone")
    reply = await face.ask("/readyz")
    assert (reply.status, reply.body) == (503, b"not ready\n")
    assert face.lines.events == [("warning", "not_ready", {"error": "the disk at /var/lib/mirror is gone"})]
    assert (await face.ask("/livez")).status == 200
    assert (await face.noted())["status"] == 503


@pytest.mark.parametrize("trouble", [RuntimeError("a fault"), OSError(5, "Input/output error")])
async def test_any_fault_is_not_ready(content, face, trouble):
    content.trouble = trouble
    assert (await face.ask("/readyz")).status == 503


async def test_a_check_that_hangs_is_not_ready(content, face, monkeypatch):
    content.wait = asyncio.Event().wait
    probe = face.dispatcher._handlers[health.Kind.READY]
    probe._patience = 0.1
    reply = await face.ask("/readyz")
    assert reply.status == 503
    assert face.lines.events == [("warning", "not_ready", {"error": "TimeoutError"})]


async def test_many_probes_are_one_check(content, face):
    going = asyncio.Event()
    content.wait = going.wait
    wires = [await face.connect() for _ in range(20)]
    first = wires.pop(0)
    await first.send("/readyz")
    await until(lambda: ("ready",) in content.calls)
    (connection,) = [one for one in face.server.connections if not one.idle]
    for wire in wires:
        await wire.send("/readyz")
    await until(lambda: all(not one.idle for one in face.server.connections))
    await connection.shutdown(0.01)  # cancels the answer that began the check
    going.set()
    assert [(await wire.read()).status for wire in wires] == [200] * 19
    assert content.calls == [("ready",)]


async def test_an_answer_holds_for_a_second(content, face):
    probe = face.dispatcher._handlers[health.Kind.READY]
    now = 1000.0
    probe._clock = lambda: now
    assert (await face.ask("/readyz")).status == 200
    content.trouble = StoreError("gone")
    now += 0.9
    assert (await face.ask("/readyz")).status == 200
    now += 0.2
    assert (await face.ask("/readyz")).status == 503
    content.trouble = None
    assert (await face.ask("/readyz")).status == 503
    now += 1.1
    assert (await face.ask("/readyz")).status == 200


async def test_probes_take_no_pushes(face):
    assert (await face.ask("/readyz", "POST")).status == 405
