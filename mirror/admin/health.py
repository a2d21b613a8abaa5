"""How upstreams and the disk fare, as all workers of a service see it: each posts what it knows, any tells it all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mirror.store.faults import DISK_FAULTS
from mirror.upstream.client import UpstreamClient
from mirror.workers import Board

_PERIOD = 1.0  # seconds
_LONGEST_ERROR = 300  # characters


@dataclass(frozen=True, slots=True)
class Seen:
    """One endpoint as the worker saw it that asked it last; `judged` is 0 where nobody has asked it yet."""

    endpoint: str
    breaker: str
    asked_again: float
    last_error: str
    credential: str
    judged: float

    @property
    def is_away(self) -> bool:
        """Whether it is left alone because it failed."""
        return self.breaker != "closed"

    def as_dict(self) -> dict[str, Any]:
        """The form of `--json` reports."""
        return {
            "endpoint": self.endpoint,
            "asked": self.judged > 0,
            "breaker": self.breaker,
            "asked_again": round(self.asked_again, 1),
            "last_error": self.last_error,
            "credential": self.credential,
        }


class Health:
    """This worker's upstreams and, by way of the board, those of its siblings."""

    def __init__(self, board: Board, index: int, upstreams: Mapping[str, UpstreamClient]) -> None:
        self._board = board
        self._index = index
        self._upstreams = upstreams

    async def keep_posting(self) -> None:
        """Post what this worker knows every second, until cancelled."""
        while True:
            self._post()
            await asyncio.sleep(_PERIOD)

    def service(self) -> dict[str, Any]:
        """Return what the supervisor says of the service."""
        return self._board.service()

    def is_first(self) -> bool:
        """Tell whether this worker does what one of the service is to do: it is the first of those that serve."""
        workers = self._board.service().get("workers", ())
        return next((worker["index"] for worker in workers if worker["ready"]), None) == self._index

    def upstreams(self) -> dict[str, list[Seen]]:
        """Return of each upstream how its endpoints fare, in the order in which they are asked."""
        # Whoever is asked next, a sibling perhaps, must not know less than was told here.
        self._post()
        serving = [worker["index"] for worker in self._board.service().get("workers", ())]
        notes = [self._board.read(index).get("upstreams", {}) for index in serving if index != self._index]
        found = {}
        for name, client in self._upstreams.items():
            # A sibling that is about to be replaced may know other endpoints.
            told = {one["endpoint"]: [one] for one in _told(client)}
            for note in notes:
                for one in note.get(name, ()):
                    told.get(one["endpoint"], []).append(one)
            found[name] = [Seen(**max(seen, key=lambda one: float(one["judged"]))) for seen in told.values()]
        return found

    def disk_faults(self) -> list[dict[str, Any]]:
        """Return what any worker could not read or write and has not seen to work since (Faults.told)."""
        serving = [worker["index"] for worker in self._board.service().get("workers", ())]
        notes = [self._board.read(index).get("disk", []) for index in serving if index != self._index]
        rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row in (row for told in (DISK_FAULTS.told(), *notes) for row in told):
            key = (row["operation"], row["errno"], row["remedy"])
            known = rows.setdefault(key, row)
            if known is not row:
                # Workers meet the same files, so their paths are not added up.
                paths, since = max(known["paths"], row["paths"]), min(known["since"], row["since"])
                rows[key] = {**known, "paths": paths, "since": since, "count": known["count"] + row["count"]}
        return list(rows.values())

    def _post(self) -> None:
        """Post what is known of endpoints that were asked: of the others nobody has anything to tell."""
        told = {name: [one for one in _told(client) if one["judged"]] for name, client in self._upstreams.items()}
        upstreams = {name: seen for name, seen in told.items() if seen}
        self._board.post(self._index, {"upstreams": upstreams, "disk": DISK_FAULTS.told()})


def _told(client: UpstreamClient) -> list[dict[str, Any]]:
    return [
        {
            "endpoint": one.endpoint,
            "breaker": one.breaker,
            "asked_again": one.asked_again,
            "last_error": one.last_error[:_LONGEST_ERROR],
            "credential": one.credential,
            "judged": one.judged,
        }
        for one in client.health()
    ]
