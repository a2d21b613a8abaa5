"""The scopes that clients ask tokens for, and the challenges that tell them which (distribution, docs/spec/auth)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mirror.errors import NameInvalid
from mirror.oci.reference import check_name

# Clients ask for one or two; a token of more would not fit into a header.
MOST_SCOPES = 16

_CLASS = re.compile(r"\([a-z0-9]{1,32}\)$")
_ACTION = re.compile(r"[a-z]{1,32}|\*")
# What may stand in a challenge: a host with an optional port, as a Host field has it.
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

BASIC = 'Basic realm="mirror"'


class Scope(NamedTuple):
    """One resource and what is to be done with it: `repository`, its name as the client writes it, the actions."""

    kind: str
    name: str
    actions: frozenset[str]


def parse(values: Iterable[str]) -> list[Scope]:
    """Return the scopes of all `scope` parameters, each a list separated by spaces; what is none is passed over."""
    found: list[Scope] = []
    for value in values:
        for text in value.split(" "):
            scope = _parse_one(text)
            if scope is not None:
                found.append(scope)
                if len(found) == MOST_SCOPES:
                    return found
    return found


def _parse_one(text: str) -> Scope | None:
    kind, _, rest = text.partition(":")
    # A name may hold a colon (a host's port), its actions never do.
    name, colon, listed = rest.rpartition(":")
    kind = _CLASS.sub("", kind)
    if not colon or kind not in ("repository", "registry"):
        return None
    try:
        check_name(name)
    except NameInvalid:
        return None
    actions = frozenset(action for action in listed.split(",") if _ACTION.fullmatch(action))
    return Scope(kind, name, actions) if actions else None


def host_of(header: str | None) -> str | None:
    """Return a Host field if it can be repeated in a challenge, else None."""
    return header if header is not None and _HOST.fullmatch(header) is not None else None


def challenge(scheme: str, host: str, scope: str = "", error: str = "") -> str:
    """Return the one challenge that leads clients to our own /token (RFC 6750, section 3).

    All arguments are checked values: nothing in them ends a quoted string.
    """
    parts = [f'realm="{scheme}://{host}/token"', f'service="{host}"']
    if scope:
        parts.append(f'scope="{scope}"')
    if error:
        parts.append(f'error="{error}"')
    return f"Bearer {','.join(parts)}"
