"""What a login is worth: users by their password, robots by their secret, anybody by a token of ours.

What was found out about a login is remembered under a keyed hash of it, and only as long as nothing has changed: the
htpasswd file, the robot's token, the time. What is wrong is wrong until the file changes, and is remembered apart:
nodes that send another registry's login with each request take nothing from those that log in here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mirror.config.access import ROBOT
from mirror.errors import MirrorError
from mirror.registry.authorization import Basic, Bearer, parse
from mirror.registry.bearer import Signer, TokenRefused
from mirror.registry.clients import ANONYMOUS, Principal
from mirror.registry.htpasswd import Htpasswd
from mirror.registry.robots import Robot, Robots

DELAY = 1.0  # seconds before a wrong login is told so

_DELAYED = 256  # of them at a time; the next ones are told at once: passwords cost us more than them a connection
_REMEMBERED = 4096
_WRONG = 16_384  # wrong logins that are remembered
_LONGEST_WHO = 256  # characters of the name that one of them gave
_BELIEVED = 60.0  # seconds


class LoginRefused(MirrorError):
    """A login that is not right. `who` is the name that it gave, or nothing; `error` is RFC 6750's word for it."""

    def __init__(self, what: str, remedy: str = "", who: str = "", error: str = "") -> None:
        super().__init__(what, remedy)
        self.who = who
        self.error = error


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a login until `until` (Unix time), while users and the robot's token are what they were."""

    principal: Principal | None
    until: float
    generation: int
    robot: Robot | None = None
    who: str = ""


