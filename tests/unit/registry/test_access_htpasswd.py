"""The htpasswd file: what is taken, what is refused by its line, and how a changed file comes into use."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.config.values import SpellingError
from mirror.content.callers import Caller, caller
from mirror.errors import ConfigurationError, NotYet
from mirror.line import Line
from mirror.registry import htpasswd as module
from mirror.registry.htpasswd import Htpasswd, hash_password, parse
from tests.unit.registry.access_bed import PASSWORD, hashed

PATH = Path("/etc/mirror/htpasswd")
GOOD = hashed()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"alice:{hashed()}\n")
    return path


@pytest.fixture
def users(path: Path, clock: Clock):
    made = Htpasswd(path, clock)
    yield made
    made.close()


async def look(users: Htpasswd, clock: Clock) -> None:
    clock.now += 1.5
    await users.look()


@pytest.mark.parametrize("kind", ["$2a$", "$2b$", "$2y$"])
async def test_every_spelling_of_bcrypt_is_taken(path: Path, kind: str) -> None:
    path.write_text(f"# users\n\nalice:{hashed(kind=kind)}\r\n  bob:{GOOD}:more\nJörg Müller:{GOOD}")
    users = Htpasswd(path)
    for name in ("alice", "bob", "Jörg Müller"):
        assert await users.verify(name, PASSWORD.encode())
        assert not await users.verify(name, b"wrong")
    users.close()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("alice:$apr1$8nNCYt5n$QbZpbcQ0TZsqPVSyWqOqj0", "MD5"),
        ("alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
        ("alice:$6$abc$def", "SHA-512"),
        ("alice:$2x$05$" + "a" * 53, "broken bcrypt"),
        ("alice:plain", "no bcrypt hash"),
        ("alice:", "no bcrypt hash"),
        (f"alice:{GOOD[:-1]}", "no bcrypt hash"),
        (f"alice:{GOOD}x", "no bcrypt hash"),
        ("alice:$2b$31$" + "a" * 53, "cost of 31"),
        ("alice:$2b$03$" + "a" * 53, "cost of 3"),
        ("alice", "no colon"),
        (f":{GOOD}", "empty"),
        (f"anonymous:{GOOD}", "no user's name"),
        (f"*:{GOOD}", "no user's name"),
        (f"robot+ci:{GOOD}", "no user's name"),
        (f"a\x1bb:{GOOD}", "not the name"),
        (f"bob:{GOOD}", "further up"),
    ],
    ids=itertools.count(),  # a hash is another one each time
)
def test_a_bad_line_is_named_and_its_hash_is_not_shown(line: str, what: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(f"bob:{GOOD}\n{line}\n".encode(), PATH)
    (problem,) = raised.value.problems
    assert problem.where == f"{PATH}:2"
    assert what in problem.what
    assert line.partition(":")[2] == "" or line.partition(":")[2] not in str(problem)


def test_all_bad_lines_are_named_at_once_up_to_a_bound() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(b"a\n" * 1000, PATH)
    assert len(raised.value.problems) == 20
    with pytest.raises(ConfigurationError, match="UTF-8"):
        parse(b"\xff:x", PATH)


@given(st.binary(max_size=200))
def test_no_file_breaks_it(content: bytes) -> None:
    problems = []
    try:
        users = parse(content, PATH)
    except ConfigurationError as error:
        problems = error.problems
    else:
        assert all(len(value) == 60 for value in users.hashes.values())
    assert all(problem.where.startswith(f"{PATH}:") for problem in problems)


NAMES = st.text(st.characters(exclude_characters=":#", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(st.dictionaries(NAMES, st.just(GOOD), max_size=5), st.lists(st.sampled_from(["", "# x", "  "]), max_size=3))
def test_what_is_written_is_read(entries: dict[str, str], between: list[str]) -> None:
    entries = {name: value for name, value in entries.items() if name not in ("*", "anonymous", "authenticated")}
    lines = [line for name, value in entries.items() for line in (f"{name}:{value}", *between)]
    found = parse("\n".join(lines).encode(), PATH)
    assert {name: value.decode() for name, value in found.hashes.items()} == entries


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="mirror user add"):
        Htpasswd(tmp_path / "none")


async def test_a_changed_file_is_taken_within_a_second(path: Path, users: Htpasswd, clock: Clock) -> None:
    before = users.generation
    assert not await users.verify("bob", PASSWORD.encode())
    path.write_text(f"bob:{hashed('other')}\n")
    await users.look()
    assert users.is_current
    assert users.generation == before + 1
    path.write_text(f"carol:{GOOD}\n")
    await users.look()  # not a second later yet
    assert users.generation == before + 1
    await look(users, clock)
    assert users.hash_of("carol")
    assert not users.hash_of("bob")
    await look(users, clock)
    assert users.generation == before + 2


@pytest.mark.parametrize(
    "content", ["alice:$2y$10$half", f"alice:{GOOD}\nbob", "alice:x\n" + "#" * (1 << 20)], ids=itertools.count()
)
async def test_a_file_that_is_not_right_keeps_the_users_and_is_said_once(
    path: Path, users: Htpasswd, clock: Clock, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(content)
    for _ in range(3):
        await look(users, clock)
    assert await users.verify("alice", PASSWORD.encode())
    assert users.generation == 0
    said = capsys.readouterr().out
    assert said.count("htpasswd_reload_failed") == 1
    assert "$2" not in said.replace("($2y$, $2b$, $2a$)", "")
    path.write_text(f"bob:{GOOD}\n")
    await look(users, clock)
    assert users.hash_of("bob")


async def test_a_file_that_is_gone_keeps_the_users(path: Path, users: Htpasswd, clock: Clock) -> None:
    path.unlink()
    await look(users, clock)
    assert users.hash_of("alice")


async def test_an_empty_file_is_believed_only_when_it_stays_empty(path: Path, users: Htpasswd, clock: Clock) -> None:
    path.write_text("")
    await look(users, clock)
    assert users.hash_of("alice")
    await look(users, clock)
    assert users.hash_of("alice") is None


async def test_a_file_that_grows_while_it_is_read_is_read_again(
    path: Path, users: Htpasswd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text(f"bob:{GOOD}\n")
    real = os.fstat
    calls = []

    def fstat(fd: int):
        calls.append(fd)
        if len(calls) == 2:
            with path.open("a") as file:
                file.write(f"carol:{GOOD}\n")
        return real(fd)

    monkeypatch.setattr(module.os, "fstat", fstat)
    await look(users, clock)
    assert users.hash_of("bob") is None
    await look(users, clock)
    assert users.hash_of("bob")
    assert users.hash_of("carol")


@pytest.mark.parametrize("password", [b"", b"x" * 73, b"\0", b"a\0b", b"\xff" * 72])
async def test_passwords_that_bcrypt_cannot_take_are_wrong_and_no_fault(users: Htpasswd, password: bytes) -> None:
    assert not await users.verify("alice", password)


async def test_an_unknown_user_is_checked_against_a_hash_of_the_same_cost(
    path: Path, users: Htpasswd, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_text("".join(f"u{number}:$2b$05${'a' * 53}\n" for number in range(3)) + f"alice:{GOOD}\n")
    await look(users, clock)
    asked = []
    monkeypatch.setattr(module, "_check", lambda password, hashed: asked.append(hashed) or True)
    assert not await users.verify("nobody", b"x")  # whatever the check says
    assert [value[:7] for value in asked] == [b"$2b$05$"]


async def test_passwords_wait_in_a_line_that_ends(users: Htpasswd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_line", Line(2, 1))
    checks = [asyncio.create_task(users.verify("alice", b"wrong")) for _ in range(4)]
    found = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(one) for one in found] == [bool, bool, bool, NotYet]
    assert await users.verify("alice", PASSWORD.encode())


def test_what_we_write_is_what_we_read() -> None:
    made = hash_password("pß".encode())
    assert parse(b"alice:" + made, PATH).hashes["alice"] == made
    assert made.startswith(b"$2b$10$")
    for bad in (b"", b"x" * 73, b"a\0b"):
        with pytest.raises(SpellingError):
            hash_password(bad)


async def test_a_file_of_apache_s_htpasswd(tmp_path: Path) -> None:
    program = shutil.which("htpasswd")
    if program is None:
        pytest.skip("htpasswd is not installed")
    path = tmp_path / "htpasswd"
    await asyncio.to_thread(
        subprocess.run, [program, "-cbB", "-C", "5", str(path), "alice", PASSWORD], check=True, capture_output=True
    )
    users = Htpasswd(path)
    assert await users.verify("alice", PASSWORD.encode())
    users.close()


async def test_guesses_of_one_client_hold_up_no_other(users: Htpasswd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are checked in turn by client: who asks once goes before the second guess of who guesses."""
    monkeypatch.setattr(users, "_line", Line(1))
    order: list[str] = []

    async def log_in(client: str) -> None:
        caller.set(Caller(client))
        await users.verify("alice", b"wrong")
        order.append(client)

    await asyncio.gather(*(log_in(client) for client in ["guesser"] * 4 + ["other"]))
    assert order == ["guesser", "guesser", "other", "guesser", "guesser"]
