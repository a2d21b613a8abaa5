"""What systemd and a service tell each other: readiness, status, the watchdog (sd_notify(3)); sockets it opened."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

_FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


class Notifier:
    """Tells the service manager how it is going; says nothing where `environ` names no NOTIFY_SOCKET.

    Telling never fails: a manager that is gone or busy must not stop the service.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An @ stands for the null byte of an abstract socket; anything else must be a path.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address if address.startswith("/") else ""
        self.watchdog_interval = _watchdog(environ)

    def ready(self, status: str) -> None:
        """The service is up, or has ended a reload."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """One line for a person who looks."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """The watchdog may wait for another interval."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Return within how many seconds systemd wants to hear from this process; None: it does not watch."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (microseconds.isascii() and microseconds.isdigit()) or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6 if not pid or pid == str(os.getpid()) else None


def adopt(environ: Mapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the listening sockets that systemd opened for this process, with their FileDescriptorName.

    To be called once: the sockets own their descriptors from then on.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    adopted = []
    for number in range(int(count)):
        sock = socket.socket(fileno=_FIRST_DESCRIPTOR + number)
        sock.set_inheritable(False)
        adopted.append((names[number] if number < len(names) else "", sock))
    return adopted
