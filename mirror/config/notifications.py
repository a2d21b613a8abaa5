"""What mirror.yaml says about webhooks: who is told of which events, in which repositories, and as whom we go there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PrivateAttr

from mirror.config.addresses import parse_document_url
from mirror.config.fields import FilePath, Pattern, Section, as_items, one_of, refuse_none, whole
from mirror.config.patterns import Matcher
from mirror.config.values import SpellingError, expect_text, quote

EventKind = Literal["push", "delete", "tag"]
EVENT_KINDS: tuple[EventKind, ...] = ("push", "delete", "tag")

_LARGEST_BATCH = 100


def _parse_url(value: object) -> str:
    text = expect_text(value)
    url = parse_document_url(text)
    if url.startswith("file:"):
        raise SpellingError(f"{quote(text)} is neither http nor https", "write https://host[:port][/path]")
    # A receiver may know /hook/ and answer /hook with a redirect, which is not followed.
    return url + text[len(text.rstrip("/")) :]


class Notification(Section):
    """One webhook, and the events that it is told of."""

    url: Annotated[str, BeforeValidator(_parse_url)]
    """Where events are posted to."""
    header_file: FilePath | None = None
    """A file of header lines (`Authorization: Bearer …`) that go with every request; reread when it changes."""
    events: Annotated[
        tuple[Annotated[EventKind, one_of(*EVENT_KINDS)], ...],
        BeforeValidator(as_items),
        AfterValidator(refuse_none),
    ] = EVENT_KINDS
    """push and delete: what clients do here; tag: a proxied tag is seen to mean another digest."""
    repositories: Annotated[tuple[Pattern, ...], BeforeValidator(as_items), AfterValidator(refuse_none)] = ("**",)
    """Patterns of canonical names, the upstream's key included."""
    batch: Annotated[int, whole(1, _LARGEST_BATCH)] = 1
    """The most events that one request holds."""

    _matcher: Matcher = PrivateAttr()

    def model_post_init(self, _context: Any, /) -> None:
        """Prepare the matcher."""
        self._matcher = Matcher(self.repositories)

    @property
    def key(self) -> str:
        """What its events wait under: the same as long as the URL is, and without what a URL may hold of secrets."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def wants(self, kind: EventKind, name: str) -> bool:
        """Tell whether an event of this kind, in the repository of this canonical name, is to be told."""
        return kind in self.events and self._matcher.matches(name)

    def __eq__(self, other: object) -> bool:
        # The matcher follows from the patterns.
        return isinstance(other, Notification) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[Any, ...]:
        return self.url, self.header_file, self.events, self.repositories, self.batch


def _refuse_repeated(notifications: tuple[Notification, ...]) -> tuple[Notification, ...]:
    urls = [notification.url for notification in notifications]
    for index, url in enumerate(urls):
        if url in urls[:index]:
            raise SpellingError(f"{quote(url)} is listed twice", "name all its events and repositories in one entry")
    return notifications


Notifications = Annotated[tuple[Notification, ...], AfterValidator(_refuse_repeated)]


def labels(notifications: Sequence[Notification]) -> Mapping[str, str]:
    """Return by its key what each webhook is called in logs and metrics: host[:port], numbered where it repeats."""
    found: dict[str, str] = {}
    for notification in notifications:
        host = urlsplit(notification.url).netloc
        count = sum(1 for label in found.values() if label.partition("#")[0] == host)
        found[notification.key] = f"{host}#{count + 1}" if count else host
    return found
