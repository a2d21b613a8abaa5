"""Every path of the store, drawn once.

    <root>/                                     0700
    ├── format                                  {"format": 1}
    ├── blobs/<alg>/<hex>                       every blob and manifest by its digest; sealed when verified (files.py)
    ├── ingest/<alg>-<hex>.part, .json          a download under way, and what is known of it
    ├── ingest/<alg>-<hex>.<random>.tmp         a manifest on its way to blobs/
    ├── ingest/<alg>-<hex>.whole, .spans, .json content that comes from files: at once, or in spans of which some wait
    ├── repositories/<name>/_tags/<tag>                   which digest a tag means, and since when
    ├── repositories/<name>/_manifests/<alg>/<hex>        membership of a manifest: media type, size
    ├── repositories/<name>/_blobs/<alg>/<hex>            membership of a blob: size; derived from manifests
    ├── repositories/<name>/_referrers/<alg>/<hex>/index.json   who refers to a digest, as upstream last said
    ├── repositories/<name>/_referrers/<alg>/<hex>/<alg>-<hex>    a manifest that was pushed here and refers to a digest
    ├── sets/current                            the complete generations of image sets, in the order of completion
    ├── sets/<set>/<n>.json                     a generation: its plan; what it names is never evicted
    ├── sets/<set>/saves/<n>-<id>.json          what a save carried, and which of its parts are finished
    ├── sets/<set>/source                       the image set file that the newest plan came from
    ├── sets/<set>/<n>.held                     empty: `sync --keep` does not give this generation up
    ├── pins/<hash>.json                        an image that somebody pinned: what it names is never evicted
    ├── signatures/<alg>=<hex>/signature-<n>    OpenPGP signatures of a release, named as in every signature store
    ├── graph/<arch>-<channel>.json             what the complete generations know of a channel's update graph
    ├── uploads/<uuid>.part, .json              what a client pushes, and what is known of it
    ├── hosted/<alg>/<hex>                      empty: this content was pushed here and is never evicted
    ├── deletions/<hash>.json                   a manifest that is being deleted, with all tags that mean it
    ├── brought/<alg>/<hhh>                     which repositories brought which digests; derived
    ├── events/<queue>/<sequence>-<line>.json   what a webhook has not been told yet
    ├── tokens/<id>.json, .used                 a robot's token, and when it was used last; tokens/key signs our own
    ├── run/                                    sockets, housekeeping.lock, scrub.json
    │   ├── lasting                             folders that were made when they were needed first; derived
    │   ├── marked                              that no marker of hosted/ is lost; derived
    │   ├── promised                            the sum of what is promised in ingest/ and uploads/; derived
    │   ├── pushed                              sizes of what was pushed lately, for quotas; derived
    │   └── locks/<hash>                        what is flocked; never renamed or deleted while anything runs
    ├── index/                                  size and time of use per digest; disposable
    └── quarantine/                             bad content with a note why

No component of a repository's name starts with an underscore, so the folders beside sub-repositories cannot collide.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mirror.oci.digest import Digest


class Layout:
    """Paths under one root. Takes only checked values: a Digest, a repository name or a tag of the grammar."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / "format"
        self.blobs = root / "blobs"
        self.ingest = root / "ingest"
        self.repositories = root / "repositories"
        self.sets = root / "sets"
        self.current_sets = root / "sets" / "current"
        self.pins = root / "pins"
        self.signatures = root / "signatures"
        self.graphs = root / "graph"
        self.uploads = root / "uploads"
        self.hosted = root / "hosted"
        self.brought = root / "brought"
        self.deletions = root / "deletions"
        self.events = root / "events"
        self.tokens = root / "tokens"
        self.run = root / "run"
        self.locks = root / "run" / "locks"
        self.housekeeping_lock = root / "run" / "housekeeping.lock"
        self.scrub = root / "run" / "scrub.json"
        self.ledger = root / "run" / "pushed"
        self.promised = root / "run" / "promised"
        self.lasting = root / "run" / "lasting"
        self.index = root / "index"
        self.quarantine = root / "quarantine"
        # The hot path joins strings: a Path costs ten times as much.
        self._blobs = f"{self.blobs}/"
        self._repositories = f"{self.repositories}/"
        self._hosted = f"{self.hosted}/"
        self._brought = f"{self.brought}/"
        self._deletions = f"{self.deletions}/"
        self._ingest = f"{self.ingest}/"
        self._uploads = f"{self.uploads}/"
        self._locks = f"{self.locks}/"

    def blob(self, digest: Digest) -> str:
        """Return where the content of `digest` is kept."""
        return f"{self._blobs}{digest.algorithm}/{digest.hex}"

    def part(self, digest: Digest) -> str:
        """Return where a download of `digest` grows."""
        return f"{self._ingest}{digest.algorithm}-{digest.hex}.part"

    def part_note(self, digest: Digest) -> str:
        """Return where it is noted what is known of the download of `digest`."""
        return f"{self._ingest}{digest.algorithm}-{digest.hex}.json"

    def upload(self, identity: str) -> str:
        """Return where the bytes of an upload grow; `identity` is a UUID in its plain form."""
        return f"{self._uploads}{identity}.part"

    def upload_note(self, identity: str) -> str:
        """Return where it is noted what is known of an upload."""
        return f"{self._uploads}{identity}.json"

    def marker(self, digest: Digest) -> str:
        """Return the file that says of `digest` that it was pushed here."""
        return f"{self._hosted}{digest.algorithm}/{digest.hex}"

    def deletion(self, name: str, digest: Digest) -> str:
        """Return the note that manifest `digest` of repository `name` is being deleted."""
        return f"{self._deletions}{hashlib.sha256(f'{name}@{digest}'.encode()).hexdigest()[:32]}.json"

    def bringers(self, digest: Digest) -> str:
        """Return the file that lists the repositories which brought `digest`, among others that begin like it."""
        return f"{self._brought}{digest.algorithm}/{digest.hex[:3]}"

    def tag(self, name: str, tag: str) -> str:
        """Return the file that says what `tag` means."""
        return f"{self._repositories}{name}/_tags/{tag}"

    def tags(self, name: str) -> Path:
        """Return the folder of a repository's tags."""
        return self.repositories / name / "_tags"

    def manifest(self, name: str, digest: Digest) -> str:
        """Return the file that makes `digest` a manifest of repository `name`."""
        return f"{self._repositories}{name}/_manifests/{digest.algorithm}/{digest.hex}"

    def manifests(self, name: str) -> Path:
        """Return the folder of a repository's manifests."""
        return self.repositories / name / "_manifests"

    def membership(self, name: str, digest: Digest) -> str:
        """Return the file that makes `digest` a blob of repository `name`."""
        return f"{self._repositories}{name}/_blobs/{digest.algorithm}/{digest.hex}"

    def members(self, name: str) -> Path:
        """Return the folder of a repository's blobs."""
        return self.repositories / name / "_blobs"

    def referrers(self, name: str, digest: Digest) -> str:
        """Return where the last list of a digest's referrers is kept."""
        return f"{self._repositories}{name}/_referrers/{digest.algorithm}/{digest.hex}/index.json"

    def pushed_referrers(self, name: str) -> Path:
        """Return the folder of what is known of a repository's referrers."""
        return self.repositories / name / "_referrers"

    def pushed_referrer(self, name: str, subject: Digest, digest: Digest) -> str:
        """Return the file that says that manifest `digest`, which was pushed, refers to `subject`."""
        folder = f"{self._repositories}{name}/_referrers/{subject.algorithm}/{subject.hex}"
        return f"{folder}/{digest.algorithm}-{digest.hex}"

    def set(self, name: str) -> Path:
        """Return the folder of an image set."""
        return self.sets / name

    def generation(self, name: str, number: int) -> Path:
        """Return the plan of a generation."""
        return self.sets / name / f"{number}.json"

    def held(self, name: str, number: int) -> Path:
        """Return the file that keeps a generation from being given up with the older ones."""
        return self.sets / name / f"{number}.held"

    def pin(self, name: str, digest: Digest) -> Path:
        """Return the record that pins the image `digest` of repository `name`."""
        return self.pins / f"{hashlib.sha256(f'{name}@{digest}'.encode()).hexdigest()[:32]}.json"

    def signature(self, digest: Digest, number: int) -> Path:
        """Return where signature `number` (from 1) of the release `digest` is kept."""
        return self.signatures / f"{digest.algorithm}={digest.hex}" / f"signature-{number}"

    def graph(self, architecture: str, channel: str) -> Path:
        """Return where the update graph of a channel for an architecture is kept; both are of the tag's grammar."""
        return self.graphs / f"{architecture}-{channel}.json"

    def lock(self, key: str) -> str:
        """Return the file that is flocked for `key`, e.g. "space" or "tag quay.io/org/app:latest"."""
        return f"{self._locks}{hashlib.sha256(key.encode()).hexdigest()[:32]}"
