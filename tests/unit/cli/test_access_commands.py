"""mirror user and mirror token: what they write, with whose rights, and what they refuse."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from mirror.cli.access import COMMANDS
from mirror.cli.secret_files import SecretFile
from mirror.errors import Forbidden
from mirror.registry.htpasswd import parse
from mirror.registry.logins import basic
from mirror.store.tokens import Tokens
from tests.tools.mirror import Mirror
from tests.tools.programs import ROOT
from tests.unit.registry.access_bed import Bed, rule

OWNER = GROUP = 65534
MIRROR = click.Group("mirror", {command.name: command for command in COMMANDS})
CREATE = ("token", "create", "ci", "--expires", "90d", "--repositories", "apps/**")

Run = Callable[..., Result]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may walk to."""
    with tempfile.TemporaryDirectory(prefix="m-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def store(folder: Path) -> Path:
    path = folder / "store"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def configuration(folder: Path, store: Path) -> Path:
    path = folder / "mirror.yaml"
    path.write_text(yaml.safe_dump({"storage": {"path": str(store)}, "external_url": "https://mirror.lab:5000"}))
    return path


@pytest.fixture
def run(configuration: Path) -> Run:
    def one(*words: str, input: str | bytes | None = None, code: int = 0) -> Result:  # noqa: A002 - click's word
        done = CliRunner().invoke(MIRROR, [*words, "--config", str(configuration)], input=input)
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return one


@pytest.fixture
def passwords(folder: Path) -> Path:
    path = folder / "password"
    path.write_text("correct horse\n")
    return path


# -- tokens --------------------------------------------------------------------------------------------------


def report(run: Run, *words: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*words, "--json", code=code).stdout)
    assert found["exit"] == code
    return found


def test_a_token_is_shown_once_and_found_by_what_was_shown(run: Run, store: Path) -> None:
    made = report(run, *CREATE, "--may", "push,pull")
    tokens = Tokens(store / "tokens")
    robot = tokens.holder(made["password"])
    assert robot is not None
    assert (robot.id, robot.user) == (made["id"], made["user"]) == (made["id"], "robot+ci")
    assert (robot.may, robot.repositories) == (("pull", "push"), ("apps/**",))
    assert robot.expires == pytest.approx(time.time() + 90 * 86400, abs=60)
    (auth,) = made["pull_secret"]["auths"].values()
    assert list(made["pull_secret"]["auths"]) == ["mirror.lab:5000"]
    assert base64.b64decode(auth["auth"]).decode() == f"robot+ci:{made['password']}"
    assert made["password"] not in run("token", "list").output
    shown = run(*CREATE).output
    assert "robot+ci may pull in apps/**; until " in shown
    for output in (shown.splitlines()[-1], run(*CREATE, "--quiet").output):
        assert json.loads(output)["auths"]["mirror.lab:5000"]["auth"]


def test_never_is_said_and_listed(run: Run) -> None:
    words = (
        "token",
        "create",
        "robot+node",
        "--expires",
        "never",
        "--repositories",
        "**",
        "--repositories",
        "a",
        "--repositories",
        "a",
    )
    assert "it never expires" in run(*words).output
    lines = run("token", "list").output.splitlines()
    assert lines[0].split() == ["ID", "ROBOT", "MAY", "REPOSITORIES", "EXPIRES", "LAST", "USED"]
    assert lines[1].split()[1:] == ["robot+node", "pull", "**", "a", "never", "never"]


def test_lists_tell_what_is_over_and_when_each_was_used(run: Run, store: Path) -> None:
    gone = report(run, *CREATE)["id"]
    run("token", "revoke", gone)
    assert "no tokens" in run("token", "list").output
    made = report(run, *CREATE)
    path = store / "tokens" / f"{made['id']}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "expires": time.time() - 1}))
    tokens = Tokens(store / "tokens")
    tokens.note(made["id"])
    tokens.flush()
    (listed,) = report(run, "token", "list")["tokens"]
    assert listed["expired"]
    assert listed["last_used"] == pytest.approx(time.time(), abs=60)
    assert "(expired)" in run("token", "list").output


