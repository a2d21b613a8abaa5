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
import gzip
import hashlib
import hmac
import json
import math
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, unquote, urlencode

from tests.peers import faults
from tests.peers.images import Image, digest_of, make_image

KINDS = ("ping", "manifest", "blob", "tags", "referrers", "token", "cdn", "any")
_PIECE = 1 << 20
_INDEX = "application/vnd.oci.image.index.v1+json"
_ROUTES = (
    ("manifest", re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")),
    ("blob", re.compile(r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)")),
    ("tags", re.compile(r"/v2/(?P<name>.+)/tags/list")),
    ("referrers", re.compile(r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)")),
    ("cdn", re.compile(r"/cdn/(?P<reference>[^/]+)")),
)


@dataclass
class Recorded:
    """One request as it came, and how many bytes of body were sent for it."""

    kind: str
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    status: int = 0
    sent: int = 0

    @property
    def target(self) -> str:
        """The request target: path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path


@dataclass
class BasicLogin:
    """Every request under /v2/ needs one of these logins."""

    users: Mapping[str, str]


@dataclass
class TokenLogin:
    """Every request under /v2/ needs a token from `/token` (or from `realm`).

    `expires_in` None leaves it out of the answer; `lifetime` is how long a token really lives in seconds;
    `jwt` makes tokens that carry `exp`. `private` repositories need a user, `denied` ones are for nobody.
    With `refuse_unknown` the token endpoint itself answers 403 for denied repositories, as ghcr does.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    refresh_tokens: Iterable[str] = ()
    anonymous: bool = True
    private: Iterable[str] = ()
    denied: Iterable[str] = ()
    refuse_unknown: bool = False
    expires_in: int | None = 300
    lifetime: float = 300.0
    jwt: bool = False
    post: int = 200  # the status that answers POST: 200 works, else the server has no POST
    field: str = "token"
    realm: str = "{self}/token"
    service: str = "scripted"
    scope: str = "repository:{name}:pull"
    ping_challenge_only: bool = False  # as gcr.io: 401 without WWW-Authenticate except on /v2/
    body: Callable[[str], bytes] | None = None  # makes the whole token answer from the token


@dataclass
class _Repository:
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    referrers: dict[str, list[dict[str, object]]] = field(default_factory=dict)


@dataclass
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes | memoryview
    length: int | None = None  # Content-Length as announced; None: the body's

    def set(self, name: str, value: str) -> None:
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        if value:
            self.headers.append((name, value))


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
        self.repositories: dict[str, _Repository] = {}
        self.requests: list[Recorded] = []
        self.connections = 0
        self.open_connections = 0
        self._with_cdn = cdn
        self._tls = tls
        self._bind = host
        self._name = name or host
        self._port = port
        self._script: list[tuple[str, str, faults.Fault, list[int]]] = []
        self._tokens: dict[str, tuple[str, tuple[str, ...], float]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._key = hashlib.sha256(str(id(self)).encode()).digest()
        self._serial = 0
        self.port = 0
        self.cdn_port = 0
        self.cdn_name = self._name

    # -- life

    async def start(self) -> Self:
        """Listen; `port` and `cdn_port` are known afterwards."""
        server = await asyncio.start_server(self._accept, self._bind, self._port, ssl=self._tls, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)
        if self._with_cdn:
            cdn = await asyncio.start_server(self._accept, self._bind, 0, ssl=self._tls, backlog=512)
            self.cdn_port = cdn.sockets[0].getsockname()[1]
            self._servers.append(cdn)
        return self

    async def stop(self) -> None:
        """Close the listeners and every connection."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    async def restart(self) -> None:
        """Listen again on the same port after `stop()`."""
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
    def cdn_host(self) -> str:
        """host:port of the second origin."""
        return f"{self.cdn_name}:{self.cdn_port}"

    # -- content

    def repository(self, name: str) -> _Repository:
        """Return the repository `name`, made if it is not there."""
        return self.repositories.setdefault(name, _Repository())

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

    def fail(self, kind: str, fault: faults.Fault, times: float = math.inf, method: str = "", after: int = 0) -> None:
        """Let the next `times` requests of `kind` (after `after` good ones) meet `fault`; first rule that fits wins."""
        assert kind in KINDS, kind
        self._script.append((kind, method, fault, [after, times]))  # type: ignore[list-item]

    def heal(self) -> None:
        """Forget every fault."""
        self._script.clear()

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
        self._tokens.clear()

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
            await self._control(path, body, writer)
            return True
        kind, name, reference = self._classify(path)
        record = Recorded(kind, method, path, query, headers, body)
        self.requests.append(record)
        fault = self._next_fault(kind, method)
        if isinstance(fault, faults.HangHeaders):
            if fault.seconds == math.inf:
                await reader.read()
                return False
            await asyncio.sleep(fault.seconds)
            fault = None
        if isinstance(fault, faults.CloseBeforeHeaders):
            self._cut(writer, fault.rst)
            return False
        answer = self._faulty(fault, record) or self._answer(kind, name, reference, record, fault)
        return await self._send(writer, record, answer, fault)

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

    def _next_fault(self, kind: str, method: str) -> faults.Fault | None:
        for wanted, wanted_method, fault, counts in self._script:
            if wanted not in (kind, "any") or (wanted_method and wanted_method != method):
                continue
            if counts[0] > 0:
                counts[0] -= 1
                continue
            if counts[1] > 0:
                counts[1] -= 1
                return fault
        return None

    def _faulty(self, fault: faults.Fault | None, record: Recorded) -> _Answer | None:
        origin = f"{self.scheme}://{self.host}"
        match fault:
            case faults.Status(status, headers, body):
                pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
                return _Answer(status, pairs, body)
            case faults.Challenge(lines):
                return _Answer(401, [("WWW-Authenticate", line.replace("{self}", origin)) for line in lines], b"{}")
            case faults.TooMany(retry_after):
                pairs = [] if retry_after is None else [("Retry-After", str(retry_after))]
                return _Answer(429, pairs, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')
            case faults.Redirect(location, status):
                pairs = []
                if location is not None:
                    pairs = [("Location", location.replace("{self}", origin).replace("{path}", record.path))]
                return _Answer(status, pairs, b"")
            case faults.Html():
                return _Answer(200, [("Content-Type", "text/html; charset=utf-8")], b"<html>Sign in</html>")
        return None

    def _answer(self, kind: str, name: str, reference: str, record: Recorded, fault: faults.Fault | None) -> _Answer:
        if kind == "token":
            return self._token(record)
        if kind == "cdn":
            return self._from_cdn(reference, record, fault)
        if (refusal := self._refuse(kind, name, record)) is not None:
            return refusal
        there = self.repositories.get(name, _Repository())
        if kind == "ping":
            return _Answer(200, [("Content-Type", "application/json")], b"{}")
        if kind == "manifest":
            return self._manifest(there, reference)
        if kind == "blob":
            return self._blob(there, reference, record, fault)
        if kind == "tags" and name in self.repositories:
            return self._tags(name, there, record)
        if kind == "referrers" and self.has_referrers:
            body = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": there.referrers.get(reference, [])}
            return _Answer(200, [("Content-Type", _INDEX)], json.dumps(body).encode())
        return _error(404, "NAME_UNKNOWN")

    def _manifest(self, there: _Repository, reference: str) -> _Answer:
        digest = there.tags.get(reference, reference)
        if digest not in there.manifests:
            return _error(404, "MANIFEST_UNKNOWN")
        body, media_type = there.manifests[digest]
        headers = [("Content-Type", media_type), ("Docker-Content-Digest", digest), *self.extra_headers.items()]
        return _Answer(200, headers, body)

    def _blob(self, there: _Repository, digest: str, record: Recorded, fault: faults.Fault | None) -> _Answer:
        if digest not in there.blobs:
            return _error(404, "BLOB_UNKNOWN")
        if self._with_cdn and record.method == "GET":
            return _Answer(self.redirect_status, [("Location", self._sign(digest))], b"")
        return _ranged(there.blobs[digest], record, fault)

    def _sign(self, digest: str) -> str:
        # As signed URLs are: what is escaped differs from what a client would escape itself, and it counts.
        expires = f"{time.time() + self.url_lifetime:.6f}"
        signature = base64.b64encode(hmac.digest(self._key, (digest + expires).encode(), "sha256")).decode()
        escaped = signature.replace("+", "%2B").replace("=", "%3d").replace("/", "%2F")
        query = f"username=robot%2Bsecret&X-Amz-Expires={expires}&sig={escaped}&path=%7Ea!b'c%2fd"
        return f"{self.scheme}://{self.cdn_host}/cdn/{digest.replace(':', '%3A')}?{query}"

    def _from_cdn(self, digest: str, record: Recorded, fault: faults.Fault | None) -> _Answer:
        if "authorization" in record.headers:
            return _Answer(400, [], b"<Error>InvalidArgument: two ways to authenticate</Error>")
        match = re.fullmatch(
            r"username=robot%2Bsecret&X-Amz-Expires=([0-9.]+)&sig=([^&]+)&path=%7Ea!b'c%2fd", record.query
        )
        expected = b""
        if match:
            expected = base64.b64encode(hmac.digest(self._key, (digest + match[1]).encode(), "sha256"))
        if not match or unquote(match[2]).encode() != expected or float(match[1]) < time.time():
            return _Answer(403, [("Content-Type", "application/xml")], b"<Error><Code>AccessDenied</Code></Error>")
        for there in self.repositories.values():
            if digest in there.blobs:
                return _ranged(there.blobs[digest], record, fault)
        return _Answer(404, [], b"")

    def _tags(self, name: str, there: _Repository, record: Recorded) -> _Answer:
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
        return _Answer(200, headers, json.dumps({"name": name, "tags": tags}).encode())

    # -- logins

    def _refuse(self, kind: str, name: str, record: Recorded) -> _Answer | None:
        login = self.login
        given = record.headers.get("authorization", "")
        if login is None:
            return None
        if isinstance(login, BasicLogin):
            if self._basic_user(given, login.users):
                return None
            return _error(401, "UNAUTHORIZED", [("WWW-Authenticate", 'Basic realm="scripted"')])
        scope = login.scope.replace("{name}", name)
        token = given.removeprefix("Bearer ")
        _user, scopes, until = self._tokens.get(token, ("", (), 0.0))
        if given and until > time.monotonic() and (kind == "ping" or scope in scopes):
            return None
        parameters = f'realm="{self._realm(login)}",service="{login.service}"'
        if kind != "ping":
            parameters += f',scope="{scope}"'
        if given:
            parameters += ',error="insufficient_scope"' if until > time.monotonic() else ',error="invalid_token"'
        challenge = [("WWW-Authenticate", f"Bearer {parameters}")]
        if login.ping_challenge_only and kind != "ping":
            challenge = []
        return _error(401, "UNAUTHORIZED", challenge)

    def _realm(self, login: TokenLogin) -> str:
        return login.realm.replace("{self}", f"{self.scheme}://{self.host}")

    def _basic_user(self, given: str, users: Mapping[str, str]) -> str:
        scheme, _, encoded = given.partition(" ")
        if scheme.lower() != "basic":
            return ""
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return user if user in users and users[user] == password else ""

    def _token(self, record: Recorded) -> _Answer:
        login = self.login
        if not isinstance(login, TokenLogin):
            return _error(404, "UNKNOWN")
        given = record.headers.get("authorization", "")
        if record.method == "POST":
            if login.post != 200:
                return _error(login.post, "UNSUPPORTED")
            form = {key: values[0] for key, values in parse_qs(record.body.decode()).items()}
            scopes = tuple(form.get("scope", "").split())
            if form.get("grant_type") == "refresh_token":
                user = "refresh" if form.get("refresh_token") in tuple(login.refresh_tokens) else ""
            else:
                named = form.get("username", "")
                user = named if login.users.get(named) == form.get("password") else ""
            if not user:
                return _error(401, "UNAUTHORIZED")
        else:
            scopes = tuple(parse_qs(record.query).get("scope", []))
            user = self._basic_user(given, login.users)
            if not user and (given or not login.anonymous):
                return _error(401, "UNAUTHORIZED")
        granted = tuple(scope for scope in scopes if self._grants(login, user, scope))
        if login.refuse_unknown and scopes and not granted:
            return _error(403, "DENIED")
        return _Answer(200, [("Content-Type", "application/json")], self._token_body(login, user, granted))

    def _grants(self, login: TokenLogin, user: str, scope: str) -> bool:
        name = scope.removeprefix("repository:").rpartition(":")[0]
        return name not in tuple(login.denied) and bool(user or name not in tuple(login.private))

    def _token_body(self, login: TokenLogin, user: str, scopes: tuple[str, ...]) -> bytes:
        self._serial += 1
        token = f"tok{self._serial}." + hashlib.sha256(f"{id(self)}{self._serial}".encode()).hexdigest()
        if login.jwt:
            claims = {"exp": int(time.time() + login.lifetime), "iat": int(time.time()), "jti": self._serial}
            parts = ({"alg": "RS256", "typ": "JWT"}, claims, {"signature": "not checked"})
            token = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts)
        self._tokens[token] = (user, scopes, time.monotonic() + login.lifetime)
        if login.body is not None:
            return login.body(token)
        answer: dict[str, object] = {login.field: token}
        if login.expires_in is not None:
            answer["expires_in"] = login.expires_in
        return json.dumps(answer).encode()

    # -- sending

    def _cut(self, writer: asyncio.StreamWriter, rst: bool) -> None:
        sock = writer.get_extra_info("socket")
        if rst and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()

    async def _send(
        self, writer: asyncio.StreamWriter, record: Recorded, answer: _Answer, fault: faults.Fault | None
    ) -> bool:
        body, chunked, limit = memoryview(answer.body), False, None
        keep = record.headers.get("connection", "").lower() != "close"
        if isinstance(fault, faults.WithHeaders):
            for name, value in fault.headers.items():
                answer.set(name, value)
        elif isinstance(fault, faults.Gzip):
            body = memoryview(gzip.compress(bytes(body)))
            answer.set("Content-Encoding", "gzip")
        elif isinstance(fault, faults.FlipBit):
            changed = bytearray(body)
            changed[fault.at % len(changed)] ^= 1
            body = memoryview(bytes(changed))
        length: int | None = len(body)
        if isinstance(fault, faults.LieLength):
            length, keep = len(body) + fault.by, False
        elif isinstance(fault, faults.NoLength):
            length, keep, chunked, limit = None, False, fault.chunked, fault.at
        record.status = answer.status
        lines = [f"HTTP/1.1 {answer.status} Scripted", *(f"{key}: {value}" for key, value in answer.headers)]
        if length is not None and answer.status != 304:
            lines.append(f"Content-Length: {length}")
        elif chunked:
            lines.append("Transfer-Encoding: chunked")
        if not keep:
            lines.append("Connection: close")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        if record.method != "HEAD":
            keep = await self._send_body(writer, record, body, fault, chunked, limit) and keep
        await writer.drain()
        if not keep:
            self._cut(writer, rst=False)
        return keep

    async def _send_body(
        self,
        writer: asyncio.StreamWriter,
        record: Recorded,
        body: memoryview,
        fault: faults.Fault | None,
        chunked: bool,
        limit: int | None,
    ) -> bool:
        async def put(piece: memoryview) -> None:
            if chunked and len(piece):
                writer.write(b"%x\r\n" % len(piece) + bytes(piece) + b"\r\n")
            else:
                writer.write(piece)
            record.sent += len(piece)
            await writer.drain()

        if limit is not None:
            body = body[:limit]
        match fault:
            case faults.Truncate(at, rst):
                await put(body[:at])
                if rst:
                    await asyncio.sleep(0.05)  # so that what was sent arrives before the reset
                self._cut(writer, rst)
                return False
            case faults.Stall(at, seconds):
                await put(body[:at])
                await asyncio.sleep(seconds if seconds < math.inf else 3600)
                body = body[at:]
            case faults.Drip(size, every):
                for start in range(0, len(body), size):
                    await put(body[start : start + size])
                    await asyncio.sleep(every)
                body = body[:0]
        for start in range(0, len(body), _PIECE):
            await put(body[start : start + _PIECE])
        if chunked:
            writer.write(b"0\r\n\r\n")
        return True

    # -- control from another process

    async def _control(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(body or b"{}")
        answer: object = {}
        if path == "/_scripted/requests":
            answer = [
                {key: getattr(one, key) for key in ("kind", "method", "path", "query", "headers", "status", "sent")}
                for one in self.requests
            ]
        elif path == "/_scripted/fail":
            fault = getattr(faults, asked["fault"])(**asked.get("with", {}))
            self.fail(asked["kind"], fault, asked.get("times", math.inf), asked.get("method", ""))
        elif path == "/_scripted/heal":
            self.heal()
        elif path == "/_scripted/forget":
            self.forget()
        elif path == "/_scripted/image":
            layers = [base64.b64decode(layer) for layer in asked.get("layers", [])]
            image = self.add_image(asked["repository"], *asked["tags"], layers=layers, seed=asked.get("seed", 0))
            answer = {"digest": image.digest, "layers": [digest_of(layer) for layer in image.layers]}
        content = json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()


def _error(status: int, code: str, headers: Iterable[tuple[str, str]] = ()) -> _Answer:
    body = json.dumps({"errors": [{"code": code, "message": code.lower(), "detail": {}}]}).encode()
    return _Answer(status, [("Content-Type", "application/json"), *headers], body)


def _ranged(content: bytes, record: Recorded, fault: faults.Fault | None) -> _Answer:
    headers = [("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes")]
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", record.headers.get("range", ""))
    if wanted is None or isinstance(fault, faults.IgnoreRange):
        return _Answer(200, headers, content)
    first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if first >= len(content):
        return _Answer(416, [("Content-Range", f"bytes */{len(content)}")], b"")
    value = f"bytes {first}-{last}/{len(content)}"
    if isinstance(fault, faults.WrongContentRange):
        value = fault.value or f"bytes {first + 1}-{last}/{len(content)}"
    return _Answer(206, [*headers, ("Content-Range", value)], memoryview(content)[first : last + 1])


if __name__ == "__main__":
    from tests.peers.process import main

    main(ScriptedRegistry)
