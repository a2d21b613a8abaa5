"""mirror user: the htpasswd file edited line by line, whatever else is in it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mirror.cli.outcome import FAILED, INVALID, Outcome
from mirror.cli.secret_files import SecretFile
from mirror.config import Config
from mirror.config.values import SpellingError
from mirror.errors import ConfigurationError, Problem
from mirror.registry.htpasswd import hash_password, parse

_MODE = 0o640  # root:mirror
_PASSWORD_LIMIT = 4096


def add(config: Config, path: Path | None, name: str, password_file: Path | None, outcome: Outcome) -> None:
    """Add a user or give one another password. Raises ConfigurationError."""
    file = _file(config, path)
    password = _read_password(password_file)
    try:
        hashed = hash_password(password)
    except SpellingError as error:
        raise ConfigurationError([Problem("password", error.what, "", error.remedy)]) from None
    line = name.encode() + b":" + hashed
    known = False

    def change(content: bytes | None) -> bytes:
        nonlocal known
        lines, kept = (content or b"").splitlines(), []
        for one in lines:
            if _name_in(one) != name:
                kept.append(one)
            elif not known:
                kept.append(line)
                known = True
        if not known:
            kept.append(line)
        return b"\n".join(kept) + b"\n"

    file.edit(change)
    outcome.facts |= {"user": name, "changed": known}
    outcome.say(f"{name} has a new password." if known else f"{name} is a user now.")
    _warn_of_rest(file, outcome)


def remove(config: Config, path: Path | None, name: str, outcome: Outcome) -> None:
    """Remove a user. Raises ConfigurationError."""
    file = _file(config, path)
    there = False

    def change(content: bytes | None) -> bytes | None:
        nonlocal there
        lines = (content or b"").splitlines()
        kept = [line for line in lines if _name_in(line) != name]
        there = len(kept) != len(lines)
        return b"".join(line + b"\n" for line in kept) if there else None

    file.edit(change)
    if not there:
        outcome.note(FAILED, "no_such_user", f"there is no user {name}", str(file.path), "see: mirror user list")
        return
    outcome.facts["user"] = name
    outcome.say(f"{name} is no longer a user.")
    _warn_of_rest(file, outcome)


def list_all(config: Config, path: Path | None, outcome: Outcome) -> None:
    """List the users; what is wrong in the file is a problem. Raises ConfigurationError."""
    file = _file(config, path)
    content = file.read()
    if content is None:
        raise ConfigurationError(
            [Problem("htpasswd", "this file does not exist", str(file.path), "run: mirror user add NAME")]
        )
    names = sorted({name for line in content.splitlines() if (name := _name_in(line)) is not None})
    outcome.facts["users"] = names
    outcome.say(*names)
    for problem in _problems(content, file.path):
        outcome.note(INVALID, problem.code, problem.what, problem.where, problem.remedy)


def _file(config: Config, path: Path | None) -> SecretFile:
    path = path or config.clients.htpasswd
    if path is None:
        where = config.source.where("clients")
        problem = Problem("missing_key", "no htpasswd file is configured", where, "add `clients: {htpasswd: FILE}`")
        raise ConfigurationError([problem])
    try:
        group = config.storage.path.stat().st_gid
    except OSError:
        group = -1
    return SecretFile(path, _MODE, group)


def _name_in(line: bytes) -> str | None:
    """Return whose line this is; None for a comment and for what is no line of anybody."""
    text = line.decode("utf-8", "replace").strip()
    name, colon, _ = text.partition(":")
    return None if not colon or text.startswith("#") else name


def _problems(content: bytes, path: Path) -> list[Problem]:
    try:
        parse(content, path)
    except ConfigurationError as error:
        return error.problems
    return []


def _warn_of_rest(file: SecretFile, outcome: Outcome) -> None:
    """Say what else is wrong in the file: a service would refuse all of it."""
    outcome.warn(str(problem) for problem in _problems(file.read() or b"", file.path))


def _read_password(path: Path | None) -> bytes:
    """Return a password from a file, from standard input or from the terminal; raise ConfigurationError."""
    if path is None:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask at: give --password-file FILE, or - for standard input")
        asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        return asked.encode()
    try:
        if str(path) == "-":
            content = sys.stdin.buffer.read(_PASSWORD_LIMIT)
        else:
            with path.open("rb") as file:
                content = file.read(_PASSWORD_LIMIT)
    except OSError as error:
        what = f"the password cannot be read ({error.strerror})"
        raise ConfigurationError([Problem("file_unusable", what, str(path), "look at its path and mode")]) from error
    return content.removesuffix(b"\n").removesuffix(b"\r")
