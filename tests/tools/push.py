"""Push made images into a registry, as any client does: blobs, then manifests from the leaves up."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from urllib.parse import urlencode, urljoin, urlsplit

from tests.tools.images import Manifest


class PushError(Exception):
    """The registry answered a push with something else than 201."""


def push(address: str, repository: str, manifest: Manifest, *tags: str) -> None:
    """Push `manifest` with all under it to `repository` of the plain-http registry at `address` (host:port)."""
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        for digest, blob in manifest.all_blobs().items():
            status, headers = _send(connection, "POST", f"/v2/{repository}/blobs/uploads/")
            if status != 202:
                raise PushError(f"an upload to {repository} was answered {status}")
            split = urlsplit(urljoin(f"http://{address}", headers["Location"]))
            query = "&".join(part for part in (split.query, urlencode({"digest": digest})) if part)
            _created(connection, f"{split.path}?{query}", blob.body, "application/octet-stream")
        for each in manifest.all_manifests():
            for reference in [each.digest, *(tags if each is manifest else ())]:
                _created(connection, f"/v2/{repository}/manifests/{reference}", each.body, each.media_type)
    finally:
        connection.close()


def _created(connection: http.client.HTTPConnection, path: str, body: bytes, media_type: str) -> None:
    status, _ = _send(connection, "PUT", path, body, {"Content-Type": media_type})
    if status != 201:
        raise PushError(f"PUT {path} was answered {status}")


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Mapping[str, str]]:
    connection.request(method, path, body, dict(headers or {}))
    response = connection.getresponse()
    response.read()
    return response.status, dict(response.getheaders())
