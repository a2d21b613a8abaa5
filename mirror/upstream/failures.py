"""What went wrong with a connection, in one sentence: aiohttp's own texts name addresses and print whole URLs."""

from __future__ import annotations

import ipaddress
import socket
import ssl

import aiohttp
from yarl import URL

from mirror.errors import UpstreamError, UpstreamInvalid, UpstreamUnavailable
from mirror.upstream.guard import AddressRefusedError, IPNetwork, Reach, allows, may_reach, zone_of_text

_LENGTHS = "it says how long its answer is more than once, or not as a number: does a proxy on the way add a header?"
WEB_PAGE = "is it a registry, or does a portal or proxy want a login?"


class AddressForbidden(UpstreamInvalid):
    """The socket guard refused where a redirect, a realm or an endpoint's name leads."""


class Lasting(UpstreamUnavailable):
    """What asking again in a moment would not change."""


class NoConnection(UpstreamUnavailable):
    """No connection came about, whatever was to be asked over it."""


class CertificateRefused(Lasting, NoConnection):
    """TLS failed because of the certificate; `add` says whose it is and when it ends."""

    def add(self, description: str) -> None:
        """Put what the certificate says into the sentence."""
        if description:
            self.what = f"{self.what}: {description}"
            self.args = (self.what,)


def origin(url: URL) -> str:
    """Return scheme, host and port of `url`: all of it that may be shown."""
    return str(url.origin()) if url.absolute and url.host else "an unreadable address"


def web_page(url: URL, endpoint: str = "") -> UpstreamInvalid:
    """Return the error for a page where content was asked for."""
    return UpstreamInvalid(f"{origin(url)} answers with a web page", WEB_PAGE, endpoint)


def explain(error: BaseException, url: URL, deadline: float, proxied: bool = False) -> UpstreamError:
    """Return the error of this room for what aiohttp raised while asking `url`."""
    where = origin(url)
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, AddressRefusedError):
        return _forbidden(url)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = error.certificate_error
        said = reason.verify_message if isinstance(reason, ssl.SSLCertVerificationError) else "it does not match"
        return CertificateRefused(
            f"{where} shows a certificate that is not trusted ({said.rstrip('.')})",
            "renew it there, or name its CA under `ca`; there is no way to go on without",
            where,
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        said = getattr(cause, "reason", None) or "handshake failed"
        return NoConnection(
            f"TLS with {where} failed ({said})", "is it an https port, and does it speak TLS 1.2 or later?", where
        )
    if isinstance(error, aiohttp.ClientConnectorDNSError) or isinstance(cause, socket.gaierror):
        return NoConnection(f"the name of {where} cannot be resolved", "check the name and this host's DNS", where)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return NoConnection(
            f"the egress proxy answered {error.status} when asked for {where}", "check `proxy` and its login", where
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return NoConnection("the egress proxy cannot be reached", "check `proxy`", where)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        tls = ", or no TLS" if url.scheme == "https" else ""
        return NoConnection(f"{where} does not accept connections{tls}", "is it up, and is the way open?", where)
    if isinstance(error, TimeoutError):
        return UpstreamUnavailable(f"{where} sent no answer within {deadline:.0f} s", "", where)
    if isinstance(cause, ConnectionRefusedError):
        return NoConnection(f"{where} refuses connections", "is it up, and is the port right?", where)
    if isinstance(error, aiohttp.ClientConnectorError):
        if url.scheme == "https" and isinstance(cause, ConnectionResetError):
            return NoConnection(
                f"TLS with {where} failed (the other side broke it off)", "does it speak TLS 1.2 or later?", where
            )
        said = _strerror(cause)
        return NoConnection(f"{where} cannot be reached{said}", "check the way there", where)
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return UpstreamInvalid(f"an address at {where} cannot be asked for", "", where)
    if isinstance(error, aiohttp.ClientResponseError):
        remedy = _LENGTHS if "content-length" in error.message.lower() else ""
        return UpstreamInvalid(f"{where} does not answer in HTTP", remedy, where)
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return UpstreamUnavailable(f"{where} closed the connection without an answer", "", where)
    via = " (through the egress proxy)" if proxied else ""
    return UpstreamUnavailable(f"the connection to {where}{via} broke{_strerror(cause)}", "", where)


def _strerror(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) else ""
    return f" ({text})" if text else ""


def _forbidden(url: URL) -> AddressForbidden:
    return AddressForbidden(
        f"{origin(url)} lies in a private network, and nothing says that this upstream may lead there",
        "if that is right, list the host or its network under `redirects`",
    )


def refuse_literal(url: URL, reach: Reach, listed: tuple[IPNetwork, ...]) -> None:
    """Raise AddressForbidden for a literal out of reach: of a request through a proxy the guard sees only the proxy."""
    zone = zone_of_text(url.host or "")
    if zone is None or allows(reach, zone):
        return
    try:
        address = ipaddress.ip_address(url.host or "")
    except ValueError:
        raise _forbidden(url) from None
    if not may_reach(reach, address, listed):
        raise _forbidden(url)
