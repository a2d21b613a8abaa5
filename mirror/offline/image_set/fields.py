"""A mapping of a YAML file, read key by key; whatever is wrong is noted with its line, and reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mirror.config.document import Document, KeyPath, dotted
from mirror.config.values import SpellingError, expect_text
from mirror.errors import MirrorError
from mirror.offline.image_set.keys import KEYS, place, remedy_for
from mirror.offline.image_set.problems import note, plain, quote

_T = TypeVar("_T")


class Fields:
    """One mapping. A key that is absent, empty or wrong reads as nothing: "", None, False, no items."""

    def __init__(self, document: Document, data: Any, path: KeyPath = ()) -> None:
        """Note every key of `data` (the mapping at `path`) that image sets do not have."""
        self._document = document
        self._path = path
        self._data: dict[str, Any] = data if isinstance(data, dict) else {}
        self._place = place(path)
        self._is_wrong = data is not None and not isinstance(data, dict)
        if self._is_wrong:
            self._wrong_type("a mapping (lines of `key: value`)", path)
        for key in self._data:
            if key not in KEYS[self._place]:
                what = f"there is no key {quote(dotted((*path, key)))}"
                self.find("unknown_key", what, key, remedy_for(key, self._place))

    def __contains__(self, key: str) -> bool:
        """Tell whether the file states something for this key."""
        return self._data.get(key) not in (None, "")

    def __bool__(self) -> bool:
        return bool(self._data)

    def line(self, key: str | int | None = None) -> int:
        """Return the line of this mapping, or of one of its keys; the nearest that is known."""
        path = self._path if key is None else (*self._path, key)
        while path and path not in self._document.spots:
            path = path[:-1]
        spot = self._document.spots.get(path)
        return spot.line if spot else 1

    def where(self, key: str | None = None) -> str:
        """Return `file:line` of this mapping, or of one of its keys."""
        return f"{self._document.path}:{self.line(key)}"

    def is_list(self, key: str) -> bool:
        """Tell whether the value of `key` is a list."""
        return isinstance(self._data.get(key), list)

    def name(self, key: str) -> str:
        """Return a key with all that it stands under, for a message."""
        return f"`{dotted((*self._path, key))}`"

    def find(self, code: str, what: str, key: str | None = None, remedy: str = "") -> None:
        """Note a problem at a key, or at the mapping."""
        note(self._document, code, what, self.line(key), remedy)

    def warn(self, what: str, key: str | None = None) -> None:
        """Warn of a key, or of the mapping."""
        self._document.warn(what, self.line(key))

    @property
    def data(self) -> Mapping[str, Any]:
        """What the file says here, unread."""
        return self._data

    def need(self, key: str, example: str) -> None:
        """Note a problem where `key` is absent or empty; `example` is what to add."""
        if key not in self and not self._is_wrong:
            whole = dotted(self._path) or "the file"
            self.find("missing_key", f"{quote(whole)} lacks the key `{key}`", None, f"add `{example}`")

    def text(self, key: str) -> str:
        """Return what a key says, without looking at it."""
        return self.parse(key, expect_text) or ""

    def parse(self, key: str, parser: Callable[[object], _T]) -> _T | None:
        """Return what `parser` makes of the value of `key`; its SpellingError or MirrorError is noted."""
        return self._parse((*self._path, key), self._data[key], parser) if key in self else None

    def flag(self, key: str) -> bool:
        """Return what a key that is true or false says."""
        return self.parse(key, _flag) or False

    def whole(self, key: str, most: int) -> int:
        """Return a whole number from 0 to `most`."""

        def parser(value: object) -> int:
            if isinstance(value, bool) or not isinstance(value, int):
                raise SpellingError("a whole number", code="wrong_type")
            if not 0 <= value <= most:
                raise SpellingError(f"{value} is out of range", f"write a whole number from 0 to {most}")
            return value

        return self.parse(key, parser) or 0

    def section(self, key: str) -> Fields:
        """Return the mapping that is the value of `key`, empty where there is none."""
        return Fields(self._document, self._data.get(key), (*self._path, key))

    def sections(self, key: str, most: int) -> Iterator[Fields]:
        """Yield the mappings of a list of at most `most`."""
        for path, item in self._items(key, most):
            if item is None:
                self._wrong_type("a mapping (lines of `key: value`)", path)
            else:
                yield Fields(self._document, item, path)

    def values(self, key: str, most: int, parser: Callable[[object], _T]) -> Iterator[_T]:
        """Yield each item of a list of at most `most`, as `parser` makes it."""
        return (found for found, _ in self.placed(key, most, parser))

    def placed(self, key: str, most: int, parser: Callable[[object], _T]) -> Iterator[tuple[_T, str]]:
        """Yield each item of a list of at most `most`, as `parser` makes it, with its `file:line`."""
        for path, item in self._items(key, most):
            found = self._parse(path, item, parser)
            if found is not None:
                yield found, f"{self._document.path}:{self._document.spots[path].line}"

    def mixed(self, key: str, most: int, parser: Callable[[object], _T]) -> Iterator[Fields | _T]:
        """Yield each item of a list of at most `most`: a mapping as Fields, anything else as `parser` makes it."""
        for path, item in self._items(key, most):
            if isinstance(item, dict):
                yield Fields(self._document, item, path)
            elif (found := self._parse(path, item, parser)) is not None:
                yield found

    def _items(self, key: str, most: int) -> Iterator[tuple[KeyPath, Any]]:
        value = self._data.get(key)
        path = (*self._path, key)
        if value is None:
            return
        if not isinstance(value, list):
            self._wrong_type("a list (lines that begin with `- `)", path)
        elif len(value) > most:
            what = f"{self.name(key)} has {len(value)} items; at most {most} are taken"
            self.find("too_large", what, key, "split this into several image sets")
        else:
            yield from (((*path, index), item) for index, item in enumerate(value))

    def _parse(self, path: KeyPath, value: object, parser: Callable[[object], _T]) -> _T | None:
        try:
            return parser(value)
        except SpellingError as error:
            if error.code == "wrong_type":
                self._wrong_type(error.what, path)
            else:
                self._note(error.code, path, error.what, error.remedy)
        except MirrorError as error:
            self._note("invalid_value", path, plain(error.what), error.remedy)
        return None

    def _note(self, code: str, path: KeyPath, what: str, remedy: str) -> None:
        note(self._document, code, f"`{dotted(path)}`: {what}", self._document.spots[path].line, remedy)

    def _wrong_type(self, expected: str, path: KeyPath) -> None:
        spot = self._document.spots.get(path)
        kind, text, line = (spot.kind, spot.text, spot.line) if spot else ("nothing", "", 1)
        found, remedy = kind, f"write {expected}"
        if text and kind != "text":
            found = f"{kind} ({quote(text)})"
            if expected == "text":
                remedy = f'put it in quotes: "{plain(text)[:40]}"'
        elif text and "name" in KEYS.get(place(path), ()):
            remedy = f"write `name: {plain(text)[:120]}`"
        name = f"`{dotted(path)}`: " if path else ""
        note(self._document, "wrong_type", f"{name}expected {expected}, found {found}", line, remedy)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise SpellingError("true or false", code="wrong_type")
    return value
