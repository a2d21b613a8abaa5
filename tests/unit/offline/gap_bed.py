"""Two stores with a gap between them, and a plan whose content the first one has."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from mirror.config import Amount, Storage
from mirror.config.access import Readers
from mirror.oci.digest import Digest
from mirror.offline import part, ustar
from mirror.offline.archive import SaveReport, save
from mirror.offline.carrying import Carrying
from mirror.offline.digest_lists import dump_missing
from mirror.offline.here import Store
from mirror.offline.load import load
from mirror.offline.load_generation import Receiver
from mirror.offline.load_report import LoadReport
from mirror.offline.part import Member
from mirror.offline.part_file import PartFile
from mirror.offline.part_layout import SavePlan, plan_save
from mirror.offline.plan import Image, Plan, PlannedBlob, PlannedManifest, Release, Signature
from mirror.offline.presumed import Presumptions
from mirror.outside import Direct
from mirror.store import ingest
from mirror.store.blobs import Blobs
from mirror.store.index import Index
from mirror.store.intake import Intake
from mirror.store.layout import Layout
from mirror.store.probe import prepare
from mirror.store.quarantine import Quarantine
from mirror.store.sets import Sets
from mirror.store.space import Space

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NAME = "quay.io/team/app"
KIB = 1024
PART = 256 * KIB

Contents = dict[Digest, bytes]


def made_up(
    seed: int, sizes: Iterable[int], *, name: str = "prod", also: Contents | None = None
) -> tuple[Plan, Contents]:
    """Return a plan of one image a few blobs each, with a signed release, and the bytes of everything in it."""
    source = random.Random(seed)
    contents: Contents = dict(also or {})
    blobs = [source.randbytes(size) for size in sizes]
    manifests, images = [], []
    for number in range(0, len(blobs), 3):
        mine = blobs[number : number + 3]
        raw = json.dumps({"n": number, "blobs": [str(Digest.of(blob)) for blob in mine]}).encode()
        contents |= {Digest.of(one): one for one in (*mine, raw)}
        digests = tuple(Digest.of(blob) for blob in mine)
        manifests.append(PlannedManifest(NAME, Digest.of(raw), MANIFEST, len(raw), (), digests))
        images.append(Image(NAME, Digest.of(raw), NAME, "component"))
    release = manifests[0].digest
    old = [PlannedBlob(digest, LAYER, len(raw)) for digest, raw in (also or {}).items()]
    plan = Plan.build(
        name,
        releases=[Release("4.18.1", "amd64", NAME, release)],
        images=images,
        manifests=manifests,
        blobs=[*old, *(PlannedBlob(Digest.of(blob), LAYER, len(blob)) for blob in blobs)],
        signatures=[Signature(release, 1, Digest.of(signature(release)), len(signature(release)))],
    )
    assert Plan.parse(plan.dump()) == plan
    return plan, contents


def signature(release: Digest) -> bytes:
    return b"signed: " + str(release).encode()


class Site:
    """A store on one side of the gap."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        prepare(self.layout)
        self.quarantine = Quarantine(self.layout)
        self.index = Index(self.layout, self.quarantine)
        self.space = Space(self.layout, self.index, Storage(path=root, keep_free=Amount(bytes=0)))
        self.sets = Sets(self.layout)
        self.store = Store(self.layout, Blobs(self.layout, self._discard))
        self.intake = Intake(self.layout, self.space, lambda digest, size: None)
        self.outside = Direct()
        self.finished: list[str] = []
        self.checked: list[Mapping[Digest, Sequence[bytes]]] = []

    def close(self) -> None:
        self.index.close()

    readers = Readers()  # by which rules a load is judged

    def _discard(self, path: str, why: str) -> None:
        self.quarantine.take(path, why)

    def fill(self, plan: Plan, contents: Contents, generation: int = 1) -> None:
        """Have everything of a plan, complete."""
        for digest in plan.content:
            if not os.path.exists(self.layout.blob(digest)):
                ingest.store_bytes(self.layout, digest, contents[digest])
        for one in plan.signatures:
            self.store.signatures.add(one.release, signature(one.release))
        self.sets.write(plan.set, generation, plan.dump())
        self.sets.complete(plan.set, generation, plan.digest, "synced")

    def save(self, wanted: SavePlan, to: Path, carrying: Carrying | None = None) -> SaveReport:
        to.mkdir(exist_ok=True)
        return save(wanted, self.store, self.outside, to, carrying or Carrying())

    def receiver(self) -> Receiver:
        return Receiver(
            self.layout,
            self.sets,
            self.intake,
            self.space,
            self.outside,
            self._check_signatures,
            self._finish,
            Presumptions(self.layout, self.sets, self.readers),
        )

    def load(self, *paths: Path, carrying: Carrying | None = None, **options: object) -> LoadReport:
        return load(paths, self.receiver(), carrying or Carrying(), **options)  # type: ignore[arg-type] # of a test

    def _check_signatures(self, plan: Plan, signatures: Mapping[Digest, Sequence[bytes]]) -> None:
        self.checked.append(signatures)
        for release in plan.releases:
            assert signature(release.digest) in signatures[release.digest]

    def _finish(self, plan: Plan, generation: int) -> None:
        assert all(self.store.has(digest, size) for digest, size in plan.content.items())
        assert not list(self.store.lacking_signatures(plan))
        self.sets.complete(plan.set, generation, plan.digest, "loaded")
        self.finished.append(f"{plan.set}@{generation}")

    def has_all(self, plan: Plan, contents: Contents) -> bool:
        """Tell whether everything of a plan is here, byte for byte, and nothing is left under way."""
        under_way = [name for name in os.listdir(self.layout.ingest) if name.endswith((".whole", ".spans"))]
        return not under_way and all(
            Path(self.layout.blob(digest)).is_file() and Path(self.layout.blob(digest)).read_bytes() == contents[digest]
            for digest in plan.content
        )

    def blobs(self) -> set[Digest]:
        """Return the digests that have a file here."""
        return {Digest.parse(f"{path.parent.name}:{path.name}") for path in self.layout.blobs.glob("*/*")}


