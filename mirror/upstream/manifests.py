"""Manifests of one endpoint."""

from __future__ import annotations

from mirror.errors import DigestInvalid, UpstreamDenied, UpstreamInvalid, UpstreamNotFound
from mirror.oci.digest import Digest
from mirror.oci.media_types import bare
from mirror.upstream.answers import ManifestBody, ManifestHead
from mirror.upstream.body import read_whole
from mirror.upstream.exchange import Ask, Endpoint
from mirror.upstream.transport import Answer


async def head_manifest(endpoint: Endpoint, repository: str, reference: str, limit: int) -> ManifestHead:
    """Return what `reference` names now: by HEAD, and by GET where HEAD does not serve.

    Harbor answers 404 to HEAD for what it has not cached yet, public ECR 401, registries without HEAD 405, 500, 501 or
    502; others leave out the digest.
    """
    try:
        answer = await endpoint.ask(Ask("manifest", "HEAD", repository, f"manifests/{reference}"))
    except UpstreamNotFound:
        if endpoint.counts_pulls:
            raise  # it is no cache that has yet to look
    except (UpstreamDenied, UpstreamInvalid):
        pass
    else:
        answer.close()
        # The length of an encoded body is not the manifest's.
        digest, length = _content_digest(answer), "" if answer.codings else answer.header("Content-Length")
        if digest is not None and length.isascii() and length.isdecimal():
            return ManifestHead(digest, bare(answer.header("Content-Type")), int(length), endpoint.name)
    got = await get_manifest(endpoint, repository, reference, limit)
    return ManifestHead(got.named, got.media_type, len(got.body), got.endpoint, got)


async def get_manifest(endpoint: Endpoint, repository: str, reference: str, limit: int) -> ManifestBody:
    """Return a manifest's bytes, at most `limit`; they are not verified here."""
    answer = await endpoint.ask(Ask("manifest", "GET", repository, f"manifests/{reference}"))
    body = await read_whole(answer, limit, "a manifest", endpoint.name)
    return ManifestBody(body, bare(answer.header("Content-Type")), _content_digest(answer), endpoint.name)


def _content_digest(answer: Answer) -> Digest | None:
    try:
        return Digest.parse(answer.header("Docker-Content-Digest"))
    except DigestInvalid:
        return None
