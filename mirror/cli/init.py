"""mirror init: its words and options; the work is in beginning.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirror.cli.options import DEFAULT_CONFIG, GivenPath, common

if TYPE_CHECKING:
    from collections.abc import Sequence


def _hosts(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    from mirror.config.addresses import parse_host
    from mirror.config.values import SpellingError

    try:
        return tuple(dict.fromkeys(parse_host(value) for value in values))
    except SpellingError as error:
        raise click.BadParameter(f"{error.what}: write a name or an address, without a port") from None


@click.command(epilog="See also: mirror check, mirror user add, docs/install.md")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    callback=_hosts,
    metavar="NAME",
    help=(
        "What clients call this host, a name or an address; may be given several times, the one of external_url first."
        "  [default: this host's names, and no external_url]"
    ),
)
@click.option(
    "--store",
    type=GivenPath(path_type=Path, file_okay=False),
    help="Where content is stored.  [default: /var/lib/mirror for root, else `store` beside the configuration]",
)
@common(reports=True)
def init(hosts: tuple[str, ...], store: Path | None, **given: Any) -> None:
    """Write a first mirror.yaml, with a CA, a server certificate and a user. Overwrites nothing.

    What the configuration names is made where it does not exist; what exists stays. To renew a certificate, move its
    two files away and run this again.
    """
    from mirror import logs
    from mirror.cli import beginning
    from mirror.cli.outcome import Outcome
    from mirror.errors import MirrorError

    logs.configure("warning", given["log_format"] or "console")
    path = given["config_file"] or Path(os.environ.get("MIRROR_CONFIG") or DEFAULT_CONFIG)
    outcome = Outcome("init", as_json=given["as_json"], quiet=given["quiet"])
    try:
        beginning.begin(path, hosts, store, outcome)
    except MirrorError as error:
        outcome.note_error(error)
    sys.exit(outcome.finish())


COMMANDS = (init,)
