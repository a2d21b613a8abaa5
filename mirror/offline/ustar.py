"""Tar headers with nothing left to choice: the same name and size have the same bytes, whoever writes them.

IEEE 1003.1-2017, pax, "ustar Interchange Format".
"""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)
SIZE_LIMIT = 8**11 - BLOCK  # bytes that a header can announce, in whole blocks

_MODIFIED = 1_000_000_000  # GNU tar warns of anything near the epoch


def padding(size: int) -> int:
    """Return the bytes that follow a member of `size` bytes up to the next block."""
    return -size % BLOCK


def stored(size: int) -> int:
    """Return the bytes that a member of `size` bytes takes, header and padding included."""
    return BLOCK + size + padding(size)


def header(name: str, size: int) -> bytes:
    """Return the block before a member. Raises ValueError for what ustar cannot say."""
    prefix, name = _split(name)
    block = bytearray(BLOCK)
    _put(block, 0, name.encode("ascii"), 100)
    _put(block, 100, b"0000444", 8)
    _put(block, 108, b"0000000", 8)
    _put(block, 116, b"0000000", 8)
    _put(block, 124, b"%011o" % size, 12)
    _put(block, 136, b"%011o" % _MODIFIED, 12)
    _put(block, 148, b" " * 8, 8)
    _put(block, 156, b"0", 1)
    _put(block, 257, b"ustar\x0000", 8)
    _put(block, 329, b"0000000", 8)
    _put(block, 337, b"0000000", 8)
    _put(block, 345, prefix.encode("ascii"), 155)
    _put(block, 148, b"%06o\x00 " % sum(block), 8)
    return bytes(block)


def _put(block: bytearray, start: int, content: bytes, width: int) -> None:
    if len(content) > width:
        raise ValueError(f"a tar header has no room for {content[:40]!r}")
    block[start : start + len(content)] = content


def _split(name: str) -> tuple[str, str]:
    """Return prefix and name: the shortest prefix with which the rest fits."""
    if len(name) <= 100:
        return "", name
    slash = name.find("/", len(name) - 101)
    if slash < 0:
        raise ValueError(f"a tar header has no room for {name[:40]}")
    return name[:slash], name[slash + 1 :]
