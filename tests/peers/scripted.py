"""A registry that serves the images it is given and misbehaves as it is told, on raw asyncio sockets.

    async with ScriptedRegistry() as registry:
        image = registry.add_image("team/app", "v1")
        registry.fail("blob", Truncate(at=1000), times=1)
        ...
        assert registry.count("blob") == 2

`python -m tests.peers.scripted --help` runs one as a process of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
import re
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import Self
from urllib.parse import parse_qs, unquote, urlencode

from tests.peers import faults
from tests.peers.answers import Answer, Recorded, Repository, error, ranged
from tests.peers.control import control
from tests.peers.images import Image, digest_of, make_image
from tests.peers.logins import BasicLogin, TokenDesk, TokenLogin
from tests.peers.sending import cut, send

KINDS = ("ping", "manifest", "blob", "tags", "referrers", "token", "cdn", "any")
_INDEX = "application/vnd.oci.image.index.v1+json"
_ROUTES = (
    ("manifest", re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")),
    ("blob", re.compile(r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)")),
    ("tags", re.compile(r"/v2/(?P<name>.+)/tags/list")),
    ("referrers", re.compile(r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)")),
    ("cdn", re.compile(r"/cdn/(?P<reference>[^/]+)")),
)


class ScriptedRegistry:
    """An upstream on loopback, with its own token endpoint and (with `cdn`) a second origin that serves blobs."""

    def __init__(
        self,
        *,
        login: BasicLogin | TokenLogin | None = None,
        cdn: bool = False,
        url_lifetime: float = 600.0,
        redirect_status: int = 307,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        name: str = "",
        port: int = 0,
        prefix: str = "",
        page: int = 0,
        absolute_links: bool = False,
        referrers: bool = True,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        self.login = login
        self.url_lifetime = url_lifetime
        self.redirect_status = redirect_status
        self.page = page
        self.absolute_links = absolute_links
        self.has_referrers = referrers
        self.extra_headers = dict(extra_headers or {})
        self.prefix = prefix
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Recorded] = []
        self.connections = 0
        self.open_connections = 0
        self._with_cdn = cdn
        self._tls = tls
        self._bind = host
        self._name = name or host
        self._port = port
        self._script: list[tuple[str, str, str, faults.Fault, list[int]]] = []
        self._desk = TokenDesk()
        self._servers: list[asyncio.Server] = []
        self._held: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hung: set[asyncio.StreamWriter] = set()
        self._key = hashlib.sha256(str(id(self)).encode()).digest()
        self.port = 0
        self.cdn_port = 0
        self.cdn_name = self._name

    # -- life

    async def start(self) -> Self:
        """Listen; `port` and `cdn_port` are known afterwards."""
        server = await asyncio.start_server(self._accept, self._bind, self._port, ssl=self._tls, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)
        self._let_go()
        if self._with_cdn:
            cdn = await asyncio.start_server(self._accept, self._bind, 0, ssl=self._tls, backlog=512)
            self.cdn_port = cdn.sockets[0].getsockname()[1]
            self._servers.append(cdn)
        return self

    async def stop(self, *, returning: bool = False) -> None:
        """Close the listeners and every connection; `returning`: keep the port, which refuses, from everybody else."""
        for server in self._servers:
            server.close()
        self._let_go()
        if returning:
            # Bound and not listening: no client of this host is given it for its own end.
            self._held = socket.socket(socket.AF_INET6 if ":" in self._bind else socket.AF_INET)
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind((self._bind, self.port))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()

    async def restart(self) -> None:
        """Listen again on the same port after `stop(returning=True)`."""
        self._port = self.port
        await self.start()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return "https" if self._tls else "http"

    @property
    def host(self) -> str:
        """host:port as a client dials it."""
        name = f"[{self._name}]" if ":" in self._name else self._name
        return f"{name}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL that `endpoints` of a configuration names, prefix included."""
        return f"{self.scheme}://{self.host}{self.prefix}"

    @property
    def origin(self) -> str:
        """Scheme, host and port, without the prefix."""
        return f"{self.scheme}://{self.host}"

    @property
    def _tokens(self) -> dict[str, tuple[str, tuple[str, ...], float]]:
        return self._desk.tokens

    @_tokens.setter
    def _tokens(self, tokens: dict[str, tuple[str, tuple[str, ...], float]]) -> None:
        self._desk.tokens = tokens

    @property
    def cdn_host(self) -> str:
        """host:port of the second origin."""
        return f"{self.cdn_name}:{self.cdn_port}"

    # -- content

    def repository(self, name: str) -> Repository:
        """Return the repository `name`, made if it is not there."""
        return self.repositories.setdefault(name, Repository())

    def add_blob(self, repository: str, content: bytes, algorithm: str = "sha256") -> str:
        """Serve `content` as a blob; return its digest."""
        digest = digest_of(content, algorithm)
        self.repository(repository).blobs[digest] = content
        return digest

    def add_manifest(self, repository: str, body: bytes, media_type: str, *tags: str, algorithm: str = "sha256") -> str:
        """Serve `body` as a manifest by digest and by `tags`; return its digest."""
        digest = digest_of(body, algorithm)
        there = self.repository(repository)
        there.manifests[digest] = (body, media_type)
        for tag in tags:
            there.tags[tag] = digest
        return digest

    def add_image(self, repository: str, *tags: str, layers: Iterable[bytes] = (), seed: int = 0) -> Image:
        """Serve a whole image; return it."""
        image = make_image(*layers, seed=seed)
        for blob in (image.config, *image.layers):
            self.add_blob(repository, blob)
        self.add_manifest(repository, image.manifest, image.media_type, *tags)
        return image

    # -- script and record

    def fail(
        self,
        kind: str,
        fault: faults.Fault,
        times: float = math.inf,
        method: str = "",
        after: int = 0,
        repository: str = "",
    ) -> None:
        """Let the next `times` requests of `kind` (after `after` good ones) meet `fault`; first rule that fits wins.

        With `repository` only requests for it do.
        """
        assert kind in KINDS, kind
        self._script.append((kind, method, repository, fault, [after, times]))  # type: ignore[list-item]

    def heal(self) -> None:
        """Forget every fault."""
        self._script.clear()

    @property
    def hanging(self) -> bool:
        """Whether a request is being left without an answer."""
        return bool(self._hung)

    def hang_up(self) -> None:
        """Break off what hangs."""
        for writer in self._hung:
            writer.transport.abort()

    def forget(self) -> None:
        """Forget the requests seen so far."""
        self.requests.clear()

    def count(self, kind: str, method: str = "") -> int:
        """Return how many requests of `kind` came (with `method`, if given)."""
        return sum(1 for seen in self.requests if seen.kind == kind and method in ("", seen.method))

    def seen(self, kind: str) -> list[Recorded]:
        """Return the requests of `kind` in the order they came."""
        return [one for one in self.requests if one.kind == kind]

    def sent(self, kind: str) -> int:
        """Return the bytes of body sent for `kind`."""
        return sum(one.sent for one in self.requests if one.kind == kind)

    def revoke_tokens(self) -> None:
        """Refuse every token that was given out so far."""
        self._desk.tokens.clear()

    # -- serving

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        method, target, _ = line.split(" ")
        headers = {key.lower(): value.strip() for key, _, value in (one.partition(":") for one in fields if one)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path, _, query = target.partition("?")
        if path.startswith("/_scripted/"):
            await control(self, path, body, writer)
            return True
        kind, name, reference = self._classify(path)
        record = Recorded(kind, method, path, query, headers, body)
        self.requests.append(record)
        fault = self._next_fault(kind, method, name)
        if isinstance(fault, faults.HangHeaders):
            if fault.seconds == math.inf:
                self._hung.add(writer)
                try:
                    await reader.read()
                finally:
                    self._hung.discard(writer)
                return False
            await asyncio.sleep(fault.seconds)
            fault = None
        if isinstance(fault, faults.CloseBeforeHeaders):
            cut(writer, fault.rst)
            return False
        answer = self._faulty(fault, record) or self._answer(kind, name, reference, record, fault)
        return await send(writer, record, answer, fault)

    def _classify(self, path: str) -> tuple[str, str, str]:
        if self.prefix and path.startswith(self.prefix):
            path = path[len(self.prefix) :]
        path = unquote(path)
        if path in ("/v2/", "/v2"):
            return "ping", "", ""
        if path.startswith("/token"):
            return "token", "", ""
        for kind, route in _ROUTES:
            if match := route.fullmatch(path):
                groups = match.groupdict()
                return kind, groups.get("name", ""), groups.get("reference", "")
        return "other", "", ""

    def _next_fault(self, kind: str, method: str, name: str) -> faults.Fault | None:
        for wanted, wanted_method, wanted_name, fault, counts in self._script:
            if wanted not in (kind, "any") or wanted_method not in ("", method) or wanted_name not in ("", name):
                continue
            if counts[0] > 0:
                counts[0] -= 1
                continue
            if counts[1] > 0:
                counts[1] -= 1
                return fault
        return None

    def _faulty(self, fault: faults.Fault | None, record: Recorded) -> Answer | None:
        origin = self.origin
        match fault:
            case faults.Status(status, headers, body):
                pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
                return Answer(status, pairs, body)
            case faults.Challenge(lines):
                return Answer(401, [("WWW-Authenticate", line.replace("{self}", origin)) for line in lines], b"{}")
            case faults.TooMany(retry_after):
                pairs = [] if retry_after is None else [("Retry-After", str(retry_after))]
                return Answer(429, pairs, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')
            case faults.Redirect(location, status):
                pairs = []
                if location is not None:
                    pairs = [("Location", location.replace("{self}", origin).replace("{path}", record.path))]
                return Answer(status, pairs, b"")
            case faults.Html():
                return Answer(200, [("Content-Type", "text/html; charset=utf-8")], b"<html>Sign in</html>")
        return None

    def _answer(self, kind: str, name: str, reference: str, record: Recorded, fault: faults.Fault | None) -> Answer:
        if kind == "token":
            return self._desk.token(self.login, record)
        if kind == "cdn":
            return self._from_cdn(reference, record, fault)
        if (refusal := self._desk.refuse(self.login, kind, name, record, self.origin)) is not None:
            return refusal
        there = self.repositories.get(name, Repository())
        if kind == "ping":
            return Answer(200, [("Content-Type", "application/json")], b"{}")
        if kind == "manifest":
            return self._manifest(there, reference)
        if kind == "blob":
            return self._blob(there, reference, record, fault)
        if kind == "tags" and name in self.repositories:
            return self._tags(name, there, record)
        if kind == "referrers" and self.has_referrers:
            body = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": there.referrers.get(reference, [])}
            return Answer(200, [("Content-Type", _INDEX)], json.dumps(body).encode())
        return error(404, "NAME_UNKNOWN")

    def _manifest(self, there: Repository, reference: str) -> Answer:
        digest = there.tags.get(reference, reference)
        if digest not in there.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        body, media_type = there.manifests[digest]
        headers = [("Content-Type", media_type), ("Docker-Content-Digest", digest), *self.extra_headers.items()]
        return Answer(200, headers, body)

    def _blob(self, there: Repository, digest: str, record: Recorded, fault: faults.Fault | None) -> Answer:
        if digest not in there.blobs:
            return error(404, "BLOB_UNKNOWN")
        if self._with_cdn and record.method == "GET":
            return Answer(self.redirect_status, [("Location", self._sign(digest))], b"")
        return ranged(there.blobs[digest], record, fault)

    def _sign(self, digest: str) -> str:
        # As signed URLs are: what is escaped differs from what a client would escape itself, and it counts.
        expires = f"{time.time() + self.url_lifetime:.6f}"
        signature = base64.b64encode(hmac.digest(self._key, (digest + expires).encode(), "sha256")).decode()
        escaped = signature.replace("+", "%2B").replace("=", "%3d").replace("/", "%2F")
        query = f"username=robot%2Bsecret&X-Amz-Expires={expires}&sig={escaped}&path=%7Ea!b'c%2fd"
        return f"{self.scheme}://{self.cdn_host}/cdn/{digest.replace(':', '%3A')}?{query}"

    def _from_cdn(self, digest: str, record: Recorded, fault: faults.Fault | None) -> Answer:
        if "authorization" in record.headers:
            return Answer(400, [], b"<Error>InvalidArgument: two ways to authenticate</Error>")
        match = re.fullmatch(
            r"username=robot%2Bsecret&X-Amz-Expires=([0-9.]+)&sig=([^&]+)&path=%7Ea!b'c%2fd", record.query
        )
        expected = b""
        if match:
            expected = base64.b64encode(hmac.digest(self._key, (digest + match[1]).encode(), "sha256"))
        if not match or unquote(match[2]).encode() != expected or float(match[1]) < time.time():
            return Answer(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
        for there in self.repositories.values():
            if digest in there.blobs:
                return ranged(there.blobs[digest], record, fault)
        return Answer(404, [], b"")

    def _tags(self, name: str, there: Repository, record: Recorded) -> Answer:
        asked = {key: values[0] for key, values in parse_qs(record.query).items()}
        tags = [tag for tag in sorted(there.tags) if tag > asked.get("last", "")]
        size = min(int(asked.get("n", 10**9)), self.page or 10**9)
        headers = [("Content-Type", "application/json")]
        if size < len(tags):
            tags = tags[:size]
            link = f"{self.prefix}/v2/{name}/tags/list?" + urlencode({"last": tags[-1], "n": size})
            if self.absolute_links:
                link = f"{self.scheme}://{self.host}{link}"
            headers.append(("Link", f'<{link}>; rel="next"'))
        return Answer(200, headers, json.dumps({"name": name, "tags": tags}).encode())


if __name__ == "__main__":
    from tests.peers.process import main

    main(ScriptedRegistry)
