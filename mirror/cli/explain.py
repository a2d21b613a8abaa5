"""`mirror explain`: what the running service says of a name; where none runs, what mirror.yaml and the store say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mirror.admin.explain import Explain
from mirror.cli.asking import NobodyAnswers, ask
from mirror.cli.desk import Desk
from mirror.cli.outcome import INVALID, Outcome, size_text
from mirror.config import Config
from mirror.errors import InvalidRequest, MirrorError


def ask_service(config: Config, name: str) -> dict[str, Any] | MirrorError | None:
    """Return what the running service says of a name, or why it cannot; None where no service answers us."""
    try:
        facts, _ = ask(config, "GET", "/explain", name=name)
    except (NobodyAnswers, PermissionError):
        return None
    except MirrorError as error:
        return error
    return {**facts, "source": "service"}


def report(answered: dict[str, Any] | MirrorError, *, as_json: bool, quiet: bool) -> int:
    """Print what a service answered; return the exit code."""
    outcome = Outcome("explain", as_json=as_json, quiet=quiet)
    if isinstance(answered, MirrorError):
        outcome.note(INVALID, "name_invalid", answered.what, "", answered.remedy)
    else:
        _tell(outcome, answered)
    return outcome.finish()


async def explain(desk: Desk, outcome: Outcome, name: str) -> None:
    """Say what a name means by mirror.yaml and the store, where no service answers."""
    opened = desk.opened
    tell = Explain(desk.config, opened.content, opened.layout, opened.upstreams, opened.readers)
    try:
        found = {**await tell(name), "source": "store"}
    except InvalidRequest as error:
        outcome.note(INVALID, "name_invalid", error.what, name, error.remedy)
    else:
        _tell(outcome, found)


def _tell(outcome: Outcome, found: dict[str, Any]) -> None:
    outcome.facts |= found
    outcome.say(*_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    pull = found["pull"]
    yield f"{found['given']}"
    if found["kind"] != "unknown":
        kinds = {"proxied": "pulled through", "hosted": "hosted here", "set": "loaded or synced here"}
        yield _row("means", f"{found['name']}, {kinds[found['kind']]}: {found['decided_by']}")
        yield from _upstream_lines(found.get("upstream"))
        yield from _client_lines(found["clients"])
        yield from _here_lines(found["here"], str(found["reference"]))
    yield _row("a pull", f"{pull['answer']}: {pull['what']}")
    if pull["remedy"]:
        yield _row("", pull["remedy"])
    if found["source"] == "store":
        yield _row("", "(no service answers, so this is what mirror.yaml and the store say)")


def _upstream_lines(upstream: dict[str, Any] | None) -> Iterator[str]:
    if upstream is None:
        return
    yield _row("upstream", f"{upstream['name']}, repository {upstream['repository']}")
    if not upstream["allowed"]:
        yield _row("", f"not served: `repositories` says {upstream['rule']}")
    for one in upstream["endpoints"]:
        login = one["credential"] or "no login"
        refused = ", which is refused" if one["login"] == "refused" else ""
        away = f"; unreachable: {one['last_error']}" if one["breaker"] != "closed" else ""
        yield _row("endpoint", f"{one['url']} with {login}{refused}{away}")


def _client_lines(clients: dict[str, Any]) -> Iterator[str]:
    yield _row("clients", f"without a login: {_may(clients['anonymous'])} ({clients['decided_by']})")
    for rule in clients["rules"]:
        yield _row("rule", f"{rule['where']}: {', '.join(rule['who'])} {_may(rule['may'])}")


def _may(verbs: Sequence[str]) -> str:
    return f"may {', '.join(verbs)}" if verbs else "may do nothing"


def _here_lines(here: dict[str, Any], reference: str) -> Iterator[str]:
    if "damaged" in here:
        yield _row("here", here["damaged"]["what"])
    if here["digest"] is None:
        if "damaged" not in here:
            yield _row("here", f"nothing is known of {reference}")
        return
    if here["tag"] is not None:
        fresh = "fresh" if here["tag"]["fresh"] else "due to be checked again"
        yield _row("tag", f"{reference} means {here['digest']}, {fresh}: {here['tag']['why']}")
    if here["pinned_by"]:
        kinds = {"pin": "mirror pin"}
        yield _row("pinned", f"by {', '.join(kinds.get(name, name) for name in here['pinned_by'])}")
    contents = here["contents"]
    if not here["manifest"]:
        yield _row("here", "not its manifest")
    elif contents is None:
        yield _row("here", "its manifest, which cannot be read")
    else:
        some = contents["count"] - contents["missing"]
        lacking = f"; {size_text(contents['missing_bytes'])} is missing" if contents["missing"] else ""
        yield _row("here", f"its manifest and {some} of {contents['count']} items that it names{lacking}")


def _row(name: str, text: str) -> str:
    return f"  {name:<10}{text}"
