"""Logins that are wrong, and do not matter: for a pull that anybody may do.

Docker sends its login for Docker Hub to every mirror (moby#30880). Who it belongs to is said once, not with each layer.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass, field

from aiohttp import web

from mirror.errors import MirrorError
from mirror.registry import audit
from mirror.registry.errors import Unauthorized
from mirror.registry.logins import LoginRefused
from mirror.registry.scopes import BASIC

_REMEMBERED = 16_384


@dataclass(frozen=True, slots=True)
class Refusal:
    """A login that was not taken, as it was `shown`, from the address `client`; why not, and how to log in."""

    shown: str = field(repr=False)
    client: str
    why: MirrorError
    challenge: str = BASIC

    @property
    def who(self) -> str:
        """The name that the login gave, which may be anybody's; empty where it was not looked at."""
        return self.why.who if isinstance(self.why, LoginRefused) else ""

    def told(self) -> MirrorError:
        """Return what the client is told where the login does matter, once that is in the audit log."""
        if not isinstance(self.why, LoginRefused):
            return self.why
        audit.refused("login", self.who, self.client, self.why)
        return Unauthorized(self.why.what, self.why.remedy, self.challenge)


_REFUSAL = web.RequestKey("refusal", Refusal)


def refusal_of(request: web.BaseRequest) -> Refusal | None:
    """Return why the login of a request was not taken; None where it was, or where it had none."""
    found: Refusal | None = request.get(_REFUSAL)
    return found


def set_refusal(request: web.BaseRequest, refusal: Refusal) -> None:
    """Note that the login of a request was not taken, which may yet not matter."""
    request[_REFUSAL] = refusal


class Overlooked:
    """Which logins were said to be overlooked: each of a client once, and each of somebody who guesses."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._said: OrderedDict[bytes, None] = OrderedDict()

    def note(self, refusal: Refusal) -> None:
        """Say of a login that it did not matter, unless that was said."""
        content = f"{refusal.client}\n{refusal.shown}".encode("utf-8", "surrogateescape")
        key = hashlib.blake2b(content, digest_size=16, key=self._key).digest()
        if key not in self._said:
            audit.overlooked(refusal.who, refusal.client, refusal.why)
            if len(self._said) >= _REMEMBERED:
                self._said.popitem(last=False)
        self._said[key] = None
        self._said.move_to_end(key)
