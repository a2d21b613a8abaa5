"""`GET /status`: how the service is, gathered from the supervisor, the workers, the store and the configuration."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

from mirror import __version__
from mirror.admin.conditions import Condition, Trouble, conditions, find_troubles
from mirror.admin.health import Health, Seen
from mirror.admin.refused import RefusedFiles
from mirror.admin.reload import Prepared
from mirror.admin.scrub_state import Pass
from mirror.content.service import Content
from mirror.errors import MirrorError, StoreError, StoreUnreadable
from mirror.metrics import HELD_BYTES, MEMORY_SHORT, NOTIFICATIONS_WAITING, Metrics
from mirror.store import files, records
from mirror.store.brake import Brake
from mirror.store.faults import DISK_FAULTS
from mirror.store.index import Index
from mirror.store.ingest import PartNote
from mirror.store.layout import Layout
from mirror.store.lock import inode, locked_files
from mirror.store.promises import UNIT
from mirror.store.sets import Pins, Sets
from mirror.store.space import Space

_SCRUB_LIMIT = 1024 * 1024
_NOTE_LIMIT = 16 * 1024
_MOST_FETCHES = 200  # that are told one by one
_PATIENCE = 5.0  # seconds for a look at the store; after that the answer is what the last one found, and its age
_STARTS = 10.0  # seconds within which somebody takes the lock of housekeeping


class Report(NamedTuple):
    """What is known of the service, and what follows from it."""

    facts: dict[str, Any]
    conditions: list[Condition]
    troubles: list[Trouble]


class Status:
    """Gathers the report. Every call looks anew; what reads the store runs in a thread.

    One look at a time: where the store is slow, whoever asks meanwhile is told what the last one found.
    """

    def __init__(
        self,
        prepared: Prepared,
        instance: str,
        content: Content,
        space: Space,
        index: Index,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._prepared = prepared
        self._config = prepared.config
        self._instance = instance
        self._content = content
        self._space = space
        self._index = index
        self._health = health
        self._metrics = metrics
        self._layout = Layout(self._config.storage.path)
        self._pins = Pins(self._layout)
        self._refused = RefusedFiles(self._config)
        self._looking: asyncio.Task[None] | None = None
        self._found: tuple[float, dict[str, Any]] | None = None  # when a look began (Unix time), and what it found

    async def __call__(self) -> dict[str, Any]:
        """Return the report as `mirror status` prints it: `conditions`, and under `problems` what is to be done."""
        found = await self.report()
        told = {"conditions": [one._asdict() for one in found.conditions]}
        return found.facts | told | {"problems": [trouble.as_dict() for trouble in found.troubles]}

    async def report(self) -> Report:
        """Look, and return what there is to say."""
        service = self._health.service()
        store_error = ""
        try:
            await self._content.ready()
        except MirrorError as error:
            store_error = str(error)
        looked, kept = await self._last_look()
        kept["store"] |= {"faults": self._health.disk_faults()}
        changed = kept.pop("changed")
        facts: dict[str, Any] = {
            "version": __version__,
            "instance": self._instance,
            **self._process(service),
            "looked": looked,
            "offline": self._config.offline,
            "listen": list(self._config.listen),
            "metrics": self._config.metrics.listen,
            "configuration": {
                "path": str(self._config.source.path or ""),
                "read": self._prepared.read_at,
                "changed": changed,
            },
            "upstreams": self._upstreams(),
            **kept,
            "certificate": self._certificate(),
            **await asyncio.to_thread(self._counted),
        }
        if facts["housekeeping"] is False and facts["uptime"] < _STARTS:
            facts["housekeeping"] = None
        troubles = find_troubles(facts)
        return Report(facts, conditions(facts, troubles, store_error), troubles)

    async def _last_look(self) -> tuple[float, dict[str, Any]]:
        """Look at the store and return when that was, and what is there; the last time's where it takes too long."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_now(), name="look at the store")
        looking = self._looking
        await asyncio.wait((looking,), timeout=_PATIENCE if self._found is not None else None)
        if looking.done():
            looking.result()
        assert self._found is not None
        looked, found = self._found
        return looked, {**found, "store": dict(found["store"])}

    async def _look_now(self) -> None:
        began = time.time()
        self._found = began, await asyncio.to_thread(self._look)

    def _process(self, service: dict[str, Any]) -> dict[str, Any]:
        workers = service.get("workers", [])
        began = float(service.get("began", time.time()))
        return {
            "pid": service.get("pid", os.getppid()),
            "phase": service.get("phase", "starting"),
            "began": began,
            "uptime": round(max(0.0, time.time() - began), 1),
            "workers": {
                "configured": len(workers),
                "ready": sum(bool(worker["ready"]) for worker in workers),
                "leaving": len(service.get("leaving", [])),
                "restarts": service.get("restarts", 0),
            },
            "reload": service.get("reload") or None,
        }

    def _upstreams(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "state": "offline" if self._config.offline else _state(endpoints),
                "credential": _credential(endpoints),
                "endpoints": [one.as_dict() for one in endpoints],
            }
            for name, endpoints in self._health.upstreams().items()
        ]

    def _certificate(self) -> dict[str, Any] | None:
        tls = self._prepared.tls
        return {"path": str(self._config.tls.certificate), "expires": tls.expires} if tls is not None else None

    # -- in a thread -----------------------------------------------------------------------------------------

    def _counted(self) -> dict[str, Any]:
        held, short, waiting = self._metrics.read(HELD_BYTES, MEMORY_SHORT, NOTIFICATIONS_WAITING)
        return {
            "notifications": {labels[0]: int(count) for labels, count in sorted(waiting.items())},
            "memory": {"held_bytes": int(sum(held.values())), "short": max(short.values(), default=0) or None},
        }

    def _look(self) -> dict[str, Any]:
        if DISK_FAULTS:
            DISK_FAULTS.retry()
        locked = locked_files()
        lock = inode(self._layout.housekeeping_lock)
        sets, busy, damaged = self._sets(locked)
        return {
            "changed": self._prepared.has_changed,
            "refused": [one.as_dict() for one in self._refused.find()],
            "store": self._store(),
            "fetches": self._fetches(locked),
            "uploads": sum(entry.endswith(".part") for entry in _list(self._layout.uploads)),
            "sets": sets,
            "busy_sets": busy,
            "damaged_record": damaged,
            "scrub": self._scrub(),
            "housekeeping": lock in locked if locked else None,
        }

    def _store(self) -> dict[str, Any]:
        storage = self._config.storage
        found: dict[str, Any] = {"path": str(storage.path), "cache_size": storage.cache_size}
        found |= {"read_only": files.is_read_only(self._layout.root), "in_vain": False, "stopped": {}}
        with suppress(StoreError):
            found |= {"in_vain": self._space.in_vain, "stopped": Brake(self._layout).stopped()}
        disk = forecast = None
        with suppress(OSError, StoreError):
            disk = self._space.disk()
            forecast = self._space.forecast()  # not known while the index is away
        found |= {
            "total_bytes": disk.total if disk else None,
            "free_bytes": disk.free if disk else None,
            "total_inodes": disk.inodes if disk and disk.inodes else None,
            "free_inodes": disk.inodes_free if disk and disk.inodes else None,
            "lacking_inodes": disk.inodes_lacking if disk else 0,
            "keep_free_bytes": storage.keep_free.of(disk.total) if disk else None,
            "room_bytes": forecast.free if forecast else None,
            "evictable_bytes": forecast.evictable if forecast else None,
        }
        try:
            found["content_bytes"] = self._index.total()
            # Nobody rebuilds it where nothing can be written.
            found["index_rebuilding"] = self._index.needs_rebuild() and not found["read_only"]
        except StoreError:
            found |= {"content_bytes": None, "index_rebuilding": False}
        try:
            found["pinned_bytes"] = self._pins.size()
            found |= {"promised_bytes": self._space.promised(), "promised_age": self._space.promised_age()}
            scarce = forecast is not None and sum(forecast) < UNIT
            found["would_free"] = self._would_free() if scarce else []
        except (OSError, StoreError):
            found |= {"pinned_bytes": None, "promised_bytes": None, "promised_age": None, "would_free": []}
        return found

    def _would_free(self) -> list[tuple[str, int]]:
        """Return of each generation that is not its set's newest what only it needs, in bytes, the largest first."""
        content = self._pins.generations()
        uses = Counter(digest for found in content.values() for digest in found)
        newest = {name: max(number for other, number in content if other == name) for name, _ in content}
        freed = [
            (f"{name}@{number}", sum(size for digest, size in found.items() if uses[digest] == 1))
            for (name, number), found in content.items()
            if number != newest[name]
        ]
        return sorted((one for one in freed if one[1]), key=lambda one: -one[1])

    def _fetches(self, locked: frozenset[int]) -> list[dict[str, Any]]:
        """Return the downloads under way: those whose part somebody holds."""
        found: list[dict[str, Any]] = []
        for entry in sorted(_held(self._layout.ingest, locked))[:_MOST_FETCHES]:
            stem = entry.removesuffix(".part")
            status = files.look(str(self._layout.ingest / entry))
            if stem == entry or status is None:
                continue
            note = PartNote.parse(files.read_record(str(self._layout.ingest / f"{stem}.json"), _NOTE_LIMIT))
            found.append(
                {
                    "digest": stem.replace("-", ":", 1),
                    "upstream": note.upstream if note else "",
                    "repository": note.repository if note else "",
                    "size": note.size if note else None,
                    "received": status.st_size,
                }
            )
        return found

    def _sets(self, locked: frozenset[int]) -> tuple[list[dict[str, Any]], list[str], dict[str, str] | None]:
        """Return what is here of each generation, the sets that somebody works on, and the record that is damaged.

        A generation that a later complete one follows may be unfinished for good: that is nobody's trouble.
        """
        sets = Sets(self._layout)
        try:
            complete = {(one.set, one.generation): one for one in sets.current()}
            shortfalls = self._pins.shortfalls()
        except StoreUnreadable:
            return [], [], None  # which is told of the disk
        except StoreError as error:
            return [], [], {"what": error.what, "remedy": error.remedy}
        except OSError as error:
            return [], [], {"what": f"what is known of sets cannot be read: {error}", "remedy": "look at that file"}
        busy = [name for name in sets.names() if inode(self._layout.lock(f"set {name}")) in locked]
        newest: dict[str, int] = {}
        for name, number in complete:
            if (name, number) in shortfalls and not shortfalls[name, number].lacking:
                newest[name] = max(number, newest.get(name, 0))
        found = []
        for (name, number), short in sorted(shortfalls.items()):
            one = complete.get((name, number))
            if one is not None and not short.lacking:
                state = "incomplete" if short.missing else "complete"
            else:
                state = "running" if name in busy else "left" if number < newest.get(name, 0) else "incomplete"
            found.append(
                {
                    "set": name,
                    "generation": number,
                    "state": state,
                    "missing": short.missing,
                    "lacking": short.lacking,
                    "completed": one.completed if one is not None else None,
                }
            )
        return found, busy, None

    def _scrub(self) -> dict[str, Any] | None:
        """Return what the scrub noted of itself; records that it found ill are looked at again."""
        try:
            found = json.loads(files.read_record(str(self._layout.run / "scrub.json"), _SCRUB_LIMIT) or b"null")
        except (ValueError, RecursionError, MirrorError):
            return None
        if not isinstance(found, dict):
            return None
        last = Pass.parse(found.get("last"))
        for path in last.records if last is not None else ():
            list(records.look(self._layout, path))  # what is wrong is noted, and told with what others met
        return found


def _state(endpoints: list[Seen]) -> str:
    if endpoints and all(one.is_away for one in endpoints):
        return "away"
    if any(one.is_away for one in endpoints):
        return "partly away"
    return (
        "reachable"
        if any(one.judged and not one.last_error for one in endpoints)
        else ("failing" if any(one.last_error for one in endpoints) else "not asked yet")
    )


def _credential(endpoints: list[Seen]) -> str:
    """Return the worst that is known: refused, ok, none (answers anonymous requests), unknown."""
    states = {one.credential for one in endpoints}
    return next((state for state in ("refused", "ok", "none") if state in states), "unknown")


def _held(folder: os.PathLike[str], locked: frozenset[int]) -> list[str]:
    """Return the names of the files that somebody has locked; looks at none of the others, which may be many."""
    try:
        with os.scandir(folder) as found:
            return [entry.name for entry in found if entry.inode() in locked]
    except OSError:
        return []


def _list(folder: os.PathLike[str]) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
