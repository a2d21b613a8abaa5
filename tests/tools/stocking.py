"""Push whole releases into a registry in seconds: many connections, each blob once, mounted where else it is needed."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import quote, urlencode, urljoin, urlsplit

from tests.tools.images import Content, Manifest
from tests.tools.push import PushError
from tests.tools.release import Placed

_CONNECTIONS = 6


class Stockist:
    """Pushes to the registry at `url`; remembers what it pushed, so that a second release costs what is new.

    `authorization` is the header's value where the registry asks for one, `context` what TLS is trusted.
    """

    def __init__(self, url: str, authorization: str = "", context: ssl.SSLContext | None = None) -> None:
        self._url = url
        self._headers = {"Authorization": authorization} if authorization else {}
        self._context = context
        self._pushed: dict[tuple[str, str], str] = {}  # (repository, digest): repository
        self._home: dict[str, str] = {}  # digest of a blob: a repository that has it

    def push(self, placed: Iterable[Placed]) -> None:
        """Push manifests with all under them, and tag them; raise PushError at the first refusal."""
        placed = list(placed)
        blobs = [
            (one.repository, blob)
            for one in placed
            for blob in one.manifest.all_blobs().values()
            if (one.repository, blob.digest) not in self._pushed
        ]
        once: dict[str, tuple[str, Content]] = {}
        again: dict[tuple[str, str], Content] = {}
        for repository, blob in blobs:
            if blob.digest in self._home or once.setdefault(blob.digest, (repository, blob))[0] != repository:
                again[(repository, blob.digest)] = blob
        self._in_parallel(self._upload, list(once.values()))
        self._home.update((digest, repository) for digest, (repository, _) in once.items())
        self._in_parallel(self._mount, [(repository, blob) for (repository, _), blob in again.items()])
        self._pushed.update(((repository, blob.digest), repository) for repository, blob in blobs)
        leaves, lists = [], []
        for one in placed:
            for manifest in one.manifest.all_manifests():
                references = [manifest.digest, *(one.tags if manifest is one.manifest else ())]
                whither = lists if manifest.children else leaves
                whither += [(one.repository, manifest, reference) for reference in references]
        self._in_parallel(self._manifest, leaves)
        self._in_parallel(self._manifest, lists)

    def _in_parallel(self, push: object, work: list[tuple[object, ...]]) -> None:
        def share(number: int) -> None:
            with closing(self._connect()) as connection:
                for one in work[number::_CONNECTIONS]:
                    push(connection, *one)

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            list(pool.map(share, range(min(_CONNECTIONS, len(work)))))

    def _connect(self) -> http.client.HTTPConnection:
        split = urlsplit(self._url)
        if split.scheme == "https":
            return http.client.HTTPSConnection(split.netloc, timeout=60, context=self._context)
        return http.client.HTTPConnection(split.netloc, timeout=60)

    def _upload(self, connection: http.client.HTTPConnection, repository: str, blob: Content) -> None:
        status, headers = self._send(connection, "POST", f"/v2/{repository}/blobs/uploads/")
        if status != 202:
            raise PushError(f"an upload to {repository} was answered {status}")
        split = urlsplit(urljoin(self._url, headers["Location"]))
        query = "&".join(part for part in (split.query, urlencode({"digest": blob.digest})) if part)
        self._created(connection, "PUT", f"{split.path}?{query}", blob.body, "application/octet-stream")

    def _mount(self, connection: http.client.HTTPConnection, repository: str, blob: Content) -> None:
        home = self._home[blob.digest]
        if home == repository:
            return
        query = urlencode({"mount": blob.digest, "from": home})
        self._created(connection, "POST", f"/v2/{repository}/blobs/uploads/?{query}")

    def _manifest(
        self, connection: http.client.HTTPConnection, repository: str, manifest: Manifest, reference: str
    ) -> None:
        path = f"/v2/{repository}/manifests/{quote(reference, safe=':')}"
        self._created(connection, "PUT", path, manifest.body, manifest.media_type)

    def _created(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", media_type: str = ""
    ) -> None:
        status, _ = self._send(connection, method, path, body, {"Content-Type": media_type} if media_type else {})
        if status != 201:
            raise PushError(f"{method} {path} was answered {status}")

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str]]:
        connection.request(method, path, body, {**self._headers, **(headers or {})})
        response = connection.getresponse()
        response.read()
        return response.status, dict(response.getheaders())
