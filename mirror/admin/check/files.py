"""Files that the configuration names: there, readable, and closed to others where they hold a secret."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from mirror.admin.check.report import Finding
from mirror.admin.check.surroundings import Surroundings
from mirror.config import Config

_LARGEST = 2**20

Key = tuple[str | int, ...]


def find_in_files(config: Config, around: Surroundings) -> Iterator[Finding]:
    """Yield what is wrong with every file that the configuration names, what is in them aside."""
    for key, path, secret in named_files(config):
        # The last user may be removed, and the first one added later.
        may_be_empty = path == config.clients.htpasswd
        yield from find_in_file(path, config.source.where(*key), around, secret=secret, may_be_empty=may_be_empty)


def named_files(config: Config) -> Iterator[tuple[Key, Path, bool]]:
    """Yield (key, path, whether it holds a secret) for each file that the configuration names."""
    for index, path in enumerate(config.ca):
        yield ("ca", index), path, False
    for index, path in enumerate(config.pull_secrets):
        yield ("pull_secrets", index), path, True
    pairs: list[tuple[Key, Path | None, bool]] = [
        (("tls", "certificate"), config.tls.certificate, False),
        (("tls", "key"), config.tls.key, True),
        (("tls", "client_ca"), config.tls.client_ca, False),
        (("clients", "htpasswd"), config.clients.htpasswd, True),
    ]
    for index, webhook in enumerate(config.notifications):
        pairs.append((("notifications", index, "header_file"), webhook.header_file, True))
    for name, upstream in config.upstreams.items():
        at = ("upstreams", name)
        password = upstream.credentials.password_file if upstream.credentials else None
        pairs += [
            ((*at, "ca"), upstream.ca, False),
            ((*at, "client_certificate"), upstream.client_certificate, False),
            ((*at, "client_key"), upstream.client_key, True),
            ((*at, "credentials", "password_file"), password, True),
        ]
    yield from ((key, path, secret) for key, path, secret in pairs if path is not None)


def find_in_file(
    path: Path, where: str, around: Surroundings, *, secret: bool, may_be_empty: bool = False
) -> Iterator[Finding]:
    """Yield what is wrong with one file: missing, unreadable for the service, empty, too open."""
    shown = shlex.quote(str(path))
    try:
        status = path.stat()
    except FileNotFoundError:
        yield Finding("error", "file_missing", f"there is no file {path}", where, "create it, or correct the path")
        return
    except OSError as error:
        yield Finding("error", "file_unreadable", f"{path} cannot be looked at: {error.strerror}", where)
        return
    if not stat.S_ISREG(status.st_mode):
        yield Finding("error", "file_unreadable", f"{path} is not a file", where, "name the file itself")
        return
    if not around.can_read(path):
        user = around.user.name
        remedy = (
            f"sudo chown root:{user} {shown} && sudo chmod 0640 {shown}, and let {user} enter the directories above"
        )
        yield Finding("error", "file_unreadable", f"the user {user} cannot read {path}", where, remedy)
    elif status.st_size == 0 and not may_be_empty:
        yield Finding("error", "file_empty", f"{path} is empty", where, "write into it what it should hold")
    elif status.st_size > _LARGEST:
        yield Finding("error", "file_too_large", f"{path} is larger than 1 MiB", where, "name another file")
    if status.st_mode & stat.S_IWOTH:
        yield Finding("error", "file_too_open", f"everybody can write to {path}", where, f"sudo chmod o-w {shown}")
    elif secret and status.st_mode & stat.S_IROTH and not around.is_mounted_secret(path):
        remedy = f"sudo chown root:{around.user.name} {shown} && sudo chmod 0640 {shown}"
        yield Finding("error", "secret_too_open", f"everybody on this host can read {path}", where, remedy)


def read_bounded(path: Path) -> bytes | None:
    """Return the bytes of a file of at most 1 MiB, or None where that fails, which `find_in_file` has told already."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            content = file.read(_LARGEST + 1)
    except OSError:
        return None
    return content if 0 < len(content) <= _LARGEST else None
