"""Webhooks: one POST to a configured URL, behind the same guard, proxy and authorities as all that leaves here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from mirror.config import Config, effective_proxy
from mirror.config.notifications import Notification
from mirror.errors import UpstreamInvalid
from mirror.upstream import certificates, failures, redirect, tls
from mirror.upstream.proxy import Egress
from mirror.upstream.retry import parse_retry_after
from mirror.upstream.secret import Secret
from mirror.upstream.transport import Request, Transport
from mirror.upstream.watched import WatchedFile

# What a receiver may take for one request: it may look after a pipeline before it answers.
ANSWER_SECONDS = 30.0

_MOST_HEADERS = 32
# RFC 9110, 5.6.2 (token) and 5.5 (field values, without what is obsolete).
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}):[ \t]*([!-~](?:[\t -~]{0,8190}[!-~])?)[ \t]*")
# What frames the request or is said by us; a second one would make it two requests to somebody on the way.
_OURS = frozenset(
    {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "te", "trailer"}
    | {"upgrade", "expect", "keep-alive", "proxy-authorization", "proxy-connection", "accept-encoding"}
)


@dataclass(frozen=True, slots=True)
class Said:
    """What a webhook answered: the status, and for how many seconds it wants to be left alone (0: no wish)."""

    status: int
    retry_after: float


class Webhook:
    """One receiver of events. Its header file is looked at before each request, and holds secrets."""

    def __init__(self, notification: Notification, transport: Transport, egress: Egress) -> None:
        self._url = redirect.as_spelled(notification.url)
        self._reach = redirect.reach_of_endpoint(self._url)
        self._transport = transport
        self._egress = egress
        path = notification.header_file
        self._headers = None if path is None else WatchedFile(path, parse_headers)

    async def post(self, body: bytes, content_type: str) -> Said:
        """Send `body` and return what was answered, whatever the status; a redirect is not followed.

        Raise UpstreamUnavailable where there is no answer within 30 s, UpstreamInvalid for one that is no HTTP or comes
        from an address out of reach, UpstreamLoginRefused where the header file never could be read.
        """
        headers = {"Content-Type": content_type}
        if self._headers is not None:
            headers.update((name, value.reveal()) for name, value in (await self._headers.value()).items())
        # aiohttp sends bytes as they are.
        request = Request("POST", self._url, headers, cast("Mapping[str, str]", body))
        try:
            answer = await self._transport.send(request, self._reach, ANSWER_SECONDS)
        except failures.AddressForbidden:
            remedy = "if that is right, configure that very address"
            raise UpstreamInvalid(f"{failures.origin(self._url)} leads to a link-local address", remedy) from None
        except failures.CertificateRefused as error:
            if self._egress.for_url(self._url) is None:
                error.add(await certificates.describe(self._url, self._reach))
            raise
        try:
            return Said(answer.status, parse_retry_after(answer.header("Retry-After")))
        finally:
            answer.close()


class Webhooks(Mapping[str, Webhook]):
    """The receivers by the keys of their notifications. Must be closed. Make it with `open_webhooks`."""

    def __init__(self, webhooks: Mapping[str, Webhook], transport: Transport) -> None:
        self._webhooks = dict(webhooks)
        self._transport = transport

    def __getitem__(self, key: str) -> Webhook:
        return self._webhooks[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._webhooks)

    def __len__(self) -> int:
        return len(self._webhooks)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.close()


def open_webhooks(config: Config, environ: Mapping[str, str], notifications: Sequence[Notification]) -> Webhooks:
    """Return what posts to the webhooks. Opens no connection and reads no secret yet; needs a running event loop.

    `environ` is where HTTPS_PROXY and its kin are looked up. Raise ConfigurationError for a CA or a proxy that cannot
    be used.
    """
    context = tls.Contexts(config.ca).for_endpoint(None)
    egress = Egress(effective_proxy(config, environ))
    # One each: what is told to a receiver is told in order.
    transport = Transport(context, context, egress, limit=max(1, len(notifications)))
    return Webhooks({one.key: Webhook(one, transport, egress) for one in notifications}, transport)


def parse_headers(content: bytes) -> Mapping[str, Secret]:
    """Return the headers that a file's lines `Name: value` hold; empty lines and those from a # on say nothing.

    Raise ValueError for any other line, a header twice, or one that is not the file's to set.
    """
    headers: dict[str, Secret] = {}
    seen: set[str] = set()
    for text in content.decode("ascii").split("\n"):
        line = text.removesuffix("\r")
        if not line.strip() or line.startswith("#"):
            continue
        found = _FIELD.fullmatch(line)
        if found is None or (name := found[1].lower()) in seen | _OURS or len(seen) >= _MOST_HEADERS:
            raise ValueError("not a header, one that stands there twice, or one of ours")
        seen.add(name)
        headers[found[1]] = Secret(found[2])
    if not headers:
        raise ValueError("no header")
    return headers
