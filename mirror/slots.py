"""Memory that the workers of one `serve` share: a slot each, whose last snapshot is read whole or not at all."""

from __future__ import annotations

import mmap
import zlib

# What a slot may hold, in bytes. The pages of an anonymous map cost nothing until they are written.
CAPACITY = 1 << 20

_HEADER = 64  # a cache line of its own for the sequence number
_PREFIX = 8  # length and CRC-32 of the snapshot, four bytes each


class Slots:
    """One anonymous shared map, made before the fork, with a slot for each process that writes snapshots.

    A slot has one writer and any number of readers. It holds two buffers; the sequence number says which one is
    valid, and the writer fills the other before it moves the number. The checksum makes a reader that was overtaken
    twice try again instead of believing what it copied.
    """

    def __init__(self, count: int, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._slot = _HEADER + 2 * capacity
        self._map = mmap.mmap(-1, count * self._slot)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def write(self, index: int, snapshot: bytes) -> bool:
        """Publish `snapshot` in slot `index`; return False and keep the last one if it is over the capacity."""
        if len(snapshot) + _PREFIX > self._capacity:
            return False
        sequence = self._sequence(index) + 1
        start = self._buffer(index, sequence)
        prefix = len(snapshot).to_bytes(4, "little") + zlib.crc32(snapshot).to_bytes(4, "little")
        self._map[start : start + _PREFIX + len(snapshot)] = prefix + snapshot
        base = index * self._slot
        self._map[base : base + 8] = sequence.to_bytes(8, "little")
        return True

    def read(self, index: int) -> bytes:
        """Return the last snapshot of slot `index`, or nothing if there is none yet."""
        for _ in range(8):
            sequence = self._sequence(index)
            if sequence == 0:
                return b""
            start = self._buffer(index, sequence)
            length = int.from_bytes(self._map[start : start + 4], "little")
            checksum = int.from_bytes(self._map[start + 4 : start + _PREFIX], "little")
            if length <= self._capacity - _PREFIX:
                snapshot = self._map[start + _PREFIX : start + _PREFIX + length]
                if zlib.crc32(snapshot) == checksum:
                    return snapshot
        return b""

    def close(self) -> None:
        """Give the memory back; for tests, a service keeps it to its end."""
        self._map.close()

    def _sequence(self, index: int) -> int:
        base = index * self._slot
        return int.from_bytes(self._map[base : base + 8], "little")

    def _buffer(self, index: int, sequence: int) -> int:
        return index * self._slot + _HEADER + (sequence & 1) * self._capacity
