"""Load: what a plan may presume. Parts can be made by hand, and a plan can name any digest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mirror.config.access import Readers, Rule
from mirror.oci.digest import Digest
from mirror.offline.load_report import LoadReport
from mirror.offline.part_layout import plan_save
from mirror.offline.plan import Plan
from mirror.offline.presumed import PresumedRefused
from mirror.store import ingest
from mirror.store.adopt import adopt_all
from mirror.store.brought import Brought
from mirror.store.manifests import Manifests
from tests.unit.offline.gap_bed import LAYER, NAME, PART, Site, damages, edited, made_up, never_sync, parts_of

PRIVATE = "secret/app"
OPEN = "quay.io/open/app"
RULE = Rule.model_validate({"who": "alice", "repositories": ["secret/**", "quay.io/vault/**"], "may": ["pull", "push"]})
SECRET = os.urandom(500_000)
DIGEST = Digest.of(SECRET)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    never_sync(monkeypatch)


class Gap:
    """A near side where somebody makes parts by hand, and a far side where a rule protects what is his to guess."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.near, self.far = Site(root / "near"), Site(root / "far")
        self.far.readers = Readers("pull", [RULE])
        self.rows = Manifests(self.far.layout)
        adopt_all(self.far.layout)
        # The maker of the parts knows the digest, and the content only where a test says so.
        self.plan, self.contents = made_up(1, [400, 30_000, 20_000], also={DIGEST: SECRET})
        self.plan = named(self.plan, DIGEST)
        self.near.fill(self.plan, self.contents)

    def have(self, name: str = PRIVATE, *, old: bool = False) -> None:
        """Have the secret on the far side, brought by a repository; `old`: by one of an earlier release."""
        ingest.store_bytes(self.far.layout, DIGEST, SECRET)
        self.rows.add_pushed(name, DIGEST, len(SECRET))
        if old:
            path = Path(self.far.layout.membership(name, DIGEST))
            path.write_bytes(path.read_bytes().replace(b', "brought": true', b""))

    def save(self, to: str, *, presuming: bool) -> Path:
        options = {"how": "have", "have": {DIGEST}} if presuming else {}
        planned = plan_save(self.plan, 1, part_size=PART, **options)  # type: ignore[arg-type] # of a test
        assert self.near.save(planned, self.root / to).complete
        return self.root / to

    def load(self, *paths: Path, **options: object) -> LoadReport:
        return self.far.load(*paths, **options)

    @property
    def opened(self) -> bool:
        """Whether the open name is taken for one that brought the secret."""
        row = self.rows.member(NAME, DIGEST)
        return (row is not None and row.brought is True) or NAME in Brought(self.far.layout).by(DIGEST)[0]

    @property
    def untouched(self) -> bool:
        sets = self.far.sets
        return (
            self.far.blobs() <= {DIGEST}
            and not os.listdir(self.far.layout.ingest)
            and not sets.generations("prod")
            and not sets.current()
            and not list(self.rows.list(NAME))
            and not list(self.rows.list_blobs(NAME))
        )

    def complete(self) -> bool:
        return [str(one) for one in self.far.sets.current()] == ["prod@1"] and self.far.has_all(
            self.plan, self.contents
        )

    def close(self) -> None:
        self.near.close()
        self.far.close()


def named(plan: Plan, digest: Digest, name: str = NAME) -> Plan:
    """Return the plan with its first manifest naming `digest` as well, every manifest under `name`."""
    first, *rest = plan.manifests
    manifests = [replace(first, blobs=(*first.blobs, digest)), *rest]
    return Plan.build(
        plan.set,
        releases=[replace(one, source=name) for one in plan.releases],
        images=[replace(one, name=name, source=name) for one in plan.images],
        manifests=[replace(one, name=name) for one in manifests],
        blobs=plan.blobs,
        signatures=plan.signatures,
    )


