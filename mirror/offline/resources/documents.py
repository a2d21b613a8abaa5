"""How generated YAML and TOML are spelled: the same values are the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

# What every file with comments begins with.
WRITTEN = "Written by `mirror resources`; make it again rather than edit it."
_WIDTH = 10_000  # columns: a line is never folded


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, as people do."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 the name is PyYAML's
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def to_yaml(*documents: Mapping[str, Any], comment: str = "") -> bytes:
    """Return a YAML file of these documents; each line of `comment` stands before them behind a `#`."""
    parts = [
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=_WIDTH, default_flow_style=False) for one in documents
    ]
    return (to_comment(comment) + "---\n".join(parts)).encode()


def to_comment(text: str) -> str:
    """Return `text` as lines behind `#`, ending with a line feed; nothing for nothing."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())


def to_toml_text(value: str) -> str:
    """Return a TOML basic string. Names of hosts and repositories need no escapes; anything else is refused."""
    if not value.isascii() or not value.isprintable() or set('"\\') & set(value):
        raise ValueError("not the name of a host or repository")
    return f'"{value}"'


def to_toml_list(values: Iterable[str]) -> str:
    """Return a TOML array of basic strings on one line."""
    return f"[{', '.join(to_toml_text(value) for value in values)}]"


def to_toml_flag(value: bool) -> str:
    """Return a TOML boolean."""
    return "true" if value else "false"
