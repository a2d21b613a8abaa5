"""The commands that ask a running service: their words and options; the work is in status.py and explain.py."""

from __future__ import annotations

import sys
from typing import Any

import click

from mirror.cli.offline import run
from mirror.cli.options import common, config_path, configured, read_config, refuse


@click.command(epilog="See also: mirror check, mirror verify, mirror scrub, docs/operations.md")
@common(reports=True)
def status(**given: Any) -> None:
    """Say how the running service is: conditions, upstreams, store, sets, and what to do.

    Exits with 0 when it is available and nothing is wrong with it, 1 when something is, 75 when no service answers, or
    when it is too busy to.
    """
    from mirror.cli import status as work
    from mirror.errors import ConfigurationError

    try:
        config, wrong = read_config(given), None
    except ConfigurationError as error:
        # A service that runs knows a better one: it is asked where what can be read of this one says.
        config, wrong = work.read_places(config_path(given)), error
    code = work.status(config, wrong, as_json=given["as_json"], quiet=given["quiet"])
    if code is None and wrong is not None:
        refuse(wrong, as_json=given["as_json"])
    sys.exit(code)


@click.command(epilog="See also: mirror check, mirror history, mirror verify, docs/operations.md")
@click.argument("name", metavar="NAME")
@common(reports=True)
def explain(name: str, **given: Any) -> None:
    """Say what an image's name means here, who is asked for it, and what a pull would do.

    NAME is spelled as clients do: quay.io/org/app:1, nginx, app@sha256:…, org/app?ns=quay.io, or a whole URL.
    """
    from mirror.cli import explain as work

    config = configured(given)
    answered = work.ask_service(config, name)
    if answered is not None:
        sys.exit(work.report(answered, as_json=given["as_json"], quiet=given["quiet"]))
    run("explain", given, lambda desk, outcome: work.explain(desk, outcome, name))


COMMANDS = (status, explain)
