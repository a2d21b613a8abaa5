"""mirror token: robots' tokens made, listed and revoked, and pull secrets that hold their logins."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import click

from mirror.cli.outcome import FAILED, Outcome, table
from mirror.cli.secret_files import PullSecret
from mirror.config import Config
from mirror.config.access import ROBOT, Verb
from mirror.config.addresses import UNIX, is_wildcard
from mirror.errors import ConfigurationError, MirrorError, Problem
from mirror.outside import run_as_owner
from mirror.store import probe
from mirror.store.layout import Layout
from mirror.store.tokens import Robot, Tokens, new_secret


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `mirror token create` was asked: `expires` in seconds from now, infinity for never."""

    name: str
    expires: float
    repositories: tuple[str, ...]
    may: tuple[Verb, ...]
    registry: str | None
    merge: Path | None


def create(config: Config, wanted: Wanted, outcome: Outcome) -> None:
    """Make a token, then print its login or put it into a pull secret. Raises MirrorError."""
    host = wanted.registry or _own_host(config)
    merging = PullSecret(wanted.merge) if wanted.merge is not None else None
    # Made here, as the store may be another process's: what is shown has to be known in this one.
    secret = new_secret()
    expires = None if math.isinf(wanted.expires) else float(int(time.time() + wanted.expires))
    if not _in_store(
        config, outcome, lambda tokens: tokens.create(secret, wanted.name, wanted.repositories, wanted.may, expires)
    ):
        return
    user = ROBOT + wanted.name
    entry = {"auth": base64.b64encode(f"{user}:{secret}".encode()).decode()}
    identity = secret.split("_")[1]
    outcome.facts |= {
        "id": identity,
        "user": user,
        "may": list(wanted.may),
        "repositories": list(wanted.repositories),
        "expires": expires,
        "registry": host,
    }
    until = "it never expires" if expires is None else f"until {_day(expires)}"
    about = f"{user} may {' and '.join(wanted.may)} in {', '.join(wanted.repositories)}; {until}."
    if merging is not None:
        try:
            merging.put(host, entry)
        except MirrorError as error:
            outcome.note_error(error)
            outcome.note(
                FAILED,
                "secret_lost",
                "the token was made, but its secret is lost",
                "",
                f"run: mirror token revoke {identity}",
            )
            return
        outcome.facts["merged"] = str(wanted.merge)
        outcome.say(about, f"Its login for {host} is in {wanted.merge}.")
        return
    outcome.facts |= {"password": secret, "pull_secret": {"auths": {host: entry}}}
    outcome.say(
        about,
        "This is shown once:",
        f"  user      {user}",
        f"  password  {secret}",
        "As a pull secret:",
    )
    if not outcome.as_json:
        # Also when all else is to be quiet: nobody can ask for it again.
        click.echo(json.dumps({"auths": {host: entry}}))


def list_all(config: Config, outcome: Outcome) -> None:
    """List all tokens. Raises MirrorError."""
    _in_store(config, outcome, lambda tokens: _list(tokens, outcome), reports=True)


def revoke(config: Config, name: str, outcome: Outcome) -> None:
    """End a token by its id, or all of a robot. Raises MirrorError."""
    _in_store(config, outcome, lambda tokens: _revoke(tokens, name, outcome), reports=True)


def _list(tokens: Tokens, outcome: Outcome) -> None:
    now = time.time()
    found = [(robot, tokens.last_used(robot.id)) for robot in tokens.all()]
    outcome.facts["tokens"] = [
        {
            "id": robot.id,
            "user": robot.user,
            "may": list(robot.may),
            "repositories": list(robot.repositories),
            "created": robot.created,
            "expires": robot.expires,
            "expired": robot.is_over(now),
            "last_used": used,
        }
        for robot, used in found
    ]
    wrong = tokens.damaged()
    for error in wrong.values():
        outcome.note_error(error)
    if not found:
        if not wrong:
            outcome.say("There are no tokens.")
        return
    rows: list[tuple[str, ...]] = [("ID", "ROBOT", "MAY", "REPOSITORIES", "EXPIRES", "LAST USED")]
    rows += [
        (
            robot.id,
            robot.user,
            ",".join(robot.may),
            " ".join(robot.repositories),
            _expiry(robot, now),
            "never" if used is None else _day(used),
        )
        for robot, used in found
    ]
    outcome.say(*table(rows))


def _revoke(tokens: Tokens, name: str, outcome: Outcome) -> None:
    found = [robot for robot in tokens.all() if name in (robot.id, robot.name, robot.user)]
    revoked = [robot for robot in found if tokens.revoke(robot.id)]
    outcome.facts["revoked"] = [{"id": robot.id, "user": robot.user} for robot in revoked]
    for robot in revoked:
        outcome.say(f"{robot.user} ({robot.id}) is revoked.")
    if not found and name in tokens.damaged() and tokens.revoke(name):
        outcome.facts["revoked"] = [{"id": name, "user": ""}]
        outcome.say(f"{name} is revoked; its record was damaged, so whose it was is not known.")
    elif not found:
        outcome.note(FAILED, "no_such_token", f"there is no token {name}", "", "see: mirror token list")


def _in_store(config: Config, outcome: Outcome, work: Callable[[Tokens], object], *, reports: bool = False) -> bool:
    """Do `work` with the rights of the store's owner, and tell whether it went well.

    That may be in another process. One whose `work` `reports`, or that fails, ends with its own report, and this
    process with its exit code. One that does not report makes the store where there is none yet.
    """

    layout = Layout(config.storage.path)

    def begin(_outside: object) -> int:
        try:
            for warning in probe.prepare(layout, begins=not reports):
                outcome.warn([warning])
            work(Tokens(layout.tokens))
        except MirrorError as error:
            outcome.note_error(error)
        except OSError as error:
            outcome.note_os_error(error)
        return outcome.finish() if reports or outcome.problems else 0

    if reports:
        probe.require(layout)
    code = run_as_owner(config.storage.path, begin)
    if reports or code:
        raise SystemExit(code)
    return True


def _own_host(config: Config) -> str:
    """Return where clients reach this mirror, as far as the configuration says; raise ConfigurationError."""
    if config.external_url:
        return urlsplit(config.external_url).netloc
    for address in config.listen:
        if not address.startswith(UNIX) and not is_wildcard(address):
            return address
    problem = Problem(
        "registry_unknown",
        "the configuration does not say under which name clients reach this mirror",
        config.source.where("listen"),
        "give --registry HOST[:PORT], or state external_url",
    )
    raise ConfigurationError([problem])


def _day(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M")


def _expiry(robot: Robot, now: float) -> str:
    if robot.expires is None:
        return "never"
    return f"{_day(robot.expires)}{' (expired)' if robot.is_over(now) else ''}"
