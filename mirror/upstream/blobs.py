"""Blobs of one endpoint."""

from __future__ import annotations

import asyncio
import re

import aiohttp

from mirror.errors import UpstreamDenied, UpstreamInterrupted, UpstreamInvalid, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.upstream import failures
from mirror.upstream.body import BlobBody
from mirror.upstream.exchange import Ask, Endpoint
from mirror.upstream.transport import BLOB_BUFFER, Answer

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_LARGEST_PAGE = 1 << 20
_PAGE_SECONDS = 15.0
_BEFORE_MARKUP = b" \t\r\n\xef\xbb\xbf"  # white space and a byte order mark
_HEADERS = {"Accept": "*/*"}


async def head_blob(endpoint: Endpoint, repository: str, digest: Digest) -> int:
    """Return a blob's size in bytes: by HEAD, and by GET of one byte where HEAD does not serve."""
    try:
        answer = await endpoint.ask(Ask("blob", "HEAD", repository, f"blobs/{digest}", _HEADERS))
    except (UpstreamNotFound, UpstreamDenied, UpstreamInvalid):
        pass
    else:
        answer.close()
        if (size := _length(answer)) is not None:
            return size
    body = await get_blob(endpoint, repository, digest, 0, 1)
    body.close_now()
    if body.total is None:
        raise UpstreamInvalid(f"{endpoint.name} does not say how long a blob is", "", endpoint.name)
    return body.total


async def get_blob(endpoint: Endpoint, repository: str, digest: Digest, start: int, stop: int | None) -> BlobBody:
    """Return a blob's bytes from `start` up to `stop` (exclusive), or from 0 on where upstream ignores the Range."""
    headers = dict(_HEADERS)
    ranged = start > 0 or stop is not None
    if ranged:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    answer = await endpoint.ask(Ask("blob", "GET", repository, f"blobs/{digest}", headers, BLOB_BUFFER))
    try:
        first, end, total = _extent(answer, start, stop, ranged)
        begun = await _not_a_page(answer, digest, endpoint.name) if answer.is_web_page and answer.status == 200 else b""
    except BaseException:
        answer.close()
        raise
    return BlobBody(answer, first, end, total, endpoint.name, begun)


async def _not_a_page(answer: Answer, digest: Digest, endpoint: str) -> bytes:
    """Return what was read of a body that is typed as a web page, to see that it is the blob all the same.

    Its digest says so where it looks like a page; no login page has more than a mebibyte. Raise UpstreamInvalid for
    a page, UpstreamUnavailable if what would tell does not come.
    """
    pieces: list[bytes] = []
    size, first = 0, b""
    try:
        async with asyncio.timeout(_PAGE_SECONDS):
            while size <= _LARGEST_PAGE and (piece := await answer.content.read(BLOB_BUFFER)):
                pieces.append(piece)
                size += len(piece)
                first = first or piece.lstrip(_BEFORE_MARKUP)[:1]
                if first not in (b"", b"<"):
                    return b"".join(pieces)
    except (aiohttp.ClientError, OSError, TimeoutError):
        raise UpstreamInterrupted(f"{failures.origin(answer.url)} ended a web page early", "", endpoint) from None
    begun = b"".join(pieces)
    if size <= _LARGEST_PAGE and Digest.of(begun, digest.algorithm) != digest:
        raise failures.web_page(answer.url, endpoint)
    return begun


def _extent(answer: Answer, start: int, stop: int | None, ranged: bool) -> tuple[int, int | None, int | None]:
    """Return (first, end exclusive, total) of what the answer's body holds."""
    where, length = failures.origin(answer.url), _length(answer)
    if answer.status == 200:
        return 0, length, length
    if not ranged:
        raise UpstreamInvalid(f"{where} sends a part although the whole was asked for")
    match = _CONTENT_RANGE.fullmatch(answer.header("Content-Range"))
    if match is None:
        raise UpstreamInvalid(f"{where} sends a part without saying which")
    first, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    wanted_end = total if stop is None else stop if total is None else min(stop, total)
    if (
        first != start
        or end <= first
        or (wanted_end is not None and end != wanted_end)
        or (total is not None and end > total)
        or (length is not None and length != end - first)
    ):
        raise UpstreamInvalid(f"{where} sends another part than the one that was asked for")
    return first, end, total


def _length(answer: Answer) -> int | None:
    text = answer.header("Content-Length")
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
