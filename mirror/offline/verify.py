"""Verify: whether everything of a plan is here, so that the cable may be cut; deeply, whether it hashes too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mirror.errors import MirrorError, StoreUnreadable
from mirror.oci.digest import Digest
from mirror.offline.here import Store
from mirror.offline.plan import Plan
from mirror.store.manifests import Manifests as Rows

CheckSignature = Callable[[bytes, Digest], str]


@dataclass(slots=True)
class Verdict:
    """What is wrong with one generation. Sizes are in bytes."""

    set: str
    generation: int
    complete: bool  # as sets/current says
    digests: int
    bytes: int
    missing: dict[Digest, int] = field(default_factory=dict)
    closed: dict[Digest, StoreUnreadable] = field(default_factory=dict)  # those of `missing` that cannot be read
    corrupt: list[Digest] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)  # manifests that are here and not under their name
    short: list[str] = field(default_factory=list)  # repositories that something is missing of
    lost: dict[str, Digest] = field(default_factory=dict)  # OpenPGP signatures that are not here, and their releases
    signatures: list[str] = field(default_factory=list)  # OpenPGP signatures of releases that are bad
    unsigned: dict[Digest, str] = field(default_factory=dict)  # releases for which no OpenPGP signature vouches
    required: bool = True  # whether each release needs one
    signed: int = 0  # releases with a verified OpenPGP signature
    releases: int = 0
    sigstore: dict[str, int] = field(default_factory=dict)  # images by what the plan says of their sigstore signature
    graph: list[str] = field(default_factory=list)  # releases that the update graph here does not have
    lacking: tuple[str, ...] = ()  # what the plan itself says could not be found
    left_out: tuple[str, ...] = ()  # what the plan says upstream had not got, and no image needs

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or wrong."""
        return self.state == "whole"

    @property
    def state(self) -> str:
        """What is to be said of it in a word; the worst that is wrong."""
        if self.corrupt:
            return "corrupt"
        if self.missing or self.unnamed or self.graph or self.lacking or not self.complete:
            return "incomplete"
        if self.required and self.unsigned:
            return "unsigned"
        return "unverified" if self.signatures or self.lost else "whole"

    @property
    def blamed(self) -> list[str]:
        """Releases that no signature vouches for although none is missing: the keyring, or who signed, is to blame."""
        lost = set(self.lost.values())
        return [image for digest, image in sorted(self.unsigned.items()) if digest not in lost]

    def as_dict(self) -> dict[str, Any]:
        """The form that `mirror verify --json` lists under `sets`."""
        unsigned = [image for _, image in sorted(self.unsigned.items())]
        return {
            "set": self.set,
            "generation": self.generation,
            "ok": self.whole,
            "state": self.state,
            "complete": self.complete and not self.lacking,
            "digests": self.digests,
            "bytes": self.bytes,
            "missing": [{"digest": str(digest), "size": size} for digest, size in sorted(self.missing.items())],
            "unreadable": [str(digest) for digest in self.closed],
            "corrupt": [str(digest) for digest in self.corrupt],
            "unnamed": self.unnamed,
            "openpgp": {
                "releases": self.releases,
                "verified": self.signed,
                "problems": [
                    *(f"{name} is not here" for name in self.lost),
                    *self.signatures,
                    *(map(without_signature, unsigned) if self.required else ()),
                ],
                "unsigned": unsigned,
            },
            "sigstore": self.sigstore,
            "graph": self.graph,
            "lacking": list(self.lacking),
            "left_out": list(self.left_out),
        }


def without_signature(release: str) -> str:
    """Return what is wrong with a release for which no signature vouches."""
    return f"release {release} has no signature that verifies"


def verify(
    plan: Plan,
    generation: int,
    store: Store,
    *,
    complete: bool,
    deep: bool,
    check_signature: CheckSignature,
    unsigned: Callable[[], Mapping[Digest, str]] = dict,
    required: bool = True,
    progress: Callable[[int], None] = lambda _: None,
) -> Verdict:
    """Look at everything that a plan names; `deep` hashes it, and bad content goes to quarantine. For threads only.

    `check_signature` returns the fingerprint of the key, or raises MirrorError. `unsigned` names the releases of the
    plan, whether or not it calls them that, for which no signature vouches: an error only where one is `required`.
    """
    content = plan.content
    size, releases = sum(content.values()), len(plan.releases)
    verdict = Verdict(plan.set, generation, complete, len(content), size, releases=releases, required=required)
    verdict.lacking, verdict.left_out = plan.lacking, plan.left_out
    for digest, size in content.items():
        try:
            if not store.has(digest, size):
                verdict.missing[digest] = size
                if (why := store.why_closed(digest)) is not None:
                    verdict.closed[digest] = why
            elif deep and not store.verify(digest, progress):
                verdict.corrupt.append(digest)
        except StoreUnreadable as error:
            verdict.missing[digest] = size
            verdict.closed[digest] = error
    verdict.short = sorted(
        {one.name for one in plan.manifests if not verdict.missing.keys().isdisjoint((one.digest, *one.blobs))}
    )
    rows = Rows(store.layout)
    if complete:
        verdict.unnamed = [
            f"{one.name}@{one.digest}" for one in plan.manifests if rows.manifest(one.name, one.digest) is None
        ]
        verdict.graph = list(_not_in_graph(plan, store))
    _verify_signatures(plan, store, check_signature, verdict)
    verdict.unsigned = dict(unsigned())
    verdict.sigstore = dict(sorted(Counter(image.sigstore for image in plan.images).items()))
    return verdict


def _verify_signatures(plan: Plan, store: Store, check: CheckSignature, verdict: Verdict) -> None:
    good: set[Digest] = set()
    for one in plan.signatures:
        name = f"signature {one.number} of release {one.release}"
        raw = store.signature(one)
        if raw is None:
            verdict.lost[name] = one.release
            continue
        try:
            check(raw, one.release)
            good.add(one.release)
        except MirrorError as error:
            # Where none is required, one by a key that only clusters know is nothing wrong.
            if verdict.required:
                verdict.signatures.append(f"{name}: {error.what}")
    verdict.signed = sum(1 for release in plan.releases if release.digest in good)


def _not_in_graph(plan: Plan, store: Store) -> Iterable[str]:
    held = {release.version for release in plan.releases}
    for excerpt in plan.graphs:
        path = store.layout.graph(excerpt.architecture, excerpt.channel)
        try:
            with open(path, "rb") as file:
                known = {node["version"] for node in json.load(file)["nodes"]}
        except (OSError, ValueError, LookupError, TypeError):
            known = set()
        for node in excerpt.graph.get("nodes", ()):
            if node.get("version") in held - known:
                yield f"{node.get('version')} in {excerpt.channel} ({excerpt.architecture})"
