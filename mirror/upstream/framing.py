"""Answers whose length is said twice: what a client may read all the same is put as the parser of aiohttp takes it.

Proxies add a `Content-Length` to what is chunked, or to an answer that has one. A client takes equal lengths as one
(RFC 9110, 8.6), and of a chunked answer drops the length (RFC 9112, 6.3). Different lengths stay as they are, and are
refused.
"""

from __future__ import annotations

import asyncio
import functools
import re
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

_END = re.compile(rb"\n\r?\n")
_LENGTH = re.compile(rb"^content-length[ \t]*:([^\n]*)\n", re.IGNORECASE | re.MULTILINE)
_CODING = re.compile(rb"^transfer-encoding[ \t]*:([^\n]*)\n", re.IGNORECASE | re.MULTILINE)
_INTERIM = re.compile(rb"HTTP/1\.[01] 1[0-9][0-9]")
_START = b"HTTP/"
# A longer head is the parser's alone, which has limits of its own.
_LONGEST_HEAD = 64 * 1024


def one_length(head: bytes) -> bytes:
    """Return the head of an answer, its empty line included, with at most one word about its length."""
    lengths = [one.strip() for one in _LENGTH.findall(head)]
    if not lengths:
        return head
    chunked = any(one.strip().lower().endswith(b"chunked") for one in _CODING.findall(head))
    said = {one.strip() for each in lengths for one in each.split(b",")}
    if not chunked and (len(said) > 1 or lengths == list(said)):
        return head
    # Who disagrees about this answer's end may disagree about the next one's beginning: the connection is not kept.
    instead = b"Connection: close\r\n" if chunked else b"Content-Length: " + said.pop() + b"\r\n"
    begin, end = _LENGTH.search(head).span()  # type: ignore[union-attr] # there is one
    return head[:begin] + instead + _LENGTH.sub(b"", head[end:])


class _Handler(ResponseHandler):
    """aiohttp's reader of answers, which is given each head whole, with its length said once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._in_head = False
        self._begun = b""

    def set_response_params(self, **parameters: Any) -> None:
        """An answer is expected."""
        self._in_head, self._begun = True, b""
        super().set_response_params(**parameters)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, heads as `one_length` puts them."""
        if self._in_head:
            data = self._heads(self._begun + data)
            if not data:
                return
        super().data_received(data)

    def _heads(self, data: bytes) -> bytes:
        """Return what the parser may have of `data`, nothing as long as a head is not whole."""
        while self._in_head and data:
            end = _END.search(data, max(0, len(self._begun) - 2))
            if end is None and _START.startswith(data[:5]) and len(data) < _LONGEST_HEAD:
                self._begun = data
                return b""
            self._begun = b""
            if end is not None and _INTERIM.match(data):
                super().data_received(data[: end.end()])
                data = data[end.end() :]
                continue
            self._in_head = False
            if end is not None and (put := one_length(head := data[: end.end()])) is not head:
                data = put + data[end.end() :]
        return data


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector, whose connections read answers by `_Handler`; aiohttp offers no other way in."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        handler: type[ResponseHandler] = _Handler
        self._factory = functools.partial(handler, loop=self._loop)