@pytest.fixture
def gap(tmp_path: Path) -> Iterator[Gap]:
    opened = Gap(tmp_path)
    yield opened
    opened.close()


def refusal(report: LoadReport) -> PresumedRefused:
    (one,) = report.loaded
    assert isinstance(one.error, PresumedRefused), one
    return one.error


@pytest.mark.parametrize("old", [False, True])
def test_what_a_plan_presumes_of_a_private_repository_is_refused(gap: Gap, old: bool) -> None:
    gap.have(old=old)
    disk = gap.save("disk", presuming=True)
    error = refusal(gap.load(disk))
    assert "--allow-presumed" in error.remedy
    assert str(DIGEST) in error.what
    assert PRIVATE not in str(error)
    assert gap.untouched
    assert not gap.opened
    # Again and again, and with nothing else to load.
    refusal(gap.load(disk))
    assert gap.untouched


def test_who_trusts_the_maker_says_so(gap: Gap) -> None:
    """There was no such word before."""
    gap.have()
    disk = gap.save("disk", presuming=True)
    report = gap.load(disk, allow_presumed=True)
    assert report.ready
    assert gap.complete()


def test_who_has_the_bytes_may_bring_them(gap: Gap) -> None:
    gap.have()
    report = gap.load(gap.save("disk", presuming=False))
    assert report.ready
    assert gap.complete()
    assert gap.opened  # by its bytes


def test_other_bytes_in_their_place_prove_nothing(gap: Gap) -> None:
    """The content that is here is right, so a load would not read that of the part: it is read for this."""
    gap.have()
    disk = gap.save("disk", presuming=False)
    for path in parts_of(disk):
        edited(path, lambda raw: garble(raw, SECRET))
    report = gap.load(disk)
    assert not report.ready
    assert not gap.complete()
    assert not gap.opened
    assert any(str(DIGEST.hex) in member for _, member in damages(report)), report.damaged


def test_a_refused_plan_leaves_nothing_of_what_it_proved(gap: Gap) -> None:
    """It has the bytes of one private content and presumes another: all of it is refused, and nothing noted."""
    other = os.urandom(2000)
    gap.plan, gap.contents = made_up(1, [400, 30_000, 20_000], also={DIGEST: SECRET, Digest.of(other): other})
    gap.plan = named(named(gap.plan, DIGEST), Digest.of(other))
    gap.near.fill(gap.plan, gap.contents)
    gap.have()
    ingest.store_bytes(gap.far.layout, Digest.of(other), other)
    gap.rows.add_pushed(PRIVATE, Digest.of(other), len(other))
    refusal(gap.load(gap.save("disk", presuming=True)))
    assert list(gap.rows.list_blobs(NAME)) == []
    assert Brought(gap.far.layout).by(Digest.of(other))[0] == [PRIVATE]


def test_in_parts_that_come_one_after_the_other(gap: Gap) -> None:
    """What a part that is not here yet would prove is missing until it is loaded."""
    gap.have()
    parts = parts_of(gap.save("disk", presuming=False))
    assert len(parts) > 2
    for path in parts[:-1]:
        report = gap.load(path)
        assert not report.ready
        assert not gap.complete()
    report = gap.load(*parts)
    assert report.ready
    assert gap.complete()


def test_bytes_of_another_part_of_a_content_do_not_prove_it(gap: Gap) -> None:
    """Whoever has a piece of it has not the rest."""
    gap.have()
    first, *_ = parts_of(gap.save("disk", presuming=False))
    assert not gap.load(first).ready
    assert not gap.opened


@pytest.mark.parametrize("name", [OPEN, "team/hosted"])
@pytest.mark.parametrize("old", [False, True])
def test_what_no_rule_protects_is_presumed_as_before(gap: Gap, name: str, old: bool) -> None:
    gap.have(name, old=old)
    assert gap.load(gap.save("disk", presuming=True)).ready
    assert gap.complete()


