"""Ports for servers of tests: a port that is given twice starts one of two servers only."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import processes
from tests.tools.processes import free_port
from tests.tools.programs import ROOT

_MANY = 200


def test_processes_that_ask_at_once_are_given_different_ports() -> None:
    ask = f"from tests.tools.processes import free_port\nfor _ in range({_MANY}): print(free_port())"
    asking = [
        subprocess.Popen([sys.executable, "-c", ask], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in "1234"
    ]
    given = [port for process in asking for port in process.communicate()[0].split()]
    assert len(given) == len(asking) * _MANY
    assert len(set(given)) == len(given)


def test_no_connection_is_given_such_a_port() -> None:
    lowest = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
    assert free_port() < int(lowest)


def test_a_port_that_is_listened_on_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "last").write_text(str(port - 1))
        monkeypatch.setattr(processes, "_LAST_PORT", tmp_path / "last")
        assert free_port() != port
