"""Files outside the store: a command of root's works as the store's owner and is handed what it needs elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mirror.errors import StoreUnusable
from mirror.outside import Direct, Handed, Outside, handed, run_as_owner
from tests.tools.processes import free_port
from tests.tools.programs import ROOT

OWNER, GROUP = 12345, 23456

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the owner of a store")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.fixture
def store(open_folder: Path) -> Path:
    made = open_folder / "store"
    made.mkdir(mode=0o700)
    os.chown(made, OWNER, GROUP)
    return made


@pytest.fixture
def secret(open_folder: Path) -> Path:
    """A folder of root's, with a file in it that nobody else may read."""
    made = open_folder / "secret"
    made.mkdir(mode=0o700)
    (made / "archive").write_bytes(b"from the disk")
    (made / "archive").chmod(0o600)
    return made


def report(store: Path, work: Callable[[Outside], object]) -> str:
    """Run `work` as the store's owner; return the text of what it returned, brought back through the store."""

    def write(given: Outside) -> int:
        (store / "report").write_text(str(work(given)))
        return 0

    assert run_as_owner(store, write) == 0
    return (store / "report").read_text()


@as_root
def test_works_in_the_store_as_its_owner(store):
    def who(_given):
        return os.getresuid(), os.getresgid(), os.getgroups(), os.getpid() != tester

    tester = os.getpid()
    assert report(store, who) == str(((OWNER,) * 3, (GROUP,) * 3, [], True))
    assert (store / "report").stat().st_uid == OWNER
    assert os.geteuid() == 0


@as_root
def test_an_owner_with_a_name_keeps_the_groups_that_go_with_it(store):
    os.chown(store, 65534, 0)
    import pwd

    nobody = pwd.getpwuid(65534)
    found = report(store, lambda _: (os.getresuid()[0], os.getresgid()[0], 0 in os.getgroups()))
    assert found == str((65534, nobody.pw_gid, False))


@as_root
def test_cannot_become_root_again(store):
    def climb(_given):
        try:
            os.setuid(0)
        except PermissionError:
            return "refused"
        return "root again"

    assert report(store, climb) == "refused"


@as_root
def test_loads_modules_from_where_only_root_may_go(store, secret):
    """A program that root installed in its own home: modules and data that nobody needed before the fork."""
    package = secret / "site" / "lazily"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from importlib import resources\n")
    (package / "later.py").write_text("from lazily.deeper import VALUE\n")
    (package / "deeper.py").write_text("VALUE = 7\n")
    (package / "data.txt").write_text("data")
    program = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(secret / "site")!r})
import lazily
from mirror.outside import run_as_owner

def work(outside):
    from lazily import later
    import encodings.cp037, wave, sqlite3
    print(later.VALUE, lazily.resources.files("lazily").joinpath("data.txt").read_text(), os.geteuid())
    return 0

sys.exit(run_as_owner(Path({str(store)!r}), work))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"7 data {OWNER}\n", "")


@as_root
def test_a_program_that_the_owner_may_not_read_at_all_is_said(store, secret, monkeypatch):
    (secret / "mirror.py").touch(mode=0o600)
    monkeypatch.setattr("mirror.outside.library.__file__", str(secret / "mirror.py"))
    with pytest.raises(StoreUnusable, match=r"may not read .*mirror\.py"):
        run_as_owner(store, lambda _: 0)


@as_root
def test_a_service_whose_program_the_owner_may_not_read_does_not_start(open_folder, store, secret):
    (secret / "mirror").symlink_to(ROOT / "mirror")
    configuration = open_folder / "mirror.yaml"
    configuration.write_text(f"listen: 127.0.0.1:{free_port()}\nstorage: {{path: {store}}}\n")
    command = [sys.executable, "-m", "mirror", "serve", "--config", str(configuration)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=secret, timeout=30)
    assert done.returncode == 78
    assert f"may not read {secret}/mirror/" in done.stderr
    assert "install this program and its Python where every user may read them" in done.stderr
    assert os.listdir(store) == []


@as_root
def test_reads_what_only_root_may_read(store, secret):
    def read(given):
        with pytest.raises(PermissionError):
            (secret / "archive").read_bytes()
        fd = given.open(secret / "archive", os.O_RDONLY)
        try:
            return os.read(fd, 100).decode(), os.get_inheritable(fd), os.get_blocking(fd)
        finally:
            os.close(fd)

    assert report(store, read) == str(("from the disk", False, True))