def test_what_an_open_name_only_named_is_not_its_own(gap: Gap) -> None:
    gap.have()
    for brought in (False, None):
        path = Path(gap.far.layout.membership(OPEN, DIGEST))
        path.parent.mkdir(parents=True, exist_ok=True)
        said = "" if brought is None else ', "brought": false'
        path.write_text(f'{{"mediaType": "{LAYER}", "size": {len(SECRET)}{said}}}')
        if brought is None:
            Brought(gap.far.layout).add(OPEN, DIGEST)  # as what is taken over
        refusal(gap.load(gap.save(f"disk-{brought}", presuming=True)))
        assert gap.untouched


@pytest.mark.parametrize("old", [False, True])
def test_the_same_names_had_it(gap: Gap, old: bool) -> None:
    """A protected name may go on with what it has, also where an earlier release noted that."""
    name = "quay.io/vault/app"
    gap.plan = named(gap.plan, DIGEST, name)
    gap.near.fill(gap.plan, gap.contents)
    gap.have(name, old=old)
    assert gap.load(gap.save("disk", presuming=True)).ready


def test_its_own_set_had_it(gap: Gap) -> None:
    earlier, contents = made_up(7, [400, 300, 200], also={DIGEST: SECRET})
    gap.far.fill(named(earlier, DIGEST), contents, 1)
    gap.rows.add_pushed(PRIVATE, DIGEST, len(SECRET))
    planned = plan_save(gap.plan, 2, part_size=PART, how="since", have={DIGEST}, because="prod@1")
    gap.near.fill(gap.plan, gap.contents, 2)
    assert gap.near.save(planned, gap.root / "disk").complete
    report = gap.load(gap.root / "disk")
    assert report.ready, report.loaded[0].error


VAULT = "quay.io/vault/app"


@pytest.mark.parametrize(
    ("before", "now", "good"),
    [
        (VAULT, OPEN, False),  # a part made by hand takes the name of a set for what that set had
        (VAULT, NAME, False),
        ("quay.io/other/app", VAULT, False),  # other clients: neither has all of the readers of the other
        (VAULT, VAULT, True),
        (VAULT, "quay.io/vault/new", True),  # open to the same readers
        (NAME, OPEN, True),
        (NAME, VAULT, True),
    ],
)
def test_its_own_set_had_it_under_a_name_that_is_open_to_no_fewer(gap: Gap, before: str, now: str, good: bool) -> None:
    other = Rule.model_validate({"who": "bob", "repositories": ["quay.io/other/**"], "may": ["pull"]})
    gap.far.readers = Readers("pull", [RULE, other])
    earlier, contents = made_up(7, [400, 300, 200], also={DIGEST: SECRET})
    gap.far.fill(named(earlier, DIGEST, before), contents, 1)
    gap.rows.add_pushed(PRIVATE, DIGEST, len(SECRET))
    gap.plan = named(gap.plan, DIGEST, now)
    planned = plan_save(gap.plan, 2, part_size=PART, how="since", have={DIGEST}, because="prod@1")
    gap.near.fill(gap.plan, gap.contents, 2)
    assert gap.near.save(planned, gap.root / "disk").complete
    report = gap.load(gap.root / "disk")
    if good:
        assert report.ready, report.loaded[0].error
        return
    assert "--allow-presumed" in refusal(report).remedy
    assert gap.rows.member(now, DIGEST) is None
    assert gap.load(gap.root / "disk", allow_presumed=True).ready


def test_a_mirror_without_rules_presumes_as_before(gap: Gap) -> None:
    gap.have()
    gap.far.readers = Readers()
    assert gap.load(gap.save("disk", presuming=True)).ready


def garble(raw: bytearray, content: bytes) -> None:
    """Put other bytes where a part has pieces of `content`."""
    for begin in range(0, len(content), 1000):
        at = raw.find(content[begin : begin + 200])
        if at >= 0:
            raw[at : at + 200] = bytes(200)
