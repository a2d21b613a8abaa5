"""Work in a store with the rights of its owner, whoever runs the command."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import select
import shlex
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from mirror.errors import StoreUnusable
from mirror.outside.files import Direct, Outside
from mirror.outside.handed import Handed, answer, encode, received
from mirror.outside.library import Library

_FIRST = "format"  # what every store has at its top, written before anything else
_TICK = 100  # milliseconds between looks for signals and for the child's end …
_LAST_TICK = 2  # … and when it has hung up, so that it is about to end
_FORWARDED = (signal.SIGTERM, signal.SIGINT)
_FROM_KERNEL = 0x80  # SI_KERNEL, sigaction(2): a terminal's Ctrl-C, which the child has got too
_PR_SET_PDEATHSIG = 1  # prctl(2)
_SUDO_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def run_as_owner(store: Path, work: Callable[[Outside], int]) -> int:
    """Run `work` with the rights of the owner of `store` and return its exit code.

    That is here where we are the owner, or where the store is not there yet and may be made; else, for root, in a
    child that works with what this process hands it. The caller has one thread and no event loop. `work` answers for
    its own errors: in a child, what it lets through is written to stderr and the code is 1. SIGTERM and SIGINT reach
    the child; where a signal ended it, the code is 128 + signal. Raises StoreUnusable, which says the command to run
    instead, for every other user.
    """
    user = os.geteuid()
    owner = _owner(store)
    if owner is None:
        if user == 0 or _may_make(store):
            return work(Direct())
        raise StoreUnusable(
            f"{store} is not there yet, and {called(user)} may not make it", f"run: {command_line('sudo')}"
        )
    if owner.st_uid == user or may_begin(store, owner):
        return work(Direct())
    if user != 0:
        raise StoreUnusable(
            f"{store} belongs to {called(owner.st_uid)}, not to {called(user)}",
            f"run: {command_line('sudo', '-u', _named(owner.st_uid))}",
        )
    return _run_in_child(owner, work)


def owner_of(store: Path) -> os.stat_result:
    """Return the status of what says whose a store is: its folder. Raises OSError.

    The mount point of a volume that several users share is root's, and its group may write (Kubernetes' fsGroup). There
    it is what the service wrote first, if it has.
    """
    status = os.stat(store)
    if status.st_uid == 0 and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            return os.lstat(store / _FIRST)
    return status


def may_begin(store: Path, owner: os.stat_result) -> bool:
    """Tell whether a store that nobody has used may be ours: `owner_of` is a volume that we may write to."""
    return owner.st_uid == 0 and stat.S_ISDIR(owner.st_mode) and os.access(store, os.W_OK | os.X_OK)


def _owner(store: Path) -> os.stat_result | None:
    """Return what says whose the store is, or the folder that hides it from us; None where there is nothing."""
    for place in (store, *store.absolute().parents):
        try:
            return owner_of(store) if place == store else os.stat(place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            continue
    return None


def _may_make(store: Path) -> bool:
    for place in store.absolute().parents:
        if os.path.lexists(place):
            return os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    return False


def called(user: int) -> str:
    """Return a user as people know them: by name, else by number."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _named(user: int) -> str:
    """Return a user as sudo takes them."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"#{user}"


def command_line(*before: str) -> str:
    """Return this command line, to be pasted into a shell, behind `before`: sudo, which empties the environment."""
    program, *arguments = sys.argv or ["mirror"]
    file = os.environ.get("MIRROR_CONFIG")
    if file and not any(word.partition("=")[0] == "--config" for word in arguments):
        before = (*before, "env", f"MIRROR_CONFIG={file}")
    if os.path.basename(program) == "__main__.py":
        return shlex.join([*before, sys.executable, "-m", "mirror", *arguments])
    # sudo looks in a path of its own, where a virtual environment is not.
    if os.path.dirname(program) in _SUDO_PATH:
        program = os.path.basename(program)
    return shlex.join([*before, program, *arguments])


def _run_in_child(owner: os.stat_result, work: Callable[[Outside], int]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    # Blocked around the fork and read one by one here: where a signal came from decides whether it is passed on.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        with ours, theirs:
            child = os.fork()
            if child == 0:
                ours.close()
                _become(owner, parent, theirs, before, work)
            theirs.close()
            return _serve(child, ours)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _become(
    owner: os.stat_result,
    parent: int,
    link: socket.socket,
    mask: Iterable[int],
    work: Callable[[Outside], int],
) -> None:
    """Be the child, and never return."""
    code = 1
    try:
        try:
            library = Library()
            _drop_to(owner)
            library.follow()
            # After the change of user, which clears it.
            _die_with(parent)
        except OSError as error:
            link.sendall(encode(["failed", [error.strerror or str(error)], []]))
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = work(Handed(link)) or 0
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            sys.stderr.write(f"{leaving.code}\n")
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BrokenPipeError:
        pass  # nobody reads our output, or the parent is gone: nobody is left to tell
    except BaseException:  # noqa: BLE001 - nothing may unwind into what the parent was doing
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _drop_to(owner: os.stat_result) -> None:
    """Become the owner for good: user, group and further groups. Raises OSError."""
    try:
        known = pwd.getpwuid(owner.st_uid)
    except KeyError:
        group = owner.st_gid
        os.setgroups([])
    else:
        group = known.pw_gid
        os.initgroups(known.pw_name, group)
    os.setresgid(group, group, group)
    os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)


def _die_with(parent: int) -> None:
    """Have the kernel send SIGTERM when `parent` ends. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)  # it ended before we asked to be told


def _serve(child: int, link: socket.socket) -> int:
    """Answer the child until it ends; return its exit code. Raises StoreUnusable where it could not begin."""
    failed = ""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    tick = _TICK
    while True:
        if poll.poll(tick):
            request = received(link)
            if request is None:
                poll.unregister(link)
                tick = _LAST_TICK
            elif request[0] == "failed":
                failed = str(request[1][0])
            else:
                answer(link, request)
        while (caught := signal.sigtimedwait(_FORWARDED, 0)) is not None:
            if caught.si_code != _FROM_KERNEL:
                os.kill(child, caught.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
    if failed:
        raise StoreUnusable(
            f"the rights of the store's owner cannot be taken ({failed})",
            "install this program where every user may read it, and run it as the owner",
        )
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
