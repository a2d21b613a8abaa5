"""What a document tells its readers to write and to run, and what it says they will see."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

_BLOCK = re.compile(r"^```(?P<language>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?:(?P<side>[a-z ]+): )?(?P<path>/?[\w.-]+(?:/[\w.-]+)*\.(?:yaml|txt))\n")
_ENDS = re.compile(r"\s+# ends with (?P<code>[0-9]+).*$")
_LEFT_OUT = "…"


@dataclass(frozen=True)
class WrittenFile:
    """A file that the reader writes. `side` is empty where the document does not say whose it is."""

    line: int
    side: str
    path: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line that the reader types, and what it must end with."""

    text: str
    code: int

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


@dataclass(frozen=True)
class Session:
    """Commands on one side, one after the other, and what they print together; None where nothing is shown."""

    line: int
    side: str
    commands: tuple[Command, ...]
    output: str | None


def read(document: str) -> list[WrittenFile | Session]:
    """Return what a document has the reader do, in order.

    A ```sh block begins with the side that it is for: `# inside`. A command of which is said `# ends with 3` does. The
    ```text block right after it is what the commands print. A ```yaml or ```text block that begins with
    `# outside: /etc/mirror/mirror.yaml` or `# prod.yaml` is a file.
    """
    found: list[WrittenFile | Session] = []
    blocks = list(_BLOCK.finditer(document))
    for number, block in enumerate(blocks):
        line = document.count("\n", 0, block.start()) + 1
        if block["language"] == "sh":
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            shown = after is not None and after["language"] == "text" and _adjacent(document, block, after)
            found.append(_session(line, block["text"], after["text"] if after is not None and shown else None))
        elif named := _FILE.match(block["text"]):
            found.append(WrittenFile(line, named["side"] or "", named["path"], block["text"]))
    return found


def _adjacent(document: str, block: re.Match[str], after: re.Match[str]) -> bool:
    return not document[block.end() : after.start()].strip()


def _session(line: int, text: str, output: str | None) -> Session:
    side, *lines = text.replace("\\\n", "").splitlines()
    assert side.startswith("# "), f"line {line}: the block does not say on which side it runs"
    return Session(line, side.removeprefix("# "), tuple(_commands(lines)), output)


def _commands(lines: list[str]) -> Iterator[Command]:
    for line in lines:
        if line.strip() and not line.startswith("#"):
            ends = _ENDS.search(line)
            yield Command(_ENDS.sub("", line), int(ends["code"]) if ends else 0)


# -- what is printed -----------------------------------------------------------------------------------------------

# What differs from run to run, however it is shortened in a document.
_VARYING = (
    (re.compile(r"\b(sha256[:=-])(?:[0-9a-f]{4,64}…?|…)"), r"\1DIGEST"),
    (re.compile(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{4,63}…"), "HEX"),
    (re.compile(r"\b[0-9A-F]{40}\b|\b[0-9A-F]{16}\b"), "FINGERPRINT"),
    (re.compile(r"\b(?!0 B)[0-9]+(?:\.[0-9])? (?:B|KiB|MiB|GiB|TiB)(?![A-Za-z])"), "SIZE"),
    (re.compile(r"\b[0-9]+ bytes\b|\b[0-9]+(?= are needed)"), "SIZE"),
    (re.compile(r"\b20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z"), "TIME"),
    (re.compile(r"(?<=SIZE on )/\S* \([\w.]+, [^)]*\)"), "MOUNT"),
    (re.compile(r" +"), " "),
    # What lies in which part is ordered by digest.
    (re.compile(r"[1-9][0-9]*(?= digests, SIZE (?:received|missing)| digests that are not here)"), "SOME"),
)
# How far work is: as often as time passes.
_PROGRESS = re.compile(r'\{"event": "progress"|mirror \w+: [0-9]+ of [0-9]+ images? read')


def normalised(text: str) -> list[str]:
    """Return lines without what differs from run to run, and without those that tell how far work is."""
    found = []
    for line in text.splitlines():
        if not line.strip() or _PROGRESS.match(line):
            continue
        for pattern, replacement in _VARYING:
            line = pattern.sub(replacement, line)
        found.append(line.strip())
    return found


def shows(documented: str, printed: str) -> bool:
    """Tell whether a document shows what was printed.

    A line of the document that is `…` alone stands for any lines; at the end of a line it stands for the rest of it.
    """
    pattern = "".join(
        r"(?:.*\n)*?" if line == _LEFT_OUT else re.escape(line).replace(_LEFT_OUT, ".*") + r"\n"
        for line in normalised(documented)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in normalised(printed))) is not None
