"""What is told to webhooks: pushes, deletions, and proxied tags that moved, in the envelope of distribution.

An event is queued on disk before the push that it tells of is acknowledged, so that kill -9 loses none; it is sent
later and by one process (admin/delivery.py), so that no webhook slows a push.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mirror import logs
from mirror.config.notifications import EventKind, Notification, labels
from mirror.errors import StoreError
from mirror.metrics import NOTIFICATIONS, Metrics
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.store.events import LARGEST
from mirror.store.events import Events as Queues
from mirror.store.threads import Threads

# What a receiver is sent: {"events": […]}.
MEDIA_TYPE = "application/vnd.docker.distribution.events.v2+json"

_LONGEST = 256  # characters of what a client chose
_NOBODY = "anonymous"

_log = logs.get("content.events")


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that an event comes of, as far as receivers are told; `base` is scheme://host[:port] as it saw us."""

    id: str
    address: str
    host: str
    method: str
    agent: str
    base: str


# Set by the face for each request that writes.
asking: ContextVar[Asked | None] = ContextVar("asking", default=None)


@dataclass(frozen=True, slots=True)
class Source:
    """Where events come from: host:port of this registry, and what tells one start of it from the next."""

    address: str
    instance: str


class Events:
    """Queues what the configured webhooks are to be told. Without any it costs nothing, and it never raises."""

    def __init__(
        self,
        queues: Queues,
        targets: Sequence[Notification],
        writers: Threads,
        metrics: Metrics,
        source: Source,
        external_url: str | None = None,
    ) -> None:
        self._queues = queues
        self._targets = tuple(targets)
        self._labels = labels(targets)
        self._writers = writers
        self._metrics = metrics
        self._source = {"addr": source.address, "instanceID": source.instance}
        self._external_url = external_url

    async def pushed(
        self,
        name: str,
        digest: Digest,
        media_type: str,
        size: int,
        tags: Sequence[str],
        who: str,
        references: Iterable[Descriptor] = (),
    ) -> None:
        """Tell of a manifest that was pushed to the repository `name`, or that a tag was set to.

        An event for each tag, one without a tag where there is none. `references` are what the manifest names; they are
        left out where they would make an event too large. Call it when the tag names the manifest and before that is
        acknowledged, under the lock of the tag: so the last event of a tag tells what it means.
        """
        if not (targets := self._wanting("push", name)):
            return
        what: dict[str, Any] = {
            **self._manifest(name, digest, media_type, size),
            "references": [_descriptor(one.media_type, one.digest, one.size) for one in references],
        }
        told = [{**what, "tag": tag} for tag in tags] or [what]
        await self._tell(targets, name, [self._event("push", one, who, asking.get()) for one in told])

    async def deleted(self, name: str, who: str, *, digest: Digest | None = None, tag: str = "") -> None:
        """Tell that a tag (`tag`) or a manifest with all its tags (`digest`) was deleted from the repository `name`."""
        if targets := self._wanting("delete", name):
            what = {"repository": name, "digest": str(digest) if digest is not None else "", "tag": tag}
            await self._tell(targets, name, [self._event("delete", what, who, asking.get())])

    async def on_moved(
        self, name: str, tag: str, old: Digest, new: Digest, media_type: str = "", size: int | None = None
    ) -> None:
        """Tell that a proxied tag, which meant `old`, is seen to mean `new`, whose manifest is here.

        To receivers it is a push without a request of ours. Called before the store forgets `old`, a kill between the
        two makes the event come twice; after it, never.
        """
        if old != new and (targets := self._wanting("tag", name)):
            what = {**self._manifest(name, new, media_type, size), "tag": tag}
            await self._tell(targets, name, [self._event("push", what, "", None)])

    def _wanting(self, kind: EventKind, name: str) -> list[Notification]:
        return [target for target in self._targets if target.wants(kind, name)]

    def _manifest(self, name: str, digest: Digest, media_type: str, size: int | None) -> dict[str, Any]:
        asked = asking.get()
        base = self._external_url or (asked.base if asked is not None else "")
        return {
            **_descriptor(media_type, digest, size),
            "length": size,
            "repository": name,
            "url": f"{base}/v2/{name}/manifests/{digest}" if base else "",
        }

    def _event(self, action: str, what: Mapping[str, Any], who: str, asked: Asked | None) -> bytes:
        """Return one event as distribution's notifications/event.go has it: empty fields out, but those of request."""
        request = {"id": "", "method": "", "useragent": ""}
        if asked is not None:
            request = {
                "id": asked.id,
                "addr": asked.address,
                "host": asked.host[:_LONGEST],
                "method": asked.method,
                "useragent": asked.agent[:_LONGEST],
            }
        event = {
            "id": str(uuid.uuid4()),
            "timestamp": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "action": action,
            "target": _stated(what),
            "request": request,
            "actor": {"name": who} if who and who != _NOBODY else {},
            "source": self._source,
        }
        raw = _dump(event)
        if len(raw) > LARGEST:
            event["target"] = _stated({**what, "references": []})
            raw = _dump(event)
        return raw

    async def _tell(self, targets: Sequence[Notification], name: str, events: Sequence[bytes]) -> None:
        # A client that leaves now has its push all the same, and so has the event.
        await self._writers.complete(self._append, targets, name, events)

    def _append(self, targets: Sequence[Notification], name: str, events: Sequence[bytes]) -> None:
        for target in targets:
            label = self._labels[target.key]
            try:
                dropped = self._queues.append(target.key, name, events)
            except (OSError, StoreError) as error:
                # What was pushed is here and stays: no client can mend a disk that takes no event.
                self._metrics.add(NOTIFICATIONS, label, "lost", by=len(events))
                _log.error("notification_lost", target=label, name=name, error=str(error))
                continue
            if dropped:
                self._metrics.add(NOTIFICATIONS, label, "dropped", by=dropped)
                _log.warning("notifications_dropped", target=label, count=dropped, why="nobody delivers")


def _descriptor(media_type: str, digest: Digest, size: int | None) -> dict[str, Any]:
    return {"mediaType": media_type[:_LONGEST], "digest": str(digest), "size": size}


def _stated(what: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in what.items() if value not in ("", None, [])}


def _dump(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()
