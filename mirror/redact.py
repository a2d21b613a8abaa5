"""What is taken out of a text before anyone reads it: credentials, userinfo, query strings, control characters."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

MASK = "[redacted]"

# A field whose name contains one of these holds a secret, whatever its value looks like …
_SECRET_WORDS = ("authorization", "cookie", "token", "secret", "password", "passwd", "x-amz-", "x_amz_", "api_key")
# … unless its name says that it only tells where one is.
_PLACES = ("_file", "_path")

# Userinfo may hold a raw @ or /; what follows an @ that starts a digest is a pull specification.
_USERINFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s\"'<>?#]*@(?!sha(?:256|512):)")
# A query: all of a URL's, and in other text whatever has the shape ?key=value.
_QUERY = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s\"'<>?#]*)[?#][^\s\"'<>]+|\?(?=[^\s\"'<>=]*=)[^\s\"'<>]+")
_SCHEME = re.compile(r"\b((?i:bearer|basic|negotiate|aws4-hmac-sha256))[ \t]+(?=\S*[A-Z0-9_=])[A-Za-z0-9._~+/=,:-]{6,}")
_HEADER = re.compile(r"(?im)\b((?:proxy-)?authorization|(?:set-)?cookie)([\"']?\s*[:=]\s*).+$")
# The line of a file that a path names, as in /etc/mirror/htpasswd:7: it is no pair, whatever the file is called.
_PLACE = r"(?<![^\s\"'(])(?=[^\s\"'(=:]*/)[^\s\"'(=:]++:\d{1,6}(?::(?=\s|$)|$)"
_PAIR = re.compile(
    rf"(?i){_PLACE}|"
    r"\b([\w-]*(?:token|secret|password|passwd|api[_-]?key)|x-amz-[a-z0-9-]+)([\"']?\s*[:=]\s*)"
    r"(\"[^\"]*\"|'[^']*'|[^\s\"',;&}\])]+)"
)
# Forms that are credentials wherever they stand: a JWT, and tokens with a maker's prefix.
_TOKEN = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?|\b(?:dckr_[a-z]{3}_|gh[a-z]_|github_pat_|glpat-|sha256~|mrt_)[\w-]{8,}"
)

# Most of what is logged: names, digests, words. No text of this shape is changed by `redact`, or needs quotes.
_HARMLESS = re.compile(
    r"(?!.*(?:x-amz-|dckr_|gh[a-z]_|github_pat_|glpat-|mrt_))[0-9a-z._/-]*(?:sha256:[0-9a-f]{64})?"
).fullmatch

# What could forge a line or repaint a terminal: C0, DEL, C1, bidirectional marks, line separators, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def redact(text: str) -> str:
    """Return `text` without credentials, userinfo of URLs and query strings."""
    if is_harmless(text):
        return text
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _USERINFO.sub(r"\1", text)
    text = _QUERY.sub(lambda match: f"{match[1] or ''}?{MASK}", text)
    text = _SCHEME.sub(rf"\1 {MASK}", text)
    text = _PAIR.sub(lambda match: f"{match[1]}{match[2]}{MASK}" if match[1] else match[0], text)
    return _TOKEN.sub(MASK, text)


def is_harmless(text: str) -> bool:
    """Tell whether a text can be shown as it is: it neither holds a secret nor needs quotes."""
    return _HARMLESS(text) is not None


def escape(text: str) -> str:
    """Return `text` on one line: what could end it or change how it is shown is written as an escape."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


@lru_cache(1024)
def is_secret(key: str) -> bool:
    """Tell whether a field of this name holds a secret."""
    key = key.lower()
    return any(word in key for word in _SECRET_WORDS) and not key.endswith(_PLACES)


def redact_value(value: Any, depth: int = 4) -> Any:
    """Return `value` redacted: containers by their keys down to `depth`, everything that is not plain as text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if depth and isinstance(value, dict):
        return {str(key): MASK if is_secret(str(key)) else redact_value(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [redact_value(item, depth - 1) for item in value]
    return redact(str(value))
