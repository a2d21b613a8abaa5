"""The commands that look after what is kept: their words and options; the work is in the modules beside this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mirror.cli.offline import run
from mirror.cli.options import GivenPath, common

_NAME = "NAME[:TAG|@DIGEST]"


def _parse_rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int:
    """Return the bytes a second that an option spells, 0 where it is not given."""
    from mirror.config.values import SpellingError, parse_size

    try:
        return parse_size(value.removesuffix("/s")) if value is not None else 0
    except SpellingError as error:
        raise click.BadParameter(f"{error}: {error.remedy}" if error.remedy else str(error)) from None


@click.command(epilog="See also: mirror ls, mirror purge, mirror gc, mirror unpin")
@click.option(
    "--by",
    type=click.Choice(["upstream", "repository", "set"]),
    default="upstream",
    show_default=True,
    help="What to group by.",
)
@common(reports=True)
def du(by: str, **given: Any) -> None:
    """Say what takes up the room: the bytes of each, and how many of them nothing else has."""
    from mirror.cli import usage

    run("du", given, lambda desk, outcome: usage.du(desk, outcome, by))


@click.command(epilog="See also: mirror unpin, mirror ls, docs/operations.md")
@click.argument("what", metavar="SET@N|NAME@DIGEST")
@common(reports=True)
def pin(what: str, **given: Any) -> None:
    """Keep an image from eviction, purge and gc, or a generation of a set from `sync --keep`.

    An image is kept with everything that is known of it here. Generations are never evicted anyway.
    """
    from mirror.cli import pinning

    run("pin", given, lambda desk, outcome: pinning.pin(desk, outcome, what))


@click.command(epilog="See also: mirror unpin, mirror gc, mirror du")
@click.argument("name", metavar=_NAME)
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@common(reports=True)
def purge(name: str, dry_run: bool, **given: Any) -> None:
    """Drop what was pulled through for a repository, a tag or a digest: the next pull fetches it again.

    What is pinned, what was pushed here, and what another repository has as well, stays.
    """
    from mirror.cli import purging

    run("purge", given, lambda desk, outcome: purging.purge(desk, outcome, name, dry_run=dry_run))


@click.command(epilog="See also: mirror verify, mirror status, docs/operations.md")
@click.argument("what", metavar="[NAME|SET[@N]]", required=False)
@click.option("--rate", metavar="SIZE", callback=_parse_rate, help="Read at most this many bytes a second, e.g. 50MiB.")
@click.option("--restart", is_flag=True, help="Start over, even if an earlier scrub was stopped.")
@click.option(
    "--missing", type=GivenPath(path_type=Path), metavar="FILE", help="Write a list of what is lost, for save --want."
)
@click.option("--index", "index_only", is_flag=True, help="Only compare the index with the files, or rebuild it.")
@click.option("--dry-run", is_flag=True, help="Only say what is wrong: change nothing, ask nobody.")
@click.option("--yes", is_flag=True, help="Go on even if more than a tenth of the store is bad.")
@common(reports=True)
def scrub(
    what: str | None,
    rate: int,
    restart: bool,
    missing: Path | None,
    index_only: bool,
    dry_run: bool,
    yes: bool,
    **given: Any,
) -> None:
    """Hash everything again, or a repository or a set. What is bad goes to quarantine and is fetched again.

    For what is bad or missing, and only for that, the upstreams of mirror.yaml are asked. With `offline: true` there,
    or with --dry-run, nobody is; `mirror serve --offline` is about that service alone.

    Also finds what is pinned or was pushed but is not here, files that do not belong, and what the index lacks. If it
    was stopped, run it again: it goes on from there.
    """
    from mirror.cli import scrubbing

    wanted = scrubbing.Wanted(what, rate, restart, missing, index_only, dry_run, yes)
    run("scrub", given, lambda desk, outcome: scrubbing.scrub(desk, outcome, wanted))


COMMANDS = (du, pin, purge, scrub)
