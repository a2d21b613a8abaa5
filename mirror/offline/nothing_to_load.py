"""Why nothing of what was given to `mirror load` can be loaded: what is there instead, and what to give."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from mirror.errors import MirrorError, Problem
from mirror.offline import part
from mirror.offline.foreign import TAKES, kind_of
from mirror.outside import Outside

_LOOKED_AT = 20  # files and folders of a folder
_NAMED = 3  # of them, in a sentence


def nothing_to_load(paths: Sequence[Path], outside: Outside) -> list[Problem]:
    """Return for each path that can be read why it is of no use. Blocks."""
    return [_explain(path, outside) for path in paths]


def _explain(path: Path, outside: Outside) -> Problem:
    what = f"{path} holds neither parts of `mirror save` nor another archive"
    if not _is_folder(path, outside):
        return Problem("no_parts", what, "", TAKES)
    names = outside.listdir(path)
    if not names:
        return Problem("no_parts", f"{what}: it is empty", "", "mount the medium there, or give the folder where it is")
    inner = [path / name for name in names[:_LOOKED_AT]]
    better = [str(one) for one in inner if _may_be_loaded(one, outside)]
    if better:
        return Problem("no_parts", f"{what} itself", "", f"give what lies in it: `mirror load {' '.join(better)}`")
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Problem("no_parts", f"{what}; it holds {', '.join(names[:_NAMED])}{more}", "", TAKES)


def _may_be_loaded(path: Path, outside: Outside) -> bool:
    try:
        if _is_folder(path, outside) and any(part.is_file_name(name) for name in outside.listdir(path)):
            return True
        return kind_of(path, outside) is not None
    except (MirrorError, OSError):
        return False


def _is_folder(path: Path, outside: Outside) -> bool:
    return stat.S_ISDIR(outside.stat(path).st_mode)
