"""Opening what the service listens on, once for all workers, and saying who is in the way."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mirror import logs
from mirror.errors import ConfigurationError, Problem

_log = logs.get(__name__)

_BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn
_UNIX = "unix:"
_LISTENING = "0A"  # TCP_LISTEN as /proc/net/tcp writes it
# What may pass by itself: a predecessor that still drains, an address that the network is about to give us.
_PASSING = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})
_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def bind(
    addresses: Sequence[str], *, patience: float = 5.0, adopted: Iterable[socket.socket] = ()
) -> list[socket.socket]:
    """Return a listening socket for each of `addresses`: `host:port`, `[v6]:port`, `:port` or `unix:/path`.

    A host may stand for several. What `adopted` (sockets that the service manager opened) already listens on is taken
    from there, and each of them must be named. An address in use is tried for `patience` seconds. Raises
    ConfigurationError, and then holds nothing.
    """
    opened = bind_each(addresses, patience=patience, adopted=adopted)
    return [listener for listeners in opened.values() for listener in listeners]


def bind_each(
    addresses: Sequence[str],
    *,
    patience: float = 5.0,
    adopted: Iterable[socket.socket] = (),
    held: Mapping[str, Sequence[socket.socket]] = MappingProxyType({}),
    keys: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, list[socket.socket]]:
    """Return what `bind` does, by address; addresses that are `held` already keep the sockets that they have.

    `keys` says of an address which key of the configuration names it, where that is not `listen`.
    """
    deadline = time.monotonic() + patience
    wildcard_v4 = {address.rpartition(":")[2] for address in addresses if address.startswith("0.0.0.0:")}
    theirs = {_name(sock): sock for sock in adopted if sock.fileno() >= 0}
    opened: dict[str, list[socket.socket]] = {}
    fresh: list[socket.socket] = []
    try:
        for address in addresses:
            if address in held:
                opened[address] = list(held[address])
                continue
            found = opened.setdefault(address, [])
            key = keys.get(address, "listen")
            for family, where in _resolve(address, key):
                known = theirs.get(where)
                if known is not None:
                    found.append(known)
                    continue
                dual = address.rpartition(":")[2] not in wildcard_v4
                sock = _open(address, key, family, where, deadline, dual=dual)
                if sock is not None:
                    found.append(sock)
                    fresh.append(sock)
        taken = {sock for listeners in opened.values() for sock in listeners}
        if idle := [where for where, sock in theirs.items() if sock not in taken]:
            raise _unnamed(idle[0])
    except ConfigurationError:
        close(fresh)
        raise
    return opened


def give_up(listeners: Iterable[socket.socket]) -> None:
    """Close listening sockets that other processes may still have open; those of the file system lose their names."""
    for listener in listeners:
        path = listener.getsockname() if listener.fileno() >= 0 and listener.family == socket.AF_UNIX else ""
        listener.close()
        if isinstance(path, str) and path:
            Path(path).unlink(missing_ok=True)


def close(listeners: Iterable[socket.socket]) -> None:
    """Close listening sockets, and remove those of the file system if they are still ours. Safe to call twice."""
    for listener in listeners:
        if listener.fileno() < 0:
            continue
        path = listener.getsockname() if listener.family == socket.AF_UNIX else ""
        listener.close()
        if isinstance(path, str) and path and _answers(path) is False:
            Path(path).unlink(missing_ok=True)


def _resolve(address: str, key: str) -> list[tuple[int, tuple[str, int] | str]]:
    if address.startswith(_UNIX):
        return [(socket.AF_UNIX, address.removeprefix(_UNIX))]
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host or _everywhere(), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise _problem("listen-address", f"{address} is no address to listen on", key, "write host:port") from error
    return [(family, (str(where[0]), int(where[1]))) for family, _, _, _, where in found]


def _everywhere() -> str:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return "0.0.0.0"  # noqa: S104 - what an empty host asks for, on a machine without IPv6
    return "::"


def _open(
    address: str, key: str, family: int, where: tuple[str, int] | str, deadline: float, *, dual: bool
) -> socket.socket | None:
    """Bind and listen; None for a family of a host name that this machine does not have."""
    told = False
    while True:
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            if isinstance(where, str):
                _bind_path(sock, where)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual and where[0] == "::" else 1)
                sock.bind(where)
            sock.listen(_BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            if error.errno in _NO_FAMILY and address.startswith("localhost:"):
                return None
            if error.errno not in _PASSING or time.monotonic() >= deadline:
                raise _explain(address, key, where, error) from error
            if not told:
                told = True
                _log.warning("listen_waiting", address=address, why=error.strerror)
            time.sleep(0.1)
        else:
            return sock


def _bind_path(sock: socket.socket, path: str) -> None:
    """Bind a unix socket with mode 0660; a stale one, which nobody answers at, is replaced."""
    if _answers(path) is False:
        os.unlink(path)
    before = os.umask(0o117)
    try:
        sock.bind(path)
    finally:
        os.umask(before)


def _answers(path: str) -> bool | None:
    """Tell whether somebody listens at `path`; None: there is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return None
    except OSError:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def _explain(address: str, key: str, where: tuple[str, int] | str, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        who = "" if isinstance(where, str) else _holder(where[1])
        look = f"ss -xlp src {where}" if isinstance(where, str) else f"ss -ltnp sport = :{where[1]}"
        remedy = f"end it, or change {key}" if who else f"see who listens there ({look}), or change {key}"
        return _problem("address-in-use", f"{address} is in use{who}", key, remedy)
    if error.errno == errno.EACCES and isinstance(where, tuple) and where[1] < 1024:
        remedy = "use a port from 1024 on, or let systemd open it (mirror.socket)"
        return _problem("address-denied", f"{address} needs a privilege that this user lacks", key, remedy)
    if error.errno == errno.EADDRNOTAVAIL:
        what = f"cannot listen on {address}: this host has no such address"
        return _problem("listen-address", what, key, f"change {key} to one of those that `ip address` shows")
    return _problem("listen-address", f"cannot listen on {address}: {error.strerror}", key, f"change {key}")


def _unnamed(where: tuple[str, int] | str) -> ConfigurationError:
    """Return the error for a socket that the service manager has opened, and where clients would wait for ever."""
    shown = (
        f"{_UNIX}{where}"
        if isinstance(where, str)
        else f"{f'[{where[0]}]' if ':' in where[0] else where[0]}:{where[1]}"
    )
    what = f"the service manager has opened {shown}, which `listen` does not name"
    return _problem(
        "socket-unnamed", what, "listen", f"write `listen: {shown}`, or mend ListenStream= in mirror.socket"
    )


def _problem(code: str, what: str, key: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem(code, what, key, remedy)])


def _holder(port: int) -> str:
    """Return ` by PID (NAME)` of who listens on a TCP port, as far as /proc lets us see; else nothing."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(descriptor) in inodes for descriptor in (process / "fd").iterdir()):
                return f" by process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue
    return ""


def _name(sock: socket.socket) -> tuple[str, int] | str:
    name = sock.getsockname()
    return name if isinstance(name, str) else (name[0], name[1])