@as_root
def test_looks_around_where_only_root_may_look(store, secret):
    (secret / "b").mkdir()
    expected = os.stat(secret / "archive")

    def look(given):
        with pytest.raises(PermissionError):
            os.listdir(secret)
        found = given.stat(secret / "archive")
        given.sync(secret)
        return (
            given.listdir(secret),
            (found.st_size, found.st_ino, found.st_mtime_ns, oct(found.st_mode)),
            given.free(secret) > 0,
        )

    seen = (expected.st_size, expected.st_ino, expected.st_mtime_ns, oct(expected.st_mode))
    assert report(store, look) == str((["archive", "b"], seen, True))


@as_root
def test_writes_where_only_root_may_write_and_leaves_it_to_root(store, secret):
    def write(given):
        given.mkdir(secret / "deep" / "er")
        given.mkdir(secret / "deep" / "er")
        fd = given.open(secret / "deep" / "er" / "part~", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        os.write(fd, b"carried")
        os.fsync(fd)
        os.close(fd)
        given.rename(secret / "deep" / "er" / "part~", secret / "deep" / "er" / "part")
        given.remove(secret / "archive")
        given.remove(secret / "archive")

    mask = os.umask(0o027)
    try:
        report(store, write)
    finally:
        os.umask(mask)
    made = secret / "deep" / "er" / "part"
    assert made.read_bytes() == b"carried"
    assert (made.stat().st_uid, made.stat().st_gid, stat.S_IMODE(made.stat().st_mode)) == (0, 0, 0o640)
    assert sorted(os.listdir(secret)) == ["deep"]


@as_root
@pytest.mark.parametrize(
    ("call", "number", "named"),
    [
        (lambda given, at: given.open(at / "gone", os.O_RDONLY), errno.ENOENT, "gone"),
        (lambda given, at: given.open(at / "archive" / "below", os.O_RDONLY), errno.ENOTDIR, "archive/below"),
        (lambda given, at: given.listdir(at / "archive"), errno.ENOTDIR, "archive"),
        (lambda given, at: given.stat(at / "gone"), errno.ENOENT, "gone"),
        (lambda given, at: given.mkdir(at / "archive"), errno.EEXIST, "archive"),
        (lambda given, at: given.remove(at), errno.EISDIR, ""),
        (lambda given, at: given.rename(at / "gone", at / "there"), errno.ENOENT, "gone"),
        (lambda given, at: given.open(at / ("x" * 5000), os.O_RDONLY), errno.ENAMETOOLONG, "x" * 5000),
        (lambda given, at: given.open(at / "suid", os.O_CREAT | os.O_WRONLY, 0o4755), errno.EINVAL, "suid"),
    ],
)
def test_errors_travel(store, secret, call, number, named):
    def fail(given):
        try:
            call(given, secret)
        except OSError as error:
            return type(error).__name__, error.errno, error.filename, error.filename2
        return "no error"

    kind = type(OSError(number, "")).__name__
    other = (
        str(secret / "there")
        if number == errno.ENOENT and named == "gone" and call.__code__.co_names[0] == "rename"
        else None
    )
    assert report(store, fail) == str((kind, number, str(secret / named), other))


@as_root
def test_names_keep_bytes_that_are_no_text(store, secret):
    odd = os.fsdecode(b"caf\xe9 \x01")

    def write(given):
        os.close(given.open(secret / odd, os.O_WRONLY | os.O_CREAT))
        return odd in given.listdir(secret)

    assert report(store, write) == "True"
    assert os.fsencode(odd) in os.listdir(os.fsencode(secret))


@as_root
def test_a_named_pipe_holds_nobody_up(store, secret):
    os.mkfifo(secret / "pipe", 0o600)

    def open_it(given):
        fd = given.open(secret / "pipe", os.O_RDONLY)
        os.close(fd)
        return "opened"

    assert report(store, open_it) == "opened"


@as_root
def test_many_threads_ask_at_once(store, secret):
    for number in range(50):
        (secret / f"file {number}").write_text(str(number))

    def read(given):
        def one(number):
            fd = given.open(secret / f"file {number % 50}", os.O_RDONLY)
            try:
                return os.read(fd, 10) == str(number % 50).encode()
            finally:
                os.close(fd)

        with ThreadPoolExecutor(8) as pool:
            return all(pool.map(one, range(400)))

    assert report(store, read) == "True"


@as_root
def test_no_descriptor_stays_behind(store, secret):
    before = len(os.listdir("/proc/self/fd"))

    def read(given):
        held = len(os.listdir("/proc/self/fd"))
        for _ in range(300):
            os.close(given.open(secret / "archive", os.O_RDONLY))
        return len(os.listdir("/proc/self/fd")) - held

    assert report(store, read) == "0"
    assert len(os.listdir("/proc/self/fd")) == before


@as_root
def test_a_process_without_descriptors_is_told_so(store, secret):
    def use_up(given):
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        held = []
        try:
            while True:
                held.append(given.open(secret / "archive", os.O_RDONLY))
        except OSError as error:
            return errno.errorcode[error.errno], len(held) > 10
        finally:
            for fd in held:
                os.close(fd)

    assert report(store, use_up) == str(("EMFILE", True))


@as_root
def test_the_code_of_the_child_is_ours(store):
    def leave(_given):
        sys.exit(5)

    assert run_as_owner(store, lambda _: 0) == 0
    assert run_as_owner(store, lambda _: 78) == 78
    assert run_as_owner(store, leave) == 5
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@as_root
def test_what_the_child_does_not_answer_for_is_said_and_fails(store, capfd):
    def fail(_given):
        raise LookupError("unforeseen")

    assert run_as_owner(store, fail) == 1
    assert "LookupError: unforeseen" in capfd.readouterr().err


@as_root
def test_a_killed_child_gives_its_signal(store):
    def die(_given):
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert run_as_owner(store, die) == 128 + signal.SIGKILL


@contextlib.contextmanager
def signalled(ready: Path, number: int) -> Iterator[None]:
    """Send this process a signal, from another one of root's, once `ready` is there."""
    script = 'while [ ! -e "$0" ]; do sleep 0.02; done; kill -$1 $2'
    with subprocess.Popen(["sh", "-c", script, str(ready), str(int(number)), str(os.getpid())]) as sender:
        yield
        assert sender.wait(10) == 0


def alone(work: Callable[[], int]) -> int:
    """Run `work` in a process with one thread, as callers have; here a signal may reach a thread of another test's."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@as_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_child(store, number):
    def wait(_given):
        caught = []
        signal.signal(number, lambda *_: caught.append(number))
        (store / "ready").touch()
        until = time.monotonic() + 10
        while not caught and time.monotonic() < until:
            time.sleep(0.01)
        return 42 if caught else 1

    def run() -> int:
        with signalled(store / "ready", number):
            return run_as_owner(store, wait)

    assert alone(run) == 42


@as_root
def test_a_child_that_knows_no_signal_ends_by_it(store):
    def wait(_given):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        (store / "ready").touch()
        time.sleep(30)
        return 0

    def run() -> int:
        with signalled(store / "ready", signal.SIGTERM):
            return run_as_owner(store, wait)

    assert alone(run) == 128 + signal.SIGTERM


@as_root
def test_what_the_child_leaves_behind_does_not_hold_the_parent(store):
    def leave_one(_given):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        return 7

    began = time.monotonic()
    assert run_as_owner(store, leave_one) == 7
    assert time.monotonic() - began < 10


@as_root
def test_the_child_dies_with_the_parent(store):
    program = f"""
import os, sys, time
from pathlib import Path
from mirror.outside import run_as_owner

def work(outside):
    print(os.getpid(), flush=True)
    time.sleep(60)
    return 0

run_as_owner(Path({str(store)!r}), work)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert child != parent.pid
        parent.kill()
        parent.wait(10)
        until = time.monotonic() + 10
        while time.monotonic() < until and _runs(child):
            time.sleep(0.02)
        assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{pid}/status").read_bytes()
    except FileNotFoundError:
        return False


@as_root
def test_says_why_rights_cannot_be_taken(store, monkeypatch):
    def refuse(*_users):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "setresuid", refuse)
    with pytest.raises(StoreUnusable, match="Operation not permitted"):
        run_as_owner(store, lambda _: 0)


