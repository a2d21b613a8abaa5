"""The audit log: one structured line for each push, each deletion, and each login or right that was refused."""

from __future__ import annotations

from typing import Literal

from mirror import logs
from mirror.config.access import Verb
from mirror.errors import MirrorError

_log = logs.get("audit")

_LONGEST = 256


def accepted(verb: Verb, who: str, client: str, name: str, digest: str = "", tag: str = "") -> None:
    """Note what `who`, at the address `client`, has pushed or deleted: a manifest, tag or blob of repository `name`."""
    _log.info("audit", who=who, client=client, verb=verb, name=name, digest=digest, tag=tag, result="done")


def refused(
    verb: Verb | Literal["login"], who: str, client: str, why: str | MirrorError, name: str = "", digest: str = ""
) -> None:
    """Note what was refused to `who`. For a login it is the name that the client gave, which may be anybody's."""
    why = why.what if isinstance(why, MirrorError) else why
    _log.warning(
        "audit", who=who[:_LONGEST], client=client, verb=verb, name=name, digest=digest, result="refused", why=why
    )
