"""The types of mirror.yaml's values: each parses its spelling, checks it, and spells it again in a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    PlainSerializer,
    ValidationInfo,
    model_validator,
)

from mirror.config.addresses import (
    parse_document_url,
    parse_external_url,
    parse_host_and_port,
    parse_host_or_network,
    parse_listen,
    parse_network,
    parse_proxy,
)
from mirror.config.patterns import parse_pattern, parse_tag_pattern
from mirror.config.values import (
    Amount,
    SpellingError,
    count,
    expect_text,
    format_amount,
    format_duration,
    format_size,
    format_size_limit,
    parse_amount,
    parse_duration,
    parse_duration_or_unlimited,
    parse_size,
    parse_size_limit,
    parse_timeout,
    quote,
)


class Section(BaseModel):
    """A part of mirror.yaml: frozen, without unknown keys; a key without a value has its default."""

    # Inputs may hold a password that somebody wrote into the wrong place: no exception shows them.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # An unknown key stays, to be refused.
        return {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}


def base_directory(info: ValidationInfo) -> Path:
    """Return what relative paths are relative to: the file's directory, or the working directory without a file."""
    return Path((info.context or {}).get("base", ""))


def _resolve_path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    text = expect_text(value)
    if text.startswith("~"):
        raise SpellingError("`~` is not expanded here", "write the whole path")
    if "\0" in text:
        raise SpellingError("holds a zero byte", "write a path")
    return base_directory(info) / text


def _resolve_listen(value: object, info: ValidationInfo) -> str:
    return parse_listen(value, base_directory(info))


def _resolve_metrics_listen(value: object, info: ValidationInfo) -> str | None:
    return None if value == "none" else _resolve_listen(value, info)


def _in_seconds(parse: Callable[[object], float]) -> BeforeValidator:
    """Let code that builds a section without a file give seconds as they are; a file's number lacks its unit."""

    def read(value: object, info: ValidationInfo) -> float:
        if info.context is None and isinstance(value, int | float) and not isinstance(value, bool):
            return value
        return parse(value)

    return BeforeValidator(read)


def _check_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise SpellingError("true or false", code="wrong_type")
    return value


def whole(minimum: int, maximum: int) -> BeforeValidator:
    """Return the validator of a whole number from `minimum` to `maximum`, both included."""
    return BeforeValidator(count(minimum, maximum))


def one_of(*words: str) -> BeforeValidator:
    """Return the validator of one of `words`."""

    return BeforeValidator(lambda value: parse_word(value, words))


def parse_word(value: object, words: Sequence[str]) -> str:
    """Return `value` if it is one of `words`; raise SpellingError."""
    if not isinstance(value, str):
        raise SpellingError(f"one of {', '.join(words)}", code="wrong_type")
    if value not in words:
        raise SpellingError(f"{quote(value)} is none of the words for this", f"write one of {', '.join(words)}")
    return value


def as_items(value: object) -> object:
    """Return one text as a list of it; everything else as it is."""
    return (value,) if isinstance(value, str) else value


def refuse_none(items: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a list that is not empty; raise SpellingError."""
    if not items:
        raise SpellingError("is an empty list", "name at least one, or leave the key out")
    return items


def as_list(value: object) -> object:
    """Return one text as a list of it; everything else as it is. An empty list is refused: it would listen nowhere."""
    # A number is on its way to be told that it names no host.
    if isinstance(value, str | int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, list | tuple) and not value:
        raise SpellingError("is an empty list", "name at least one address")
    return value


Text = Annotated[str, BeforeValidator(expect_text)]
Flag = Annotated[bool, BeforeValidator(_check_flag)]
FilePath = Annotated[Path, BeforeValidator(_resolve_path)]
Duration = Annotated[float, _in_seconds(parse_duration), PlainSerializer(format_duration, when_used="json")]
OpenDuration = Annotated[
    float, _in_seconds(parse_duration_or_unlimited), PlainSerializer(format_duration, when_used="json")
]
Timeout = Annotated[float, _in_seconds(parse_timeout), PlainSerializer(format_duration, when_used="json")]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size, when_used="json")]
SizeLimit = Annotated[int, BeforeValidator(parse_size_limit), PlainSerializer(format_size_limit, when_used="json")]
Share = Annotated[InstanceOf[Amount], BeforeValidator(parse_amount), PlainSerializer(format_amount, when_used="json")]
Listen = Annotated[str, BeforeValidator(_resolve_listen)]
MetricsListen = Annotated[str | None, BeforeValidator(_resolve_metrics_listen)]
ExternalUrl = Annotated[str, BeforeValidator(parse_external_url)]
DocumentUrl = Annotated[str, BeforeValidator(parse_document_url)]
ProxyUrl = Annotated[str, BeforeValidator(parse_proxy)]
Host = Annotated[str, BeforeValidator(parse_host_and_port)]
HostOrNetwork = Annotated[str, BeforeValidator(parse_host_or_network)]
Network = Annotated[str, BeforeValidator(parse_network)]
Pattern = Annotated[str, BeforeValidator(parse_pattern)]
TagPattern = Annotated[str, BeforeValidator(parse_tag_pattern)]
