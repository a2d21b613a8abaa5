"""The socket of a service: the first one on a store holds it, and nothing that is left behind is in the way."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.admin.socket import AdminSocket, connect, others
from mirror.config import Config
from mirror.errors import ConfigurationError


def config(path: Path | None, store: Path) -> Config:
    return Config.model_validate({"storage": {"path": str(store)}, "admin": {"socket": str(path) if path else None}})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def opened() -> Iterator[list[AdminSocket]]:
    found: list[AdminSocket] = []
    yield found
    for one in found:
        one.close()


def open_socket(store: Path, opened: list[AdminSocket], path: Path | None = None) -> AdminSocket:
    found = AdminSocket.open(config(path, store))
    assert found is not None
    opened.append(found)
    return found


def test_the_owner_and_its_group_may_connect_and_nothing_is_left_at_the_end(
    store: Path, opened: list[AdminSocket]
) -> None:
    found = open_socket(store, opened)
    assert found.path == store / "run" / "serve.sock"
    assert stat.S_IMODE(found.path.stat().st_mode) == 0o660
    connect(found.path, 1).close()
    found.close()
    found.close()
    assert not found.path.exists()


def test_a_further_one_listens_beside_and_the_next_first_one_tidies(store: Path, opened: list[AdminSocket]) -> None:
    first, second = open_socket(store, opened), open_socket(store, opened)
    assert second.path == store / "run" / f"serve-{os.getpid()}.sock"
    assert others(first.path) == [second.path]
    assert (len(first.private), second.private) == (1, ())
    second.listener.close()  # as if it were killed: the name stays
    first.close()
    assert second.path.exists()
    open_socket(store, opened)
    assert not second.path.exists()


def test_one_that_lives_is_left_alone(store: Path, opened: list[AdminSocket]) -> None:
    first, second = open_socket(store, opened), open_socket(store, opened)
    first.close()
    third = open_socket(store, opened)
    assert third.path == first.path
    connect(second.path, 1).close()


@pytest.mark.parametrize("listening", [True, False])
def test_a_socket_that_is_left_is_replaced_even_if_somebody_answers_there(
    store: Path, opened: list[AdminSocket], listening: bool
) -> None:
    path = store / "run" / "serve.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        if listening:
            left.listen()
        found = open_socket(store, opened)
        assert found.path == path
        with connect(path, 1) as client:
            found.listener.accept()[0].close()
            assert client.recv(1) == b""


def test_a_path_may_be_longer_than_an_address(tmp_path: Path, opened: list[AdminSocket]) -> None:
    store = tmp_path / ("x" * 120)
    (store / "run").mkdir(parents=True)
    found = open_socket(store, opened)
    connect(found.path, 1).close()
    found.close()
    assert not found.path.exists()


def test_what_is_no_socket_stays_and_a_stated_path_is_an_error(store: Path) -> None:
    path = store / "serve"
    path.write_text("mine")
    with pytest.raises(ConfigurationError) as raised:
        AdminSocket.open(config(path, store))
    assert "is not a socket" in str(raised.value)
    assert path.read_text() == "mine"
    with pytest.raises(ConfigurationError):
        AdminSocket.open(config(store / "none" / "x", store))


def test_without_a_folder_in_the_store_the_service_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run" / "serve.sock"
    path.parent.mkdir()
    path.mkdir()
    assert AdminSocket.open(config(None, tmp_path)) is None