class Logins:
    """Finds out who a client is. `users` and `robots` are None where there are none."""

    def __init__(
        self,
        signer: Signer,
        users: Htpasswd | None = None,
        robots: Robots | None = None,
        *,
        delay: float = DELAY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._users = users
        self._robots = robots
        self._delay = delay
        self._clock = clock
        self._key = os.urandom(32)
        self._known: dict[bytes, _Known] = {}
        self._wrong: OrderedDict[bytes, _Known] = OrderedDict()
        self._checking: dict[bytes, asyncio.Task[_Known]] = {}
        self._delayed = 0

    @property
    def has_users(self) -> bool:
        """Whether there are users, which takes no look at any file."""
        return self._users is not None

    async def exist(self) -> bool:
        """Tell whether anybody could log in."""
        return self._users is not None or (self._robots is not None and await self._robots.exist())

    def concerns(self, header: str) -> bool:
        """Tell whether a header is of a kind that only we give out: of a robot, or a token.

        It must be refused also when nobody can log in any more: the last robot's token was revoked, say.
        """
        found = parse(header)
        return isinstance(found, Bearer) or (isinstance(found, Basic) and found.user.startswith(ROBOT))

    def recall(self, header: str) -> Principal | None:
        """Return whose Authorization header this is, where that is known already."""
        if self._users is not None and not self._users.is_current:
            return None
        known = self._known.get(self._key_of(header))
        if known is None or not self._holds(known):
            return None
        if known.robot is not None and self._robots is not None:
            self._robots.note(known.robot.id)
        return known.principal

    async def identify(self, header: str) -> Principal:
        """Return whose Authorization header this is.

        Raise LoginRefused, at the end of a second if it may have been a guess, and NotYet when too many are being
        checked.
        """
        began = asyncio.get_running_loop().time()
        if self._users is not None and not self._users.is_current:
            await self._users.look()
        key = self._key_of(header)
        known = self._known.get(key) or self._wrong.get(key)
        if known is None or not self._holds(known):
            found = parse(header)
            if found is None:
                raise LoginRefused("the Authorization header is neither Basic nor Bearer", "log in again")
            if isinstance(found, Basic) and found.is_empty:
                return ANONYMOUS
            known = await self._find_out(key, found)
            if known.until > self._clock():
                self._remember(key, known)
        if known.principal is None:
            if key in self._wrong:
                self._wrong.move_to_end(key)
            await self._wait(began)
            raise LoginRefused("the name or the password is wrong", "log in again", known.who)
        if known.robot is not None and self._robots is not None:
            self._robots.note(known.robot.id)
        return known.principal

    async def of_secret(self, secret: str) -> Principal:
        """Return whose robot secret this is, given without a name; raise LoginRefused."""
        robot = self._robots.holder(secret) if self._robots is not None else None
        user = robot.user if robot is not None else ROBOT
        return await self.identify(basic(user, secret))

    def issue(self, principal: Principal, access: Mapping[str, Sequence[str]]) -> tuple[str, int]:
        """Return a token for `principal` and the verbs in `access`, by canonical name, and when it was made."""
        return self._signer.issue(principal.name, principal.kind, principal.proof, access)

    async def _find_out(self, key: bytes, login: Basic | Bearer) -> _Known:
        if isinstance(login, Bearer):
            return self._open(login.token)
        if login.user.startswith(ROBOT):
            return self._robot(login)
        # Nodes that pull together log in together: one look at a password is enough for all.
        task = self._checking.get(key)
        if task is None:
            task = asyncio.create_task(self._user(key, login))
            self._checking[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: bytes, task: asyncio.Task[_Known]) -> None:
        del self._checking[key]
        if not task.cancelled():
            _ = task.exception()  # whoever waits gets it from the task

    async def _user(self, key: bytes, login: Basic) -> _Known:
        users, name = self._users, login.user
        who = name[:_LONGEST_WHO]
        if users is None:
            return _Known(None, math.inf, 0, who=who)
        generation = users.generation
        hashed = users.hash_of(name)
        right = await users.verify(name, login.password, ahead=key in self._known)
        if not right or hashed is None:
            return _Known(None, math.inf, generation, who=who)
        proof = self._signer.proof("user", name, hashed)
        return _Known(Principal(name, "user", proof=proof), self._clock() + _BELIEVED, generation)

    def _robot(self, login: Basic) -> _Known:
        """Return what a robot's login is worth. A wrong one is not remembered: it costs next to nothing."""
        robots = self._robots
        robot = robots.holder(login.password.decode("utf-8", "replace")) if robots is not None else None
        if robot is None or robot.user != login.user:
            return _Known(None, 0.0, self._generation, who=login.user)
        self._refuse_late(robot)
        return _Known(_principal(robot), self._clock() + _BELIEVED, self._generation, robot)

    def _open(self, token: str) -> _Known:
        try:
            claims = self._signer.open(token)
        except TokenRefused as error:
            raise LoginRefused(error.what, error.remedy, error="invalid_token") from None
        if claims.kind == "robot":
            robot = self._robots.find(claims.proof) if self._robots is not None else None
            if robot is None or robot.user != claims.name:
                raise _over(claims.name)
            self._refuse_late(robot)
            principal = replace(_principal(robot), granted=claims.access)
            return _Known(principal, claims.expires, self._generation, robot)
        if claims.kind == "user":
            hashed = self._users.hash_of(claims.name) if self._users is not None else None
            if hashed is None or self._signer.proof("user", claims.name, hashed) != claims.proof:
                raise _over(claims.name)
            principal = Principal(claims.name, "user", granted=claims.access, proof=claims.proof)
        else:
            principal = replace(ANONYMOUS, granted=claims.access)
        return _Known(principal, claims.expires, self._generation)

    def _refuse_late(self, robot: Robot) -> None:
        if robot.is_over(self._clock()):
            raise LoginRefused(
                "this robot's token has expired", "make a new one: mirror token create", robot.user, "invalid_token"
            )

    def _holds(self, known: _Known) -> bool:
        if known.until <= self._clock() or known.generation != self._generation:
            return False
        robot = known.robot
        if robot is None:
            return True
        return self._robots is not None and self._robots.find(robot.id) is robot and not robot.is_over(self._clock())

    @property
    def _generation(self) -> int:
        return 0 if self._users is None else self._users.generation

    def _remember(self, key: bytes, known: _Known) -> None:
        if known.principal is None:
            self._known.pop(key, None)
            self._wrong[key] = known
            self._wrong.move_to_end(key)
            if len(self._wrong) > _WRONG:
                self._wrong.popitem(last=False)
            return
        self._wrong.pop(key, None)
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = known

    def _key_of(self, header: str) -> bytes:
        return hashlib.blake2b(header.encode("utf-8", "surrogateescape"), digest_size=16, key=self._key).digest()

    async def _wait(self, began: float) -> None:
        """Wait for the end of the delay that began so: how long a look at the password took is not to be seen."""
        if self._delay and self._delayed < _DELAYED:
            self._delayed += 1
            try:
                await asyncio.sleep(self._delay - (asyncio.get_running_loop().time() - began) % self._delay)
            finally:
                self._delayed -= 1


def basic(user: str, password: str) -> str:
    """Return the Authorization header of a name and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode("ascii")


def _principal(robot: Robot) -> Principal:
    return Principal(robot.user, "robot", scope=robot, proof=robot.id)


def _over(name: str) -> LoginRefused:
    return LoginRefused("the login that this token was given for has ended", "log in again", name, "invalid_token")
