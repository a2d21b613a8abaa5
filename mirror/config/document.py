"""A YAML file read strictly: no duplicate keys, aliases, tags or surprises, and the line of everything in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mirror.errors import ConfigurationError, Problem

_LARGEST = 2**20
# Deeper than any key of ours, and far from what a parser's stack holds.
_DEEPEST = 12
# Beyond this nobody reads on, and a file of one wrong line a thousand times stays cheap.
_MOST_PROBLEMS = 100

_TAG = "tag:yaml.org,2002:"
_KINDS = {
    "str": "text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing",
    "timestamp": "a date", "map": "a mapping", "seq": "a list",
}  # fmt: skip
# YAML 1.1 also reads 010 as eight and 1:30 as ninety; a person means neither.
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)")
_TRUE = frozenset({"true", "yes", "on"})

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a value stands: its line, how YAML understands it, and its text as written if it is a scalar."""

    line: int
    kind: str
    text: str = ""


class Foreign:
    """A scalar that YAML understands as what no key of ours takes: a fraction, a date, an odd spelling of a number."""


@dataclass(slots=True)
class Document:
    """A file's data (mappings, lists, text, whole numbers, flags, None, Foreign), where each value stands, problems.

    `warnings` are sentences about what is taken and may not be meant, each with its `file:line`.
    """

    path: Path
    data: Any = None
    spots: dict[KeyPath, Spot] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def find(self, code: str, what: str, line: int, remedy: str = "") -> None:
        """Note a problem at a line, as long as the list is one that a person reads."""
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(code, what, f"{self.path}:{line}", remedy))

    def warn(self, what: str, line: int) -> None:
        """Warn of a line."""
        self.warnings.append(f"{self.path}:{line}: {what}")


def read(path: Path, raw: bytes | None = None, *, most: int | None = None) -> Document:
    """Return what the YAML file holds. Raise ConfigurationError where it cannot be read as YAML at all.

    Duplicate keys and keys that are not text are noted in `problems` and left out of `data`. `raw` is the content
    where the caller has read and bounded it; `most` is how many scalars, lists and mappings it may hold, keys included.
    """
    document = Document(path)
    text = _read_text(path) if raw is None else decode(raw, path)
    _refuse_surprises(text, path, most)
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, path) from None
    if node is not None:
        document.data = _construct(node, (), document)
    return document


def _read_text(path: Path) -> str:
    def refuse(code: str, what: str, remedy: str) -> ConfigurationError:
        return ConfigurationError([Problem(code, what, str(path), remedy)])

    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        remedy = "write a first one: mirror init; or name another with --config or $MIRROR_CONFIG"
        raise refuse("unreadable", "there is no such file", remedy) from None
    except OSError as error:
        raise refuse("unreadable", f"cannot be read: {error.strerror}", "let the service's user read it") from error
    if len(content) > _LARGEST:
        raise refuse("too_large", "is larger than 1 MiB", "this is hardly a configuration file")
    return decode(content, path)


def decode(content: bytes, path: Path) -> str:
    """Return the text of a file; raise ConfigurationError where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError([Problem("syntax", "is not UTF-8", f"{path}:{line}", "save it as UTF-8")]) from None


def _refuse_surprises(text: str, path: Path, most: int | None) -> None:
    """Refuse, from the events alone, what makes a small file large or a plain one strange; raise ConfigurationError."""
    problems: list[Problem] = []
    depth = documents = nodes = 0
    for event in _parse(text, path):
        line = event.start_mark.line + 1 if event.start_mark else 1
        where = f"{path}:{line}"
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                problems.append(Problem("syntax", "a second document begins here", where, "keep one, without `---`"))
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            remedy = 'write it out, or put text in quotes: "*"'
            problems.append(Problem("syntax", "anchors and aliases (& and *) are not used here", where, remedy))
        elif isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None):
            remedy = 'leave it out, or put text in quotes: "!"'
            problems.append(Problem("syntax", "tags (!) are not used here", where, remedy))
        nodes += isinstance(event, yaml.NodeEvent)
        if most is not None and nodes > most:
            problems.append(
                Problem("too_large", f"holds more than {most} values", where, "split it into several files")
            )
            break
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                remedy = "look for a bracket or a space too many"
                problems.append(Problem("syntax", "is nested too deeply", where, remedy))
                break
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if len(problems) >= _MOST_PROBLEMS:
            break
    if problems:
        raise ConfigurationError(problems)


def _parse(text: str, path: Path) -> Iterator[yaml.Event]:
    try:
        yield from yaml.parse(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, path) from None


def _syntax_error(error: yaml.YAMLError, text: str, path: Path) -> ConfigurationError:
    """Return what the parser says, without the line's text, which may hold a secret."""
    position = getattr(error, "position", None)
    if isinstance(position, int):
        # The parser was handed UTF-8, so that is what it counts.
        line = text.encode()[:position].count(b"\n") + 1
        problem = Problem("syntax", "here is a character that YAML does not allow", f"{path}:{line}", "remove it")
        return ConfigurationError([problem])
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    what = getattr(error, "problem", None) or "is not YAML"
    context = getattr(error, "context", None)
    remedy = 'look at the indentation, and put values that begin with [ { * & ! % @ or hold ": " in quotes'
    return ConfigurationError([Problem("syntax", f"{context}: {what}" if context else what, where, remedy)])


def _construct(node: yaml.Node, at: KeyPath, document: Document) -> Any:
    kind = _KINDS.get(node.tag.removeprefix(_TAG), "text")
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    # A value on the lines below its key is looked for at the key.
    document.spots.setdefault(at, Spot(node.start_mark.line + 1, kind, text))
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, at, document)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*at, index), document) for index, item in enumerate(node.value)]
    return _construct_scalar(text, kind)


def _construct_mapping(node: yaml.MappingNode, at: KeyPath, document: Document) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.find("wrong_type", "a key is text, not a list or a mapping", line, "look for a bracket too many")
            continue
        key = key_node.value
        kind = _KINDS.get(key_node.tag.removeprefix(_TAG), "text")
        if kind != "text":
            what = f"YAML reads the key `{key[:40]}` as {kind}"
            document.find("wrong_type", what, line, f'put it in quotes: "{key[:40]}"')
            continue
        if key in mapping:
            first = document.spots[(*at, key)].line
            what = f"`{dotted((*at, key))}` stands here a second time"
            document.find("duplicate_key", what, line, f"the first is in line {first}; keep one")
            continue
        scalar = isinstance(value_node, yaml.ScalarNode)
        value_kind = _KINDS.get(value_node.tag.removeprefix(_TAG), "text")
        document.spots[(*at, key)] = Spot(line, value_kind, value_node.value if scalar else "")
        mapping[key] = _construct(value_node, (*at, key), document)
    return mapping


def _construct_scalar(text: str, kind: str) -> Any:
    if kind == "text":
        return text
    if kind == "nothing":
        return None
    if kind == "true or false":
        return text.lower() in _TRUE
    return int(text) if kind == "a number" and len(text) < 20 and _WHOLE.fullmatch(text) else Foreign()


def dotted(path: KeyPath) -> str:
    """Return a path for people: `upstreams.quay.io.endpoints[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
