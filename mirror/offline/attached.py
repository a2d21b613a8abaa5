"""What is attached to an image: cosign's tags beside it, and the manifests that refer to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mirror.content.answers import Target
from mirror.errors import (
    ManifestInvalid,
    MirrorError,
    NotHere,
    NotYet,
    UpstreamDenied,
    UpstreamError,
    UpstreamInvalid,
    UpstreamNotFound,
)
from mirror.oci import manifest as manifests
from mirror.oci import media_types
from mirror.oci.digest import Digest
from mirror.oci.reference import COSIGN_SUFFIXES, fallback_tag, signature_tag
from mirror.offline.closure import Closure, Closures
from mirror.offline.each import each
from mirror.offline.source import ImageSource, Lacking

LIST_LIMIT = 1_000  # names; a longer list costs more pages, one after the other, than asking for each tag at once
REFERRERS_LIMIT = 1_000  # of one digest

# Up to so many questions about a repository's tags are asked one by one: a list comes in pages of a hundred.
_ASKED_SINGLY = 12
# What says that there is no referrers API, or none for us.
_NO_API = (NotHere, UpstreamNotFound, UpstreamDenied, UpstreamInvalid)
_FAILED = (UpstreamError, ManifestInvalid, NotHere, NotYet)


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image that belongs to another: `kind` as in a plan, `why` a sentence."""

    kind: Literal["signature", "referrer"]
    closure: Closure
    tags: tuple[str, ...]
    why: str


