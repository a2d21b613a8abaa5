"""What a login is worth, for how long that is believed, and what ends it at once."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.errors import NotYet
from mirror.line import Line
from mirror.registry import htpasswd, logins
from mirror.registry.bearer import LIFETIME, Signer, TokenRefused
from mirror.registry.clients import ANONYMOUS
from mirror.registry.logins import LoginRefused
from tests.unit.registry.access_bed import KEY, PASSWORD, Bed, Make, beds, hashed, header_of


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with beds(tmp_path) as make:
        yield make


@pytest.fixture
def bed(make: Make) -> Bed:
    return make()


async def refused(bed: Bed, header: str) -> LoginRefused:
    assert bed.logins.recall(header) is None
    with pytest.raises(LoginRefused) as raised:
        await bed.logins.identify(header)
    return raised.value


# -- users ---------------------------------------------------------------------------------------------------


async def test_a_user(bed: Bed) -> None:
    found = await bed.logins.identify(header_of("alice"))
    assert (found.name, found.kind, found.scope, found.granted) == ("alice", "user", None, None)
    assert bed.logins.recall(header_of("alice")) is found


@pytest.mark.parametrize(
    "header",
    [
        header_of("alice", "wrong"),
        header_of("nobody"),
        header_of("alice", "x" * 73),
        header_of("alice", ""),
        header_of(""),
    ],
)
async def test_every_wrong_login_is_refused_alike(bed: Bed, header: str) -> None:
    error = await refused(bed, header)
    assert error.what == "the name or the password is wrong"
    assert error.error == ""
    assert PASSWORD not in str(error)


@pytest.mark.parametrize("header", ["Basic !", "Negotiate abc", "Basic bm9jb2xvbg=="])
async def test_what_is_no_login_is_refused_without_a_delay(make: Make, header: str) -> None:
    bed = make(delay=60)
    assert "neither Basic nor Bearer" in (await refused(bed, header)).what


async def test_an_empty_login_is_anonymous(bed: Bed) -> None:
    assert await bed.logins.identify("Basic Og==") is ANONYMOUS


async def test_a_password_is_checked_once_for_all_who_ask_with_it(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    real = htpasswd._check
    monkeypatch.setattr(htpasswd, "_check", lambda password, known: checked.append(password) or real(password, known))
    header = header_of("alice")
    found = await asyncio.gather(*(bed.logins.identify(header) for _ in range(50)))
    assert {principal.name for principal in found} == {"alice"}
    assert len(checked) == 1
    for wanted in (1, 1, 2):
        if wanted == 2:
            bed.now += 61
        await bed.logins.identify(header)
        assert len(checked) == wanted
    assert bed.logins._checking == {}


async def test_a_wrong_password_is_remembered_too_until_the_file_changes(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bytes] = []
    real = htpasswd._check
    monkeypatch.setattr(htpasswd, "_check", lambda password, known: checked.append(password) or real(password, known))
    header = header_of("carol", "new")
    for _ in range(3):
        await refused(bed, header)
    assert len(checked) == 1
    bed.path.write_text(f"carol:{hashed('new')}\n")
    bed.monotonic += 2
    assert (await bed.logins.identify(header)).name == "carol"


async def test_a_removed_user_is_out_within_a_second(bed: Bed) -> None:
    header = header_of("alice")
    await bed.logins.identify(header)
    bed.path.write_text(f"bob:{hashed()}\n")
    bed.monotonic += 2
    await refused(bed, header)
    assert (await bed.logins.identify(header_of("bob"))).name == "bob"


async def test_who_leaves_while_a_password_is_checked_takes_nothing_from_the_others(bed: Bed) -> None:
    header = header_of("alice")
    first, second = (asyncio.create_task(bed.logins.identify(header)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).name == "alice"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_too_many_logins_at_once_are_told_to_come_again(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bed.htpasswd is not None
    monkeypatch.setattr(bed.htpasswd, "_line", Line(2, 0))
    await bed.htpasswd.look()  # so that nobody waits for the file
    headers = [header_of("alice", str(number)) for number in range(5)]
    found = await asyncio.gather(*map(bed.logins.identify, headers), return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["LoginRefused"] * 2 + ["NotYet"] * 3
    assert isinstance(found[-1], NotYet)


async def test_wrong_logins_wait_and_only_so_many_of_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_DELAYED", 3)
    bed = make(delay=0.3)
    started = time.monotonic()
    ended: list[float] = []

    async def guess(number: int) -> None:
        await refused(bed, header_of("robot+ci", str(number)))
        ended.append(time.monotonic() - started)

    await asyncio.gather(*(guess(number) for number in range(8)))
    assert len([one for one in ended if one < 0.25]) == 5
    assert len([one for one in ended if one >= 0.29]) == 3
    assert bed.logins._delayed == 0
    assert (await bed.logins.identify(header_of("alice"))).name == "alice"


async def test_what_is_remembered_is_bounded_and_holds_no_password(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "_REMEMBERED", 4)
    monkeypatch.setattr(logins, "_WRONG", 4)
    await bed.logins.identify(header_of("alice"))
    for number in range(20):
        await refused(bed, header_of("bob", f"wrong{number}"))
        await refused(bed, header_of("n" * 1000, "wr0ng"))  # used all the time, so it stays
        assert len(bed.logins._known) == 1
        assert len(bed.logins._wrong) <= 4
    assert bed.logins.recall(header_of("alice")) is not None  # no wrong one takes its place
    assert {"n" * 256} < {known.who for known in bed.logins._wrong.values()}
    said = repr(bed.logins._known) + repr(bed.logins._wrong)
    for secret in (PASSWORD, "wrong", "wr0ng", header_of("alice").partition(" ")[2]):
        assert secret not in said


@pytest.mark.parametrize("user", ["alice", "nobody"])
async def test_a_wrong_login_is_hashed_once_however_often_it_is_shown(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    checked: list[bytes] = []
    monkeypatch.setattr(htpasswd, "_check", lambda password, _: checked.append(password) and False)
    for _ in range(5):
        await refused(bed, header_of(user, "of another registry"))
        bed.now += 3600
    assert len(checked) == 1


async def test_who_was_right_before_does_not_wait_for_guesses(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    await bed.logins.identify(header_of("alice"))
    bed.now += 61  # so that it is to be checked again
    guessed, real = threading.Event(), htpasswd._check

    def check(password: bytes, known: bytes) -> bool:
        if password != PASSWORD.encode():
            guessed.wait(30)
        return real(password, known)

    monkeypatch.setattr(htpasswd, "_check", check)
    guesses = [asyncio.create_task(refused(bed, header_of("bob", str(number)))) for number in range(8)]
    try:
        assert (await asyncio.wait_for(bed.logins.identify(header_of("alice")), 20)).name == "alice"
        assert not any(one.done() for one in guesses)
    finally:
        guessed.set()
    await asyncio.gather(*guesses)


# -- robots --------------------------------------------------------------------------------------------------


async def test_a_robot(bed: Bed) -> None:
    identity, header = bed.robot("ci", "apps/**", "pull")
    found = await bed.logins.identify(header)
    assert (found.name, found.kind, found.proof) == ("robot+ci", "robot", identity)
    assert found.scope is not None
    assert found.scope.covers("pull", "apps/a")
    assert bed.logins.recall(header) is found
    bed.tokens.flush()
    assert bed.tokens.last_used(identity) is not None


async def test_a_revoked_robot_is_out_at_once_whoever_revoked_it(bed: Bed, tmp_path: Path) -> None:
    identity, header = bed.robot("ci", "apps/**")
    await bed.logins.identify(header)
    type(bed.tokens)(tmp_path / "0" / "tokens").revoke(identity)
    await refused(bed, header)


async def test_a_robot_is_out_when_its_time_is_over(bed: Bed) -> None:
    _, header = bed.robot("ci", "apps/**", expires=bed.now + 100)
    await bed.logins.identify(header)
    bed.now += 99
    await bed.logins.identify(header)
    bed.now += 1
    error = await refused(bed, header)
    assert "expired" in error.what
    assert error.who == "robot+ci"


async def test_a_robot_s_secret_is_no_other_robot_s_and_no_user_s(bed: Bed) -> None:
    _, header = bed.robot("ci", "apps/**")
    secret = base64.b64decode(header.partition(" ")[2]).decode().partition(":")[2]
    for user in ("robot+other", "robot+", "alice", "ci"):
        await refused(bed, header_of(user, secret))


async def test_whether_anybody_could_log_in(make: Make) -> None:
    assert await make().logins.exist()
    assert not await make(users=None, robots=False).logins.exist()
    bed = make(users=None)
    assert not await bed.logins.exist()
    identity, _ = bed.robot("ci", "a")
    assert await bed.logins.exist()
    bed.tokens.revoke(identity)
    assert not await bed.logins.exist()


async def test_uses_are_noted_while_it_runs_and_at_its_end(bed: Bed) -> None:
    assert bed.robots is not None
    identity, header = bed.robot("ci", "a")
    noting = asyncio.create_task(bed.robots.keep_noting(3600))
    await bed.logins.identify(header)
    await asyncio.sleep(0)
    noting.cancel()
    await asyncio.gather(noting, return_exceptions=True)
    assert bed.tokens.last_used(identity) is not None


# -- our own tokens ------------------------------------------------------------------------------------------


async def test_a_token_of_each_kind_comes_back_as_who_it_was_given_to(bed: Bed) -> None:
    _, header = bed.robot("ci", "apps/**", "pull")
    for login in (header_of("alice"), header):
        principal = await bed.logins.identify(login)
        found = await bed.logins.identify(bed.token(principal, apps__a=["pull"]))
        assert (found.name, found.kind, found.scope) == (principal.name, principal.kind, principal.scope)
        assert found.granted == {"apps/a": frozenset({"pull"})}
    found = await bed.logins.identify(bed.token(ANONYMOUS, apps__a=["pull"]))
    assert found.is_anonymous
    assert found.granted == {"apps/a": frozenset({"pull"})}


async def test_a_token_lives_five_minutes(bed: Bed) -> None:
    header = bed.token(apps__a=["pull"])
    bed.now += LIFETIME - 1
    await bed.logins.identify(header)
    assert bed.logins.recall(header) is not None
    bed.now += 1
    error = await refused(bed, header)
    assert (error.error, error.what) == ("invalid_token", "the token has expired")


async def test_a_token_ends_with_the_password_that_it_was_given_for(bed: Bed) -> None:
    header = bed.token(await bed.logins.identify(header_of("alice")), apps__a=["pull"])
    await bed.logins.identify(header)
    bed.path.write_text(f"alice:{hashed('other')}\n")
    bed.monotonic += 2
    assert (await refused(bed, header)).error == "invalid_token"


async def test_a_token_ends_with_the_robot_that_it_was_given_for(bed: Bed) -> None:
    identity, login = bed.robot("ci", "apps/**", expires=bed.now + 10)
    header = bed.token(await bed.logins.identify(login), apps__a=["pull"])
    await bed.logins.identify(header)
    bed.now += 10
    assert "expired" in (await refused(bed, header)).what
    bed.tokens.revoke(identity)
    assert (await refused(bed, header)).error == "invalid_token"


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b.c",
        "..",
        # {"alg":"none"} and HS256 of another key, with claims that would do
        "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbGljZSJ9.",
        Signer(bytes(32)).issue("alice", "user", "", {})[0],
        "é",
    ],
)
async def test_tokens_that_are_not_ours(bed: Bed, token: str) -> None:
    error = await refused(bed, f"Bearer {token}")
    assert error.error == ("" if token == "é" else "invalid_token")


async def test_a_token_of_ours_with_one_character_changed_is_not_ours(bed: Bed) -> None:
    token = bed.token(apps__a=["pull"]).partition(" ")[2]
    for place in range(0, len(token) - 1, 7):
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(TokenRefused):
            bed.signer.open(token[:place] + other + token[place + 1 :])


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError):
        Signer(b"short")
    assert Signer(KEY).proof("a", "b") != Signer(KEY).proof("ab")


@pytest.mark.parametrize(("took", "left"), [(0, 60), (25, 35), (80, 40)])
async def test_how_long_a_look_took_is_not_seen(
    make: Make, monkeypatch: pytest.MonkeyPatch, took: float, left: float
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    bed = make(delay=60)
    monkeypatch.setattr(logins.asyncio, "sleep", sleep)
    await bed.logins._wait(asyncio.get_running_loop().time() - took)
    assert [round(one) for one in waits] == [left]
