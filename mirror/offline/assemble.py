"""A plan put together from what was found: the same content in the same words, whatever the order it came in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mirror.config.values import count_text
from mirror.errors import ManifestInvalid
from mirror.oci.digest import Digest
from mirror.oci.reference import signature_tag
from mirror.offline import manifests_yaml
from mirror.offline.attached import Attachment, Attachments
from mirror.offline.closure import Closure
from mirror.offline.collect_release import Opened
from mirror.offline.plan import Image, PlannedBlob, PlannedManifest, Release, Signature, Sigstore
from mirror.offline.wanted import Troubles, Wanted

Key = tuple[str, Digest]


@dataclass(slots=True)
class Holdings:
    """Manifests and blobs of a plan in the making: the children of an index that several ask for, together."""

    manifests: dict[Key, PlannedManifest] = field(default_factory=dict)
    blobs: dict[Digest, PlannedBlob] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def add(self, closure: Closure) -> None:
        """Add what an image needs; raise ManifestInvalid, adding nothing, where it contradicts what is here.

        Which of two sizes is wrong shows only when the blob comes; whoever is added first is believed until then.
        """
        for blob in closure.blobs:
            known = self.blobs.get(blob.digest)
            if known is not None and known.size != blob.size:
                raise ManifestInvalid(
                    f"it names {blob.digest} with {count_text(blob.size, 'byte')}, other images with {known.size}",
                    "its publisher has to fix it",
                )
        self.left_out.update(closure.left_out)
        for blob in closure.blobs:
            self.blobs.setdefault(blob.digest, blob)
        for manifest in closure.manifests:
            key = (manifest.name, manifest.digest)
            self.manifests[key] = _together(self.manifests.get(key, manifest), manifest)


def _together(one: PlannedManifest, other: PlannedManifest) -> PlannedManifest:
    if one.manifests == other.manifests:
        return one
    children = tuple(sorted({*one.manifests, *other.manifests}))
    return PlannedManifest(one.name, one.digest, one.media_type, one.size, children, one.blobs, one.subject)


def keep_whole(
    found: Sequence[tuple[Wanted, Closure]], holdings: Holdings, troubles: Troubles
) -> list[tuple[Wanted, Closure]]:
    """Add images to `holdings` and return them, without those that contradict one before them."""
    kept = []
    for wanted, closure in found:
        troubles.warnings.update(closure.warnings)
        try:
            holdings.add(closure)
        except ManifestInvalid as error:
            troubles.add(wanted.pullspec, error)
        else:
            kept.append((wanted, closure))
    return kept


def images(
    whole: Sequence[tuple[Wanted, Closure]], attached: Mapping[Key, Attachments], lacking: set[str]
) -> Iterator[Image]:
    """Yield the images that were asked for; a sigstore signature that is required and absent is added to `lacking`."""
    for wanted, closure in whole:
        yield Image(
            wanted.target.name,
            wanted.digest,
            wanted.source,
            wanted.kind,
            tuple(wanted.tags),
            tuple(wanted.why),
            _architectures(wanted, closure),
            _sigstore(wanted, closure, attached, lacking),
        )


def attachments(
    whole: Sequence[tuple[Wanted, Closure]], attached: Mapping[Key, Attachments], holdings: Holdings, troubles: Troubles
) -> Iterator[Image]:
    """Yield the images that are attached to those in `whole`, adding their content to `holdings`."""
    sources = {wanted.target.name: wanted.source for wanted, _ in reversed(whole)}
    for (name, _), found in sorted(attached.items(), key=lambda item: item[0]):
        troubles.failures.update(found.failures)
        troubles.warnings.update(found.warnings)
        holdings.left_out.update(found.left_out)
        for one in sorted(found.found, key=_order):
            troubles.warnings.update(one.closure.warnings)
            try:
                holdings.add(one.closure)
            except ManifestInvalid as error:
                troubles.add(f"{sources[name]}@{one.closure.digest}", error)
            else:
                yield Image(name, one.closure.digest, sources[name], one.kind, one.tags, (one.why,))


def _order(one: Attachment) -> tuple[str, Digest, str]:
    return (one.kind, one.closure.digest, one.why)


def _architectures(wanted: Wanted, closure: Closure) -> tuple[str, ...]:
    if not closure.top.children:
        return ()
    return tuple(
        sorted("/".join(filter(None, (one.architecture, one.variant))) for one in wanted.platforms),
    )


def _sigstore(wanted: Wanted, closure: Closure, attached: Mapping[Key, Attachments], lacking: set[str]) -> Sigstore:
    if not any(manifests_yaml.covers(scope, wanted.source) for scope in wanted.scopes):
        return "present" if attached[wanted.key].signed else "none"
    # A node checks the signature of the child that it runs, other clients that of the list.
    for manifest in closure.manifests:
        if not attached[(manifest.name, manifest.digest)].signed:
            lacking.add(
                f"{min(wanted.why)}: nodes demand a sigstore signature of {wanted.source}@{manifest.digest}, and tag"
                f" {signature_tag(manifest.digest)} is not there: plan again from an upstream that has it"
            )
    return "required"


def release(opened: Opened) -> Release:
    """Return an opened release as a plan has it."""
    asked = opened.asked
    return Release(
        opened.payload.version,
        opened.architecture,
        asked.pullspec.source,
        asked.digest,
        asked.channels,
        opened.signed_by,
        asked.why,
        asked.risks,
    )


def signatures(found: Mapping[Digest, Sequence[tuple[int, bytes]]]) -> Iterator[Signature]:
    """Yield OpenPGP signatures, by what they sign, as a plan has them."""
    for digest, numbered in found.items():
        for number, raw in numbered:
            yield Signature(digest, number, Digest.of(raw), len(raw))
