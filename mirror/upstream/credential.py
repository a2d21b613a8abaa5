"""Who we are to an upstream."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from yarl import URL

from mirror.upstream.secret import Secret


def _none() -> Secret:
    return Secret("")


@dataclass(frozen=True, slots=True)
class Credential:
    """A login: a user name and password, or an identity (refresh) token, or a registry (bearer) token.

    `source` says in words where it was found, for people.
    """

    username: str = ""
    password: Secret = field(default_factory=_none)
    identity_token: Secret = field(default_factory=_none)
    registry_token: Secret = field(default_factory=_none)
    source: str = ""

    @property
    def basic(self) -> str:
        """The value of an `Authorization: Basic` header."""
        pair = f"{self.username}:{self.password.reveal()}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    @property
    def has_password(self) -> bool:
        """Whether there is a user name and password."""
        return bool(self.username and self.password)

    def fingerprint(self) -> str:
        """Return a key for what was got with this login; it changes when the login does, and gives nothing away."""
        parts = (self.username, *(s.reveal() for s in (self.password, self.identity_token, self.registry_token)))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def hosts_of(endpoint: URL) -> tuple[str, ...]:
    """Return the names, host[:port], by which a login for `endpoint` is looked up: with its scheme's own port and
    without it, the one that is spelled first."""
    spelled = endpoint.raw_authority.rpartition("@")[2]
    without = endpoint.host_port_subcomponent or ""
    return tuple(dict.fromkeys((spelled, without, f"{endpoint.host_subcomponent}:{endpoint.port}")))


class CredentialSource(Protocol):
    """Where credentials come from; there are two: an upstream's own, and pull secrets."""

    async def find(self, hosts: Sequence[str], repository: str) -> Credential | None:
        """Return the login for `repository` at a registry of these names; None: there is none, ask anonymously.

        Raise UpstreamLoginRefused if a file that should hold it cannot be read.
        """
        ...

    async def misnamed(self, hosts: Sequence[str]) -> str:
        """Return the entry that is meant for a registry of these names and that `find` does not find; empty for none.

        Raises UpstreamLoginRefused as `find` does.
        """
        ...