def test_a_token_whose_record_is_damaged_is_listed_and_can_be_revoked(run: Run, store: Path) -> None:
    whole, ill = (report(run, *CREATE)["id"] for _ in range(2))
    (store / "tokens" / f"{ill}.json").write_bytes(b"")
    listed = report(run, "token", "list", code=1)
    assert [one["id"] for one in listed["tokens"]] == [whole]
    assert [one["code"] for one in listed["problems"]] == ["record_damaged"]
    assert f"mirror token revoke {ill}" in listed["problems"][0]["remedy"]
    assert whole in run("token", "list", code=1).output
    assert report(run, "token", "revoke", ill)["revoked"] == [{"id": ill, "user": ""}]
    assert [one["id"] for one in report(run, "token", "list")["tokens"]] == [whole]
    (store / "tokens" / f"{whole}.json").write_bytes(b"{")
    assert "There are no tokens" not in run("token", "list", code=1).output


def test_revoked_by_id_or_by_robot(run: Run, store: Path) -> None:
    ids = [report(run, *CREATE)["id"] for _ in range(3)]
    assert "is revoked" in run("token", "revoke", ids[0]).output
    assert len(report(run, "token", "revoke", "robot+ci")["revoked"]) == 2
    assert Tokens(store / "tokens").all() == []
    assert "there is no token ci" in run("token", "revoke", "ci", code=1).output


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create", "ci", "--repositories", "apps/**"),
        ("token", "create", "ci", "--expires", "90d"),
        ("token", "create", "CI", "--expires", "90d", "--repositories", "a"),
        ("token", "create", "ci", "--expires", "90", "--repositories", "a"),
        ("token", "create", "ci", "--expires", "0s", "--repositories", "a"),
        ("token", "create", "ci", "--expires", "90d", "--repositories", "A"),
        (*CREATE, "--may", "write"),
        (*CREATE, "--may", ""),
        (*CREATE, "--registry", "https://mirror"),
        ("user", "add", "robot+ci", "--password-file", "-"),
        ("user", "add", "a:b", "--password-file", "-"),
        ("user", "add", "alice", "--file", "/nonexistent/x"),
    ],
)
def test_command_lines_that_are_wrong(run: Run, store: Path, words: tuple[str, ...]) -> None:
    run(*words, code=2)
    assert not (store / "tokens").exists()


def test_where_clients_reach_it_must_be_known(run: Run, configuration: Path) -> None:
    document = yaml.safe_load(configuration.read_text())
    del document["external_url"]
    for listen, host in (("0.0.0.0:5000", None), ("unix:/run/x", None), ("10.0.0.1:5000", "10.0.0.1:5000")):
        configuration.write_text(yaml.safe_dump({**document, "listen": listen}))
        if host is None:
            assert "--registry" in run(*CREATE, code=78).output
        else:
            assert list(report(run, *CREATE)["pull_secret"]["auths"]) == [host]
    assert report(run, *CREATE, "--registry", "Mirror.Lab:443")["registry"] == "mirror.lab:443"


FULL = {"auths": {"quay.io": {"auth": "eDp5"}, "mirror.lab:5000": {"auth": "b2xk"}}, "credsStore": "x"}


@pytest.mark.parametrize("before", [None, "", "{}", json.dumps(FULL), '{\n  "auths": {}\n}', '{"auths": null}'])
def test_a_login_is_merged_into_a_pull_secret(run: Run, folder: Path, store: Path, before: str | None) -> None:
    path = folder / "pull-secret.json"
    if before is not None:
        path.write_text(before)
        path.chmod(0o640)
    done = run(*CREATE, "--merge", str(path))
    assert "mrt_" not in done.output
    document = json.loads(path.read_text())
    user, _, secret = base64.b64decode(document["auths"]["mirror.lab:5000"]["auth"]).decode().partition(":")
    assert user == "robot+ci"
    assert Tokens(store / "tokens").holder(secret)
    if before and "quay.io" in before:
        assert document["auths"]["quay.io"] == {"auth": "eDp5"}
        assert document["credsStore"] == "x"
        assert path.read_text().count("\n") == 1  # one line, as it was
    assert stat.S_IMODE(path.stat().st_mode) == (0o600 if before is None else 0o640)
    assert sorted(one.name for one in folder.iterdir()) == ["mirror.yaml", "pull-secret.json", "store"]


@pytest.mark.parametrize("content", ["[]", "{", '{"auths": []}', "[" * 10_000])
def test_what_is_no_pull_secret_is_refused_before_a_token_is_made(
    run: Run, folder: Path, store: Path, content: str
) -> None:
    path = folder / "pull-secret.json"
    path.write_text(content)
    run(*CREATE, "--merge", str(path), code=78)
    assert path.read_text() == content
    assert not (store / "tokens").exists()


def test_a_secret_that_cannot_be_merged_says_which_token_to_revoke(
    run: Run, folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SecretFile, "_replace", full)
    done = run(*CREATE, "--merge", str(folder / "x.json"), code=78)
    (robot,) = Tokens(store / "tokens").all()
    assert f"mirror token revoke {robot.id}" in done.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root works for others")
def test_root_works_in_the_store_as_its_owner_and_beside_it_as_itself(
    folder: Path, store: Path, configuration: Path
) -> None:
    os.chown(store, OWNER, GROUP)
    secret = folder / "private" / "pull-secret.json"
    secret.parent.mkdir(mode=0o700)
    secret.write_text("{}")
    secret.chmod(0o600)
    os.chown(secret, 1234, 1235)
    program = (
        "import click; from mirror.cli.access import COMMANDS; click.Group('mirror', {c.name: c for c in COMMANDS})()"
    )
    common = ["--config", str(configuration), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *CREATE, "--merge", str(secret), *common],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads(done.stdout)
    (path,) = (store / "tokens").iterdir()
    assert path.name == f"{made['id']}.json"
    assert {(one.stat().st_uid, one.stat().st_gid) for one in (path, store / "tokens")} == {(OWNER, GROUP)}
    assert "mirror.lab:5000" in json.loads(secret.read_text())["auths"]
    status = secret.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 1235, 0o600)
    done = subprocess.run(
        [sys.executable, "-c", program, "token", "revoke", "nobody", *common],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"][0]["code"] == "no_such_token"


@pytest.mark.parametrize(
    ("method", "target", "status", "after"),
    [
        ("POST", "/v2/apps/a/blobs/uploads/", 403, 202),
        ("POST", "/v2/team/app/blobs/uploads/", 403, 202),
        ("GET", "/v2/team/app/manifests/v1", 404, 404),
    ],
    ids=["more in the same repository", "another repository", "another repository to pull from"],
)
def test_a_robot_whose_token_was_made_for_less_is_told_of_the_token_and_the_remedy_makes_one_that_does(
    tmp_path: Path, method: str, target: str, status: int, after: int
) -> None:
    rules = [{"who": "robot+ci", "repositories": ["**"], "may": ["pull", "push"]}]
    mirror = Mirror(tmp_path, {"clients": {"anonymous": "none", "rules": rules}})

    def make(*words: str) -> dict[str, str]:
        command = [*mirror.program, *words, "--config", str(mirror.configuration), "--json"]
        made: dict[str, Any] = json.loads(subprocess.check_output(command, cwd=ROOT))
        return {"Authorization": basic(made["user"], made["password"]), "Content-Length": "0"}

    def ask(headers: dict[str, str]) -> tuple[int, str]:
        found, _, body = mirror.get(target, method, headers)
        return found, json.loads(body)["errors"][0]["message"] if body else ""

    mirror.start()
    try:
        found, told = ask(make(*CREATE))
        assert found == status
        assert "its token was made for pull in apps/**, which no rule widens: have another one made, e.g. " in told
        found, told = ask(make(*shlex.split(told.partition("e.g. mirror ")[2])))
        assert found == after
        assert "its token" not in told
    finally:
        mirror.stop()
    assert 'why="its token was made for less"' in mirror.log


def test_a_robot_that_a_rule_refuses_is_not_told_of_its_token(tmp_path: Path) -> None:
    bed = Bed(tmp_path, rule("robot+ci", "**", "pull"), anonymous="none")
    _, header = bed.robot("ci", "apps/**", "pull", "push")
    with pytest.raises(Forbidden) as caught:
        asyncio.run(bed.ask("/v2/apps/a/blobs/uploads/", "POST", header))
    assert caught.value.remedy == "ask for a rule under clients in mirror.yaml"


# -- users ---------------------------------------------------------------------------------------------------


def test_a_user_is_added_changed_listed_and_removed(run: Run, folder: Path, passwords: Path) -> None:
    path = folder / "htpasswd"
    at = ("--file", str(path))
    assert "alice is a user now" in run("user", "add", "alice", "--password-file", str(passwords), *at).output
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    first = parse(path.read_bytes(), path).hashes["alice"]
    run("user", "add", "bob", "--password-file", "-", *at, input="other\r\n")
    assert "new password" in run("user", "add", "alice", "--password-file", "-", *at, input="new").output
    users = parse(path.read_bytes(), path).hashes
    assert list(users) == ["alice", "bob"]
    assert users["alice"] != first
    assert report(run, "user", "list", *at)["users"] == ["alice", "bob"]
    assert "no longer a user" in run("user", "remove", "alice", *at).output
    assert list(parse(path.read_bytes(), path).hashes) == ["bob"]
    assert "no user alice" in run("user", "remove", "alice", *at, code=1).output
    assert "correct horse" not in path.read_text()


def test_what_else_is_in_the_file_stays(run: Run, folder: Path, passwords: Path) -> None:
    path = folder / "htpasswd"
    path.write_text("# of the lab\n\nold:$apr1$x\nalice:$apr1$y\nalice:$apr1$z")
    path.chmod(0o604)
    done = run("user", "add", "alice", "--password-file", str(passwords), "--file", str(path))
    lines = path.read_text().splitlines()
    assert lines[:3] == ["# of the lab", "", "old:$apr1$x"]
    assert [line.partition(":")[0] for line in lines[3:]] == ["alice"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o604
    assert f"{path}:3" in done.stderr
    listed = report(run, "user", "list", "--file", str(path), code=78)
    assert listed["users"] == ["alice", "old"]
    assert [problem["where"] for problem in listed["problems"]] == [f"{path}:3"]


def test_a_link_stays_one(run: Run, folder: Path, passwords: Path) -> None:
    (folder / "real").write_text("")
    (folder / "htpasswd").symlink_to("real")
    run("user", "add", "alice", "--password-file", str(passwords), "--file", str(folder / "htpasswd"))
    assert (folder / "htpasswd").is_symlink()
    assert "alice" in (folder / "real").read_text()


@pytest.mark.parametrize("password", ["", "x" * 73, "a\0b", "\n"])
def test_passwords_that_are_none(run: Run, folder: Path, password: str) -> None:
    path = folder / "htpasswd"
    run("user", "add", "alice", "--password-file", "-", "--file", str(path), input=password, code=78)
    assert not path.exists()


def test_files_that_are_not_there(run: Run, folder: Path) -> None:
    run("user", "list", "--file", str(folder / "none"), code=78)
    run("user", "add", "alice", "--password-file", str(folder / "none"), "--file", str(folder / "x"), code=78)
    run("user", "add", "alice", "--password-file", "-", "--file", "/proc/x/y", input="x", code=78)
    assert "clients: {htpasswd: FILE}" in run("user", "list", code=78).output


def test_edits_at_once_lose_nobody(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SecretFile(folder / "list", 0o600)

    def add(number: int) -> None:
        file_of_mine = SecretFile(folder / "list", 0o600)
        file_of_mine.edit(lambda content: (content or b"") + f"{number}\n".encode())

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, (file.read() or b"").split())) == list(range(20))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_new_file_is_root_s_and_the_service_may_read_it(run: Run, folder: Path, store: Path, passwords: Path) -> None:
    os.chown(store, OWNER, GROUP)
    path = folder / "htpasswd"
    run("user", "add", "alice", "--password-file", str(passwords), "--file", str(path))
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, GROUP, 0o640)
    os.chown(path, 1234, 1235)
    run("user", "add", "bob", "--password-file", str(passwords), "--file", str(path))
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
