"""What a service says of itself in three words: Available, Progressing, Degraded, as cluster operators do.

Each has a status, a reason (one word in capitals and small letters) and a message; what keeps it from being well is a
problem with its remedy. No I/O: from facts to words.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from mirror.config.values import size_text
from mirror.store.promises import UNIT

AS_EXPECTED = "AsExpected"
_LATELY = 600.0  # seconds for which it is told that memory was short
EXPIRES_SOON = 14 * 86400.0  # seconds before its end in which a certificate should have been renewed
_MANY_WAIT = 100  # events; webhooks take a handful at a time
_REMOUNT = "see why it became read-only (dmesg), and mount it writable; a unit of systemd needs it in ReadWritePaths="
_NAMED = 3  # of many, so many are named

Facts = Mapping[str, Any]

Ill = Literal[
    "StoreUnreadable", "StoreUnwritable", "StoreUnusable", "StoreFull", "CollectionStopped", "ContentCorrupt",
    "RecordDamaged", "SetIncomplete", "LoginRefused", "UpstreamAway", "FileRefused", "CertificateExpired",
    "CertificateExpires", "ReloadRefused", "WorkersMissing", "MemoryShort", "HousekeepingIdle", "NotificationsWaiting",
]  # fmt: skip
Busy = Literal["Starting", "Reloading", "Stopping", "Replacing", "Syncing", "Indexing"]
# All that a condition may hold for, by its type.
REASONS: Mapping[str, tuple[str, ...]] = {
    "Available": (AS_EXPECTED,),
    "Progressing": get_args(Busy),
    "Degraded": get_args(Ill),
}


class Condition(NamedTuple):
    """One of the three."""

    type: str
    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a service is not well: a reason, what it is, where, and what mends it."""

    reason: Ill
    what: str
    where: str = ""
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """The form that every report lists under `problems`; the code is the reason in small letters."""
        code = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in self.reason).lstrip("_")
        return {"code": code, "what": self.what, "where": self.where, "remedy": self.remedy}


def conditions(facts: Facts, troubles: list[Trouble], store_error: str) -> list[Condition]:
    """Return the three conditions. `store_error` says what is wrong with the store's way, empty for nothing."""
    return [_available(facts, store_error), _progressing(facts), _degraded(troubles)]


def samples(found: Sequence[Condition], troubles: Sequence[Trouble]) -> dict[tuple[str, ...], float]:
    """Return for each (type, reason) 1 where that condition holds for that reason, else 0.

    Where a service is Degraded for several reasons, each of them is 1.
    """
    holds = {(one.type, one.reason) for one in found if one.status}
    holds |= {("Degraded", trouble.reason) for trouble in troubles}
    return {(kind, reason): float((kind, reason) in holds) for kind, known in REASONS.items() for reason in known}


def _available(facts: Facts, store_error: str) -> Condition:
    ready, count = facts["workers"]["ready"], facts["workers"]["configured"]
    serve = f"{ready} of {count} workers serve on {', '.join(facts['listen'])}"
    if store_error:
        return Condition("Available", False, "StoreUnusable", store_error)
    if facts["phase"] == "stopping":
        return Condition("Available", False, "Stopping", "the service finishes what it has begun and takes nothing new")
    if not ready:
        return Condition("Available", False, "NoWorker", serve)
    return Condition("Available", True, AS_EXPECTED, serve)


def _progressing(facts: Facts) -> Condition:
    busy = facts["busy_sets"]
    if facts["phase"] == "starting":
        return _busy("Starting", "workers are starting")
    if facts["phase"] == "reloading":
        return _busy("Reloading", "another configuration is being taken up")
    if facts["phase"] == "stopping":
        return _busy("Stopping", "it stops")
    if facts["workers"]["leaving"]:
        count = facts["workers"]["leaving"]
        return _busy("Replacing", f"{count} workers of an earlier configuration finish their answers")
    if busy:
        return _busy("Syncing", f"a sync or load of {', '.join(busy)} is running")
    if facts["store"]["index_rebuilding"] and facts["housekeeping"] is not False:
        return _busy("Indexing", "the index of use times is being rebuilt; pulls go on without it")
    return Condition("Progressing", False, AS_EXPECTED, "")


def _busy(reason: Busy, message: str) -> Condition:
    return Condition("Progressing", True, reason, message)


