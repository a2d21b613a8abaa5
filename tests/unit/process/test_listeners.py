from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from mirror import listeners
from mirror.errors import ConfigurationError
from mirror.listeners import bind, bind_each, close, give_up
from tests.tools.processes import free_port


@pytest.fixture
def opened():
    found = []
    yield found
    for sock in found:
        sock.close()


def test_listens_on_every_form_of_an_address(opened, tmp_path):
    opened += bind(["127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s"])
    assert [sock.family for sock in opened] == [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX]
    for sock in opened:
        with socket.socket(sock.family) as client:
            client.connect(sock.getsockname())
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


def test_the_v6_wildcard_serves_v4_too_unless_v4_is_asked_for_beside_it(opened):
    (both,) = bind(["[::]:0"])
    port = both.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        pass
    both.close()
    opened += bind([f"0.0.0.0:{port}", f"[::]:{port}"])
    assert len(opened) == 2


def test_an_empty_host_is_everywhere(opened):
    opened += bind([":0"])
    with socket.create_connection(("127.0.0.1", opened[0].getsockname()[1])):
        pass


def test_a_port_in_use_names_the_address_and_who_holds_it(opened):
    code = "import socket,sys; s=socket.create_server(('127.0.0.1',0)); print(s.getsockname()[1],flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        port = int(holder.stdout.readline())
        with pytest.raises(ConfigurationError) as caught:
            bind([f"127.0.0.1:{port}"], patience=0.2)
    finally:
        holder.communicate("\n")
    (problem,) = caught.value.problems
    assert problem.code == "address-in-use"
    assert f"127.0.0.1:{port} is in use by process {holder.pid}" in problem.what


def test_a_port_that_becomes_free_in_time_is_taken(opened):
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    timer = threading.Timer(0.3, holder.close)
    timer.start()
    opened += bind([f"127.0.0.1:{port}"], patience=10)
    timer.join()
    assert opened[0].getsockname()[1] == port


def test_one_address_that_fails_gives_the_others_back():
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        with pytest.raises(ConfigurationError):
            bind([f"127.0.0.1:{port}", f"127.0.0.1:{holder.getsockname()[1]}"], patience=0)
        bind([f"127.0.0.1:{port}"], patience=0)[0].close()


@pytest.mark.parametrize("address", ["nowhere.invalid:5000", "127.0.0.1:http-no-such", "192.0.2.1:5000", "127.0.0.1"])
def test_what_is_no_address_here_is_said(address):
    with pytest.raises(ConfigurationError) as caught:
        bind([address], patience=0)
    assert address in str(caught.value)


def test_a_unix_socket_is_0660_and_a_stale_one_is_replaced_and_it_is_removed_at_the_end(opened, tmp_path):
    path = tmp_path / "s"
    bind([f"unix:{path}"])[0].close()
    assert path.is_socket()
    (listener,) = bind([f"unix:{path}"], patience=0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with pytest.raises(ConfigurationError, match="in use"):
        bind([f"unix:{path}"], patience=0)
    close([listener])
    assert not path.exists()


def test_what_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ConfigurationError):
        bind([f"unix:{path}"], patience=0)
    assert path.read_text() == "precious"


def test_a_socket_that_somebody_else_took_over_is_not_removed(opened, tmp_path):
    path = tmp_path / "s"
    (first,) = bind([f"unix:{path}"])
    path.unlink()
    opened += bind([f"unix:{path}"])
    close([first])
    assert path.is_socket()


def test_an_adopted_socket_that_no_address_names_is_refused(opened):
    with socket.create_server(("127.0.0.1", 0)) as adopted:
        port = adopted.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"opened 127.0.0.1:{port}, which `listen` does not name"
        ) as raised:
            bind(["127.0.0.1:0"], patience=0, adopted=[adopted])
        assert f"listen: 127.0.0.1:{port}" in str(raised.value.problems[0].remedy)


def test_an_adopted_socket_is_not_bound_again(opened):
    adopted = socket.create_server(("127.0.0.1", 0))
    opened += bind([f"127.0.0.1:{adopted.getsockname()[1]}"], patience=0, adopted=[adopted])
    assert opened == [adopted]


def test_a_low_port_says_what_would_help():
    error = PermissionError(13, "Permission denied")
    assert "1024" in str(listeners._explain("127.0.0.1:443", "listen", ("127.0.0.1", 443), error))
    assert os.strerror(13) in str(listeners._explain("unix:/x", "listen", "/x", error))


def test_each_fault_names_the_key_whose_address_it_is(tmp_path):
    (tmp_path / "file").write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        faults = {
            f"127.0.0.1:{holder.getsockname()[1]}": "in use",
            "192.0.2.1:9000": "this host has no such address",
            "nowhere.invalid:9000": "no address to listen on",
            f"unix:{tmp_path}/file": "in use",
            f"unix:{tmp_path}/no/folder": os.strerror(2),
        }
        for address, what in faults.items():
            with pytest.raises(ConfigurationError, match=what) as caught:
                bind_each(["127.0.0.1:0", address], patience=0, keys={address: "metrics.listen"})
            (problem,) = caught.value.problems
            assert problem.where == "metrics.listen"
            assert "change listen" not in problem.remedy
            with pytest.raises(ConfigurationError, match=what) as caught:
                bind_each([address], patience=0)
            assert caught.value.problems[0].where == "listen"


def test_what_is_held_stays_and_the_rest_is_opened(opened, tmp_path):
    first = bind_each(["127.0.0.1:0", f"unix:{tmp_path}/s"])
    second = bind_each(["127.0.0.1:0", "[::1]:0"], patience=0, held=first)
    opened += [sock for found in (*first.values(), *second.values()) for sock in found]
    assert second["127.0.0.1:0"] == first["127.0.0.1:0"]
    assert second["[::1]:0"][0].family == socket.AF_INET6
    taken = first["127.0.0.1:0"][0].getsockname()[1]
    with pytest.raises(ConfigurationError):
        bind_each([f"unix:{tmp_path}/new", f"127.0.0.1:{taken}"], patience=0, held=first)
    assert not (tmp_path / "new").exists()
    assert first["127.0.0.1:0"][0].fileno() >= 0


def test_what_is_given_up_loses_its_name_though_others_have_it_open(tmp_path):
    (listener,) = bind([f"unix:{tmp_path}/s"])
    with listener.dup():
        give_up([listener])
    assert not (tmp_path / "s").exists()
    assert listener.fileno() < 0
    give_up([listener])
