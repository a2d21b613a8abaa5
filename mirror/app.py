"""The service, wired: every room is made here, and nowhere else. One `Worker` a process; the supervisor forks them."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

from mirror import __version__, logs, systemd
from mirror.admin import check as checking
from mirror.admin.delivery import Delivery
from mirror.admin.explain import Explain
from mirror.admin.health import Health
from mirror.admin.housekeeping import Housekeeping
from mirror.admin.measuring import keep_measuring
from mirror.admin.page import AdminPage
from mirror.admin.reload import Preparation, Prepared
from mirror.admin.scrub import Scrubber
from mirror.admin.socket import AdminSocket
from mirror.admin.status import Status
from mirror.config import Config
from mirror.config.access import Readers
from mirror.content.events import Events, Source
from mirror.content.garbage import hosted_by
from mirror.content.heal import Healer
from mirror.content.service import Content, Rooms
from mirror.errors import (
    ConfigurationError,
    MirrorError,
    Problem,
    StoreError,
    StoreFull,
    StoreUnreadable,
    StoreUnusable,
)
from mirror.metrics import LOG_DROPPED, Metrics
from mirror.outside import called, owner_of, require_readable
from mirror.registry.access import Access
from mirror.registry.bearer import Signer
from mirror.registry.clients import Clients
from mirror.registry.connections import Connections, sample_loop_lag
from mirror.registry.gate import Gate
from mirror.registry.logins import Logins
from mirror.registry.memory import Memory
from mirror.registry.metrics import MetricsPage
from mirror.registry.middleware import Dispatcher
from mirror.registry.robots import Robots
from mirror.sink import Sink
from mirror.store import probe
from mirror.store.events import Events as Queues
from mirror.store.faults import DISK_FAULTS, is_read_only
from mirror.store.index import Index
from mirror.store.layout import Layout
from mirror.store.quarantine import Quarantine
from mirror.store.sample import sample
from mirror.store.space import Space
from mirror.store.threads import Threads
from mirror.store.tokens import KeyNotMade, Tokens, new_key
from mirror.supervisor import Supervisor
from mirror.upstream import Upstreams, open_upstreams
from mirror.upstream.webhook import open_webhooks
from mirror.workers import WorkerContext

INVALID = 78
NO_SPACE = 5
DRAIN = 30.0  # seconds that running answers get to end after SIGTERM
_READERS = 8  # threads: enough to keep a disk busy, few enough not to thrash it
_WRITERS = 8
_TAKERS = 8  # those of pushes hash, and wait for the disk, as long as their clients send
_SINK_PATIENCE = 0.1  # seconds
_REST = 10.0  # seconds without a request after which a worker that was replaced closes a connection
_HEARTBEAT = 1.0  # seconds between proofs of life
_DONE = {"read": "read", "write": "written"}

_log = logs.get("app")


def serve(config: Config, environ: Mapping[str, str], reread: Callable[[], Config] | None = None) -> int:
    """Run the registry until SIGTERM; return the exit code. `reread` is asked for the configuration on SIGHUP."""
    # A reader of the log that stalls must not hold up the process that answers the watchdog.
    sink = logs.configure(config.log.level, config.log.format, Sink(patience=_SINK_PATIENCE))
    instance = os.urandom(4).hex()
    sinks = [sink]

    def work(prepared: Prepared, context: WorkerContext) -> None:
        Worker(prepared, context, instance, signer, environ, sinks).run()

    adopted = [sock for _, sock in systemd.adopt(environ)]

    def taken(config: Config) -> None:
        logs.tell_suppressed()
        logs.configure(config.log.level, config.log.format, sink)

    preparation = Preparation(work, reread or (lambda: config), environ, taken, adopted)
    admin: AdminSocket | None = None
    try:
        preparation.bind(config)
        _become_owner(config.storage.path)
        for warning in probe.prepare(Layout(config.storage.path)):
            _log.warning("store_limited", what=warning)
        sample(Layout(config.storage.path))
        admin = AdminSocket.open(config)
        preparation.admin = admin.listener if admin is not None else None
        crew = preparation.first(config)
        signer = Signer(_signing_key(Layout(config.storage.path)))
    except (ConfigurationError, StoreError) as error:
        preparation.close()
        if admin is not None:
            admin.close()
        if isinstance(error, ConfigurationError):
            return _refuse([str(problem) for problem in error.problems])
        _refuse([str(error)])
        return NO_SPACE if isinstance(error, StoreFull) else INVALID
    _log.info(
        "starting",
        version=__version__,
        instance=instance,
        listen=",".join(config.listen),
        metrics=config.metrics.listen or "off",
        store=str(config.storage.path),
        socket=str(admin.path) if admin is not None else "off",
        workers=config.worker_count,
        upstreams=",".join(config.upstreams),
        offline=config.offline,
    )
    sink.flush()
    supervisor = Supervisor(
        crew,
        notifier=systemd.Notifier(environ),
        reread=preparation.next,
        flush=lambda: [one.flush() for one in sinks],
        private=admin.private if admin is not None else (),
        drain=DRAIN + 5,
    )
    try:
        return supervisor.run()
    finally:
        if admin is not None:
            admin.close()


def check(config: Config, environ: Mapping[str, str], *, online: bool, as_json: bool, quiet: bool) -> int:
    """Print what is wrong or missing in a configuration that loads; return the exit code."""
    report = asyncio.run(_check(config, environ, online=online))
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.render(quiet=quiet))
    return report.exit_code


async def _check(config: Config, environ: Mapping[str, str], *, online: bool) -> checking.Report:
    if not online:
        return await checking.check(config, online=False, environ=environ, probe_store=_probe_store)
    upstreams = open_upstreams(config, Metrics(), environ)
    try:
        return await checking.check(
            config,
            online=True,
            environ=environ,
            probe=lambda name: upstreams[name].probe(),
            probe_store=_probe_store,
        )
    finally:
        await upstreams.close()


def _probe_store(path: Path) -> list[Problem]:
    layout = Layout(path)
    if not probe.is_begun(layout):
        probe.try_out(layout)
        return []
    warnings = probe.prepare(layout)
    # That of a read-only file system is the check's own to say.
    found = [Problem("store_limited", warning) for warning in warnings if not is_read_only(path)]
    sample(layout)
    for row in DISK_FAULTS.told():
        if row["operation"] == "parse":
            found.append(Problem("record_damaged", row["error"], row["path"], row["remedy"]))
            continue
        what = f"{row['paths']} of the files that were tried cannot be {_DONE[row['operation']]} ({row['error']})"
        found.append(Problem("store_unreadable", what, row["path"], row["remedy"]))
    return found


def _signing_key(layout: Layout) -> bytes:
    """Return the key of the store, or one of this service alone where that cannot be read, or made, now."""
    try:
        return Tokens(layout.tokens).key()
    except (StoreUnreadable, KeyNotMade) as error:
        _log.warning("signing_key_unusable", why=error.what, remedy="clients log in again after each restart")
        return new_key()


def _refuse(reasons: Sequence[str]) -> int:
    for reason in reasons:
        click.echo(f"mirror serve: {reason}", err=True)
    return INVALID


def _become_owner(store: Path) -> None:
    """Run as the store's owner where root starts the service: what root would write, the owner could not replace.

    Raises StoreUnusable where the owner may not read this program: a worker would end where it needs more of it.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = owner_of(store)
    except OSError:
        return
    if owner.st_uid != 0:
        _log.info("running_as_owner", user=owner.st_uid, group=owner.st_gid, store=str(store))
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)
        try:
            require_readable()
        except PermissionError as error:
            raise StoreUnusable(
                f"the store {store} belongs to {called(owner.st_uid)}, as whom the service cannot run ({error})",
                "install this program and its Python where every user may read them, as install.sh does",
            ) from error


