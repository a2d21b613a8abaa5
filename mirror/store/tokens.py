"""Robot tokens, and the key that our own bearer tokens are signed with.

    tokens/key              32 random bytes, made once
    tokens/<id>.json        a robot's token: name, hash of the secret, scope, when it was made and until when it is good
    tokens/<id>.used        empty; its mtime is when the token was used last, give or take a minute

Of a secret only its SHA-256 is kept: with 256 random bits in it there is nothing to guess. A token ends with its file.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mirror import logs
from mirror.config.access import ROBOT, VERBS, Verb, check_robot
from mirror.config.patterns import Matcher, parse_pattern
from mirror.errors import RecordDamaged, StoreError, StoreUnreadable
from mirror.store import files

# A secret says by itself what it is, so that scanners of published files find it.
_SECRET = re.compile(r"mrt_(?P<id>[0-9a-f]{16})_[A-Za-z0-9_-]{43}")

_FILE = re.compile(r"(?P<id>[0-9a-f]{16})\.json")
_KEY_BYTES = 32
_RECORD_LIMIT = 64 * 1024
_REMEMBERED = 4096
_MOST_PATTERNS = 64

_log = logs.get(__name__)
_Modified = tuple[int, int, int]


class KeyNotMade(StoreError):
    """The store takes no key: it is read-only, or full."""


def new_key() -> bytes:
    """Return a new key to sign with."""
    return secrets.token_bytes(_KEY_BYTES)


def new_secret() -> str:
    """Return the secret of a new token: its id and 256 random bits."""
    return f"mrt_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


@dataclass(frozen=True, slots=True)
class Robot:
    """One token of a robot. Times are Unix times; `expires` None means never."""

    id: str
    name: str
    hash: bytes = field(repr=False)
    created: float
    expires: float | None
    repositories: tuple[str, ...]
    may: tuple[Verb, ...]
    matcher: Matcher = field(repr=False, compare=False)

    @property
    def user(self) -> str:
        """What a client logs in as, and what rules and logs call it."""
        return ROBOT + self.name

    def covers(self, verb: Verb, name: str) -> bool:
        """Tell whether this token was made for a verb on a repository, by its canonical name."""
        return verb in self.may and self.matcher.matches(name)

    def is_over(self, now: float) -> bool:
        """Tell whether it has expired."""
        return self.expires is not None and self.expires <= now


class Tokens:
    """The files under `tokens/`. `find`, `modified` and `note` may run on the loop, everything else blocks."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = f"{root}/"
        self._known: dict[str, tuple[_Modified, Robot | None]] = {}
        self._used: dict[str, float] = {}

    # -- what requests ask -----------------------------------------------------------------------------------

    def find(self, identity: str) -> Robot | None:
        """Return the token of an id, the same object as long as its file is the same; None where there is none.

        `identity` is of the grammar. Raises StoreUnreadable, RecordDamaged.
        """
        path = f"{self._folder}{identity}.json"
        modified = files.modified(path)
        if modified is None:
            self._known.pop(identity, None)
            return None
        known = self._known.get(identity)
        if known is None or known[0] != modified:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            known = self._known[identity] = (modified, self._read(identity, path))
        return known[1]

    def holder(self, secret: str) -> Robot | None:
        """Return the token that a secret is of, an expired one too; None where it is of none."""
        found = _SECRET.fullmatch(secret)
        robot = None if found is None else self.find(found["id"])
        if robot is None or not hmac.compare_digest(robot.hash, hashlib.sha256(secret.encode()).digest()):
            return None
        return robot

    def modified(self) -> object:
        """Return what changes when a token is made or revoked."""
        return files.modified(str(self._root))

    def note(self, identity: str) -> None:
        """Remember that a token was used now, until `flush`."""
        self._used[identity] = time.time()

    # -- for threads and commands ----------------------------------------------------------------------------

    def key(self) -> bytes:
        """Return the key that all processes of this store sign with, made by whoever needs it first.

        Raises StoreUnreadable, RecordDamaged; KeyNotMade where there is none and none can be made.
        """
        path = f"{self._folder}key"
        content = self._read_key(path)
        if content is None:
            try:
                self._make_key(path)
            except OSError as error:
                raise KeyNotMade(f"tokens/key in the store cannot be made ({error.strerror})") from error
            content = self._read_key(path)
        if content is None:
            raise KeyNotMade("tokens/key in the store goes as soon as it is made")
        return content

    def create(
        self, secret: str, name: str, repositories: Iterable[str], may: Iterable[Verb], expires: float | None
    ) -> Robot:
        """Make a token of a new secret, which nobody can read again; `expires` is Unix time, None for never.

        Raises SpellingError for what no token may hold, OSError.
        """
        found = _SECRET.fullmatch(secret)
        if found is None:
            raise ValueError("no secret of a token")
        identity = found["id"]
        record = {
            "schema": 1,
            "name": name,
            "hash": hashlib.sha256(secret.encode()).hexdigest(),
            "created": int(time.time()),
            "expires": expires,
            "repositories": list(repositories),
            "may": list(may),
        }
        robot = _parse(identity, record)
        files.write_atomically(
            f"{self._folder}{identity}.json", json.dumps(record, indent=1).encode(), durable=True, mode=0o600
        )
        return robot

    def all(self) -> list[Robot]:
        """Return all tokens, expired ones too, by name and age, but for those that are `damaged`.

        Raises StoreUnreadable.
        """
        found = []
        for identity in self._identities():
            with suppress(RecordDamaged):
                robot = self._read(identity, f"{self._folder}{identity}.json")
                if robot is not None:
                    found.append(robot)
        return sorted(found, key=lambda robot: (robot.name, robot.created, robot.id))

    def damaged(self) -> dict[str, RecordDamaged]:
        """Return what is wrong with records of tokens that make no sense, by id. Raises StoreUnreadable."""
        found = {}
        for identity in sorted(self._identities()):
            try:
                self._read(identity, f"{self._folder}{identity}.json")
            except RecordDamaged as error:
                found[identity] = error
        return found

    def check(self, entry: str) -> None:
        """Raise StoreUnreadable, RecordDamaged where what the file of this name says is not known. Makes nothing."""
        found = _FILE.fullmatch(entry)
        if found is not None:
            self._read(found["id"], f"{self._folder}{entry}")
        elif entry == "key":
            self._read_key(f"{self._folder}{entry}")

    def any(self) -> bool:
        """Tell whether there is a token."""
        return bool(self._identities())

    def last_used(self, identity: str) -> float | None:
        """Return when a token was used last, as far as that was written down."""
        found = files.modified(f"{self._folder}{identity}.used")
        return None if found is None else found[1] / 1_000_000_000

    def revoke(self, identity: str) -> bool:
        """End a token everywhere at once and say whether it was there. Raises OSError."""
        there = files.remove(f"{self._folder}{identity}.json")
        if there:
            files.sync_folder(str(self._root))
        files.remove(f"{self._folder}{identity}.used")
        return there

    def flush(self) -> None:
        """Write down which tokens were used. What cannot be written is lost, and logged."""
        used, self._used = self._used, {}
        for identity, when in used.items():
            path = f"{self._folder}{identity}.used"
            try:
                if files.modified(f"{self._folder}{identity}.json") is None:
                    continue  # revoked meanwhile
                _touch(path, when)
            except (OSError, StoreUnreadable) as error:
                _log.warning("token_use_not_noted", robot=identity, why=str(error))

    def _identities(self) -> list[str]:
        return [found["id"] for entry in files.names(self._root) if (found := _FILE.fullmatch(entry)) is not None]

    def _read(self, identity: str, path: str) -> Robot | None:
        """Return what a file says, None where it is gone: then the token is revoked.

        Raises StoreUnreadable, RecordDamaged: of one that cannot be read, or makes no sense, that is not known.
        """
        remedy = f"put that file back, or give the token up with mirror token revoke {identity}"
        what = f"the record of the token {identity}"
        return files.read_whole(path, _RECORD_LIMIT, partial(_parse_whole, identity), what, remedy)

    def _read_key(self, path: str) -> bytes | None:
        remedy = "put that file back, or move it away and restart: clients then log in again"
        return files.read_whole(path, _KEY_BYTES, _parse_key, "the key that bearer tokens are signed with", remedy)

    def _make_key(self, path: str) -> None:
        files.write_once(path, new_key(), durable=True)  # of two processes that make one, the first wins


