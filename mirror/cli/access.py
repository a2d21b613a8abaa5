"""The commands for users and robots: their words and options; the work is in the modules beside this one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirror.cli.options import GivenPath, common, configured

if TYPE_CHECKING:
    from mirror.cli.outcome import Outcome
    from mirror.config import Config
    from mirror.config.access import Verb

_FILE = GivenPath(path_type=Path, dir_okay=False)
Work = Callable[["Config", "Outcome"], None]


def _run(command: str, given: dict[str, Any], work: Work) -> None:
    """Run `work` as `given` (the common options) says, print its report and exit."""
    from mirror import logs
    from mirror.cli.outcome import Outcome
    from mirror.errors import MirrorError

    config = configured(given)
    logs.configure("warning" if config.log.level != "debug" else "debug", config.log.format)
    outcome = Outcome(command, as_json=given["as_json"], quiet=given["quiet"])
    try:
        work(config, outcome)
    except MirrorError as error:
        outcome.note_error(error)
    sys.exit(outcome.finish())


def _checked(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return the callback that parses an option as `mirror.cli.spelling` has it; imported when it is called."""

    def parse(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        from mirror.cli import spelling
        from mirror.config.values import SpellingError

        if value is None:
            return None
        try:
            return getattr(spelling, name)(value)
        except SpellingError as error:
            raise click.BadParameter(f"{error.what}: {error.remedy}" if error.remedy else error.what) from None

    return parse


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that robots log in with."""


@token.command("create", epilog="See also: mirror token list, mirror token revoke, docs/access.md")
@click.argument("name", callback=_checked("robot"))
@click.option(
    "--expires", required=True, callback=_checked("expiry"), metavar="90d|never", help="How long the token is valid."
)
@click.option(
    "--repositories",
    multiple=True,
    required=True,
    callback=_checked("patterns"),
    metavar="PATTERN",
    help="Which repositories it is valid for, e.g. apps/**; may be given several times.",
)
@click.option(
    "--may", default="pull", show_default=True, callback=_checked("verbs"), help="What it may do, of pull,push,delete."
)
@click.option(
    "--registry",
    callback=_checked("host"),
    metavar="HOST[:PORT]",
    help="Where clients reach this mirror.  [default: external_url, else listen]",
)
@click.option("--merge", type=_FILE, metavar="FILE", help="Put the login into this pull secret instead of printing it.")
@common(reports=True)
def create(
    name: str,
    expires: float,
    repositories: tuple[str, ...],
    may: tuple[Verb, ...],
    registry: str | None,
    merge: Path | None,
    **given: Any,
) -> None:
    """Make a token for the robot NAME. Its secret is shown once, and kept nowhere.

    The robot logs in as robot+NAME. It may have several tokens at a time: make the new one before you revoke the old.
    """
    from mirror.cli import tokens

    wanted = tokens.Wanted(name, expires, repositories, may, registry, merge)
    _run("token create", given, lambda config, outcome: tokens.create(config, wanted, outcome))


@token.command("list", epilog="See also: mirror token create, mirror token revoke, docs/access.md")
@common(reports=True)
def list_tokens(**given: Any) -> None:
    """List all tokens: what each may do, when it expires, and when it was last used."""
    from mirror.cli import tokens

    _run("token list", given, tokens.list_all)


@token.command(epilog="See also: mirror token list, docs/access.md")
@click.argument("name", metavar="NAME|ID")
@common(reports=True)
def revoke(name: str, **given: Any) -> None:
    """Revoke one token by its id, or all tokens of a robot by its name. A running service refuses them at once."""
    from mirror.cli import tokens

    _run("token revoke", given, lambda config, outcome: tokens.revoke(config, name, outcome))


@click.group()
def user() -> None:
    """Add, remove and list the users of the htpasswd file."""


def _of_file(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--file", type=_FILE, help="The htpasswd file.  [default: clients.htpasswd]")(command)


@user.command(epilog="See also: mirror user list, docs/access.md")
@click.argument("name", callback=_checked("user"))
@click.option(
    "--password-file",
    type=GivenPath(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE|-",
    help="Read the password from a file or from standard input.  [default: ask]",
)
@_of_file
@common(reports=True)
def add(name: str, password_file: Path | None, file: Path | None, **given: Any) -> None:
    """Add the user NAME, or change its password. A running service takes this up within a second."""
    from mirror.cli import users

    _run("user add", given, lambda config, outcome: users.add(config, file, name, password_file, outcome))


@user.command(epilog="See also: mirror user list, docs/access.md")
@click.argument("name")
@_of_file
@common(reports=True)
def remove(name: str, file: Path | None, **given: Any) -> None:
    """Remove the user NAME. A running service refuses it within a second."""
    from mirror.cli import users

    _run("user remove", given, lambda config, outcome: users.remove(config, file, name, outcome))


@user.command("list", epilog="See also: mirror user add, docs/access.md")
@_of_file
@common(reports=True)
def list_users(file: Path | None, **given: Any) -> None:
    """List the users, and what is wrong in the file."""
    from mirror.cli import users

    _run("user list", given, lambda config, outcome: users.list_all(config, file, outcome))


COMMANDS = (token, user)