def _degraded(troubles: list[Trouble]) -> Condition:
    if not troubles:
        return Condition("Degraded", False, AS_EXPECTED, "")
    reasons = list(dict.fromkeys(trouble.reason for trouble in troubles))
    message = "; ".join(trouble.what for trouble in troubles)
    return Condition("Degraded", True, reasons[0] if len(reasons) == 1 else "Multiple", message)


def find_troubles(facts: Facts) -> list[Trouble]:
    """Return all that keeps a service from being well, the gravest first."""
    found = (
        _disk,
        _store,
        _collection,
        _corrupt,
        _sets,
        _upstreams,
        _files,
        _certificate,
        _reload,
        _workers,
        _memory,
        _housekeeping,
        _notifications,
    )
    return [trouble for find in found for trouble in find(facts)]


def _disk(facts: Facts) -> Iterator[Trouble]:
    """What could not be read or written: it may be whole, and nothing was moved or removed for it."""
    store = facts["store"]
    for row in store["faults"]:
        if row["operation"] == "parse":
            continue
        done, many = ("read", "files") if row["operation"] == "read" else ("written", "files and folders")
        count = f"{row['paths']} {many}" if row["paths"] != 1 else "a file"
        times = f", {row['count']} times" if row["count"] > row["paths"] else ""
        what = f"{count} of the store cannot be {done}{times}: {row['error']} ({row['errno']})"
        reason: Ill = "StoreUnreadable" if row["operation"] == "read" else "StoreUnwritable"
        yield Trouble(reason, what, row["path"], row["remedy"])
    if store["read_only"] and not any(row["operation"] == "write" for row in store["faults"]):
        what = "the store is on a read-only file system: what is here is served, and nothing can be kept or changed"
        yield Trouble("StoreUnwritable", what, store["path"], _REMOUNT)


def _collection(facts: Facts) -> Iterator[Trouble]:
    for run, what in sorted(facts["store"]["stopped"].items()):
        remedy = f"see whether all of the store is mounted and readable; if it is right: mirror {run} … --yes"
        yield Trouble("CollectionStopped", f"mirror {run} stopped: {what}", facts["store"]["path"], remedy)


def _store(facts: Facts) -> Iterator[Trouble]:
    store = facts["store"]
    if store["free_bytes"] is None:
        yield Trouble(
            "StoreUnusable", "the store's file system does not answer", store["path"], "see whether its disk does"
        )
    elif store["lacking_inodes"] and not store["read_only"]:
        what = f"the store's file system is out of inodes: {store['free_inodes']} of {store['total_inodes']} are free"
        remedy = "find out what has so many files there: du --inodes -x"
        yield Trouble("StoreFull", what, store["path"], remedy)
    elif store["in_vain"]:
        what = "nothing is evicted for a while: what that freed was kept by snapshots, or taken by something else"
        yield Trouble("StoreFull", what, store["path"], "see what else fills the file system of the store (du -x, df)")
    elif store["room_bytes"] is not None and store["room_bytes"] + store["evictable_bytes"] < UNIT:
        free, total, kept = (size_text(store[key]) for key in ("free_bytes", "total_bytes", "keep_free_bytes"))
        what = (
            f"there is no room and nothing may be evicted: {free} are free of {total}, {kept} are to stay free, and"
            f" room is taken {size_text(UNIT)} at a time"
        )
        freeing = ", ".join(f"{name} {size_text(size)}" for name, size in store["would_free"][:_NAMED])
        remedy = "enlarge the disk, or lower storage.keep_free"
        remedy += (
            f"; `mirror unpin SET@N --now` frees of its own: {freeing}"
            if freeing
            else "; `mirror gc` frees what nothing names"
        )
        yield Trouble("StoreFull", what, store["path"], remedy)


def _corrupt(facts: Facts) -> Iterator[Trouble]:
    scrub = facts["scrub"]
    bad = scrub.get("bad") if isinstance(scrub, dict) else None
    count = len(bad) if isinstance(bad, list | dict) else bad
    if isinstance(count, int) and count > 0:
        what = f"{'1 item is' if count == 1 else f'{count} items are'} damaged or missing, as the last scrub found"
        remedy = "check the disk (dmesg, SMART); mirror scrub heals what it can and lists the rest (--missing FILE)"
        yield Trouble("ContentCorrupt", what, facts["store"]["path"], remedy)


