"""A registry that takes pushes, in memory: what the conformance suite writes into, and an upstream with referrers.

`python -m tests.tools.hosting PORT`. It follows distribution-spec main to the letter, deletes aside (405).
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from aiohttp import web

_NAME = r"(?P<name>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_INDEX = "application/vnd.oci.image.index.v1+json"
_LARGEST_MANIFEST = 4 * 2**20


@dataclass
class _Repository:
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # digest: media type, body
    tags: dict[str, str] = field(default_factory=dict)
    referrers: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # subject: digest: descriptor


def _digest(algorithm: str, body: bytes) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


def _fault(status: int, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(
        {"errors": [{"code": code, "message": code.lower()}]}, status=status, headers=dict(headers or {})
    )


class Hosting:
    """The registry's state, and a handler for each route."""

    def __init__(self) -> None:
        self._repositories: dict[str, _Repository] = {}
        self._uploads: dict[str, bytearray] = {}
        routes: list[tuple[str, Callable[..., Any]]] = [
            (r"/v2/?", self._ping),
            (rf"/v2/{_NAME}/blobs/uploads/?", self._begin),
            (rf"/v2/{_NAME}/blobs/uploads/(?P<upload>[0-9a-f-]+)", self._upload),
            (rf"/v2/{_NAME}/blobs/(?P<digest>[^/]+)", self._blob),
            (rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)", self._manifest),
            (rf"/v2/{_NAME}/tags/list", self._tags),
            (rf"/v2/{_NAME}/referrers/(?P<digest>[^/]+)", self._referrers),
        ]
        self._routes = [(re.compile(pattern), handler) for pattern, handler in routes]

    async def handle(self, request: web.Request) -> web.Response:
        """Answer any request."""
        for pattern, handler in self._routes:
            match = pattern.fullmatch(request.path)
            if match:
                found = match.groupdict()
                if "name" in found:
                    found["repository"] = self._repositories.setdefault(found["name"], _Repository())
                response: web.Response = await handler(request, **found)
                return response
        return _fault(404, "NAME_UNKNOWN")

    async def _ping(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def _begin(self, request: web.Request, name: str, repository: _Repository) -> web.Response:
        query = request.query
        mounted = query.get("mount", "")
        source = self._repositories.get(query.get("from", ""), _Repository())
        if mounted in source.blobs:
            return self._stored(name, repository, mounted, source.blobs[mounted])
        if "digest" in query:
            return self._keep(name, repository, query["digest"], await request.read())
        upload = str(uuid.uuid4())
        self._uploads[upload] = bytearray()
        return self._progress(202, name, upload)

    async def _upload(self, request: web.Request, name: str, repository: _Repository, upload: str) -> web.Response:
        content = self._uploads.get(upload)
        if content is None:
            return _fault(404, "BLOB_UPLOAD_UNKNOWN")
        if request.method == "GET":
            return self._progress(204, name, upload)
        if request.method == "DELETE":
            del self._uploads[upload]
            return web.Response(status=204)
        start = request.headers.get("Content-Range", "").partition("-")[0]
        if start and int(start) != len(content):
            return self._progress(416, name, upload)
        content += await request.read()
        if request.method == "PATCH":
            return self._progress(202, name, upload)
        answer = self._keep(name, repository, request.query.get("digest", ""), bytes(content))
        if answer.status == 201:
            del self._uploads[upload]
        return answer

    def _progress(self, status: int, name: str, upload: str) -> web.Response:
        size = len(self._uploads[upload])
        headers = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Range": f"0-{max(size - 1, 0)}"}
        return web.Response(status=status, headers=headers)

    def _keep(self, name: str, repository: _Repository, digest: str, body: bytes) -> web.Response:
        if not _DIGEST.fullmatch(digest) or _digest(digest.partition(":")[0], body) != digest:
            return _fault(400, "DIGEST_INVALID")
        return self._stored(name, repository, digest, body)

    def _stored(self, name: str, repository: _Repository, digest: str, body: bytes) -> web.Response:
        repository.blobs[digest] = body
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return web.Response(status=201, headers=headers)

    async def _blob(self, request: web.Request, repository: _Repository, digest: str, **_: str) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return _fault(405, "UNSUPPORTED")
        body = repository.blobs.get(digest)
        if body is None:
            known = _DIGEST.fullmatch(digest)
            return _fault(404 if known else 400, "BLOB_UNKNOWN" if known else "DIGEST_INVALID")
        headers = {"Docker-Content-Digest": digest, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(body))  # which aiohttp leaves out for an empty one
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        status = 200
        if asked and asked.group(0) != "bytes=-":
            first, last = asked.groups()
            start = int(first) if first else max(len(body) - int(last), 0)
            stop = min(int(last) + 1, len(body)) if first and last else len(body)
            if start >= stop:
                return _fault(416, "SIZE_INVALID", {"Content-Range": f"bytes */{len(body)}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            body, status = body[start:stop], 206
        return web.Response(status=status, body=body, headers=headers, content_type="application/octet-stream")

    async def _manifest(self, request: web.Request, name: str, repository: _Repository, reference: str) -> web.Response:
        if request.method == "PUT":
            return await self._put_manifest(request, name, repository, reference)
        if request.method not in ("GET", "HEAD"):
            return _fault(405, "UNSUPPORTED")
        if ":" in reference and not _DIGEST.fullmatch(reference):
            return _fault(400, "DIGEST_INVALID")
        digest = repository.tags.get(reference, reference)
        if digest not in repository.manifests:
            return _fault(404, "MANIFEST_UNKNOWN")
        media_type, body = repository.manifests[digest]
        headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
        return web.Response(body=body, headers=headers)

    async def _put_manifest(
        self, request: web.Request, name: str, repository: _Repository, reference: str
    ) -> web.Response:
        body = await request.read()
        is_digest = ":" in reference
        if is_digest and not _DIGEST.fullmatch(reference):
            return _fault(400, "DIGEST_INVALID")
        if not is_digest and not _TAG.fullmatch(reference):
            return _fault(400, "MANIFEST_INVALID")
        digest = reference if is_digest else request.query.get("digest") or _digest("sha256", body)
        if not _DIGEST.fullmatch(digest) or _digest(digest.partition(":")[0], body) != digest:
            return _fault(400, "DIGEST_INVALID")
        if len(body) > _LARGEST_MANIFEST:
            return _fault(413, "SIZE_INVALID")
        try:
            document = json.loads(body)
            media_type = document.get("mediaType") or request.headers.get("Content-Type", "")
        except (ValueError, AttributeError):
            return _fault(400, "MANIFEST_INVALID")
        repository.manifests[digest] = (media_type, body)
        tags = request.query.getall("tag", []) if is_digest else [reference]
        for tag in tags:
            repository.tags[tag] = digest
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if subject := (document.get("subject") or {}).get("digest"):
            headers["OCI-Subject"] = subject
            repository.referrers.setdefault(subject, {})[digest] = _described(document, media_type, digest, body)
        response = web.Response(status=201, headers=headers)
        if is_digest:
            for tag in tags:
                response.headers.add("OCI-Tag", tag)
        return response

    async def _tags(self, request: web.Request, name: str, repository: _Repository) -> web.Response:
        tags = sorted(tag for tag in repository.tags if tag > request.query.get("last", ""))
        page = tags[: int(request.query.get("n", "10000"))]
        headers = {}
        if page and len(page) < len(tags):
            headers["Link"] = f'</v2/{name}/tags/list?n={len(page)}&last={quote(page[-1])}>; rel="next"'
        return web.json_response({"name": name, "tags": page}, headers=headers)

    async def _referrers(self, request: web.Request, repository: _Repository, digest: str, **_: str) -> web.Response:
        if not _DIGEST.fullmatch(digest):
            return _fault(400, "DIGEST_INVALID")
        found = list(repository.referrers.get(digest, {}).values())
        headers = {"Content-Type": _INDEX}
        if wanted := request.query.get("artifactType"):
            found = [each for each in found if each.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        document = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}
        return web.Response(body=json.dumps(document).encode(), headers=headers)


def _described(document: dict[str, Any], media_type: str, digest: str, body: bytes) -> dict[str, Any]:
    """Return the descriptor of a referrer: its type is its own, else its configuration's."""
    described: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(body)}
    artifact_type = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
    if artifact_type:
        described["artifactType"] = artifact_type
    if document.get("annotations"):
        described["annotations"] = document["annotations"]
    return described


def application() -> web.Application:
    """Return the registry as an application."""
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", Hosting().handle)
    return app


if __name__ == "__main__":
    # Access lines as docker-registry writes them, so that both are read alike.
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        access_log_format='%a "%r" %s',
    )
