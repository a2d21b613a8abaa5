"""Where plain documents are: URLs as the configuration spells them, and files that some of them name."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote, urlencode

from yarl import URL

from mirror.errors import ConfigurationError, Problem, UpstreamDenied, UpstreamInvalid, UpstreamUnavailable
from mirror.upstream import redirect

_SPELLED = re.compile(r"[!-~]+")
# What a shell expands or a browser guesses has no root or a host here: file:signatures, file://./signatures.
_FILE = re.compile(r"file://(?:localhost)?/.*", re.IGNORECASE)
_NO_FILE = (errno.ENOENT, errno.ENOTDIR)
_NO_RIGHT = (errno.EACCES, errno.EPERM)


def checked(text: str, params: Mapping[str, str]) -> URL:
    """Return the URL as it is spelled, with `params` in its query; raise ConfigurationError for what is none."""
    shown = re.sub(r"//.*@", "//…@", text.partition("?")[0])[:160]
    try:
        url = redirect.as_spelled(text.partition("#")[0]) if _SPELLED.fullmatch(text) else URL()
        readable = url.scheme == "file" or (url.scheme in ("http", "https") and bool(url.host) and bool(url.port))
    except ValueError:
        url, readable = URL(), False
    if not readable:
        raise _unusable(shown, "is no address of a document", "write https://host/path, or file:///path")
    if url.user is not None or url.password is not None:
        raise _unusable(shown, "has a login in it", "documents are fetched without one: leave it out")
    if url.scheme == "file":
        if _FILE.fullmatch(text) is None or "\0" in unquote(url.raw_path):
            raise _unusable(shown, "is no absolute path", "write file:// and the path from the root: file:///path")
        return url
    query = urlencode(params)
    if not query:
        return url
    return URL(f"{url!s}{'&' if url.raw_query_string else '?'}{query}", encoded=True)


def _unusable(shown: str, what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem("url", f"'{shown}' {what}", "", remedy)])


def read_file(url: URL, limit: int, opener: Callable[[Path, int], int] = os.open) -> bytes | None:
    """Return the content of a file: URL's file, at most `limit` bytes, or None where there is none. For threads only.

    Raise UpstreamDenied where it may not be read, UpstreamInvalid for what is too large or no regular file, and
    UpstreamUnavailable for what the disk says.
    """
    path = Path(unquote(url.raw_path))
    try:
        fd = opener(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise UpstreamInvalid(f"{path} is no regular file", "name the file itself")
            pieces: list[bytes] = []
            left = limit + 1
            while left and (piece := os.read(fd, min(left, 1 << 20))):
                pieces.append(piece)
                left -= len(piece)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        if error.errno in _NO_RIGHT:
            raise UpstreamDenied(f"{path} may not be read", "let the user of this command read it") from None
        raise UpstreamUnavailable(f"{path} cannot be read ({error.strerror})", "check the disk") from None
    if not left:
        raise UpstreamInvalid(f"{path} is over the limit of {limit} bytes")
    return b"".join(pieces)
