"""An Authorization header taken apart: a name and a password, a token, or nothing that is known here."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

# RFC 9110, section 11.4: a scheme, spaces, and for both schemes that are known here one token68.
_CREDENTIALS = re.compile(r"([A-Za-z]+) +([A-Za-z0-9._~+/-]+=*)[ \t]*")


@dataclass(frozen=True, slots=True)
class Basic:
    """A name and a password (RFC 7617). Both empty: a client that was asked for a login and has none."""

    user: str
    password: bytes = field(repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether this says nothing: skopeo and podman answer a Basic challenge so when they have no login."""
        return not self.user and not self.password


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token (RFC 6750)."""

    token: str = field(repr=False)


def parse(header: str) -> Basic | Bearer | None:
    """Return what a header says; None for what is malformed or of another scheme."""
    found = _CREDENTIALS.fullmatch(header)
    if found is None:
        return None
    scheme, value = found[1].lower(), found[2]
    if scheme == "bearer":
        return Bearer(value)
    return _parse_basic(value) if scheme == "basic" else None


def _parse_basic(value: str) -> Basic | None:
    try:
        # Some clients leave the padding out.
        raw = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
        user, colon, password = raw.partition(b":")
        name = user.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
    if not colon or not (name.isprintable() or not name):
        return None
    return Basic(name, password)
