"""How the service speaks: structured events through structlog, and one line a request that costs microseconds."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from mirror.redact import MASK as MASK
from mirror.redact import escape, is_harmless, is_secret, redact_value
from mirror.redact import redact as redact
from mirror.sink import Sink

_Event = MutableMapping[str, Any]
_Counts = dict[str, list[Any]]  # what a line is -> what it is called, and how often it was said

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
FORMATS = ("logfmt", "json", "console")

_SAME_A_MINUTE = 50  # identical lines; what is over it is counted (a malformed request must not fill a disk)
_MINUTE, _TICK = 60.0, 1.0  # seconds
_SUPPRESSED = "lines_suppressed"
_KINDS = 1024  # of lines that are told apart within a minute
_LIBRARY = "library_message"
_CAUSES, _FRAMES = 4, 12  # of an exception that are told
_LONGEST_ERROR = 2000  # characters of an exception's text
_LONGEST = 256  # characters of a value that a client chose
_KNOWN = 4096  # such values whose quoted form is remembered

_PLAIN = re.compile(r"[!#-<>-\[\]-~]*").fullmatch  # what logfmt needs no quotes for
_WORD = re.compile(r"[0-9A-Za-z:.-]*").fullmatch


def configure(level: str = "info", format: str = "logfmt", sink: Sink | None = None) -> Sink:  # noqa: A002 - the key's name
    """Set up structlog and the standard library's loggers; return the sink that all lines go to (stderr by default)."""
    sink = sink if sink is not None else Sink()
    tails: dict[str, list[structlog.typing.Processor]] = {
        "logfmt": [_render_logfmt],
        "json": [_render_json],
        "console": [_escape_values, _console()],
    }
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.ExceptionRenderer(_describe),
            _redact_event,
            _Repetition(),
            structlog.processors.TimeStamper("iso", key="time"),
            *tails[format],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_LoggerFactory(sink),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Bridge)] + [_Bridge()]
    root.setLevel(max(_LEVELS[level], logging.INFO))
    return sink


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a module; its events are stable snake_case names, everything else goes into fields.

    Two fields are not written and say which lines count as identical where too many come: `same`, a text that is the
    same for these, and `told_apart=True`, by which no other line ever counts as this one.
    """
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


async def keep_telling() -> None:
    """Say at the end of each minute what was left out of it, whether or not another line follows. Never returns."""
    while True:
        await asyncio.sleep(_TICK)
        tell_suppressed(ended=True)


def tell_suppressed(*, ended: bool = False) -> None:
    """Say how many identical lines were left out so far, as is due before a process ends; then all count anew.

    `ended`: only where the minute in which they count has ended. Cheap, and never waits for anything.
    """
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, _Repetition):
            processor.tell(ended=ended)


def _describe(exc_info: structlog.typing.ExcInfo) -> str:
    """Return an exception and its causes in one line, each with the places it came through.

    Not the usual traceback: that reads source files, on the event loop, to quote lines which the places name already.
    """
    parts: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(parts) < _CAUSES:
        frames = list(traceback.walk_tb(error.__traceback__))[-_FRAMES:]
        places = " > ".join(
            f"{_place(frame.f_code.co_filename)}:{line} {frame.f_code.co_name}" for frame, line in frames
        )
        parts.append(f"{type(error).__name__}: {str(error)[:_LONGEST_ERROR]} [{places}]")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " caused by ".join(parts)


def _place(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _redact_event(_logger: object, _method: str, event: _Event) -> _Event:
    return {key: MASK if is_secret(key) else redact_value(value) for key, value in event.items()}


class _Repetition:
    """Lets so many identical warnings and errors through a minute, and says how many more there were.

    Where there are too many kinds of them to be told apart, those of one event count as identical: a flood of one hides
    no other. Lines that are `told_apart` never do: where there are too many kinds of these, a new one is written and
    not counted, for whoever makes lines up would choose which are not said. What is said of work that was done, a push
    say, is always said: its doing bounds it.
    """

    def __init__(self) -> None:
        self._seen: _Counts = {}
        self._told_apart: _Counts = {}
        self._until = 0.0
        self._turning = threading.Lock()

    def tell(self, *, ended: bool) -> None:
        """Say what was left out since the minute began and begin another; `ended`: if it has."""
        if ended and time.monotonic() < self._until:
            return
        with self._turning:
            now = time.monotonic()
            if ended and now < self._until:
                return  # another thread was first
            counted = [*self._seen.values(), *self._told_apart.values()]
            self._seen, self._told_apart, self._until = {}, {}, now + _MINUTE
        for name, count in counted:
            if count > _SAME_A_MINUTE:
                get(__name__).warning(_SUPPRESSED, like=name, count=count - _SAME_A_MINUTE)

    def __call__(self, _logger: object, method: str, event: _Event) -> _Event:
        if event["event"] == _SUPPRESSED:
            return event  # one a kind and minute
        self.tell(ended=True)
        told_apart, same = event.pop("told_apart", False), event.pop("same", "")
        if method in ("debug", "info") and event["event"] != _LIBRARY:
            return event
        same = str(same or repr(event))
        seen = self._told_apart if told_apart else self._seen
        if same not in seen and len(seen) >= _KINDS:
            if told_apart:
                return event
            same = str(event["event"])
        like = _in_full(event) if told_apart else str(event.get("message", event["event"]))
        entry = seen.setdefault(same, [like[:_LONGEST], 0])
        entry[1] += 1
        if entry[1] > _SAME_A_MINUTE:
            raise structlog.DropEvent
        return event


def _in_full(event: _Event) -> str:
    """Return an event with its fields, as people read it in `like`."""
    fields = (f"{key}={value}" for key, value in event.items() if key not in ("event", "level", "module") and value)
    return " ".join((str(event["event"]), *fields))


class _Bridge(logging.Handler):
    """Takes what libraries log. Lines are identical if their template is: the arguments may be a client's choice."""

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg).partition("\n")[0]
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = template
        get(record.name).log(
            record.levelno,
            _LIBRARY,
            message=message,
            same=f"{record.name} {record.levelno} {kind} {template}",
            exc_info=record.exc_info,
        )


