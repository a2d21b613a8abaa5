"""The work whose cost is compared: what clients have a service do, in slices of always the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

from bench import load
from bench.asking import Asking
from bench.content import MIB, TAG, Blob, Content
from bench.processes import Server

WARM, _FRESH = 8 * MIB, 4 * MIB  # bytes of the blob that is there from the start, and of new ones

# A busy machine's speed changes within hundredths of a second: the shorter a slice, the more alike its neighbour.
_REQUESTS = 32  # a slice
_WINDOW = 256 * 1024  # bytes: with what the kernel finds out, a slice costs now this and now three times as much
_PUSHED = "/v2/pushed/app"

# Does one slice. Its argument is an image that is new to both sides, for works that want one.
Slice = Callable[[Blob | None], None]


@dataclass(frozen=True, slots=True)
class Work:
    """Something to do in slices of `units`, of which the cost of one is told in `measure`, `scale` of which make 1 s.

    `open` makes the slices of one server, with connections that the stack closes. `fresh` is the size of the blob of
    a new image that each slice wants, in bytes. `seconds` is how long a sitting goes on with it.
    """

    title: str
    units: float
    measure: str
    scale: float
    open: Callable[[Server, Content, ExitStack], Slice]
    seconds: float = 2.0
    fresh: int = 0


def _warm(server: Server, content: Content, running: ExitStack) -> Slice:
    connection = running.enter_context(_connection(server, content.warm))
    return lambda _: connection.ask()


def _connection(server: Server, blob: Blob) -> closing[load.Connection]:
    return closing(load.Connection(load.order(server, blob.route, blob.size), _WINDOW))


def _asked(path: Callable[[Content], str], body: Callable[[Content], Blob]) -> Callable[..., Slice]:
    def open_slices(server: Server, content: Content, running: ExitStack) -> Slice:
        asking = running.enter_context(Asking(server, path(content), body(content).size))
        return lambda _: asking.ask(_REQUESTS)

    return open_slices


def _cold(server: Server, _: Content, __: ExitStack) -> Slice:
    def pull(image: Blob | None) -> None:
        assert image is not None
        load.announce(server, image)
        with _connection(server, image) as connection:
            connection.ask()

    return pull


def _push(server: Server, content: Content, _: ExitStack) -> Slice:
    def push(image: Blob | None) -> None:
        assert image is not None
        for blob in (content.small, image):
            load.push(server, _PUSHED, blob)
        load.push_manifest(server, _PUSHED, image.path.parents[1] / "manifests" / image.manifest)

    return push


def _small(title: str, path: Callable[[Content], str], body: Callable[[Content], Blob]) -> Work:
    return Work(title, _REQUESTS, "us a request", 1e6, _asked(path, body))


WORKS = {
    "digest": _small(
        "manifest by digest", lambda content: f"manifests/{content.manifest.digest}", lambda content: content.manifest
    ),
    "tag": _small("manifest by tag", lambda _: f"manifests/{TAG}", lambda content: content.manifest),
    "small": _small("blob of 300 bytes", lambda content: content.small.route, lambda content: content.small),
    "warm": Work(f"warm blob of {WARM // MIB} MiB", WARM / 1e9, "s a GB", 1, _warm, 3.0),
    "cold": Work(f"cold blob of {_FRESH // MIB} MiB", 1, "ms a pull", 1e3, _cold, 4.0, _FRESH),
    "push": Work(f"push of {_FRESH // MIB} MiB", 1, "ms a push", 1e3, _push, 4.0, _FRESH),
}