@dataclass(slots=True)
class Attachments:
    """What was found attached to one digest; `signed` says that there is a `.sig` tag.

    `left_out` are sentences about what is listed and not there.
    """

    found: list[Attachment] = field(default_factory=list)
    signed: bool = False
    failures: list[Lacking] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class Attaching:
    """Looks for attachments. What a repository's tags are, and whether it has a referrers API, is asked once."""

    def __init__(self, source: ImageSource, closures: Closures) -> None:
        self._source = source
        self._closures = closures
        self._tags: dict[str, frozenset[str]] = {}
        self._listed: set[str] = set()  # whose tags were asked for
        self._tried: set[str] = set()  # whose API was
        self._without_api: set[str] = set()
        self._asked: dict[tuple[str, Digest], bytes] = {}

    async def learn(self, target: Target, digests: Sequence[Digest]) -> None:
        """Find out how a repository, in which `digests` will be looked up, is best asked: each question once.

        Without it `find` finds the same.
        """
        questions: list[Callable[[], Awaitable[None]]] = []
        if len(digests) * len(COSIGN_SUFFIXES) > _ASKED_SINGLY and target.name not in self._listed:
            self._listed.add(target.name)
            questions.append(lambda: self._learn_tags(target))
        if digests and target.name not in self._tried:
            self._tried.add(target.name)
            questions.append(lambda: self._learn_api(target, digests[0]))
        await each(lambda ask: ask(), questions, len(questions))

    async def _learn_tags(self, target: Target) -> None:
        try:
            tags = await self._source.tags(target, LIST_LIMIT)
        except _FAILED:
            # Not every registry lists tags to everybody; asking for each says the same, or why it fails.
            return
        if len(tags) < LIST_LIMIT:
            self._tags[target.name] = frozenset(tags)

    async def _learn_api(self, target: Target, digest: Digest) -> None:
        """Ask for the referrers of one digest, so that the other questions are not asked where there is no API."""
        try:
            body = await self._source.referrers(target, digest)
        except _NO_API:
            body = None
        except _FAILED:
            return  # whoever asks for this digest says so
        if body is None:
            self._without_api.add(target.name)
        else:
            self._asked[(target.name, digest)] = body

    async def find(self, target: Target, source: str, digest: Digest) -> Attachments:
        """Return what is attached to `digest` in the repository that clients call `source`.

        Absence is normal; what could not be asked is among the failures.
        """
        result = Attachments()
        questions: list[Callable[[], Awaitable[None]]] = [
            lambda: self._signed(result, target, source, digest),
            # What refers to a referrer (the signature of an SBOM) is looked for too, and no further.
            lambda: self._referred(result, target, source, digest),
        ]
        await each(lambda ask: ask(), questions, len(questions))
        return result

    async def _signed(self, result: Attachments, target: Target, source: str, digest: Digest) -> None:
        """Add what cosign's tags beside `digest` name."""
        tags = {suffix: signature_tag(digest, suffix) for suffix in COSIGN_SUFFIXES}
        closures = await each(lambda tag: self._tagged(result, target, source, tag), list(tags.values()), len(tags))
        for (suffix, tag), closure in zip(tags.items(), closures, strict=True):
            if closure is not None:
                result.found.append(Attachment("signature", closure, (tag,), f"{COSIGN_SUFFIXES[suffix]} of {digest}"))
                result.signed = result.signed or suffix == "sig"

    async def _referred(self, result: Attachments, target: Target, source: str, digest: Digest) -> None:
        for one in await self._referring(result, target, source, digest):
            await self._referring(result, target, source, one)

    async def _tagged(
        self, result: Attachments, target: Target, source: str, tag: str, *, is_list: bool = False
    ) -> Closure | None:
        """Return what a tag names; None where there is no such tag, or it could not be asked."""
        known = self._tags.get(target.name)
        if known is not None and tag not in known:
            return None
        try:
            digest = await self._source.digest(target, tag, rarely=known is None)
        except (NotHere, UpstreamNotFound):
            return None
        except _FAILED as error:
            result.failures.append(_lacking(f"{source}:{tag}", error))
            return None
        try:
            return await self._closures.read(target, digest, is_list=is_list)
        except _FAILED as error:
            result.failures.append(_lacking(f"{source}:{tag}", error))
            return None

    async def _referring(self, result: Attachments, target: Target, source: str, digest: Digest) -> list[Digest]:
        """Add what refers to `digest`; return the digests of it."""
        found: list[Digest] = []
        for one in await self._referrers(result, target, source, digest):
            try:
                closure = await self._closures.read(target, one)
            except UpstreamNotFound:
                result.left_out.append(f"{source}@{digest}: the referrer {one} is gone from upstream, and left out")
                continue
            except _FAILED as error:
                result.failures.append(_lacking(f"{source}@{one}", error))
                continue
            if closure.subject != digest:
                result.warnings.append(f"{source}@{one} is listed as a referrer of {digest} and does not refer to it")
                continue
            result.found.append(Attachment("referrer", closure, (), f"refers to {digest}"))
            found.append(one)
        return found

    async def _referrers(self, result: Attachments, target: Target, source: str, digest: Digest) -> Collection[Digest]:
        if target.name not in self._without_api:
            try:
                body = self._asked.pop((target.name, digest), None) or await self._source.referrers(target, digest)
            except _NO_API:
                body = None
            except _FAILED as error:
                result.failures.append(_lacking(f"the referrers of {source}@{digest}", error))
                return ()
            if body is not None:
                return await self._index(result, source, digest, body)
            self._without_api.add(target.name)
        await self._fallback(result, target, source, digest)
        return ()

    async def _index(self, result: Attachments, source: str, digest: Digest, body: bytes) -> Collection[Digest]:
        try:
            index = await asyncio.to_thread(lambda: manifests.parse(body, media_types.OCI_INDEX, passing=True))
        except ManifestInvalid as error:
            result.failures.append(_lacking(f"the referrers of {source}@{digest}", error))
            return ()
        result.warnings += [
            f"{source}@{digest}: the referrer {one} is left out, as its algorithm is not known here"
            for one in index.unknown
        ]
        found = sorted({child.digest for child in index.children})
        if len(found) > REFERRERS_LIMIT:
            result.warnings.append(f"{source}@{digest} has {len(found)} referrers; {REFERRERS_LIMIT} of them are taken")
        return found[:REFERRERS_LIMIT]

    async def _fallback(self, result: Attachments, target: Target, source: str, digest: Digest) -> None:
        """Add the index that lists the referrers where there is no API (distribution-spec, Referrers Tag Schema)."""
        tag = fallback_tag(digest)
        closure = await self._tagged(result, target, source, tag, is_list=True)
        # Mirroring tools have used the same tag for the image itself, and registries take the dash for a colon.
        if closure is not None and closure.lists_referrers_of(digest):
            result.found.append(Attachment("referrer", closure, (tag,), f"lists what refers to {digest}"))


def _lacking(what: str, error: MirrorError) -> Lacking:
    return Lacking(what, error.what, error.remedy)
