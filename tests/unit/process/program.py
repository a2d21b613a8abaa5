"""A small service under a real supervisor, for tests that kill, stop and hang its workers. Prints its port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from aiohttp import web

from mirror import logs, supervisor
from mirror.errors import ConfigurationError, Problem, StoreError
from mirror.listeners import bind
from mirror.metrics import Metrics
from mirror.registry.connections import Connections
from mirror.sink import Sink
from mirror.supervisor import Supervisor
from mirror.systemd import Notifier
from mirror.workers import Crew, WorkerContext

OPTIONS = json.loads(sys.argv[1])


def work(context: WorkerContext, settings: dict[str, object]) -> None:
    if "unusable" in settings:
        raise StoreError(str(settings["unusable"]), "mend it")
    if OPTIONS.get("fail"):
        raise SystemExit(OPTIONS["fail"])
    if "once" in OPTIONS:
        Path(OPTIONS["once"]).touch(exist_ok=False)
    if OPTIONS.get("never_ready"):
        time.sleep(60)
    asyncio.run(serve(context, settings))


async def serve(context: WorkerContext, settings: dict[str, object]) -> None:
    loop = asyncio.get_running_loop()
    leaving, replaced = asyncio.Event(), asyncio.Event()
    metrics = Metrics(context.slots, context.index)
    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    loop.add_signal_handler(signal.SIGHUP, replaced.set)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/slow":
            await asyncio.sleep(float(request.query_string))
        elif request.path == "/hang":
            time.sleep(1000)
        elif request.path == "/metrics":
            return web.Response(body=metrics.render())
        elif request.path == "/reload":
            context.reload()
        elif request.path == "/service":
            return web.json_response(context.board.service())
        metrics.request("test", request.method, 200, "HIT", "", 1, 0.001)
        metrics.fold()
        return web.json_response({"pid": os.getpid(), "index": context.index, **settings})

    connections = Connections(answer, metrics)
    for listener in context.listeners:
        connections.listen(listener)
    context.ready()

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.05)
            context.heartbeat()

    beating = asyncio.create_task(beat())
    ends = [asyncio.create_task(event.wait()) for event in (leaving, replaced)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not leaving.is_set():
        draining = asyncio.create_task(connections.drain(3600, idle=5))
        await asyncio.sleep(0)
        context.left()
        await asyncio.wait([draining, ends[0]], return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
    await connections.drain(OPTIONS.get("drain", 5))
    beating.cancel()


def read() -> dict[str, object]:
    """Return what the file of settings says: the part of the configuration that these tests change."""
    return json.loads(Path(OPTIONS["settings"]).read_text()) if "settings" in OPTIONS else {}


def main() -> int:
    supervisor._LAST_WORDS = OPTIONS.get("last_words", supervisor._LAST_WORDS)
    sink = logs.configure("info", "logfmt", Sink(patience=0.1))
    for _ in range(OPTIONS.get("flood", 0)):
        logs.get("test").error("flood")
    listeners = bind(OPTIONS.get("listen", ["127.0.0.1:0"]), patience=0.2)
    print(json.dumps([os.getpid(), *(listener.getsockname() for listener in listeners)]), flush=True)

    def crew() -> Crew:
        settings = read()
        if "refuse" in settings:
            raise ConfigurationError([Problem("bad", str(settings["refuse"]), "mirror.yaml:1", "mend it")])
        workers = int(settings.get("workers", OPTIONS.get("workers", 2)))
        mine = tuple(listeners)
        if "listen" in settings:
            mine = (listeners[0], *bind(settings["listen"], patience=0.0))
        return Crew(lambda context: work(context, settings), mine, workers)

    return Supervisor(
        crew(),
        reread=crew,
        notifier=Notifier(os.environ),
        flush=sink.flush,
        drain=OPTIONS.get("kill_after", 10),
        patience=OPTIONS.get("patience", 3600),
        heartbeat=OPTIONS.get("heartbeat", 30),
        start_within=OPTIONS.get("start_within", 30),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
