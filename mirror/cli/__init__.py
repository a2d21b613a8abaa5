"""The `mirror` command: words and options here, the work in the rooms. Rooms are imported when a command runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from mirror import __version__
from mirror.cli import access, care, hosted, init, offline, service
from mirror.cli.options import common, configured, read_config

if TYPE_CHECKING:
    from mirror.config import Config


class _Commands(click.Group):
    """What the operating system refuses is said as one line, whichever command it ended."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OSError as error:
            from mirror.cli.outcome import Outcome

            outcome = Outcome(ctx.invoked_subcommand or "", as_json=False)
            outcome.note_os_error(error)
            ctx.exit(outcome.finish())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mirror")
def main() -> None:
    """A pull-through caching mirror registry for OpenShift and Kubernetes.

    \b
    Exit codes: 0 done; 1 something failed; 2 command line; 3 incomplete, a rerun can
    finish; 4 content or signature failed verification; 5 no space; 75 temporary; 78
    configuration invalid, port in use, store of another owner or a newer format.
    """


@main.command(epilog="See also: mirror check, docs/configuration.md, docs/operations.md")
@common()
@click.option(
    "--offline",
    is_flag=True,
    help="Never contact an upstream, whatever mirror.yaml says; for this service alone, not for other commands.",
)
def serve(offline: bool, **given: Any) -> None:
    """Run the registry until SIGTERM, which lets running answers finish; SIGHUP rereads the configuration."""
    from mirror import app

    def read() -> Config:
        config = read_config(given)
        return config.model_copy(update={"offline": True}) if offline else config

    config = configured(given)
    sys.exit(app.serve(config.model_copy(update={"offline": True}) if offline else config, os.environ, read))


@main.command(epilog="See also: mirror serve, docs/configuration.md")
@click.option("--online", is_flag=True, help="Also try each upstream endpoint and each credential.")
@common(reports=True)
def check(online: bool, **given: Any) -> None:
    """Say what is wrong or missing in the configuration, and show it as it is understood."""
    config = configured({**given, "log_format": None, "quiet": False})
    from mirror import app, logs

    quiet = given["quiet"]
    logs.configure("warning" if quiet else "error", given["log_format"] or "console")
    sys.exit(app.check(config, os.environ, online=online, as_json=given["as_json"], quiet=quiet))


for _command in (
    *init.COMMANDS,
    *offline.COMMANDS,
    *access.COMMANDS,
    *hosted.COMMANDS,
    *care.COMMANDS,
    *service.COMMANDS,
):
    main.add_command(_command)
