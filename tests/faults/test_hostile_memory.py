"""Clients that send much and take nothing, against `mirror serve`: what its processes take in memory.

HOSTILE=4096 makes as many connections of each kind as that (`make hostile`); by default there are few, and each is
weighed. The kinds are those of which each one parked megabytes: heads behind an answer that is not read, large
manifests that nobody reads, heads and bodies that do not end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import select
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.tools.mirror import Mirror
from tests.tools.processes import wait_until

pytestmark = [
    pytest.mark.timeout(300),
    # Memory that holds logins is nobody's to look into, that of its processes neither.
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may see what the service's processes take"),
]

COUNT = int(os.environ.get("HOSTILE", "100"))
MIB = 1 << 20
LIMIT = 512 * MIB  # limits.memory by default
# The first process beside two workers that are full.
ALL = 2 * LIMIT if COUNT >= 2000 else 100 * MIB + COUNT * MIB

BLOB = os.urandom(MIB) * 32
BLOB_DIGEST = "sha256:" + hashlib.sha256(BLOB).hexdigest()


def manifest() -> bytes:
    config = b"{}"
    described = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": "sha256:" + hashlib.sha256(config).hexdigest(),
        "size": len(config),
    }
    pad = {"pad": "x" * 2_300_000}
    media_type = "application/vnd.oci.image.manifest.v1+json"
    found = {"schemaVersion": 2, "mediaType": media_type, "config": described, "layers": [], "annotations": pad}
    return json.dumps(found).encode()


def request(path: str, fill: int = 0, byte: bytes = b"a", method: str = "GET") -> bytes:
    fields = b"".join(b"X-%02d: %b\r\n" % (number, byte * 1000) for number in range(fill))
    return f"{method} {path} HTTP/1.1\r\nHost: mirror\r\n".encode() + fields + b"\r\n"


GET_BLOB = f"/v2/hostile/app/blobs/{BLOB_DIGEST}"
GET_MANIFEST = "/v2/hostile/app/manifests/v1"
LARGE = (
    b"PUT /v2/hostile/app/manifests/v2 HTTP/1.1\r\nHost: mirror\r\n"
    b"Content-Type: application/vnd.oci.image.manifest.v1+json\r\n%b\r\n\r\n"
)
KINDS = {
    "heads behind a blob": request(GET_BLOB) + request(GET_BLOB, 62) * 30,
    "heads too large behind a blob": request(GET_BLOB) + request(GET_BLOB, 62).replace(b"a" * 1000, b"a" * 8000) * 4,
    "heads of no text": request(GET_BLOB, 62, b"\xff") * 30,
    "small heads behind a blob": request(GET_BLOB) * 20_000,
    "a head without an end": request(GET_BLOB, 62)[:-2],
    "a manifest": request(GET_MANIFEST),
    "heads behind a manifest": request(GET_MANIFEST, 62) * 30,
    "a body without an end for a name that takes none": request("/v2/", 62, method="PUT").replace(
        b"\r\n\r\n", b"\r\nContent-Length: 9000000\r\n\r\n"
    )
    + bytes(2 * MIB),
    "a large manifest without an end": LARGE % b"Content-Length: 4194304" + b" " * (4 * MIB - 1),
    "a large manifest in chunks without an end": LARGE % b"Transfer-Encoding: chunked"
    + b"%x\r\n" % (4 * MIB)
    + b" " * (4 * MIB - 1),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    document = {
        "workers": 2,
        "clients": {"anonymous": "push"},
        # Slow machines are no reason to cut: what is measured is what is held.
        "limits": {"connections": 2 * COUNT + 400, "header_timeout": "5m", "write_stall": "5m"},
    }
    mirror = Mirror(tmp_path_factory.mktemp("hostile"), document)
    mirror.start()
    push(mirror, f"/v2/hostile/app/blobs/uploads/?digest={BLOB_DIGEST}", "POST", BLOB)
    config = "sha256:" + hashlib.sha256(b"{}").hexdigest()
    push(mirror, f"/v2/hostile/app/blobs/uploads/?digest={config}", "POST", b"{}")
    push(mirror, "/v2/hostile/app/manifests/v1", "PUT", manifest())
    yield mirror
    mirror.kill()


def push(mirror: Mirror, path: str, method: str, body: bytes) -> None:
    host, _, port = mirror.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        kind = "application/vnd.oci.image.manifest.v1+json" if method == "PUT" else "application/octet-stream"
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        assert sock.recv(4096).startswith(b"HTTP/1.1 201")


class Clients:
    """Connections that send what the server takes of a text, and read nothing."""

    def __init__(self, address: str, count: int) -> None:
        host, _, port = address.partition(":")
        self.sockets = [socket.socket() for _ in range(count)]
        for sock in self.sockets:
            # The kernel's part of what is sent is no part of this.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            sock.connect((host, int(port)))
            sock.setblocking(False)

    def send(self, text: bytes) -> None:
        """Send until all is sent, or nobody has taken a byte for a second."""
        left = dict.fromkeys(self.sockets, 0)
        while left:
            ready = writable(left, 1.0)
            if not ready:
                return
            for sock in ready:
                try:
                    left[sock] += sock.send(memoryview(text)[left[sock] : left[sock] + 65_536])
                except BlockingIOError:
                    continue
                except OSError:
                    left[sock] = len(text)
                if left[sock] >= len(text):
                    del left[sock]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def writable(sockets: Iterable[socket.socket], timeout: float) -> list[socket.socket]:
    poll = select.poll()
    known = {sock.fileno(): sock for sock in sockets}
    for number in known:
        poll.register(number, select.POLLOUT)
    return [known[number] for number, _ in poll.poll(timeout * 1000)]


def processes(mirror: Mirror) -> list[int]:
    pid = mirror.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def proportional(mirror: Mirror) -> int:
    """Return the bytes that the service takes, pages that its processes share once."""
    total = 0
    for pid in processes(mirror):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        total += int(found[1]) * 1024
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_what_clients_make_the_service_hold(service: Mirror, kind: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    service.stop()
    service.start()  # so that nothing is found that an earlier kind has left
    before = proportional(service)
    clients = Clients(service.address, COUNT)
    try:
        clients.send(KINDS[kind])
        during = proportional(service)
        began = time.monotonic()
        assert service.get("/livez")[0] == 200
        waited = time.monotonic() - began
    finally:
        clients.close()
    each = (during - before) / COUNT / 1024
    print(f"{kind}: {each:.0f} KiB a connection, {during / MIB:.0f} MiB, /livez {waited:.3f} s")
    assert during - before < COUNT * MIB
    assert during < ALL
    # What was let go of is given back, all but what the allocator has in pieces.
    wait_until(lambda: proportional(service) - before < COUNT * MIB // 4 + 48 * MIB, "memory to be given back", 30)


def test_a_burst_is_shared_by_two_workers(service: Mirror) -> None:
    service.stop()
    service.start()  # what an earlier kind has left goes meanwhile, and would be counted
    host, _, port = service.address.partition(":")
    workers = processes(service)[1:]
    idle = {pid: connections(pid, int(port)) for pid in workers}
    burst = [socket.create_connection((host, int(port))) for _ in range(64)]
    try:
        wait_until(
            lambda: sum(connections(pid, int(port)) for pid in workers) - sum(idle.values()) >= 64, "all to be taken"
        )
        taken = [connections(pid, int(port)) - idle[pid] for pid in workers]
        assert max(taken) <= 2 * min(taken), taken
    finally:
        for sock in burst:
            sock.close()


def connections(pid: int, port: int) -> int:
    """Return how many connections to a port a process has open."""
    suffix = f":{port:04X}"
    inodes = {
        fields[9]
        for fields in (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(suffix) and fields[3] == "01"
    }
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = os.readlink(entry)
            found += target.startswith("socket:[") and target[8:-1] in inodes
    return found
