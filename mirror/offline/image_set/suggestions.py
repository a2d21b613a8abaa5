"""The lines of mirror.yaml that name registries which an image set needs and mirror.yaml lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mirror.errors import NameInvalid
from mirror.oci.reference import check_name
from mirror.redact import escape

_SHOWN = 2


def suggest_upstreams(lacking: Mapping[str, Sequence[str]]) -> str:
    """Return the lines to paste under `upstreams:`, sorted by host, each with a comment that says what needs it.

    `lacking` holds hosts (host[:port]) that no upstream takes, each with where it is named (`file:line`). A host that
    cannot be a key, such as one with a port, gets another key and `endpoints`.
    """
    taken = {host for host in lacking if _is_key(host)}
    lines: list[str] = []
    for host in sorted(lacking):
        comment = f"  # {_list(lacking[host])}" if lacking[host] else ""
        if _is_key(host):
            lines.append(f"  {host}: {{}}{comment}")
            continue
        key = _free_key(host, taken)
        taken.add(key)
        lines += [f"  {key}:{comment}", f'    endpoints: ["https://{host}"]']
    return "".join(f"{line}\n" for line in lines)


def _is_key(host: str) -> bool:
    try:
        return "/" not in check_name(host) and host != "v2"
    except NameInvalid:
        return False


def _free_key(host: str, taken: set[str]) -> str:
    words = re.findall(r"[a-z0-9]+(?:\.[a-z0-9]+)*", host.lower()[:200])
    stem = "-".join(words) or "registry"
    number, key = 1, stem
    while key in taken:
        number += 1
        key = f"{stem}-{number}"
    return key


def _list(wheres: Sequence[str]) -> str:
    shown = ", ".join(escape(where) for where in wheres[:_SHOWN])
    more = len(wheres) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
