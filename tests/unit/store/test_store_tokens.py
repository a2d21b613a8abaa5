"""Robot tokens on disk: made once, found by their secret, ended with their file."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.config.access import check_robot
from mirror.config.patterns import parse_pattern
from mirror.config.values import SpellingError
from mirror.errors import RecordDamaged
from mirror.store.tokens import Robot, Tokens, new_secret


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens")


def make(tokens: Tokens, name: str = "ci", expires: float | None = None) -> tuple[Robot, str]:
    secret = new_secret()
    return tokens.create(secret, name, ["apps/**"], ["push", "pull"], expires), secret


def test_a_token_is_found_by_its_secret_and_by_nothing_else(tokens: Tokens) -> None:
    robot, secret = make(tokens)
    assert tokens.holder(secret) == robot
    assert tokens.find(robot.id) == robot
    assert robot.user == "robot+ci"
    assert robot.may == ("pull", "push")
    assert robot.covers("push", "apps/a")
    assert not robot.covers("delete", "apps/a")
    assert not robot.covers("pull", "other")
    other, _ = make(tokens, "other")
    wrong = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    for guess in (
        wrong,
        secret.replace(robot.id, other.id),
        secret.replace(robot.id, "0" * 16),
        secret + "x",
        "",
        robot.id,
    ):
        assert tokens.holder(guess) is None


def test_the_secret_has_256_random_bits_and_is_not_kept(tokens: Tokens, tmp_path: Path) -> None:
    robot, secret = make(tokens)
    assert secret.startswith(f"mrt_{robot.id}_")
    assert len(secret.rpartition(robot.id)[2]) == 44
    path = tmp_path / "tokens" / f"{robot.id}.json"
    assert secret.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert robot.hash.hex() not in repr(robot)
    assert len({make(tokens)[1] for _ in range(20)}) == 20


def test_the_same_object_comes_back_until_the_file_is_another(tokens: Tokens, tmp_path: Path) -> None:
    robot, secret = make(tokens)
    first = tokens.find(robot.id)
    assert tokens.find(robot.id) is first
    path = tmp_path / "tokens" / f"{robot.id}.json"
    record = json.loads(path.read_text())
    path.with_suffix(".new").write_text(json.dumps({**record, "may": ["pull"]}))
    os.replace(path.with_suffix(".new"), path)
    changed = tokens.find(robot.id)
    assert changed is not first
    assert changed is not None
    assert changed.may == ("pull",)
    assert Tokens(tmp_path / "tokens").revoke(robot.id)
    assert tokens.find(robot.id) is None
    assert tokens.holder(secret) is None
    assert not tokens.revoke(robot.id)


def test_listed_by_name_and_age(tokens: Tokens, tmp_path: Path) -> None:
    assert tokens.all() == []
    assert not tokens.any()
    before = tokens.modified()
    made = [make(tokens, name)[0] for name in ("b", "a", "b")]
    assert tokens.any()
    assert tokens.modified() != before
    assert [robot.name for robot in tokens.all()] == ["a", "b", "b"]
    assert {robot.id for robot in tokens.all()} == {robot.id for robot in made}
    (tmp_path / "tokens" / "notes.json").write_text("{}")
    (tmp_path / "tokens" / f"{'0' * 16}.json").write_text("{}")
    assert len(tokens.all()) == 3  # a stranger's file and a damaged one are left out


def test_expiry() -> None:
    robot = Robot("0" * 16, "ci", b"", 0.0, 100.0, (), (), None)  # type: ignore[arg-type] # not asked here
    assert [robot.is_over(now) for now in (99.9, 100.0, 101.0)] == [False, True, True]
    assert not Robot("0" * 16, "ci", b"", 0.0, None, (), (), None).is_over(1e12)  # type: ignore[arg-type] # the same


@pytest.mark.parametrize(
    ("name", "repositories", "may"),
    [
        ("CI", ["a"], ["pull"]),
        ("ci", [], ["pull"]),
        ("ci", ["A"], ["pull"]),
        ("ci", ["a"] * 65, ["pull"]),
        ("ci", ["a"], []),
        ("ci", ["a"], ["write"]),
    ],
)
def test_what_no_token_may_hold(tokens: Tokens, name: str, repositories: list[str], may: list[str]) -> None:
    with pytest.raises(ValueError):
        tokens.create(new_secret(), name, repositories, may, None)  # type: ignore[arg-type] # parametrised
    assert not tokens.any()


@pytest.mark.parametrize("secret", ["", "mrt_x", "../../etc/x", f"mrt_{'0' * 16}_short"])
def test_only_a_secret_of_ours_makes_a_token(tokens: Tokens, secret: str) -> None:
    with pytest.raises(ValueError):
        tokens.create(secret, "ci", ["a"], ["pull"], None)


def test_a_name_that_cannot_be_says_why(tokens: Tokens) -> None:
    with pytest.raises(SpellingError, match="robot"):
        tokens.create(new_secret(), "a b", ["a"], ["pull"], None)


def is_another(key: str | None, value: object) -> bool:
    """Tell whether a value is one that a token could have: it cannot be told from the right one."""
    try:
        match key:
            case "name":
                return check_robot(value) == value
            case "repositories":
                return isinstance(value, list) and bool([parse_pattern(one) for one in value])
            case _:
                # What says nothing about rights.
                return key in ("schema", "created", "expires")
    except SpellingError:
        return False


@example("0")
@example(["0"])
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_a_damaged_file_lets_nobody_in(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    tokens = Tokens(folder)
    robot, secret = make(tokens)
    record = json.loads((folder / f"{robot.id}.json").read_text())
    for key in (None, *record):
        damaged = value if key is None else {**record, key: value}
        (folder / f"{robot.id}.json").write_text(json.dumps(damaged))
        try:
            found = Tokens(folder).holder(secret)
        except RecordDamaged:
            found = None
        assert found is None or is_another(key, value)
        assert found is None or key != "expires" or found.expires is None or found.is_over(1e300) or value > 1e300


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 20_000, b"{}" + b" " * 70_000])
def test_bytes_that_are_no_record(tokens: Tokens, tmp_path: Path, content: bytes) -> None:
    """Whether the token is good nobody knows: it is neither taken nor called unknown, and can be revoked."""
    robot, secret = make(tokens)
    other, _ = make(tokens, "other")
    path = tmp_path / "tokens" / f"{robot.id}.json"
    whole = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(RecordDamaged, match=f"mirror token revoke {robot.id}"):
        tokens.holder(secret)
    assert tokens.all() == [other]
    assert list(tokens.damaged()) == [robot.id]
    path.write_bytes(whole)
    assert tokens.holder(secret) == robot
    path.write_bytes(content)
    assert tokens.revoke(robot.id)
    assert tokens.holder(secret) is None
    assert tokens.damaged() == {}


def test_last_use_is_written_in_batches_and_never_goes_back(tokens: Tokens, tmp_path: Path) -> None:
    robot, _ = make(tokens)
    assert tokens.last_used(robot.id) is None
    for _ in range(100):
        tokens.note(robot.id)
    assert tokens.last_used(robot.id) is None
    tokens.flush()
    used = tokens.last_used(robot.id)
    assert used is not None
    assert abs(used - time.time()) < 5
    os.utime(tmp_path / "tokens" / f"{robot.id}.used", (used + 100, used + 100))  # another process, later
    tokens.note(robot.id)
    tokens.flush()
    assert tokens.last_used(robot.id) == pytest.approx(used + 100)
    tokens.note(robot.id)
    tokens.revoke(robot.id)
    tokens.flush()
    assert sorted(os.listdir(tmp_path / "tokens")) == []


def test_the_key_is_made_once_whoever_is_first(tmp_path: Path) -> None:
    found: list[bytes] = []
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        found.append(Tokens(tmp_path / "tokens").key())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(found[0]) == 32
    assert os.listdir(tmp_path / "tokens") == ["key"]
    assert stat.S_IMODE((tmp_path / "tokens" / "key").stat().st_mode) == 0o600
    assert not Tokens(tmp_path / "tokens").any()


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_said_and_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(RecordDamaged, match="the key that bearer tokens are signed with is damaged"):
        Tokens(tmp_path).key()
    assert (tmp_path / "key").read_bytes() == content


def test_what_is_remembered_is_bounded(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.store.tokens._REMEMBERED", 3)
    for number in range(10):
        robot, _ = make(tokens, f"r{number}")
        tokens.find(robot.id)
        tokens.find("f" * 16)
        assert len(tokens._known) <= 3
