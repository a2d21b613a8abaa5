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
from mirror.metrics import Metrics
from mirror.registry.connections import Connections
from mirror.sink import Sink
from mirror.supervisor import Supervisor, WorkerContext, bind
from mirror.systemd import Notifier

OPTIONS = json.loads(sys.argv[1])


def work(context: WorkerContext) -> None:
    if OPTIONS.get("fail"):
        raise SystemExit(OPTIONS["fail"])
    if "once" in OPTIONS:
        Path(OPTIONS["once"]).touch(exist_ok=False)
    if OPTIONS.get("never_ready"):
        time.sleep(60)
    asyncio.run(serve(context))


async def serve(context: WorkerContext) -> None:
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()
    reloads = 0
    metrics = Metrics(context.slots, context.index)

    def reload() -> None:
        nonlocal reloads
        reloads += 1
        context.reloaded()

    loop.add_signal_handler(signal.SIGTERM, leaving.set)
    loop.add_signal_handler(signal.SIGHUP, reload)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/slow":
            await asyncio.sleep(float(request.query_string))
        elif request.path == "/hang":
            time.sleep(1000)
        elif request.path == "/metrics":
            return web.Response(body=metrics.render())
        metrics.request("test", request.method, 200, "HIT", "", 1, 0.001)
        metrics.fold()
        return web.json_response({"pid": os.getpid(), "index": context.index, "reloads": reloads})

    connections = Connections(answer, metrics)
    for listener in context.listeners:
        connections.listen(listener)
    context.ready()

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.05)
            context.heartbeat()

    beating = asyncio.create_task(beat())
    await leaving.wait()
    await connections.drain(OPTIONS.get("drain", 5))
    beating.cancel()


def main() -> int:
    supervisor._LAST_WORDS = OPTIONS.get("last_words", supervisor._LAST_WORDS)
    sink = logs.configure("info", "logfmt", Sink(patience=0.1))
    listeners = bind(OPTIONS.get("listen", ["127.0.0.1:0"]), patience=0.2)
    print(json.dumps([os.getpid(), *(listener.getsockname() for listener in listeners)]), flush=True)
    return Supervisor(
        work,
        listeners,
        OPTIONS.get("workers", 2),
        notifier=Notifier(os.environ),
        flush=sink.flush,
        drain=OPTIONS.get("kill_after", 10),
        heartbeat=OPTIONS.get("heartbeat", 30),
        start_within=OPTIONS.get("start_within", 30),
    ).run()


if __name__ == "__main__":
    sys.exit(main())