def _sets(facts: Facts) -> Iterator[Trouble]:
    damaged = facts["damaged_record"]
    if damaged is not None:
        yield Trouble("RecordDamaged", damaged["what"], facts["store"]["path"], damaged["remedy"])
    for row in facts["store"]["faults"]:
        if row["operation"] == "parse":
            others = f", and {row['paths'] - 1} more of its kind" if row["paths"] > 1 else ""
            yield Trouble("RecordDamaged", f"{row['error']}{others}", row["path"], row["remedy"])
    for one in facts["sets"]:
        name = f"{one['set']}@{one['generation']}"
        if one["state"] == "incomplete":
            missing = "1 digest" if one["missing"] == 1 else f"{one['missing']} digests"
            what = f"{missing} of {name} {'is' if one['missing'] == 1 else 'are'} not here"
            if one["lacking"] and not one["missing"]:
                what = f"{name} is here without all of it: its plan lacks {one['lacking']} more"
            yield Trouble("SetIncomplete", what, name, f"mirror verify {name} lists them; sync or load the set again")


def _upstreams(facts: Facts) -> Iterator[Trouble]:
    for one in facts["upstreams"]:
        where = f"upstreams.{one['name']}"
        if one["credential"] == "refused":
            remedy = "renew the pull secret or password; the changed file is picked up by itself: mirror check --online"
            yield Trouble(
                "LoginRefused",
                f"upstream '{one['name']}' refuses our login; known tags are served stale",
                where,
                remedy,
            )
        if one["state"] == "away":
            errors = "; ".join(dict.fromkeys(at["last_error"] for at in one["endpoints"] if at["last_error"]))
            what = f"upstream '{one['name']}' is away" + (f": {errors}" if errors else "")
            yield Trouble("UpstreamAway", what, where, "what is here is served meanwhile: mirror check --online")


def _files(facts: Facts) -> Iterator[Trouble]:
    for one in facts["refused"]:
        yield Trouble("FileRefused", one["what"], one["where"], one["remedy"])


def _certificate(facts: Facts) -> Iterator[Trouble]:
    certificate = facts["certificate"]
    if certificate is None:
        return
    left = certificate["expires"] - time.time()
    remedy = "put a new certificate and key in place: they are reread by themselves"
    if left <= 0:
        yield Trouble("CertificateExpired", "the certificate that clients see has expired", certificate["path"], remedy)
    elif left < EXPIRES_SOON:
        what = f"the certificate that clients see expires in {max(1, round(left / 86400))} days"
        yield Trouble("CertificateExpires", what, certificate["path"], remedy)


def _reload(facts: Facts) -> Iterator[Trouble]:
    last = facts["reload"]
    if last and not last["ok"]:
        what = f"the last reload was refused, and the previous configuration stays in force: {last['why']}"
        yield Trouble(
            "ReloadRefused", what, facts["configuration"]["path"], "correct it and reload: systemctl reload mirror"
        )


def _workers(facts: Facts) -> Iterator[Trouble]:
    workers = facts["workers"]
    if workers["ready"] < workers["configured"] and facts["phase"] == "serving":
        what = f"{workers['ready']} of {workers['configured']} workers serve"
        yield Trouble("WorkersMissing", what, "", "worker_ended and worker_failed in the log say why")


def _memory(facts: Facts) -> Iterator[Trouble]:
    short = facts["memory"]["short"]
    if short is not None and time.time() - short < _LATELY:
        what = "clients held more memory than limits.memory allows: who held most and took least was cut"
        remedy = "see who holds so much (connection_cut, why=memory, in the log), set limits.connections_per_client"
        yield Trouble("MemoryShort", what, "limits.memory", f"{remedy}, or raise limits.memory")


def _housekeeping(facts: Facts) -> Iterator[Trouble]:
    if facts["housekeeping"] is False:
        yield Trouble(
            "HousekeepingIdle",
            "nothing is evicted, rebuilt or delivered",
            facts["store"]["path"],
            "see the log for duty_failed",
        )


def _notifications(facts: Facts) -> Iterator[Trouble]:
    for target, count in facts["notifications"].items():
        if count > _MANY_WAIT:
            what = f"{count} events wait for the webhook {target}"
            yield Trouble(
                "NotificationsWaiting", what, target, "notifications_held in the log says what the webhook answers"
            )
