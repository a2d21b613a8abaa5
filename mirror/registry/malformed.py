"""What one request's head may be, and what to say of what came where that is no request."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, LineTooLong

# The parser limits each line and their number, but that still lets a client park half a megabyte here; nginx takes
# 32 KiB.
MAX_LINE = 8190
MAX_HEADERS = 64
MAX_HEAD = 1 << 16

TLS_ON_PLAIN = (
    "clients that are allowed plain HTTP go on with it by themselves; for others write http://, or `insecure = true` in"
    " registries.conf, or give this mirror a certificate: `tls` in mirror.yaml"
)
PLAIN_ON_TLS = "have clients ask by https://, and trust the authority of the certificate in `tls`"

_PROXY = "does a proxy on the way add, double or remove a field?"


class Malformed(NamedTuple):
    """What is wrong, and what mends it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


_BY_WORDS = (
    ("HTTPS traffic", Malformed("TLS was spoken to a port of plain HTTP", TLS_ON_PLAIN)),
    ("'Host' header", Malformed("the request has no Host field, or more than one", _PROXY)),
    ("Too many headers", Malformed(f"the request has more than {MAX_HEADERS} fields", _PROXY)),
    ("Content-Length", Malformed("the request says how long it is more than once, or not as a number", _PROXY)),
    ("Pause on PRI", Malformed("HTTP/2 was spoken without TLS", "speak HTTP/1.1 to this port")),
)
_BY_KIND = (
    (
        LineTooLong,
        Malformed(
            "the head of the request is too long",
            f"a line of it may have {MAX_LINE} bytes, all of it {MAX_HEAD}; {_PROXY}",
        ),
    ),
    (BadHttpMethod, Malformed("what came is not HTTP", "see which program there speaks to this port")),
    (BadStatusLine, Malformed("what came is not HTTP/1.1", "speak HTTP/1.1 to this port")),
)
_OTHERWISE = Malformed("the request is malformed", _PROXY)


def explain(error: BaseException | None, said: str) -> Malformed:
    """Return what is to be told of what aiohttp's parser refused, with these words."""
    for words, found in _BY_WORDS:
        if words in said:
            return found
    return next((found for kind, found in _BY_KIND if isinstance(error, kind)), _OTHERWISE)
