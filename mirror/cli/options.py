"""The options that every command takes, and the configuration that they lead to."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from mirror.config import Config
    from mirror.errors import ConfigurationError

DEFAULT_CONFIG = "/etc/mirror/mirror.yaml"
INVALID = 78  # EX_CONFIG: what a rerun cannot mend

Command = TypeVar("Command", bound=Callable[..., Any])


class GivenPath(click.Path):
    """A path that somebody writes: an empty one is a variable of a shell that is not set, and never the folder here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; fail where it is empty."""
        if not os.fspath(value):
            self.fail("an empty path: is a variable not set?", param, ctx)
        return super().convert(value, param, ctx)


def common(*, reports: bool = False) -> Callable[[Command], Command]:
    """Give a command the options that every command takes; one that `reports` takes --json as well."""
    options = [
        click.option(
            "--config",
            "config_file",
            type=GivenPath(path_type=Path, dir_okay=False),
            help=f"Configuration file.  [default: $MIRROR_CONFIG, else {DEFAULT_CONFIG}]",
        ),
        click.option("--log-format", type=click.Choice(["logfmt", "json", "console"]), help="Overrides log.format."),
        click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors."),
    ]
    if reports:
        options.append(click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text."))

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def configured(given: dict[str, Any]) -> Config:
    """Return the configuration, with what the common options change of it.

    Prints every problem and exits with 78 where it is invalid.
    """
    from mirror.errors import ConfigurationError

    try:
        return read_config(given)
    except ConfigurationError as error:
        refuse(error, as_json=given.get("as_json", False))


def config_path(given: dict[str, Any]) -> Path:
    """Return which file the configuration is read from."""
    return given["config_file"] or Path(os.environ.get("MIRROR_CONFIG") or DEFAULT_CONFIG)


def read_config(given: dict[str, Any]) -> Config:
    """Return the configuration, with what the common options change of it. Raises ConfigurationError."""
    from mirror.config import load

    config = load(config_path(given))
    level = "warning" if given["quiet"] else config.log.level
    log = config.log.model_copy(update={"level": level, "format": given["log_format"] or config.log.format})
    return config.model_copy(update={"log": log})


def refuse(error: ConfigurationError, *, as_json: bool) -> NoReturn:
    """Print every problem of a configuration, and exit with 78."""
    context = click.get_current_context()
    command = context.info_name or ""
    while (context := context.parent or context).parent is not None:
        command = f"{context.info_name} {command}"
    error = _with_line_to_type(error, command)
    if as_json:
        from mirror.admin.check import report_invalid

        click.echo(json.dumps({**report_invalid(error).as_dict(), "command": command}, indent=2))
    else:
        for problem in error.problems:
            click.echo(f"mirror {command}: {problem}", err=True)
    sys.exit(INVALID)


def _with_line_to_type(error: ConfigurationError, command: str) -> ConfigurationError:
    """Return an error with what somebody may type to whom the configuration is closed: it is root's and the service's.

    What the service runs itself says what the service needs, too.
    """
    if not isinstance(error.__cause__, PermissionError) or os.geteuid() == 0:
        return error
    from mirror.errors import ConfigurationError, Problem
    from mirror.outside import command_line

    line = f"run: {command_line('sudo')}"
    own = command in ("serve", "check")
    return ConfigurationError(
        [Problem(one.code, one.what, one.where, f"{one.remedy}, or {line}" if own else line) for one in error.problems]
    )
