"""Users and their bcrypt hashes in an htpasswd file: read strictly, reread when it changes, checked off the loop."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt

from mirror import logs
from mirror.config.access import check_user
from mirror.config.values import SpellingError
from mirror.content.callers import who_asks
from mirror.errors import ConfigurationError, Problem
from mirror.line import Line

# What bcrypt hashes of a password; more would be ignored without a word.
MOST_PASSWORD_BYTES = 72

_LARGEST = 1 << 20
_MOST_PROBLEMS = 20
_LOOK = 1.0  # seconds between looks at the file
_THREADS = 2
_WAITING = 256  # passwords to be checked; each takes a thread for a tenth of a second or so
_HASH = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
# Beyond 16 one login takes a core for seconds, below 10 it is too cheap to guess.
_COSTS = range(4, 17)
_USUAL_COST = 10
_OTHERS = {"$apr1$": "MD5", "{SHA}": "SHA-1", "$5$": "SHA-256", "$6$": "SHA-512", "$2x$": "a broken bcrypt"}

_log = logs.get(__name__)
_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Users:
    """What a file says: each user's hash, and one of the usual cost that nobody's password has."""

    hashes: Mapping[str, bytes] = field(repr=False)
    nobody: bytes = field(repr=False)


def parse(content: bytes, path: Path) -> Users:
    """Return the users of a file, a line `name:hash` each, with empty lines and comments between them.

    Raise ConfigurationError with every line that is wrong; a hash is never quoted.
    """
    hashes: dict[str, bytes] = {}
    costs: Counter[int] = Counter()
    problems: list[Problem] = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        try:
            entry = _parse_line(raw)
            if entry is None:
                continue
            name, hashed, cost = entry
            if name in hashes:
                raise SpellingError("this user stands further up already", "leave one of the lines out")
        except SpellingError as error:
            problems.append(Problem("htpasswd", error.what, f"{path}:{number}", error.remedy))
            if len(problems) == _MOST_PROBLEMS:
                break
            continue
        hashes[name] = hashed
        costs[cost] += 1
    if problems:
        raise ConfigurationError(problems)
    cost = costs.most_common(1)[0][0] if costs else _USUAL_COST
    return Users(hashes, b"$2b$%02d$" % cost + b"." * 53)


def _parse_line(raw: bytes) -> tuple[str, bytes, int] | None:
    """Return (name, hash, cost) of a line; None for one that says nothing. Raise SpellingError."""
    try:
        line = raw.decode("utf-8").removesuffix("\r").strip(" \t")
    except UnicodeDecodeError:
        raise SpellingError("this line is not UTF-8", "save the file as UTF-8") from None
    if not line or line.startswith("#"):
        return None
    name, colon, rest = line.partition(":")
    if not colon:
        raise SpellingError("this line has no colon", "write NAME:HASH, or run `mirror user add NAME`")
    check_user(name)
    hashed = rest.partition(":")[0]
    found = _HASH.fullmatch(hashed)
    if found is None:
        other = next((kind for start, kind in _OTHERS.items() if hashed.startswith(start)), "")
        what = f"the hash is {other}" if other else "this is no bcrypt hash"
        raise SpellingError(f"{what}: only bcrypt ($2y$, $2b$, $2a$) is taken", "run `mirror user add` for this user")
    cost = int(found[1])
    if cost not in _COSTS:
        raise SpellingError(f"a bcrypt cost of {cost} is out of range", f"hash with a cost of {_USUAL_COST} to 12")
    return name, hashed.encode("ascii"), cost


def hash_password(password: bytes) -> bytes:
    """Return the hash of a password, for a file. Takes a tenth of a second. Raise SpellingError for a bad one."""
    if not password or b"\0" in password:
        raise SpellingError("the password is empty or holds a zero byte", "choose another one")
    if len(password) > MOST_PASSWORD_BYTES:
        raise SpellingError(
            f"the password has more than {MOST_PASSWORD_BYTES} bytes, the most that bcrypt takes",
            "choose a shorter one",
        )
    return bcrypt.hashpw(password, bcrypt.gensalt(_USUAL_COST))


class Htpasswd:
    """The users of one file. `generation` changes with them. Must be closed.

    Making one reads the file, which blocks, and raises ConfigurationError where it is not there or not right. A later
    change that is not right leaves the users as they were, and is logged.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._next_look = 0.0
        self._looking = asyncio.Lock()
        self._was_empty = False
        self._problem = ""
        self._threads = ThreadPoolExecutor(_THREADS, "bcrypt")
        self._ahead = ThreadPoolExecutor(1, "bcrypt-ahead")  # who was right before does not wait for guesses
        self._line = Line(_THREADS, _WAITING - _THREADS, "too many logins are being checked")
        self.generation = 0
        try:
            content, self._seen = self._read()
        except OSError as error:
            what = f"the htpasswd file cannot be read ({error.strerror})"
            problem = Problem("htpasswd", what, str(path), "run `mirror user add NAME`, or look at its owner and mode")
            raise ConfigurationError([problem]) from error
        self._users = parse(content, path)

    @property
    def is_current(self) -> bool:
        """Whether the file was looked at within the last second."""
        return self._clock() < self._next_look

    async def look(self) -> None:
        """Take a changed file into use, at most once a second."""
        async with self._looking:
            if not self.is_current:
                await asyncio.to_thread(self._look)
                self._next_look = self._clock() + _LOOK

    def hash_of(self, name: str) -> str | None:
        """Return what the file holds for a user: another one for each password that it is given."""
        found = self._users.hashes.get(name)
        return None if found is None else found.decode("ascii")

    async def verify(self, name: str, password: bytes, *, ahead: bool = False) -> bool:
        """Tell whether this is the user's password; it takes as long for a user that is not there.

        `ahead` of all others goes what was right a while ago. Raise NotYet when too many wait.
        """
        users = self._users
        hashed = users.hashes.get(name)
        if not password or len(password) > MOST_PASSWORD_BYTES:
            return False
        loop = asyncio.get_running_loop()
        if ahead:
            right = await loop.run_in_executor(self._ahead, _check, password, hashed or users.nobody)
            return right and hashed is not None
        async with self._line.place(who_asks()):
            right = await loop.run_in_executor(self._threads, _check, password, hashed or users.nobody)
        return right and hashed is not None

    def close(self) -> None:
        """Give up what waits to be checked."""
        for threads in (self._threads, self._ahead):
            threads.shutdown(wait=False, cancel_futures=True)

    def _look(self) -> None:
        try:
            if _signature(self._path.stat()) == self._seen:
                return
            content, seen = self._read()
            users = parse(content, self._path)
        except OSError as error:
            self._keep(error.strerror or type(error).__name__)
            return
        except ConfigurationError as error:
            self._keep(str(error))
            return
        # An editor that writes in place empties the file first: only what is empty for longer is meant.
        if not users.hashes and self._users.hashes and not self._was_empty:
            self._was_empty = True
            return
        self._was_empty = False
        self._problem = ""
        self._seen = seen
        self._users = users
        self.generation += 1
        _log.info("htpasswd_reloaded", path=str(self._path), users=len(users.hashes))

    def _read(self) -> tuple[bytes, _Signature]:
        """Return the file's content and what tells it from another; raise OSError, also while it is being written."""
        with self._path.open("rb") as file:
            before = _signature(os.fstat(file.fileno()))
            content = file.read(_LARGEST + 1)
            after = _signature(os.fstat(file.fileno()))
        if len(content) > _LARGEST:
            raise OSError(0, f"it has more than {_LARGEST} bytes")
        if before != after:
            raise OSError(0, "it is being written")
        return content, after

    def _keep(self, problem: str) -> None:
        if problem != self._problem:
            _log.error("htpasswd_reload_failed", path=str(self._path), why=problem)
        self._problem = problem


def _check(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, hashed)
    except ValueError:
        return False


def _signature(status: os.stat_result) -> _Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
