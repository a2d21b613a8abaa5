"""A multipart/byteranges body taken apart strictly: no part is found by guessing, and nothing is left over."""

from __future__ import annotations

import re
from typing import NamedTuple

_TYPE = re.compile(r"multipart/byteranges; boundary=([0-9a-zA-Z]{16,70})")
_HEAD = re.compile(
    rb"Content-Type: application/octet-stream\r\nContent-Range: bytes ([0-9]+)-([0-9]+)/([0-9]+)\r\n\r\n"
)


class Part(NamedTuple):
    """Bytes start..stop of a content of `total` bytes."""

    start: int
    stop: int
    total: int
    content: bytes


def parts(content_type: str, body: bytes) -> list[Part]:
    """Return the parts of a body; fail if it is not one to its last byte."""
    typed = _TYPE.fullmatch(content_type)
    assert typed is not None, content_type
    delimiter = b"--" + typed[1].encode()
    found, at = [], 0
    while True:
        line = (b"\r\n" if found else b"") + delimiter
        assert body.startswith(line, at), f"no delimiter at {at}"
        at += len(line)
        if body[at:] == b"--\r\n":
            assert found, "a body without a part"
            return found
        assert body.startswith(b"\r\n", at)
        head = _HEAD.match(body, at + 2)
        assert head is not None, body[at : at + 200]
        start, stop, total = int(head[1]), int(head[2]) + 1, int(head[3])
        at = head.end() + stop - start
        content = body[head.end() : at]
        assert len(content) == stop - start
        found.append(Part(start, stop, total, content))
