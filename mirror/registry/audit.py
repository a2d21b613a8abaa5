"""The audit log: one structured line for each push, each deletion, and each login or right that was refused.

A login that was wrong and did not matter has one for each client that shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from aiohttp import web

from mirror import logs
from mirror.config.access import Verb
from mirror.errors import MirrorError
from mirror.registry.clients import address_of, principal_of

_log = logs.get("audit")

_LONGEST = 256


def accepted(request: web.BaseRequest, verb: Verb, name: str, digest: object = "", tags: Sequence[str] = ()) -> None:
    """Note what a request has pushed or deleted: a manifest, tags or a blob of repository `name`."""
    _log.info(
        "audit",
        who=principal_of(request).name,
        client=address_of(request),
        verb=verb,
        name=name,
        digest=str(digest),
        tag=",".join(tags),
        result="done",
    )


def deleted(name: str, digest: object, who: str, client: str, tags: int) -> None:
    """Note that a manifest of repository `name` was deleted, with all `tags` that meant it."""
    _log.info(
        "audit", who=who, client=client, verb="delete", name=name, digest=str(digest), tag="", tags=tags, result="done"
    )


def refused(
    verb: Verb | Literal["login"], who: str, client: str, why: str | MirrorError, name: str = "", digest: str = ""
) -> None:
    """Note what was refused to `who`. For a login it is the name that the client gave, which may be anybody's.

    The same to the same client may be summed up; somebody else, or something else, has a line whatever else is refused.
    """
    _log.warning(
        "audit",
        who=who[:_LONGEST],
        client=client,
        verb=verb,
        name=name,
        digest=digest,
        result="refused",
        why=why.what if isinstance(why, MirrorError) else why,
        told_apart=True,
    )


def overlooked(who: str, client: str, why: MirrorError) -> None:
    """Note that a login was not taken, and that its client pulls what anybody may pull; `who` as for `refused`."""
    _log.info(
        "audit",
        who=who[:_LONGEST],
        client=client,
        verb="login",
        name="",
        digest="",
        result="overlooked",
        why=why.what,
        told_apart=True,
    )
