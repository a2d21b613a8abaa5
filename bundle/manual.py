"""Makes the man pages and the shells' completion from the commands themselves, so that they say what `--help` says.

    python bundle/manual.py FOLDER

fills FOLDER as /usr/share is laid out: man/man1, bash-completion, zsh, fish.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from mirror import __version__
from mirror.cli import main as mirror
from mirror.cli.options import DEFAULT_CONFIG

_PROGRAM = "mirror"
_VARIABLE = "_MIRROR_COMPLETE"  # what click looks at in a program of this name
# Where each shell looks by itself, below /usr/share and /usr/local/share.
_COMPLETIONS: tuple[tuple[type[ShellComplete], str], ...] = (
    (BashComplete, f"bash-completion/completions/{_PROGRAM}"),
    (ZshComplete, f"zsh/site-functions/_{_PROGRAM}"),
    (FishComplete, f"fish/vendor_completions.d/{_PROGRAM}.fish"),
)


def pages(day: str) -> dict[str, str]:
    """Return the text of every page, by its file name. `day` is what they say they were made on, YYYY-MM-DD."""
    made = {}
    for context in _contexts(mirror, click.Context(mirror, info_name=_PROGRAM, **mirror.context_settings)):
        name = context.command_path.replace(" ", "-")
        made[f"{name}.1"] = "\n".join(_page(name, context, day)) + "\n"
    return made


def completions() -> dict[str, str]:
    """Return the completion of each shell, by its path below share."""
    made = {}
    for shell, path in _COMPLETIONS:
        script = shell(mirror, {}, _PROGRAM, _VARIABLE)
        made[path] = (script.source_template % script.source_vars()).strip() + "\n"
    return made


def _contexts(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _contexts(inner, click.Context(inner, parent=context, info_name=name))


def _page(name: str, context: click.Context, day: str) -> Iterator[str]:
    command = context.command
    told, _, codes = _help(command).partition("Exit codes:")
    summary, *paragraphs = [part for part in told.split("\n\n") if part.strip("\b \n")]
    yield f'.TH "{name.upper()}" 1 "{day}" "mirror {__version__}" "Registry mirror"'
    yield ".nh"
    yield ".SH NAME"
    yield f"{_text(name)} \\- {_text(_flat(summary).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f"\\fB{_text(context.command_path)}\\fR {_text(' '.join(command.collect_usage_pieces(context)))}"
    if paragraphs:
        yield ".SH DESCRIPTION"
        for number, paragraph in enumerate(paragraphs):
            if number:
                yield ".PP"
            if paragraph.startswith("\b"):
                yield from (".nf", *(_line(line) for line in paragraph.strip("\b\n").split("\n")), ".fi")
            else:
                yield _line(_flat(paragraph))
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for one in command.list_commands(context):
            inner = command.get_command(context, one)
            if inner is not None and not inner.hidden:
                yield from _item(f"{context.command_path} {one}", _flat(_help(inner).split("\n\n")[0]))
    yield ".SH OPTIONS"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield from _item(*record)
    if codes:
        yield ".SH EXIT STATUS"
        for code in _flat(codes).rstrip(".").split("; "):
            yield from _item(*code.split(" ", 1))
    if context.parent is None:
        yield ".SH ENVIRONMENT"
        yield from _item("MIRROR_CONFIG", "The configuration file, where --config names none.")
        yield ".SH FILES"
        yield from _item(DEFAULT_CONFIG, "The configuration, where neither names one.")
    yield ".SH SEE ALSO"
    yield ", ".join(_see_also(command, context))


def _see_also(command: click.Command, context: click.Context) -> Iterator[str]:
    names = [] if context.parent is None else [_PROGRAM]
    if isinstance(command, click.Group):
        names += [f"{context.command_path} {one}" for one in command.list_commands(context)]
    epilog = _flat(command.epilog or "").removeprefix("See also: ")
    documents = []
    for one in filter(None, epilog.split(", ")):
        (names if one.startswith(f"{_PROGRAM} ") else documents).append(one)
    for one in dict.fromkeys(name.partition(" -")[0].replace(" ", "-") for name in names):
        yield f"\\fB{_text(one)}\\fR(1)"
    yield from (_text(one) for one in documents)


def _help(command: click.Command) -> str:
    return (command.help or "").partition("\f")[0].strip()


def _item(term: str, said: str) -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_text(term)}\\fR"
    # Two blanks stand before what click puts in brackets.
    yield _line(_flat(said))


def _flat(text: str) -> str:
    return " ".join(text.replace("\b", "").split())


def _line(text: str) -> str:
    """Return a line of running text, which may not be taken for a request of roff."""
    text = _text(text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _text(text: str) -> str:
    """Return text as roff writes it. A hyphen stays one, as it is to be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return re.sub(r"[`']", "\\\\(aq", text)


def _day() -> str:
    stated = os.environ.get("SOURCE_DATE_EPOCH")
    if stated is None:
        log = ["git", "-C", str(Path(__file__).parent), "log", "-1", "--format=%ct"]
        ended = subprocess.run(log, capture_output=True, text=True)
        stated = ended.stdout.strip() or "1000000000"
    return datetime.datetime.fromtimestamp(int(stated), datetime.UTC).strftime("%Y-%m-%d")


def main(arguments: list[str] | None = None) -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to, laid out as /usr/share is")
    folder = parser.parse_args(arguments).folder
    files = {f"man/man1/{name}": text for name, text in pages(_day()).items()} | completions()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"{len(files)} files in {folder}")


if __name__ == "__main__":
    main()
