"""An update graph service: channels, edges and conditional edges with risks, as clusters and mirrors ask for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PATH = "/api/upgrades_info/v1/graph"
_TYPES = ("application/json", "application/vnd.redhat.cincinnati.v1+json", "*/*", "application/*")
_LABEL = "io.openshift.upgrades.graph.release"


@dataclass
class _Node:
    version: str
    payload: str
    channels: tuple[str, ...]
    architecture: str


@dataclass
class Risk:
    """Why an update is not for everybody."""

    name: str
    message: str
    url: str = "https://access.redhat.com/solutions/0000000"
    rules: Sequence[Mapping[str, Any]] = field(default_factory=lambda: [{"type": "Always"}])


class Cincinnati:
    """Serves the graph that tests draw with `add`, `edge` and `conditional`. A context manager.

    The order of nodes changes from answer to answer, as it does outside. `asked` holds the query of each request;
    `unavailable` is a status that answers all of them.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.unavailable: int | None = None
        self._nodes: list[_Node] = []
        self._edges: set[tuple[str, str]] = set()
        self._conditional: dict[tuple[str, str], list[Risk]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}{PATH}"

    def __enter__(self) -> Cincinnati:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, version: str, payload: str, *channels: str, architecture: str = "amd64") -> None:
        """Put a release, by its pullspec, into channels."""
        self._nodes.append(_Node(version, payload, channels, architecture))

    def edge(self, old: str, new: str) -> None:
        """Let everybody update from `old` to `new`."""
        self._edges.add((old, new))

    def conditional(self, old: str, new: str, *risks: Risk) -> None:
        """Let update from `old` to `new` those whom no risk concerns."""
        self._conditional[(old, new)] = list(risks)

    def graph(self, channel: str, architecture: str) -> dict[str, Any]:
        """Return the document; an unknown channel has nothing in it."""
        nodes = [one for one in self._nodes if channel in one.channels and one.architecture == architecture]
        if len(self.asked) % 2:
            nodes.reverse()
        places = {one.version: place for place, one in enumerate(nodes)}
        edges = [[places[old], places[new]] for old, new in self._edges if old in places and new in places]
        return {
            "version": 1,
            "nodes": [
                {
                    "version": one.version,
                    "payload": one.payload,
                    "metadata": {
                        "url": "https://access.redhat.com/errata/RHSA-0000:0000",
                        f"{_LABEL}.channels": ",".join(one.channels),
                        f"{_LABEL}.manifestref": one.payload.partition("@")[2],
                    },
                }
                for one in nodes
            ],
            "edges": edges,
            "conditionalEdges": [
                {"edges": [{"from": old, "to": new}], "risks": [_described(risk) for risk in risks]}
                for (old, new), risks in self._conditional.items()
                if old in places and new in places
            ],
        }

    def answer(self, target: str, accept: str) -> tuple[int, Any]:
        """Return status and document for a request."""
        split = urlsplit(target)
        query = dict(parse_qsl(split.query))
        self.asked.append(query)
        if self.unavailable:
            return self.unavailable, {}
        if split.path not in (PATH, "/api/upgrades_info/graph"):
            return 404, {}
        if not any(one.partition(";")[0].strip() in _TYPES for one in accept.split(",")):
            return 406, {"kind": "invalid_content_type", "value": "invalid Content-Type requested"}
        if "channel" not in query:
            return 400, {"kind": "missing_params", "value": "mandatory client parameters missing: channel"}
        return 200, self.graph(query["channel"], query.get("arch", "amd64"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, document = service.answer(self.path, self.headers.get("Accept", "*/*"))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: Any) -> None:
                """Say nothing: `asked` holds what tests want to know."""

        return Handler


def _described(risk: Risk) -> dict[str, Any]:
    return {"url": risk.url, "name": risk.name, "message": risk.message, "matchingRules": list(risk.rules)}
