"""Everything that exists for the model: a few blobs of telling sizes, and images that share them."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.peers.images import OCI_MANIFEST, Image, digest_of, make_image, noise

# Nothing, little, just what is held back and a byte more, and what is sent while it comes.
SIZES = (0, 300, 65_536, 65_537, 180_000)
BLOBS = tuple(noise(size, 7) for size in SIZES)
REPOSITORIES = ("team/a", "team/b")
TAGS = ("v1", "v2")

# What each repository may have: they share blobs, and each has one that the other must never be given.
IMAGES: dict[str, tuple[Image, ...]] = {
    "team/a": (make_image(BLOBS[0], BLOBS[2], seed=1), make_image(BLOBS[2], BLOBS[4], seed=2)),
    "team/b": (make_image(BLOBS[1], BLOBS[2], seed=3), make_image(BLOBS[3], seed=4)),
}
ALL_IMAGES = [image for images in IMAGES.values() for image in images]
TRUTH: dict[str, bytes] = {
    digest_of(content): content
    for content in (
        *BLOBS,
        *(image.config for image in ALL_IMAGES),
        *(image.manifest for image in ALL_IMAGES),
    )
}
MANIFESTS = {image.digest for image in ALL_IMAGES}
ALL_BLOBS = sorted(set(TRUTH) - MANIFESTS)
MEDIA_TYPE = OCI_MANIFEST


def parts(image: Image) -> list[str]:
    """Return the digests of an image's blobs."""
    return [digest_of(one) for one in (image.config, *image.layers)]


@dataclass
class Model:
    """What may be true of a store, seen from outside. Whatever is not said here may be so or not.

    `whole`: digests that were served completely, so they are here until somebody removes them. `proven`: digests that
    were served under a repository, so they may be again without asking. `moves`: what a tag has meant upstream, in
    order (None: nothing); `seen`: the place in it of what was last served here, None before that.
    """

    whole: set[str] = field(default_factory=set)
    proven: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in REPOSITORIES})
    rights: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in REPOSITORIES})
    moves: dict[tuple[str, str], list[str | None]] = field(
        default_factory=lambda: {(name, tag): [None] for name in REPOSITORIES for tag in TAGS}
    )
    seen: dict[tuple[str, str], int | None] = field(default_factory=dict)
    # Digests of which an upstream may have sent other bytes: a part of them need not be a true beginning.
    doubted: set[str] = field(default_factory=set)

    def may_mean(self, name: str, tag: str) -> set[str | None]:
        """Return what a tag may be served as: what was last seen, or anything that it has meant since."""
        since = self.seen.get((name, tag))
        return set(self.moves[name, tag][since or 0 :])