@dataclass(frozen=True, slots=True)
class Opened:
    """The rooms behind the face, open."""

    content: Content
    layout: Layout
    index: Index
    space: Space
    quarantine: Quarantine
    readers: Threads
    writers: Threads
    upstreams: Upstreams


async def open_rooms(
    rooms: AsyncExitStack,
    config: Config,
    metrics: Metrics,
    environ: Mapping[str, str],
    who: str,
    *,
    courteous: bool = False,
) -> Opened:
    """Open the store and the upstreams, closed again with `rooms`; `who` names this process in notes of downloads.

    `courteous`: downloads give way to those of others.
    """
    layout = Layout(config.storage.path)
    quarantine = Quarantine(layout)
    index = Index(layout, quarantine)
    space = Space(layout, index, config.storage, offline=config.offline)
    readers, writers, takers = Threads("read", _READERS), Threads("write", _WRITERS), Threads("take", _TAKERS)
    for end in (index.close, readers.close, writers.close, takers.close):
        rooms.push_async_callback(asyncio.to_thread, end)
    upstreams = open_upstreams(config, metrics, environ)
    rooms.push_async_callback(upstreams.close)
    source = Source(_address(config), who)
    events = Events(Queues(layout), config.notifications, writers, metrics, source, config.external_url)
    made = Rooms(layout, index, space, quarantine, readers, writers, takers, upstreams, metrics, events, who, courteous)
    return Opened(Content(config, made), layout, index, space, quarantine, readers, writers, upstreams)