def _parse_key(raw: bytes) -> bytes | None:
    return raw if len(raw) == _KEY_BYTES else None


def _parse_whole(identity: str, raw: bytes) -> Robot | None:
    try:
        return _parse(identity, json.loads(raw))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _parse(identity: str, record: dict[str, Any]) -> Robot:
    """Return the token that a record spells; raise ValueError (SpellingError among them), LookupError, TypeError."""
    expires = record["expires"]
    repositories = tuple(parse_pattern(pattern) for pattern in _expect_list(record["repositories"]))
    if not 0 < len(repositories) <= _MOST_PATTERNS:
        raise ValueError("no patterns, or too many")
    # NaN would never be over.
    if expires is not None and not math.isfinite(expires):
        raise ValueError("no time")
    stated = frozenset(_expect_list(record["may"]))
    may = tuple(verb for verb in VERBS if verb in stated)
    if len(may) != len(stated) or not may:
        raise ValueError("a verb that is not known")
    hashed = bytes.fromhex(record["hash"])
    if len(hashed) != hashlib.sha256().digest_size:
        raise ValueError("no hash")
    return Robot(
        identity,
        check_robot(record["name"]),
        hashed,
        float(record["created"]),
        None if expires is None else float(expires),
        repositories,
        may,
        Matcher(repositories),
    )


def _expect_list(value: object) -> list[Any]:
    # A text is a sequence too, of its characters.
    if not isinstance(value, list):
        raise TypeError("no list")
    return value


def _touch(path: str, when: float) -> None:
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        known = 0.0
    except FileExistsError:
        fd = os.open(path, flags)
        known = os.fstat(fd).st_mtime
    try:
        if known < when:  # another process may have written a later time
            os.utime(fd, (when, when))
    finally:
        os.close(fd)
