"""The commands of the offline way: their words and options; the work is in the modules beside this one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mirror.cli.options import GivenPath, common, configured

if TYPE_CHECKING:
    from mirror.cli.desk import Desk
    from mirror.cli.outcome import Outcome

Work = Callable[["Desk", "Outcome"], Awaitable[None]]
_OUTSIDE = GivenPath(path_type=Path)


def run(command: str, given: dict[str, Any], work: Work, *, begins: bool = False) -> NoReturn:
    """Run `work` in the store as `given` (the common options) says, print its report and exit.

    `begins`: where there is no store yet, one is made; not for what is not there to come into it.
    """
    from mirror.cli import desk
    from mirror.cli.outcome import Outcome

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop(command))
    config = configured(given)
    outcome = Outcome(command, as_json=given["as_json"], quiet=given["quiet"])
    sys.exit(desk.run(config, outcome, lambda at: work(at, outcome), begins=begins))


def _stop(command: str) -> None:
    """End before anything was begun; once the store is open, the work itself is told to stop."""
    from mirror.cli.outcome import INCOMPLETE

    click.echo(f"mirror {command}: stopped before the end: run it again", err=True)
    sys.exit(INCOMPLETE)


def _parse_size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Return the bytes that an option spells, as sizes are spelled in mirror.yaml."""
    from mirror.config.values import SpellingError, parse_size

    if value is None:
        return None
    try:
        size = parse_size(value)
    except SpellingError as error:
        raise click.BadParameter(f"{error}: {error.remedy}" if error.remedy else str(error)) from None
    if not size:
        raise click.BadParameter("a part of no bytes holds nothing: write a size such as 4000MiB")
    return size


@click.command(epilog="See also: mirror sync, mirror verify, docs/disconnected.md")
@click.argument("imageset")
@click.option("-o", "--output", type=_OUTSIDE, help="Write the plan to this file.")
@click.option("--set", "name", metavar="NAME", help="What the set is called.  [default: the file's stem]")
@click.option("--replace", is_flag=True, help="The image set file has moved, and the set follows it.")
@common(reports=True)
def plan(imageset: str, output: Path | None, name: str | None, replace: bool, **given: Any) -> None:
    """Say what an image set needs, what of it is here already, and whether the rest fits.

    IMAGESET is an oc-mirror ImageSetConfiguration (v2alpha1), a list of pullspecs, or a mapping file.
    """
    from mirror.cli import planning
    from mirror.cli.choose import names_file

    wanted = planning.Wanted(imageset, name, replace, output=output)
    begins = names_file(imageset)
    run("plan", given, lambda desk, outcome: planning.plan(desk, wanted, outcome), begins=begins)


@click.command(epilog="See also: mirror plan, mirror save, mirror verify, docs/disconnected.md")
@click.argument("imageset", metavar="IMAGESET|PLAN|SET")
@click.option("--set", "name", metavar="NAME", help="What the set is called.  [default: the file's stem]")
@click.option("--replace", is_flag=True, help="The image set file has moved, and the set follows it.")
@click.option("--partial", is_flag=True, help="Fetch what fits, even if not everything does.")
@click.option(
    "--keep", type=click.IntRange(1), metavar="N", help="Give up all but the newest N generations at the end."
)
@common(reports=True)
def sync(imageset: str, name: str | None, replace: bool, partial: bool, keep: int | None, **given: Any) -> None:
    """Fetch an image set into the store. If it is interrupted, run it again: nothing is fetched twice."""
    from mirror.cli import planning
    from mirror.cli.choose import names_file

    wanted = planning.Wanted(imageset, name, replace, partial, keep)
    begins = names_file(imageset)
    run("sync", given, lambda desk, outcome: planning.sync(desk, wanted, outcome), begins=begins)


@click.command(epilog="See also: mirror load, mirror inventory, docs/disconnected.md")
@click.argument("imageset", metavar="IMAGESET|PLAN|SET[@N]")
@click.option("--to", "target", type=_OUTSIDE, required=True, help="The folder that the parts are written to.")
@click.option("--have", type=_OUTSIDE, metavar="INVENTORY", help="Leave out what the other side's inventory has.")
@click.option("--since", metavar="N|last", help="Leave out what earlier saves of this set carried.")
@click.option("--want", type=_OUTSIDE, metavar="FILE", help="Carry only what the other side found missing.")
@click.option("--part-size", callback=_parse_size, help="Largest size of a part.  [default: 4000MiB, fits FAT32]")
@common(reports=True)
def save(
    imageset: str,
    target: Path,
    have: Path | None,
    since: str | None,
    want: Path | None,
    part_size: int | None,
    **given: Any,
) -> None:
    """Write a complete set as parts that cross the gap."""
    from mirror.cli import crossing

    if sum(one is not None for one in (have, since, want)) > 1:
        raise click.UsageError("--have, --since and --want exclude one another: give one of them")
    wanted = crossing.Saved(imageset, target, have, since, want, part_size)
    run("save", given, lambda desk, outcome: crossing.save(desk, wanted, outcome))