class Crossing:
    """A disk with the parts of prod@1, and stores on the other side."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sites: list[Site] = []
        self.near = self.site()
        self.plan, self.contents = made_up(5, [300, 700_000, 90_000, 40, 200_000, 5000])
        self.near.fill(self.plan, self.contents)
        self.disk = root / "disk"
        self.save(self.plan, 1, self.disk)
        self.far = self.site()

    def site(self) -> Site:
        self.sites.append(Site(self.root / f"store-{len(self.sites)}"))
        return self.sites[-1]

    def save(self, plan: Plan, generation: int, to: Path, **options: object) -> None:
        planned = plan_save(plan, generation, **{"part_size": PART, **options})  # type: ignore[arg-type] # of a test
        assert self.near.save(planned, to).complete

    def parts(self) -> list[Path]:
        return parts_of(self.disk)

    def copy(self, *parts: Path, name: str = "some") -> Path:
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        for one in parts:
            shutil.copy(one, folder)
        return folder

    def whole(self, site: Site | None = None) -> bool:
        site = site or self.far
        return (
            site.has_all(self.plan, self.contents)
            and site.finished == ["prod@1"]
            and [str(one) for one in site.sets.current()] == ["prod@1"]
        )

    def untouched(self, site: Site | None = None) -> bool:
        """Tell whether nothing was written into the store but locks."""
        site = site or self.far
        return not site.blobs() and not os.listdir(site.layout.ingest) and site.sets.generations("prod") == []


def held_by(path: Path) -> set[Digest]:
    with PartFile(Direct(), path) as opened:
        return {held.digest for member in opened.index.members if (held := part.piece(member.name))}


def damages(report: LoadReport) -> list[tuple[str, str]]:
    return [(one.path.name, one.member) for one in report.damaged]


def places(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (what, first byte, size) of everything in a part: headers, members, padding, the end."""
    with PartFile(Direct(), path) as opened:
        index = opened.index
    fixed = [Member(part.INDEX, len(index.dump()), ""), Member(part.CHECKSUM, part.CHECKSUM_SIZE, "")]
    position = 0
    for member in [*fixed, *index.members]:
        yield f"header of {member.name}", position, 512
        yield member.name, position + 512, member.size
        if ustar.padding(member.size):
            yield f"after {member.name}", position + 512 + member.size, ustar.padding(member.size)
        position += ustar.stored(member.size)
    yield "end", position, 1024


def never_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for the disk: what a power cut takes is not what these tests are about."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.tar"))


def names(paths: Iterable[Path]) -> list[str]:
    return [path.name for path in paths]


Edit = Callable[[bytearray], None]


def edited(path: Path, edit: Edit) -> None:
    """Change a file in place."""
    raw = bytearray(path.read_bytes())
    edit(raw)
    path.write_bytes(raw)


__all__ = [
    "KIB",
    "LAYER",
    "MANIFEST",
    "NAME",
    "PART",
    "Contents",
    "Crossing",
    "Site",
    "damages",
    "dump_missing",
    "edited",
    "held_by",
    "made_up",
    "names",
    "never_sync",
    "parts_of",
    "places",
    "plan_save",
    "signature",
]  # fmt: skip
