"""Whether each release of a plan is signed: what the plan calls one, and what is one although the plan does not say so.

A signature vouches for its digest and for all that is named by digest from there: the children of a list, and the
components that the payload names. Everything else that is a release has to be signed itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from mirror.errors import ManifestInvalid, StoreError
from mirror.oci.digest import Digest
from mirror.oci.manifest import Manifest
from mirror.offline.crew import work_through
from mirror.offline.here import Store
from mirror.offline.keyring import Keyring
from mirror.offline.layer import OUTPUT_LIMIT
from mirror.offline.payload import Payload, PayloadInvalid
from mirror.offline.plan import Image, Plan
from mirror.offline.release_image import Recogniser, is_published_in, runs
from mirror.offline.signatures import Candidate, SignatureInvalid, check

_AT_ONCE = 4  # images that are looked into
_SHOWN = 5  # releases without a signature that one error tells of in full


def called_releases(plan: Plan, may_run: Callable[[Digest], bool] | None = None) -> dict[Digest, str]:
    """Return what a plan itself shows to be releases, by digest, each as people know it.

    That are those that it calls releases, and images that lie where releases are published, but for what does not run:
    signatures and documents lie there too. `may_run` tells which do, by default as far as the plan says.
    """
    may_run = may_run or _runs_as_planned(plan)
    found = {one.digest: f"{one.source}@{one.digest}" for one in plan.releases}
    # What a list of the same repository names is vouched for with the list.
    below = {(one.name, child) for one in plan.manifests for child in one.manifests}
    images = {(image.name, image.digest): image for image in plan.images}
    for key, image in images.items():
        published = key not in below and is_published_in(image.source, image.name)
        if (image.kind == "release" or published) and may_run(image.digest):
            found[image.digest] = _shown(image)
    for one in plan.manifests:
        key = (one.name, one.digest)
        if key not in images and key not in below and is_published_in(one.name) and may_run(one.digest):
            found[one.digest] = f"{one.name}@{one.digest}"
    return found


def _runs_as_planned(plan: Plan) -> Callable[[Digest], bool]:
    types = {one.digest: one.media_type for one in plan.blobs}
    below = {one.digest: one.manifests for one in plan.manifests}
    blobs = {one.digest: one.blobs for one in plan.manifests}
    return lambda digest: any(
        runs(types[blob] for blob in blobs.get(one, ()) if blob in types) for one in _reached([digest], below)
    )


def check_signed(
    releases: Mapping[Digest, str], candidates: Callable[[Digest], Iterable[Candidate]], keyring: Keyring
) -> None:
    """Raise SignatureInvalid, which names them all, where one of `releases` has no signature that holds."""
    errors = []
    for digest, image in sorted(releases.items()):
        try:
            check(digest, candidates(digest), keyring, image)
        except SignatureInvalid as error:
            errors.append(error)
    if not errors:
        return
    told = [error.what for error in errors[:_SHOWN]]
    more = [f"{len(errors) - _SHOWN} more have none"] if len(errors) > _SHOWN else []
    raise SignatureInvalid("; ".join((*told, *more)), errors[0].remedy, errors[0].why)


def kept_signatures(store: Store) -> Callable[[Digest], list[Candidate]]:
    """Return what lists the signatures of a release that the store has."""
    return lambda digest: [Candidate("the store", raw) for _, raw in store.signatures.list(digest)]


def unsigned(
    plan: Plan,
    store: Store,
    keyring: Keyring,
    *,
    by_label_alone: Callable[[Digest], bool] = lambda _: False,
    step: Callable[[], None] = lambda: None,
) -> dict[Digest, str]:
    """Return the releases of a plan for which no signature in the store vouches, each as people know it.

    Whatever is here of the plan is looked into: labels, and layers but for images that `by_label_alone` says, whose
    unpacking would take long for nothing. `step` is called for each image, and may raise. For threads. Raises
    StoreError.
    """
    return _Examination(plan, store, keyring).run(by_label_alone, step)


class _Examination:
    """One look at a plan, by what the manifests themselves name: a plan may say anything of them."""

    def __init__(self, plan: Plan, store: Store, keyring: Keyring) -> None:
        self._plan = plan
        self._store = store
        self._keyring = keyring
        self._candidates = kept_signatures(store)
        self._recogniser = Recogniser(store.reading, OUTPUT_LIMIT)
        self._signed: dict[Digest, bool] = {}
        self._types = {one.digest: one.media_type for one in plan.manifests}
        self._images: list[Digest] = []
        self._below: dict[Digest, list[Digest]] = {}
        self._above: dict[Digest, list[Digest]] = defaultdict(list)
        for digest in self._types:
            manifest = self._manifest(digest)
            if manifest is None:
                continue  # who completes a generation, or verifies one, misses it
            if not manifest.children:
                self._images.append(digest)
            self._below[digest] = [child.digest for child in manifest.children]
            for child in self._below[digest]:
                self._above[child].append(digest)

    def run(self, by_label_alone: Callable[[Digest], bool], step: Callable[[], None]) -> dict[Digest, str]:
        called = called_releases(self._plan, self._may_run)
        vouched = self._vouched([digest for digest in called if self._is_signed(digest)])
        found = {digest: image for digest, image in called.items() if digest not in vouched}
        recognised: list[Digest] = []

        def look(digest: Digest) -> None:
            step()
            manifest = self._manifest(digest)
            if manifest is not None and self._recogniser.is_release(manifest, by_label_alone=by_label_alone(digest)):
                recognised.append(digest)

        work_through(look, (digest for digest in self._images if digest not in vouched), _AT_ONCE)
        for digest in recognised:
            above = _reached([digest], self._above)
            if not any(map(self._is_signed, above)):
                found |= {one: self._called(one) for one in above if not self._above.get(one) and one not in found}
        return found

    def _manifest(self, digest: Digest) -> Manifest | None:
        try:
            return self._store.manifest(digest, self._types[digest]) if digest in self._types else None
        except (StoreError, ManifestInvalid):
            return None

    def _may_run(self, digest: Digest) -> bool:
        manifests = map(self._manifest, _reached([digest], self._below))
        return any(runs(blob.media_type for blob in manifest.blobs) for manifest in manifests if manifest is not None)

    def _is_signed(self, digest: Digest) -> bool:
        if digest not in self._signed:
            try:
                check(digest, self._candidates(digest), self._keyring)
            except SignatureInvalid:
                self._signed[digest] = False
            else:
                self._signed[digest] = True
        return self._signed[digest]

    def _vouched(self, signed: Iterable[Digest]) -> set[Digest]:
        """Return all digests that those which are signed vouch for, themselves among them."""
        found: set[Digest] = set()
        for digest in signed:
            release = _reached([digest], self._below)
            payload = next(filter(None, map(self._payload, sorted(release))), None)
            found |= release | _reached(payload.digests if payload else (), self._below)
        return found

    def _payload(self, digest: Digest) -> Payload | None:
        """Return the payload of an image that a signed release is or holds; None where that cannot be read."""
        manifest = self._manifest(digest)
        try:
            return self._recogniser.payload(manifest) if manifest is not None and not manifest.children else None
        except PayloadInvalid:
            return None

    def _called(self, digest: Digest) -> str:
        image = next((one for one in self._plan.images if one.digest == digest), None)
        if image is not None:
            return _shown(image)
        return next((f"{one.name}@{one.digest}" for one in self._plan.manifests if one.digest == digest), str(digest))


def _reached(begin: Iterable[Digest], edges: Mapping[Digest, Iterable[Digest]]) -> set[Digest]:
    """Return all digests that can be reached from some, themselves among them."""
    found: set[Digest] = set()
    waiting = list(begin)
    while waiting:
        digest = waiting.pop()
        if digest not in found:
            found.add(digest)
            waiting += edges.get(digest, ())
    return found


def _shown(image: Image) -> str:
    tags = f" ({', '.join(image.tags)})" if image.tags else ""
    return f"{image.source}@{image.digest}{tags}"
