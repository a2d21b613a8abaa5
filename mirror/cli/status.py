"""`mirror status`: what the running service says of itself, as a table for people or as JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirror.cli.asking import NobodyAnswers, ServiceBusy, ask
from mirror.cli.outcome import FAILED, INVALID, TEMPORARY, Outcome, count_text, size_text
from mirror.config import Config
from mirror.config.document import read
from mirror.errors import ConfigurationError, MirrorError
from mirror.outside import run_as_owner

_OLD = 5.0  # seconds since the service looked at its store, beyond which it is told
_SHOWN = 20  # downloads and sets named to a person; --json has them all


def read_places(path: Path) -> Config:
    """Return what a configuration that is not valid says of where its service is to be found; else the defaults."""
    try:
        data = read(path).data
        places = {
            section: {key: data[section][key]}
            for section, key in (("storage", "path"), ("admin", "socket"))
            if isinstance(data.get(section), dict) and isinstance(data[section].get(key), str)
        }
        return Config.model_validate(places, context={"base": path.absolute().parent})
    except (ConfigurationError, ValidationError, AttributeError):
        return Config()


def status(config: Config, wrong: ConfigurationError | None, *, as_json: bool, quiet: bool) -> int | None:
    """Ask the service, print its report and return the exit code. Root asks as root, the store's owner as such.

    75 where none answers: "no_service" where none is there, "service_busy" where one is and has not answered in time.

    `wrong` is what is wrong with the configuration file by now: None is returned if no service answers then.
    """
    outcome = Outcome("status", as_json=as_json, quiet=quiet)
    there: list[bool] = []

    def look(_outside: object = None) -> int:
        try:
            facts, at = ask(config, "GET", "/status")
        except ServiceBusy as error:
            there.append(True)
            outcome.note(TEMPORARY, "service_busy", error.what, "", error.remedy)
        except NobodyAnswers as error:
            if wrong is not None:
                return INVALID
            outcome.note(TEMPORARY, "no_service", error.what, "", error.remedy)
        except MirrorError as error:
            outcome.note_error(error)
        else:
            there.append(True)
            _report(outcome, {**facts, "socket": str(at)})
        if there:
            for problem in wrong.problems if wrong is not None else ():
                what = f"the service could not start again with this file: {problem.what}"
                outcome.note(FAILED, problem.code, what, problem.where, problem.remedy)
        return outcome.finish()

    try:
        code = look()
    except PermissionError:
        # The store's folder is closed to others: that says who may ask, and how.
        try:
            code = run_as_owner(config.storage.path, look)
        except MirrorError as error:
            outcome.note_error(error)
            return outcome.finish()
    return None if wrong is not None and not there else code


def _report(outcome: Outcome, facts: dict[str, Any]) -> None:
    for problem in facts.pop("problems"):
        outcome.note(FAILED, problem["code"], problem["what"], problem["where"], problem["remedy"])
    conditions = {one["type"]: one for one in facts["conditions"]}
    available = conditions["Available"]
    if not available["status"]:
        outcome.note(FAILED, "not_available", f"the service is not available: {available['message']}")
    outcome.facts |= facts
    outcome.say(*_lines(facts))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    for one in facts["conditions"]:
        message = f"  {one['message']}" if one["message"] else ""
        yield f"{one['type']:<12} {'True' if one['status'] else 'False':<6} {one['reason']}{message}"
    yield ""
    workers = facts["workers"]
    yield _row("version", f"{facts['version']}, process {facts['pid']}, up {_span(facts['uptime'])}")
    yield _row("workers", f"{workers['ready']} of {workers['configured']}, {workers['restarts']} replaced after faults")
    yield _row(
        "configuration", f"{facts['configuration']['path'] or '(none)'}, read {_ago(facts['configuration']['read'])}"
    )
    if facts["configuration"]["changed"]:
        yield _row("", "the file has changed since: systemctl reload mirror")
    if facts["reload"]:
        how = "taken up" if facts["reload"]["ok"] else "refused"
        yield _row("last reload", f"{how}, {_ago(facts['reload']['at'])}")
    if facts["certificate"]:
        yield _row("certificate", f"until {_date(facts['certificate']['expires'])}, {facts['certificate']['path']}")
    if time.time() - facts.get("looked", time.time()) > _OLD:
        yield _row("looked", f"{_ago(facts['looked'])}: the store answers slowly, and what follows is of that time")
    yield from _store_lines(facts["store"])
    yield from _work_lines(facts)
    yield from _upstream_lines(facts["upstreams"])
    yield from _set_lines(facts["sets"])


def _store_lines(store: dict[str, Any]) -> Iterator[str]:
    yield _row("store", store["path"])
    content, pinned = (_size(store[key]) for key in ("content_bytes", "pinned_bytes"))
    yield _row("", f"{content} of content, {pinned} of it pinned, {_size(store['evictable_bytes'])} may be evicted")
    bound = f", a cache of {_size(store['cache_size'])} at most" if store["cache_size"] is not None else ""
    free, total, kept = (_size(store[key]) for key in ("free_bytes", "total_bytes", "keep_free_bytes"))
    yield _row("", f"{free} free of {total}, {kept} of that kept free{bound}")
    if store.get("total_inodes"):
        yield _row("", f"{store['free_inodes']} inodes free of {store['total_inodes']}")


def _work_lines(facts: dict[str, Any]) -> Iterator[str]:
    fetches = facts["fetches"]
    if fetches or facts["uploads"]:
        yield _row("under way", f"{count_text(len(fetches), 'download')}, {count_text(facts['uploads'], 'upload')}")
    for one in fetches[:_SHOWN]:
        yield _row("", _fetch(one))
    waiting = sum(facts["notifications"].values())
    if facts["notifications"]:
        yield _row("notifications", f"{waiting} waiting, for {count_text(len(facts['notifications']), 'webhook')}")
    keeps = {True: "done", False: "no worker does it", None: "not known yet"}[facts["housekeeping"]]
    yield _row("housekeeping", keeps)
    yield from _scrub_lines(facts["scrub"] or {})


def _fetch(one: dict[str, Any]) -> str:
    digest = f"{one['digest'][:19]}…"
    if not one["upstream"]:
        return f"{digest} upstream has not answered yet"
    far = f"of {_size(one['size'])}" if one["size"] is not None else "so far, of a size that upstream does not say"
    return f"{one['upstream']}/{one['repository']} {digest} {_size(one['received'])} {far}"


def _scrub_lines(scrub: dict[str, Any]) -> Iterator[str]:
    if scrub.get("when"):
        bad = len(scrub.get("bad") or ())
        words = f"{count_text(bad, 'item')} damaged or missing" if bad else "nothing is damaged"
        yield _row("scrub", f"{_size(scrub.get('bytes'))} hashed, ended {_ago(scrub['when'])}: {words}")
    for key in ("background", "command"):
        one = scrub.get(key)
        if isinstance(one, dict) and one.get("began") and not one.get("ended"):
            name = "" if scrub.get("when") else "scrub"
            yield _row(name, f"a pass is under way, {_size(one.get('bytes'))} hashed so far")


def _upstream_lines(upstreams: list[dict[str, Any]]) -> Iterator[str]:
    for number, one in enumerate(upstreams):
        login = {
            "ok": "login works",
            "refused": "login refused",
            "none": "asks for no login",
            "unknown": "login untried",
        }
        yield _row("" if number else "upstreams", f"{one['name']}: {one['state']}, {login[one['credential']]}")
        for at in one["endpoints"]:
            if at["last_error"]:
                again = f", asked again in {at['asked_again']:.0f} s" if at["asked_again"] else ""
                yield _row("", f"  {at['endpoint']}: {at['last_error']}{again}")


def _set_lines(sets: list[dict[str, Any]]) -> Iterator[str]:
    words = {"complete": "complete", "running": "on its way", "left": "left unfinished", "incomplete": "incomplete"}
    for number, one in enumerate(sets[-_SHOWN:]):
        missing = f", {one['missing']} digests are not here" if one["missing"] else ""
        lacking = f", {one['lacking']} more could not be had" if one.get("lacking") else ""
        yield _row(
            "" if number else "sets", f"{one['set']}@{one['generation']}: {words[one['state']]}{missing}{lacking}"
        )
    if len(sets) > _SHOWN:
        yield _row("", f"and {len(sets) - _SHOWN} earlier ones: mirror ls")


def _row(name: str, text: str) -> str:
    return f"{name:<15}{text}"


def _size(size: float | None) -> str:
    return size_text(size) if size is not None else "?"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ago(moment: float) -> str:
    return f"{_span(max(0.0, time.time() - moment))} ago"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
