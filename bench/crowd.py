"""Does one client stop the others? What /livez, hits and a healthy upstream's tags take while thousands hang up.

python -m bench.crowd [--hang-ups 10000]

Two upstreams: one accepts and never answers; the other is well, and its tags are revalidated at each request. Clients
ask for tags and blobs that do not exist at the sick one and close their connections at once. Prints the longest and
the median time, in milliseconds, of what another client asks meanwhile, and ends with 1 where one is beyond its bound.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.peers.process import running
from tests.tools.mirror import Mirror

IMAGE = "team/app:v1"
BOUNDS = {"livez": 0.1, "hit": 0.1, "tag": 1.0}  # seconds


def main() -> int:
    """Run it; return 1 where something took longer than its bound, or was not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd")
    parser.add_argument("--hang-ups", type=int, default=10_000)
    count = parser.parse_args().hang_ups
    good = True
    with tempfile.TemporaryDirectory() as folder, running(IMAGE, 1000) as healthy, _silent() as sick:
        document = {
            "workers": 2,
            "upstreams": {
                "well": {"endpoints": [healthy.url], "tags": {"fresh_for": "0s"}},
                "sick": {"endpoints": [sick], "plain_http": True},
            },
        }
        mirror = Mirror(Path(folder), document)
        mirror.start()
        try:
            for kind in ("manifests", "blobs"):
                good = _crowd(mirror, healthy.images[IMAGE]["digest"], kind, count) and good
        finally:
            mirror.stop()
    return 0 if good else 1


def _crowd(mirror: Mirror, digest: str, kind: str, count: int) -> bool:
    asks = {
        "livez": "/livez",
        "hit": f"/v2/well/team/app/manifests/{digest}",
        "tag": "/v2/well/team/app/manifests/v1",
    }
    for path in asks.values():
        mirror.get(path)
    times: dict[str, list[float]] = {name: [] for name in asks}
    wrong = []
    crowd = multiprocessing.Process(target=_hang_up, args=(mirror.address, kind, count))
    crowd.start()
    until = time.monotonic() + 10
    while crowd.is_alive() or time.monotonic() < until:
        for name, path in asks.items():
            began = time.monotonic()
            status, fields, _ = mirror.get(path)
            times[name].append(time.monotonic() - began)
            if status != 200 or "warning" in fields:
                wrong.append(f"{name}: {status} {fields.get('warning', '')}")
        if not crowd.is_alive():
            until = min(until, time.monotonic() + 5)
    crowd.join()
    print(f"{count} hang-ups on made-up {kind}:")
    for name, taken in times.items():
        longest, middle = max(taken) * 1000, statistics.median(taken) * 1000
        print(f"  {name:6} longest {longest:7.1f} ms  median {middle:6.1f} ms  of {len(taken)}")
    for what in sorted(set(wrong)):
        print(f"  wrong: {what} ({wrong.count(what)} times)")
    return not wrong and all(max(taken) <= BOUNDS[name] for name, taken in times.items())


def _hang_up(address: str, kind: str, count: int) -> None:
    host, _, port = address.partition(":")
    for number in range(count):
        made_up = hashlib.sha256(str(number).encode()).hexdigest()
        reference = f"sha256:{made_up}" if kind == "blobs" else made_up[:20]
        with closing(socket.create_connection((host, int(port)))) as client:
            client.sendall(f"GET /v2/sick/team/app/{kind}/{reference} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())


@contextmanager
def _silent() -> Iterator[str]:
    """Give the address of what accepts and never answers: connections stay in the kernel's queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


if __name__ == "__main__":
    sys.exit(main())
