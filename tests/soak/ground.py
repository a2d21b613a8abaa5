"""What all actors share: the service, its upstream, the ledger, and a client that notes what must not be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.errno_bed import Faulty
from tests.faults.wire import Got, ask
from tests.peers.process import RunningRegistry
from tests.soak.ledger import ABSENT, Ledger, Name, Promise

# "Not now", which says nothing of what is here: the disk or upstream does not give it, or the line is full.
NOT_NOW = frozenset({429, 502, 503, 504, 507})
_BACK_OFF = 0.05  # seconds after an answer that did not come


class NotNow(Exception):
    """No answer came, or none that says what is here."""


@dataclass
class Ground:
    """Where it all takes place."""

    service: Faulty
    upstream: RunningRegistry
    ledger: Ledger
    seed: int

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.service.address.partition(":")
        return host, int(port)

    def chance(self, name: str) -> random.Random:
        """Return the random numbers of one actor: another one's pace does not change them."""
        return random.Random(f"{self.seed} {name}")

    async def ask(
        self,
        kind: str,
        target: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        *,
        good: tuple[int, ...] = (200, 404),
    ) -> Got:
        """Ask, and return an answer of one of the statuses `good`; raise NotNow where none came."""
        self.ledger.counts[kind] += 1
        try:
            got = await ask(self.address, target, method, headers, body)
        except TimeoutError:
            self.ledger.find("unexpected", f"{method} {target}: no answer in time")
            raise NotNow from None
        except OSError:
            got = Got()
        if got.clean and got.status in good:
            return got
        if got.clean and got.status not in NOT_NOW:
            self.ledger.find("unexpected", f"{method} {target}: {got.status} {got.body[:300]!r}")
        self.ledger.counts["not now"] += 1
        await asyncio.sleep(_BACK_OFF)
        raise NotNow

    async def pull(self, name: Name) -> None:
        """Pull what a name means, and hold it to its promise unless that has changed meanwhile.

        Raises NotNow where it cannot be told.
        """
        repository, reference = name
        promise = self.ledger.promise(*name)
        changes = promise.changes
        where = f"{repository} {reference}"
        got = await self.ask("pull manifest", f"/v2/{repository}/manifests/{reference}")
        found = got.headers.get("docker-content-digest", "no digest") if got.status == 200 else ABSENT
        if promise.changes == changes and found not in promise.may_be:
            kind = "lost" if found == ABSENT else "wrong"
            self.ledger.find(kind, f"{where}: is {found or 'absent'}, promised was {sorted(promise.may_be)}")
        if found == ABSENT or not self.ledger.has(found, got.body, where):
            return
        document = json.loads(got.body)
        for child in document.get("manifests", []):
            await self._part(repository, "manifests", child["digest"], promise, changes)
        for blob in [document["config"], *document["layers"]] if "config" in document else []:
            await self._part(repository, "blobs", blob["digest"], promise, changes)

    async def _part(self, repository: str, kind: str, digest: str, promise: Promise, changes: int) -> None:
        got = await self.ask(f"pull {kind}", f"/v2/{repository}/{kind}/{digest}")
        if got.status == 200:
            self.ledger.has(digest, got.body, f"{repository} {kind}")
        elif promise.changes == changes:
            self.ledger.find("lost", f"{repository}: {kind} {digest} of what is there is {got.status}")

    async def alive(self) -> None:
        """Ask /livez once and keep the longest time that took."""
        began = time.monotonic()
        with contextlib.suppress(NotNow):
            await self.ask("livez", "/livez", good=(200,))
            self.ledger.longest = max(self.ledger.longest, time.monotonic() - began)
