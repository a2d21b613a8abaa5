"""The `mirror` command: words and options here, the work in the rooms. Rooms are imported when a command runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mirror import __version__

if TYPE_CHECKING:
    from mirror.config import Config

DEFAULT_CONFIG = "/etc/mirror/mirror.yaml"
INVALID = 78  # EX_CONFIG: what a rerun cannot mend
TEMPORARY = 75  # EX_TEMPFAIL

Command = TypeVar("Command", bound=Callable[..., Any])


def _common(command: Command) -> Command:
    """Give a command the options that every command takes."""
    options = (
        click.option(
            "--config",
            "config_file",
            type=click.Path(path_type=Path, dir_okay=False),
            help=f"Configuration file.  [default: $MIRROR_CONFIG, else {DEFAULT_CONFIG}]",
        ),
        click.option("--log-format", type=click.Choice(["logfmt", "json", "console"]), help="Overrides log.format."),
        click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mirror")
def main() -> None:
    """A pull-through caching mirror registry for OpenShift and Kubernetes.

    \b
    Exit codes: 0 done; 1 something failed; 2 command line; 3 incomplete, a rerun can
    finish; 4 content or signature failed verification; 5 no space; 75 temporary; 78
    configuration invalid, port in use, store of another owner or a newer format.
    """


@main.command(epilog="See also: mirror check, docs/configuration.md, docs/operations.md")
@_common
@click.option("--offline", is_flag=True, help="Never contact an upstream; overrides `offline` in the configuration.")
def serve(config_file: Path | None, log_format: str | None, quiet: bool, offline: bool) -> None:
    """Run the registry until SIGTERM; SIGTERM lets running answers finish."""
    path = _path(config_file)
    config = _load(path, as_json=False)
    changes: dict[str, Any] = {"offline": True} if offline else {}
    if log_format or quiet:
        level = "warning" if quiet else config.log.level
        changes["log"] = config.log.model_copy(update={"level": level, "format": log_format or config.log.format})
    from mirror import app

    sys.exit(app.serve(config.model_copy(update=changes), os.environ))


@main.command(epilog="See also: mirror serve, docs/configuration.md")
@_common
@click.option("--online", is_flag=True, help="Also try each upstream endpoint and each credential.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def check(config_file: Path | None, log_format: str | None, quiet: bool, online: bool, as_json: bool) -> None:
    """Say what is wrong or missing in the configuration, and show it as it is understood."""
    path = _path(config_file)
    config = _load(path, as_json=as_json)
    from mirror import app, logs

    logs.configure("warning" if quiet else "error", log_format or "console")
    sys.exit(app.check(config, os.environ, online=online, as_json=as_json, quiet=quiet))


def _path(given: Path | None) -> Path:
    return given or Path(os.environ.get("MIRROR_CONFIG") or DEFAULT_CONFIG)


def _load(path: Path, *, as_json: bool) -> Config:
    """Return the configuration; print every problem and exit with 78 where it is invalid."""
    from mirror.config import load
    from mirror.errors import ConfigurationError

    try:
        return load(path)
    except ConfigurationError as error:
        command = click.get_current_context().info_name
        if as_json:
            from mirror.admin.check import report_invalid

            click.echo(json.dumps({**report_invalid(error).as_dict(), "command": command}, indent=2))
        else:
            for problem in error.problems:
                click.echo(f"mirror {command}: {problem}", err=True)
        sys.exit(INVALID)