def _address(config: Config) -> str:
    """Return what this registry calls itself where it tells of events: host:port."""
    return urlsplit(config.external_url).netloc if config.external_url else config.listen[0]


class Worker:
    """One process of the service: its rooms, its connections, and the tasks beside them."""

    def __init__(
        self,
        prepared: Prepared,
        context: WorkerContext,
        instance: str,
        signer: Signer,
        environ: Mapping[str, str],
        sinks: list[Sink],
    ) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._context = context
        self._tls = prepared.tls
        self._users = prepared.users
        self._signer = signer
        self._sinks = sinks
        self._instance = instance
        self._who = f"{instance}-{context.index}"
        self._environ = environ

    def run(self) -> None:
        """Serve until SIGTERM, then let running answers end; so too on SIGHUP, when another worker takes this place."""
        # Standard asyncio: its sendfile is what a warm pull lives by, and uvloop has none.
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        config = self._config
        loop = asyncio.get_running_loop()
        leaving, replaced = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leaving.set)
        loop.add_signal_handler(signal.SIGHUP, replaced.set)
        async with AsyncExitStack() as rooms:
            metrics = Metrics(self._context.slots, self._context.index, tuple(config.upstreams))
            sink = logs.configure(config.log.level, config.log.format)
            self._sinks.append(sink)  # so that what ends this worker is written out as well
            sink.start(lambda lines: metrics.add(LOG_DROPPED, by=lines))
            rooms.callback(sink.flush)
            rooms.callback(logs.tell_suppressed)
            opened = await open_rooms(rooms, config, metrics, self._environ, self._who)
            content = opened.content
            webhooks = open_webhooks(config, self._environ, config.notifications)
            rooms.push_async_callback(webhooks.close)
            delivery = Delivery(Queues(opened.layout), config.notifications, webhooks, metrics)
            healer = Healer(opened.layout, content, opened.readers)
            scrubber = Scrubber(opened.layout, opened.quarantine, metrics, healer.heal, opened.readers)
            housekeeping = Housekeeping(
                opened.layout,
                opened.index,
                opened.space,
                metrics,
                delivery,
                hosted_by(content.resolve),
                Readers(config.clients.anonymous, config.clients.rules).everybody,
                scrubber=scrubber,
                scrub_rate=config.storage.scrub_rate,
                deletions=content.hosted.deletions.resume,
            )
            clients = Clients(config.clients.anonymous != "none", config.limits.trusted_proxies)
            if self._users is not None:
                rooms.callback(self._users.close)
            robots = Robots(Tokens(opened.layout.tokens))
            gate = Gate(
                Access(config.clients.anonymous, config.clients.rules, catalog=config.clients.catalog),
                clients,
                content.resolve,
                logins=Logins(self._signer, self._users, robots),
                certificates=config.tls.client_ca is not None,
                external_url=config.external_url,
                public_releases=config.releases.public,
            )
            memory = Memory(config.limits.memory)
            dispatcher = Dispatcher(
                content,
                clients,
                metrics,
                logs.RequestLog(sink, config.log.format, config.log.level),
                logs.get("registry"),
                rate=config.limits.requests_per_second,
                gate=gate,
                uploads=content.uploads,
                hosted=content.hosted,
                catalog=content.catalog,
                manifest_limit=config.limits.manifest,
                memory=memory,
            )
            tasks = [
                asyncio.create_task(robots.keep_noting()),
                asyncio.create_task(metrics.keep_folding()),
                asyncio.create_task(logs.keep_telling()),
                asyncio.create_task(sample_loop_lag(metrics)),
            ]
            servers = await self._listen(dispatcher, memory, metrics, opened, tasks)
            await housekeeping.start()
            tasks.append(asyncio.create_task(self._prove_life(content)))
            self._context.ready()
            await _either(leaving.wait(), replaced.wait())
            logs.tell_suppressed()  # a drain may end by a kill
            if not leaving.is_set():
                dispatcher.leave(replaced=True)
                # What only one process may do is for one that knows the new configuration.
                await housekeeping.stop()
                unhurried = asyncio.gather(*(server.drain(math.inf, idle=_REST) for server in servers))
                await asyncio.sleep(0)  # in which they stop listening
                self._context.left()
                await _either(leaving.wait(), unhurried)
            dispatcher.leave(replaced=replaced.is_set())
            await asyncio.gather(*(server.drain(DRAIN) for server in servers))
            await content.stop()
            await housekeeping.stop()
            with suppress(StoreError):
                await asyncio.to_thread(opened.index.flush)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            metrics.fold()

    async def _listen(
        self,
        dispatcher: Dispatcher,
        memory: Memory,
        metrics: Metrics,
        opened: Opened,
        tasks: list[asyncio.Task[None]],
    ) -> Sequence[Connections]:
        config, limits = self._config, self._config.limits
        if self._tls is not None:
            tasks.append(asyncio.create_task(self._tls.watch(metrics)))
            if self._context.index == 0:
                tasks.append(asyncio.create_task(self._tls.tell(config.source.path)))
        face = Connections(
            dispatcher,
            metrics,
            # Each worker takes its share, rounded up: one more is better than none for a small limit.
            connections=-(-limits.connections // config.worker_count),
            connections_per_client=limits.connections_per_client,
            header_timeout=limits.header_timeout,
            idle_timeout=limits.idle_timeout,
            write_stall=limits.write_stall,
            share=self._context.share,
            memory=memory,
        )
        for listener in self._context.listeners:
            unix = listener.family == socket.AF_UNIX
            face.listen(listener, None if unix else self._tls)
        servers = [face]
        health = Health(self._context.board, self._context.index, opened.upstreams)
        tasks.append(asyncio.create_task(health.keep_posting()))
        status = Status(self._prepared, self._instance, opened.content, opened.space, opened.index, health, metrics)
        if self._context.metrics_listener is not None:
            tasks.append(asyncio.create_task(keep_measuring(status, health, metrics)))
            page = Connections(MetricsPage(metrics, dispatcher), metrics, connections=64)
            page.listen(self._context.metrics_listener)
            servers.append(page)
        if self._context.admin_listener is not None:
            explain = Explain(config, opened.content, opened.layout, opened.upstreams, opened.readers)
            asked = Connections(AdminPage(status, explain, self._context.reload), metrics, connections=64)
            asked.listen(self._context.admin_listener)
            servers.append(asked)
        return servers

    async def _prove_life(self, content: Content) -> None:
        """Beat while the store and the path of a tag work: a process that hangs there is replaced."""
        while True:
            with suppress(MirrorError):
                await content.ready()
            self._context.heartbeat()
            await asyncio.sleep(_HEARTBEAT)


async def _either(*waits: Awaitable[object]) -> None:
    """Return when one of these has ended; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