class _LoggerFactory:
    """What structlog writes to: every level is a line for the sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def __call__(self, *_args: object) -> _LoggerFactory:
        return self

    def line(self, text: str) -> None:
        self._sink.write(f"{text}\n")

    debug = info = warning = error = critical = exception = log = msg = line


def _console() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False, timestamp_key="time")


def _render_json(_logger: object, _method: str, event: _Event) -> str:
    return json.dumps({**_head(event), **event}, default=str)


def _render_logfmt(_logger: object, _method: str, event: _Event) -> str:
    return " ".join(f"{_quote_key(key)}={_quote(_text(value))}" for key, value in {**_head(event), **event}.items())


def _head(event: _Event) -> _Event:
    return {key: event.pop(key) for key in ("time", "level", "event")}


def _escape_values(_logger: object, _method: str, event: _Event) -> _Event:
    return {key: escape(_text(value)) for key, value in event.items()}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (dict, list, bool)):
        return json.dumps(value, default=str)
    return "" if value is None else str(value)


def _quote(value: str) -> str:
    if _PLAIN(value):
        return value
    return '"' + escape(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _quote_key(key: str) -> str:
    return key if _WORD(key) else re.sub(r"[^0-9A-Za-z_.-]", "_", key)


class RequestLog:
    """One line for each request, formatted in one go; nothing on this path waits, locks or goes through structlog.

    What a client chose is shortened, redacted and quoted, so that it can neither forge a line nor carry a secret.
    `console`, which is for a person and not for a crowd, is laid out as structlog does it for every other line.
    """

    def __init__(self, sink: Sink, format: str = "logfmt", level: str = "info") -> None:  # noqa: A002 - the key's name
        self.enabled = _LEVELS[level] <= logging.INFO
        self._write = sink.write
        self._json = format == "json"
        self._console = _console() if format == "console" else None
        self._mark = '"' if self._json else ""
        self._known: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._second = 0
        self._stamp = ""

    def line(
        self,
        *,
        id: str,  # noqa: A002 - the field's name
        client: str,
        method: str,
        name: str,
        status: int,
        bytes: int,  # noqa: A002 - the field's name
        seconds: float,
        digest: str = "",
        cache: str = "",
        upstream: str = "",
        why: str = "",
        agent: str = "",
    ) -> None:
        """Log one request. `name` is the path without its query, `bytes` the body's bytes that were sent."""
        if not self.enabled:
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = f"{self._stamp}.{int((now - second) * 1000):03d}Z"
        known = self._known
        try:
            client, method, name, why, agent = known[client], known[method], known[name], known[why], known[agent]
        except KeyError:
            client, method, name, why, agent = map(self._quote, (client, method, name, why, agent))
        # Most requests have an id of their own: remembering those would only push out the others.
        mark = self._mark
        id = f"{mark}{id}{mark}" if _WORD(id) else self._form(id)  # noqa: A001 - the field's name
        shown = self._digests.get(digest)
        digest = self._digest(digest) if shown is None else shown
        if self._json:
            self._write(
                f'{{"time":"{stamp}","level":"info","event":"request","id":{id},"client":{client},"method":{method},'
                f'"name":{name},"digest":{digest},"status":{status},"bytes":{bytes},"seconds":{seconds:.6f},'
                f'"cache":"{cache}","upstream":"{upstream}","why":{why},"agent":{agent}}}\n'
            )
        elif self._console is None:
            self._write(
                f"time={stamp} level=info event=request id={id} client={client} method={method} name={name} "
                f"digest={digest} status={status} bytes={bytes} seconds={seconds:.6f} cache={cache} "
                f"upstream={upstream} why={why} agent={agent}\n"
            )
        else:
            fields = {
                "time": f"{self._stamp}.{int((now - second) * 1e6):06d}Z",  # as long as in other lines
                "level": "info", "event": "request", "id": id, "client": client, "method": method, "name": name,
                "digest": digest, "status": status, "bytes": bytes, "seconds": f"{seconds:.6f}", "cache": cache,
                "upstream": upstream, "why": why, "agent": agent,
            }  # fmt: skip
            said = {key: value for key, value in fields.items() if value != ""}
            self._write(f"{self._console(None, 'info', said)}\n")

    def _quote(self, value: str) -> str:
        # The longest value that a client can send is a header's 8 KiB; what is remembered of it is its beginning.
        value = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[value] = self._form(value)
        return known

    def _digest(self, value: str) -> str:
        shown = f"{self._mark}{value}{self._mark}" if _WORD(value) else self._form(value)
        if len(value) <= _LONGEST:
            # Beside the others, which a client that asks for a great many would push out.
            if len(self._digests) >= _KNOWN:
                self._digests.clear()
            self._digests[value] = shown
        return shown

    def _form(self, value: str) -> str:
        if is_harmless(value):
            return f"{self._mark}{value}{self._mark}"
        value = redact(value[: _LONGEST + 3])
        if self._console is not None:
            return escape(value)  # it puts quotes where they are needed
        return json.dumps(value) if self._json else _quote(value)
