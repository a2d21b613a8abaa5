"""The robot tokens that requests are made with, kept in the store and asked through here."""

from __future__ import annotations

import asyncio
import shlex
from typing import Protocol

from mirror.config.access import ROBOT, VERBS, Verb
from mirror.registry.clients import Scope

_FLUSH = 30.0  # seconds between notes of which tokens were used


class Robot(Scope, Protocol):
    """One token of a robot."""

    @property
    def id(self) -> str:
        """What tells it from other tokens of the same robot."""
        ...

    @property
    def user(self) -> str:
        """What the robot logs in as."""
        ...

    def is_over(self, now: float) -> bool:
        """Tell whether it has expired; `now` is Unix time."""
        ...


def wider(user: str, scope: Scope, verb: Verb, name: str) -> str:
    """Return the remedy for a robot whose own token does not cover `verb` on a repository: no rule widens that."""
    made = f"its token was made for {' and '.join(scope.may)} in {', '.join(scope.repositories)}"
    command = ["mirror", "token", "create", user.removeprefix(ROBOT), "--expires", "90d"]
    command += ["--may", ",".join(one for one in VERBS if one == verb or one in scope.may)]
    for pattern in dict.fromkeys((*scope.repositories, name)):
        command += ["--repositories", pattern]
    return f"{made}, which no rule widens: have another one made, e.g. {shlex.join(command)}"


class Shelf(Protocol):
    """Where tokens are kept. `find`, `holder`, `modified` and `note` may run on the loop; the rest blocks."""

    def find(self, identity: str) -> Robot | None:
        """Return the token of an id; the same object as long as nothing about it has changed."""
        ...

    def holder(self, secret: str) -> Robot | None:
        """Return the token that a secret is of, an expired one too."""
        ...

    def modified(self) -> object:
        """Return what changes when a token is made or revoked."""
        ...

    def note(self, identity: str) -> None:
        """Remember that a token was used now."""
        ...

    def any(self) -> bool:
        """Tell whether there is a token."""
        ...

    def flush(self) -> None:
        """Write down which tokens were used."""
        ...


class Robots:
    """What logins ask about robots. `keep_noting` must run beside it, or nobody learns when a token was used."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._seen: object = object()
        self._exist = False
        self.find = shelf.find
        self.holder = shelf.holder
        self.note = shelf.note

    async def exist(self) -> bool:
        """Tell whether any robot has a token."""
        seen = self._shelf.modified()
        if seen != self._seen:
            # Noted before the look: what changes during it is seen next time.
            self._exist, self._seen = await asyncio.to_thread(self._shelf.any), seen
        return self._exist

    async def keep_noting(self, period: float = _FLUSH) -> None:
        """Write down every `period` seconds which tokens were used, and once more when cancelled."""
        try:
            while True:
                await asyncio.sleep(period)
                await asyncio.to_thread(self._shelf.flush)
        finally:
            await asyncio.to_thread(self._shelf.flush)