@click.command(epilog="See also: mirror save, mirror verify, docs/disconnected.md")
@click.argument("paths", metavar="DIR…|FILE", nargs=-1, required=True, type=_OUTSIDE)
@click.option("--as", "as_name", metavar="NAME[@DIGEST]", help="The image's own name, for an archive that has none.")
@click.option("--set", "name", metavar="NAME", help="What the set is called, for an archive of another tool.")
@click.option("--expect", metavar="DIGEST", help="Refuse any set but this one, as `mirror save` printed it last.")
@click.option("--allow-older", is_flag=True, help="Load a generation that is older than the newest complete one.")
@click.option("--allow-presumed", is_flag=True, help="Let it count on content here that access rules protect.")
@click.option(
    "-o",
    "--output",
    type=_OUTSIDE,
    help="Where to list what is missing, for save --want.  [default: missing-SET@N.txt here]",
)
@common(reports=True)
def load(
    paths: tuple[Path, ...],
    as_name: str | None,
    name: str | None,
    expect: str | None,
    allow_older: bool,
    allow_presumed: bool,
    output: Path | None,
    **given: Any,
) -> None:
    """Load parts into the store: in any order, some now and some later.

    Also takes an OCI layout, an oci-archive or docker-archive (with --as), oc-mirror's mirror_NNNNNN.tar archives,
    and a distribution storage tree.
    """
    from mirror.cli import crossing

    wanted = crossing.Loaded(paths, as_name, name, expect, allow_older, allow_presumed, output)
    begins = all(map(os.path.lexists, paths))
    run("load", given, lambda desk, outcome: crossing.load(desk, wanted, outcome), begins=begins)


@click.command(epilog="See also: mirror verify, docs/openshift.md")
@click.argument("sets", metavar="[IMAGESET|PLAN|SET]…", nargs=-1)
@click.option(
    "--registry",
    "registries",
    multiple=True,
    required=True,
    metavar="[http://]HOST:PORT",
    help="Where clients reach this mirror; may be given several times.",
)
@click.option("--ca", type=_OUTSIDE, metavar="FILE", help="The CA (PEM) that clients verify this mirror with.")
@click.option("-o", "--output", type=_OUTSIDE, help="The folder to write.  [default: <set>-resources]")
@click.option(
    "--never-contact-source",
    is_flag=True,
    help="Clients must not fall back to the source registries. Closing these drains every node of a cluster once.",
)
@common(reports=True)
def resources(
    sets: tuple[str, ...],
    registries: tuple[str, ...],
    ca: Path | None,
    output: Path | None,
    never_contact_source: bool,
    **given: Any,
) -> None:
    """Write what cluster and nodes need to pull from this mirror, proven image by image.

    Without a set: for the configured upstreams, as a pull-through site needs it.
    """
    from mirror.cli import describing
    from mirror.cli.outcome import Outcome

    wanted = describing.Wanted(sets, registries, ca, output, never_contact_source)
    if sets:
        run("resources", given, lambda desk, outcome: describing.for_sets(desk, wanted, outcome))
    outcome = Outcome("resources", as_json=given["as_json"], quiet=given["quiet"])
    sys.exit(describing.for_upstreams(configured(given), wanted, outcome))


@click.command(epilog="See also: mirror ls, mirror check, docs/disconnected.md")
@click.argument("imageset", metavar="[IMAGESET|PLAN|SET[@N]]", required=False)
@click.option("--deep", is_flag=True, help="Hash all of it; what is bad goes to quarantine.")
@click.option("-o", "--output", type=_OUTSIDE, metavar="MISSING", help="List what is missing, for save --want.")
@common(reports=True)
def verify(imageset: str | None, deep: bool, output: Path | None, **given: Any) -> None:
    """Say whether all of a set is here, so that the cable may be cut. Without an argument: all sets."""
    from mirror.cli import looking

    run("verify", given, lambda desk, outcome: looking.verify(desk, imageset, outcome, deep=deep, output=output))


@click.command(epilog="See also: mirror save, docs/disconnected.md")
@click.option("-o", "--output", type=_OUTSIDE, help="Write the inventory to this file.")
@common(reports=True)
def inventory(output: Path | None, **given: Any) -> None:
    """List what this store has, for the other side's `mirror save --have`."""
    from mirror.cli import looking

    run("inventory", given, lambda desk, outcome: looking.inventory(desk, outcome, output))


@click.command(epilog="See also: mirror verify, mirror du, mirror unpin, mirror purge")
@click.argument("name", metavar="[SET[@N]|NAME[:TAG|@DIGEST]]", required=False)
@common(reports=True)
def ls(name: str | None, **given: Any) -> None:
    """List image sets and their generations, and what else is here; of SET@N, its images.

    Of a repository, its tags and manifests; of an image, what it consists of; of a prefix, the repositories under it.
    """
    from mirror.cli import looking

    run("ls", given, lambda desk, outcome: looking.ls(desk, name, outcome))


@click.command(epilog="See also: mirror ls, mirror pin, mirror sync --keep")
@click.argument("generation", metavar="SET@N|NAME@DIGEST")
@click.option("--now", is_flag=True, help="Delete what nothing else needs instead of leaving it as cache.")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@click.option("--yes", is_flag=True, help="Go on even if --now takes more than a tenth of the store.")
@common(reports=True)
def unpin(generation: str, now: bool, dry_run: bool, yes: bool, **given: Any) -> None:
    """Give up a generation of a set, or a pinned image: what nothing else needs becomes cache."""
    from mirror.cli import looking

    run(
        "unpin",
        given,
        lambda desk, outcome: looking.unpin(desk, generation, outcome, now=now, dry_run=dry_run, yes=yes),
    )


COMMANDS = (plan, sync, save, load, resources, verify, inventory, ls, unpin)