def test_the_owner_works_directly(tmp_path):
    (tmp_path / "file").write_text("mine")
    seen: list[object] = []

    def work(given):
        seen.extend([type(given), os.getpid(), given.listdir(tmp_path), given.stat(tmp_path / "file").st_size])
        return 3

    assert run_as_owner(tmp_path, work) == 3
    assert seen == [Direct, os.getpid(), ["file"], 4]


def test_a_store_that_is_not_there_yet_is_made_by_who_may(tmp_path):
    assert run_as_owner(tmp_path / "new" / "store", lambda given: int(isinstance(given, Direct))) == 1


def test_direct_opens_for_this_process_alone(tmp_path):
    fd = Direct().open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        assert not os.get_inheritable(fd)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    finally:
        os.close(fd)


def _as_user(user: int, call: Callable[[], object]) -> str:
    """Return the text of what `call` returns, or of the error it raises, in a child of another user."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(user, user, user)
            said = str(call())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@as_root
@pytest.mark.parametrize(
    ("owner", "argv", "line"),
    [
        (65534, ["/usr/bin/mirror", "save", "--to", "/mnt/a disk"], "sudo -u nobody mirror save --to '/mnt/a disk'"),
        (OWNER, ["/opt/mirror/bin/mirror", "gc"], f"sudo -u '#{OWNER}' /opt/mirror/bin/mirror gc"),
        (0, ["mirror", "verify"], "sudo -u root mirror verify"),
        (65534, ["/opt/x/mirror/__main__.py", "ls"], f"sudo -u nobody {sys.executable} -m mirror ls"),
    ],
)
def test_another_user_is_told_the_command_to_run(store, monkeypatch, owner, argv, line):
    os.chown(store, owner, 0)
    monkeypatch.setattr(sys, "argv", argv)
    said = _as_user(4321, lambda: run_as_owner(store, lambda _: 0))
    assert said.startswith("StoreUnusable: ")
    assert said.endswith(f"run: {line}")


@as_root
@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["mirror", "ls"], "sudo -u nobody env 'MIRROR_CONFIG=/a b.yaml' mirror ls"),
        (["mirror", "ls", "--config", "/c.yaml"], "sudo -u nobody mirror ls --config /c.yaml"),
        (["mirror", "ls", "--config=/c.yaml"], "sudo -u nobody mirror ls --config=/c.yaml"),
    ],
)
def test_the_command_to_run_reads_the_same_configuration(store, monkeypatch, argv, line):
    os.chown(store, 65534, 0)
    monkeypatch.setenv("MIRROR_CONFIG", "/a b.yaml")
    monkeypatch.setattr(sys, "argv", argv)
    assert _as_user(4321, lambda: run_as_owner(store, lambda _: 0)).endswith(f"run: {line}")


@as_root
def test_the_owner_of_the_folder_that_hides_the_store_is_told(store, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mirror", "ls"])
    said = _as_user(4321, lambda: run_as_owner(store / "hidden", lambda _: 0))
    assert said.endswith(f"run: sudo -u '#{OWNER}' mirror ls")


@as_root
def test_who_may_not_make_the_store_is_told_to_use_sudo(open_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mirror", "init"])
    said = _as_user(4321, lambda: run_as_owner(open_folder / "store", lambda _: 0))
    assert said.startswith("StoreUnusable: ")
    assert said.endswith("run: sudo mirror init")


def test_a_parent_that_is_gone_is_an_error_and_no_hang():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        ours.close()
        with pytest.raises(OSError, match="parent is gone"):
            Handed(theirs).open(Path("/etc/hostname"), os.O_RDONLY)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"{}",
        b"[1]",
        b"[" * 5000,
        b'["open", ["/"], ["a", "b"]]',
        b'["open", ["/"], []]',
        b'["open", [], [0, 0]]',
        b'["rename", ["/"], []]',
        b'["open", ["/"], [0, 2048]]',
        b'["open", ["/"], [1099511627776, 0]]',
        b'["chmod", ["/"], [511]]',
        b'["open", [7], [0, 0]]',
        b'["open", ["/\\u0000"], [0, 0]]',
    ],
)
def test_a_child_gone_wild_gets_errors_and_the_parent_goes_on(request_):
    """The parent is root, and the child reads archives of strangers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(request_)
        request = handed.received(ours)
        if request is not None:
            handed.answer(ours, request)
            assert handed.decode(theirs.recv(1000))[0] in (errno.EINVAL, errno.ENOSYS)
