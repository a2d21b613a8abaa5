"""Which format a folder or file is in, by what it holds; its name counts only for oc-mirror's archives and our own."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mirror.errors import ConfigurationError, Problem
from mirror.offline import part
from mirror.offline.foreign import distribution, docker_archive, oci_layout, skopeo_dir
from mirror.offline.foreign.distribution import TREE
from mirror.offline.foreign.docker_archive import DockerArchive
from mirror.offline.foreign.mistaken import HEAD, mistaken
from mirror.offline.foreign.model import Foreign, FormatKind
from mirror.offline.foreign.oci_layout import OciLayout
from mirror.offline.foreign.skopeo_dir import SkopeoDir
from mirror.offline.tar import ArchiveInvalid, FormatUnsupported, Member, Tar
from mirror.outside import Outside

# As oc-mirror itself looks for its archives when it reads them.
_ARCHIVE = re.compile(r"mirror_[0-9]{6}\.tar")
_ARCHIVE_V1 = re.compile(r"mirror_seq[0-9]+_[0-9]{6}\.tar")
_MEMBERS_LIMIT = 200_000  # of an archive of images, whose table is held in memory
_ARCHIVES_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class _Given:
    """What one path turned out to be: a folder, or archives."""

    kind: FormatKind
    path: Path
    archives: tuple[Path, ...] = ()


def recognise(paths: Sequence[Path], outside: Outside) -> Foreign | None:
    """Open what lies at `paths`, or return None where nothing there is a foreign format (our own parts are not).

    Several folders and files of oc-mirror make one set. Blocks: for threads only. Raises ConfigurationError where a
    path cannot be read or formats are mixed, FormatUnsupported, ArchiveInvalid.
    """
    found = [(path, _look(path, outside)) for path in paths]
    given = [one for _, one in found if one is not None]
    if not given:
        return None
    kinds = {one.kind for one in given}
    if len(given) < len(found) or len(kinds) > 1 or (len(given) > 1 and kinds != {"oc-mirror"}):
        said = ", ".join(f"{path} ({one.kind if one else 'no archive of another tool'})" for path, one in found)
        raise _unusable("formats_mixed", f"this is not one archive: {said}", "load one at a time")
    return _open(given, outside)


def kind_of(path: Path, outside: Outside) -> FormatKind | None:
    """Return which foreign format lies at `path`, None for none; raises as `recognise` does."""
    found = _look(path, outside)
    return found.kind if found is not None else None


def _look(path: Path, outside: Outside) -> _Given | None:
    try:
        mode = outside.stat(path).st_mode
        names = set(outside.listdir(path)) if stat.S_ISDIR(mode) else set()
    except OSError as error:
        raise _unusable("unreadable", f"{path} cannot be read: {error.strerror}", "check the path") from error
    if stat.S_ISDIR(mode):
        return _look_in(path, names, outside)
    if part.is_file_name(path.name):
        return None
    _refuse_v1(path, {path.name})
    if _ARCHIVE.fullmatch(path.name):
        return _Given("oc-mirror", path, (path,))
    with ExitStack() as stack:
        tar = _tar(path, outside)
        stack.callback(tar.close)
        other = mistaken(path, os.pread(tar.fd, HEAD, 0))
        if other is not None:
            raise _unusable("not_an_archive", f"{path} is {other.what}", other.remedy)
        kind = _kind(tar)
    return _Given(kind, path, (path,)) if kind else None


def _look_in(folder: Path, names: set[str], outside: Outside) -> _Given | None:
    if any(part.is_file_name(name) for name in names):
        return None
    if {oci_layout.MARKER, oci_layout.INDEX} <= names:
        return _Given("oci-layout", folder)
    if "blobs" in names and len(halves := {oci_layout.MARKER, oci_layout.INDEX} - names) == 1:
        raise ArchiveInvalid(f"{folder} looks like an OCI layout and has no {halves.pop()}", "copy all of it again")
    if "docker" in names and _is_folder(folder / TREE / "repositories", outside):
        return _Given("distribution", folder)
    archives = sorted(name for name in names if _ARCHIVE.fullmatch(name))
    if archives:
        return _Given("oc-mirror", folder, tuple(folder / name for name in archives[:_ARCHIVES_LIMIT]))
    _refuse_v1(folder, names)
    return _Given("dir", folder) if {skopeo_dir.VERSION, skopeo_dir.MANIFEST} <= names else None


def _refuse_v1(path: Path, names: set[str]) -> None:
    if any(_ARCHIVE_V1.fullmatch(name) for name in names):
        raise FormatUnsupported(f"{path} was written by oc-mirror v1", "mirror it again with `oc-mirror --v2`")


def _is_folder(path: Path, outside: Outside) -> bool:
    try:
        return stat.S_ISDIR(outside.stat(path).st_mode)
    except OSError:
        return False


def _kind(tar: Tar) -> FormatKind | None:
    """Return what an archive holds; None where it is one of ours, or nothing that is known."""
    seen = set()
    for member in tar.members(links=True):
        if f"/{TREE}/" in f"/{member.name}":
            return "oc-mirror"
        if member.name == part.INDEX:
            return None
        seen.add(member.name if "/" not in member.name else "")
    # What newer dockers save is both, and only the layout keeps the manifest.
    if {oci_layout.MARKER, oci_layout.INDEX} <= seen:
        return "oci-archive"
    if {skopeo_dir.VERSION, skopeo_dir.MANIFEST} <= seen:
        return "dir"
    return "docker-archive" if docker_archive.MANIFEST in seen else None


def _open(given: Sequence[_Given], outside: Outside) -> Foreign:
    first = given[0]
    if first.kind == "oci-layout":
        return OciLayout.in_folder(first.path, outside)
    if first.kind == "distribution":
        return distribution.open_tree(first.path, outside)
    if first.kind == "dir" and not first.archives:
        return SkopeoDir.in_folder(first.path, outside)
    with ExitStack() as stack:
        # What one run of oc-mirror wrote lies in one folder.
        runs: dict[Path, list[Tar]] = {}
        for path in (path for one in given for path in one.archives):
            tar = _tar(path, outside)
            stack.callback(tar.close)
            runs.setdefault(path.absolute().parent, []).append(tar)
        tars = [tar for run in runs.values() for tar in run]
        opened: Foreign
        if first.kind == "oc-mirror":
            opened = distribution.open_archives(list(runs.values()))
        elif first.kind == "oci-archive":
            opened = OciLayout.in_tar(tars[0], _members(tars[0], links=False))
        elif first.kind == "dir":
            opened = SkopeoDir.in_tar(tars[0], _members(tars[0], links=False))
        else:
            opened = DockerArchive(tars[0], _members(tars[0], links=True))
        stack.pop_all()
        return opened


def _members(tar: Tar, *, links: bool) -> dict[str, Member]:
    found: dict[str, Member] = {}
    for member in tar.members(links=links):
        found[member.name] = member
        if len(found) > _MEMBERS_LIMIT:
            raise ArchiveInvalid(f"{tar.label} has more than {_MEMBERS_LIMIT} files: that is not an archive of images")
    return found


def _tar(path: Path, outside: Outside) -> Tar:
    try:
        return Tar(outside.open(path, os.O_RDONLY | os.O_NONBLOCK), str(path))
    except OSError as error:
        raise _unusable("unreadable", f"{path} cannot be read: {error.strerror}", "check the path") from error


def _unusable(code: str, what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Problem(code, what, "", remedy)])
