"""The commands for what is hosted here: their words and options; the work is in repositories.py."""

from __future__ import annotations

from typing import Any, NamedTuple

import click

from mirror.cli.offline import run
from mirror.cli.options import common


class Named(NamedTuple):
    """A repository as the command line names it, with a tag or (empty) without."""

    name: str
    tag: str = ""


def _parse_named(_context: click.Context, _parameter: click.Parameter, value: str) -> Named:
    """Return what NAME[:TAG] names."""
    from mirror.errors import InvalidRequest
    from mirror.oci.reference import check_name, check_tag

    name, colon, tag = value.partition(":")
    try:
        return Named(check_name(name), check_tag(tag) if colon else "")
    except InvalidRequest as error:
        raise click.BadParameter(str(error)) from None


@click.command(epilog="See also: mirror unpin, mirror purge, mirror du")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option("--yes", is_flag=True, help="Go on even if it takes more than a tenth of the store.")
@common(reports=True)
def gc(dry_run: bool, yes: bool, **given: Any) -> None:
    """Free what was pushed here and nothing names any more. Safe while the registry serves.

    Manifests stay until they are deleted, with or without a tag, and so does all that they name. What was pushed
    within the last day stays too: its manifest may be on its way. Uploads that nobody continued for a week go.
    """
    from mirror.cli import repositories

    run("gc", given, lambda desk, outcome: repositories.gc(desk, outcome, dry_run=dry_run, yes=yes))


@click.command(epilog="See also: mirror rollback")
@click.argument("name", metavar="NAME[:TAG]", callback=_parse_named)
@common(reports=True)
def history(name: Named, **given: Any) -> None:
    """Say what a tag, or each tag of a repository, means and used to mean, since when, and who set it."""
    from mirror.cli import repositories

    run("history", given, lambda desk, outcome: repositories.history(desk, outcome, name.name, name.tag))


@click.command(epilog="See also: mirror history")
@click.argument("name", metavar="NAME:TAG", callback=_parse_named)
@click.argument("digest", metavar="DIGEST")
@common(reports=True)
def rollback(name: Named, digest: str, **given: Any) -> None:
    """Make a tag mean again what it meant before.

    DIGEST is one of those that `mirror history NAME:TAG` shows, or the beginning of one.
    """
    from mirror.cli import repositories

    if not name.tag:
        raise click.BadParameter("write NAME:TAG", param_hint="NAME:TAG")
    run("rollback", given, lambda desk, outcome: repositories.rollback(desk, outcome, name.name, name.tag, digest))


COMMANDS = (gc, history, rollback)
