"""How commands reach a running service: one question over its unix socket, with the rights of whoever asks."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mirror.admin.socket import connect, listening_process, others, second
from mirror.config import Config
from mirror.errors import MirrorError

_PATIENCE = 15.0  # seconds; a store on a hung disk takes its time to say so
_LARGEST = 64 * 1024 * 1024


class NobodyAnswers(MirrorError):
    """No service answers at the socket."""


class ServiceBusy(NobodyAnswers):
    """A service is there and has not answered in time."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path, _PATIENCE)


def ask(config: Config, method: str, path: str, **query: str) -> tuple[dict[str, Any], Path]:
    """Return what the service on this store answers, and at which socket: the first one's, else a further one's.

    Raises ServiceBusy where one is there that does not answer in time, NobodyAnswers where none is, MirrorError for
    what it refuses to answer, and PermissionError where we may not ask.
    """
    target = path + "".join(f"{'&' if number else '?'}{key}={quote(query[key])}" for number, key in enumerate(query))
    first = config.admin_socket
    refused: OSError | None = None
    busy: ServiceBusy | None = None
    memory = second(config)
    for at in (first, *others(first), *([memory] if memory is not None else ())):
        try:
            return _asked(at, method, target), at
        except PermissionError:
            raise
        except ServiceBusy as error:
            busy = busy or error
        except (OSError, http.client.HTTPException) as error:
            refused = refused or (error if isinstance(error, OSError) else None)
    if busy is not None:
        raise busy
    why = f" ({refused.strerror})" if refused is not None and refused.strerror else ""
    raise NobodyAnswers(f"no service answers at {first}{why}", _how_to_start(config))


def _asked(at: Path, method: str, target: str) -> dict[str, Any]:
    connection = _Connection(at)
    process = 0
    try:
        connection.connect()
        process = listening_process(connection.sock)
        connection.request(method, target)
        answer = connection.getresponse()
        facts: dict[str, Any] = json.loads(answer.read(_LARGEST))
    except TimeoutError as error:
        raise _busy(at, process, f"has not answered within {_PATIENCE:.0f} s") from error
    except BlockingIOError as error:
        raise _busy(at, process, "has more questions waiting than it takes") from error
    except ValueError as error:
        raise http.client.HTTPException("no JSON") from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise MirrorError(str(facts.get("what", answer.status)), str(facts.get("remedy", "")))
    return facts


def _busy(at: Path, process: int, how: str) -> ServiceBusy:
    which = f"process {process}, at {at}" if process else f"at {at}"
    return ServiceBusy(
        f"the service runs ({which}) and {how}: it is busy, or waits for its disk",
        "ask again; if it stays so, see its log, what its processes do (top), and the disk of the store (dmesg)",
    )


def _how_to_start(config: Config) -> str:
    path = config.source.path
    start = f"start it: systemctl start mirror, or mirror serve{f' --config {path}' if path else ''}"
    return f"{start}; one that runs and whose socket was removed has to be restarted"
