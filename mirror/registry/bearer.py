"""Our own bearer tokens: signed here, good for five minutes, and only for what they were given for.

A token is a JWT (RFC 7519) with HMAC-SHA-256 and one header: what has another is refused before it is looked at, so
that no key or algorithm of a client's choice is ever used (CVE-2025-24976).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirror.errors import MirrorError

LIFETIME = 300  # seconds

_NAME = "mirror"  # who issues a token, and whom it is for: registries with this key
_KEY_BYTES = 32


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


_HEADER = _encode(b'{"alg":"HS256","typ":"JWT"}')


class TokenRefused(MirrorError):
    """A token that is not good, or not any more."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: whose it is, since and until when (Unix time), and for what.

    `proof` names the credential that it was given for, so that it ends with that. `access` has the verbs for each
    canonical repository name.
    """

    name: str
    kind: str
    proof: str
    issued: int
    expires: int
    access: Mapping[str, frozenset[str]]


class Signer:
    """Makes and opens tokens with a `key` of 32 bytes that all processes of a store share."""

    def __init__(self, key: bytes, clock: Callable[[], float] = time.time) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError("the key of tokens has 32 bytes")
        self._key = key
        self._clock = clock

    def issue(self, name: str, kind: str, proof: str, access: Mapping[str, Sequence[str]]) -> tuple[str, int]:
        """Return a token and when it was made, in Unix time."""
        now = int(self._clock())
        claims = {
            "iss": _NAME,
            "aud": _NAME,
            "sub": name,
            "kind": kind,
            "proof": proof,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        signed = f"{_HEADER}.{_encode(json.dumps(claims, separators=(',', ':')).encode())}"
        return f"{signed}.{self._sign(signed)}", now

    def open(self, token: str) -> Claims:
        """Return what a token says; raise TokenRefused."""
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        if header != _HEADER or not hmac.compare_digest(signature.encode(), self._sign(signed).encode()):
            raise TokenRefused("the token is not one of this registry", "log in again")
        try:
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            found = _read(claims)
        except (binascii.Error, ValueError, LookupError, TypeError, AttributeError) as error:
            raise TokenRefused("the token is of another version of this registry", "log in again") from error
        if found.expires <= self._clock():
            raise TokenRefused("the token has expired", "ask for a new one")
        return found

    def proof(self, *what: str) -> str:
        """Return what stands for a credential in a token, from which nobody learns anything about it."""
        text = "\0".join(what).encode()
        return _encode(hmac.digest(self._key, b"proof\0" + text, hashlib.sha256)[:16])

    def _sign(self, signed: str) -> str:
        return _encode(hmac.digest(self._key, signed.encode(), hashlib.sha256))


def _read(claims: dict[str, Any]) -> Claims:
    if (claims["iss"], claims["aud"]) != (_NAME, _NAME):
        raise ValueError("issued by or for somebody else")
    return Claims(
        str(claims["sub"]),
        str(claims["kind"]),
        str(claims["proof"]),
        int(claims["iat"]),
        int(claims["exp"]),
        {name: frozenset(verbs) for name, verbs in claims["access"].items()},
    )
