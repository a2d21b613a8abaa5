"""What may be asked of upstream beside a download: few ranges at once, and no more bytes than the blob has."""

from __future__ import annotations

_PLACES = 2  # more would take from upstream what the download brings anyway
# What is under way of a body that is given up, in buffers of this process and of the kernel; it came all the same.
_ON_THE_WAY = 1024 * 1024  # bytes


class Beside:
    """The ranges of one blob that are passed through while it is downloaded, of one process.

    They take at most as many bytes again as the blob has, whatever clients ask for how often.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._bytes = 0
        self._closed = False

    def enter(self, total: int) -> bool:
        """Take a place, to be given back by `leave`, beside the download of `total` bytes; False if there is none."""
        if self._taken >= _PLACES or self.is_spent(total):
            return False
        self._taken += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._taken -= 1

    def is_spent(self, total: int) -> bool:
        """Tell whether nothing more may be asked for beside the download of `total` bytes."""
        return self._closed or self._bytes >= total

    def count(self, received: int) -> None:
        """Count bytes that came."""
        self._bytes += received

    def given_up(self, missing: int) -> None:
        """Count what came of the `missing` bytes of a body that was closed before its end."""
        self._bytes += min(missing, _ON_THE_WAY)

    def close(self) -> None:
        """Let nothing more be asked for: upstream gives no ranges, or refuses them."""
        self._closed = True
