"""The simulated link is as slow as it says: a latency, a rate for each connection, and a count of what passed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.tools.slow_link import SlowLink

SIZE = 300_000


@pytest.fixture
def source() -> Iterator[str]:
    """A server that answers a line with SIZE bytes and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(10)
                    connection.sendall(bytes(SIZE))

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def fetch(address: str) -> tuple[float, float]:
    """Return the seconds to the first byte and to the last."""
    host, _, port = address.rpartition(":")
    start = time.monotonic()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"please\n")
        assert connection.recv(1)
        first = time.monotonic() - start
        received = 1
        while chunk := connection.recv(65536):
            received += len(chunk)
    assert received == SIZE
    return first, time.monotonic() - start


def test_latency_and_rate(source: str) -> None:
    with SlowLink(source, round_trip=0.1, rate=1e6) as link:
        first, last = fetch(link.address)
        assert first >= 0.2  # the handshake, then the question and its answer
        # A burst leaves at once; a reader that is late has the rest the sooner after its first byte.
        assert last + 32 * 1024 / 1e6 >= 0.2 + SIZE / 1e6
        assert last - first <= 1.5
        assert link.received == SIZE
        assert link.passages[0].to_target == len(b"please\n")


def test_each_connection_has_a_rate_of_its_own(source: str) -> None:
    with SlowLink(source, round_trip=0, rate=3e5) as link:
        threads = [threading.Thread(target=fetch, args=(link.address,)) for _ in range(4)]
        start = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - start < 4 * SIZE / 3e5
        assert [one.from_target for one in link.passages] == [SIZE] * 4


def test_a_target_that_is_away_ends_the_connection() -> None:
    with SlowLink("127.0.0.1:1", round_trip=0) as link:
        host, _, port = link.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            assert connection.recv(1) == b""
