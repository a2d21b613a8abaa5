"""Complete a generation: everything of its plan is here and proven, so its names and tags become true in one rename."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mirror import logs
from mirror.config.values import count_text
from mirror.errors import InvalidRequest, ManifestInvalid, StoreError
from mirror.oci import media_types, strict_json
from mirror.oci.digest import Digest
from mirror.oci.manifest import MANIFEST_LIMIT, Manifest
from mirror.oci.pullspec import is_pullspec
from mirror.oci.reference import check_tag
from mirror.offline.crew import work_through
from mirror.offline.graph import GraphInvalid, alone, channels, excerpt
from mirror.offline.graph import read as read_graph
from mirror.offline.graph_files import write_graphs
from mirror.offline.here import Store
from mirror.offline.keyring import Keyring, shipped
from mirror.offline.plan import GraphExcerpt, Plan, PlanInvalid, PlannedManifest, Release
from mirror.offline.trust import check_signed, kept_signatures, unsigned
from mirror.store import files
from mirror.store.manifests import Manifests as Rows
from mirror.store.referrers import Referrers
from mirror.store.sets import How, Sets

_AT_ONCE = 8  # rows that are made durable: a disk makes several safe in the time of one

_log = logs.get("offline.complete")


@dataclass(frozen=True, slots=True)
class Incomplete:
    """What is not here of a plan, with the size of each in bytes, and which signatures are not."""

    missing: dict[Digest, int]
    signatures: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.signatures)


def complete(
    plan: Plan,
    number: int,
    how: How,
    store: Store,
    sets: Sets,
    keyring: Callable[[], Keyring] | None = shipped,
    step: Callable[[], None] = lambda: None,
) -> Incomplete:
    """Make generation `number` complete if all of its plan is here; return what is not. For threads only.

    One that is complete already gets back what it has lost of names and of the graph, and keeps its place among sets.

    Every way by which a generation comes in ends here, so here no release passes that none of the keys in `keyring` has
    signed; None: it need not be signed. What was loaded was brought under the plan's names: whoever calls has seen to
    it that the plan presumes nothing of others (presumed.py). What was synced has its rows from upstream. `step` is
    called now and then, and may raise. Raises SignatureInvalid; ManifestInvalid where the plan and a manifest do not
    agree: a plan is not believed about what a manifest names, nor about which of its images are releases. Raises
    OSError, StoreError.
    """
    presence = store.presence(plan)
    lacking = Incomplete(presence.missing, tuple(store.lacking_signatures(plan)))
    if lacking:
        return lacking
    if keyring is not None:
        _check_signed(plan, store, sets, keyring(), step)
    rows = Rows(store.layout)
    sizes = {one.digest: one.size for one in plan.blobs}
    sizes.update((one.digest, one.size) for one in plan.manifests)

    def add(planned: PlannedManifest) -> None:
        found = store.manifest(planned.digest, planned.media_type)
        _check(planned, found, sizes)
        row, loaded = rows.manifest(planned.name, planned.digest), how == "loaded"
        if row is None or (loaded and not row.brought):
            rows.add_manifest(planned.name, planned.digest, found.media_type, planned.size, loaded)
        rows.add_named(planned.name, found.named)
        if loaded:
            for digest in (*planned.blobs, *planned.manifests):
                rows.add_brought(planned.name, digest)

    work_through(add, plan.manifests, _AT_ONCE)
    _write_referrers(plan, store)
    if not any((one.set, one.generation, one.plan) == (plan.set, number, plan.digest) for one in sets.current()):
        sets.complete(plan.set, number, plan.digest, how)
    refresh_graphs(store, sets)
    return lacking


def _check_signed(plan: Plan, store: Store, sets: Sets, keyring: Keyring, step: Callable[[], None]) -> None:
    """Raise SignatureInvalid where a release among what is here of `plan` is not signed."""
    # What is in a complete generation was unpacked when it came, and most of a set is in the one before.
    seen = {manifest.digest for other in _complete_plans(sets) for manifest in other.manifests}
    found = unsigned(plan, store, keyring, by_label_alone=seen.__contains__, step=step)
    check_signed(found, kept_signatures(store), keyring)


def _complete_plans(sets: Sets) -> Iterator[Plan]:
    for one in sets.current():
        plan = stored_plan(sets, one.set, one.generation)
        if plan is not None:
            yield plan


def stored_plan(sets: Sets, name: str, number: int) -> Plan | None:
    """Return the plan of a generation, None where there is none. Raises StoreUnreadable, RecordDamaged."""
    return sets.read_whole(name, number, _parse_plan)


def _parse_plan(raw: bytes) -> Plan | None:
    try:
        return Plan.parse(raw)
    except PlanInvalid:
        return None


def refresh_graphs(store: Store, sets: Sets) -> None:
    """Write what the update graph says of all complete generations, for `serve` to answer from. For threads only."""
    with sets.locked():  # so that what is read last is written last
        excerpts: list[GraphExcerpt] = []
        releases: list[Release] = []
        for plan in _complete_plans(sets):
            excerpts += _own(plan)
            releases += plan.releases
        # What a graph says of a release decides, wherever it came from: so those come last.
        write_graphs(store.layout, [*_alone(releases, excerpts), *excerpts])


def _check(planned: PlannedManifest, found: Manifest, sizes: dict[Digest, int]) -> None:
    """Raise ManifestInvalid where a plan says something else of a manifest than its bytes do."""
    name = f"{planned.name}@{planned.digest}"
    children = {one.digest: one.size for one in found.children}
    blobs = {one.digest: one.size for one in found.blobs if not one.foreign}
    if set(planned.blobs) != set(blobs) or not set(planned.manifests) <= set(children):
        raise ManifestInvalid(f"the plan names other content for {name} than that manifest does", "make the plan again")
    for digest, size in {**blobs, **{child: children[child] for child in planned.manifests}}.items():
        if sizes.get(digest) != size:
            raise ManifestInvalid(
                f"{name} says that {digest} has {count_text(size, 'byte')}, the plan says {sizes.get(digest)}"
            )


def _own(plan: Plan) -> Iterator[GraphExcerpt]:
    """Yield the update graph of a plan with only the releases that the plan holds: it may come from elsewhere."""
    releases = {(one.version, f"{one.source}@{one.digest}") for one in plan.releases}
    for one in plan.graphs:
        try:
            graph = read_graph(one.graph)
        except GraphInvalid as error:
            _log.warning("graph_invalid", set=plan.set, channel=one.channel, error=error.what)
            continue
        held = [node.version for node in graph.nodes.values() if (node.version, node.payload) in releases]
        yield GraphExcerpt(one.channel, one.architecture, excerpt(graph, held))


def _alone(releases: Iterable[Release], excerpts: Iterable[GraphExcerpt]) -> Iterator[GraphExcerpt]:
    """Yield each release that no excerpt speaks of, in the channels that clusters of it may ask for."""
    said = {(one.architecture, node["payload"]) for one in excerpts for node in one.graph["nodes"]}
    for release in releases:
        payload = f"{release.source}@{release.digest}"
        # What is kept under a path of its own has no name that a cluster could be told.
        if (release.architecture, payload) in said or not is_pullspec(payload):
            continue
        with suppress(InvalidRequest):  # no graph could have such a version or architecture
            check_tag(release.architecture)
            for channel in channels(release.version):
                yield GraphExcerpt(channel, release.architecture, alone(release.version, payload))


def _write_referrers(plan: Plan, store: Store) -> None:
    """Keep for each subject of the plan who refers to it, beside what upstream said before."""
    subjects: dict[tuple[str, Digest], list[PlannedManifest]] = defaultdict(list)
    for planned in plan.manifests:
        if planned.subject is not None:
            subjects[(planned.name, planned.subject)].append(planned)
    kept = Referrers(store.layout)
    for (name, subject), planned_ones in subjects.items():
        old = kept.read(name, subject)
        entries = _entries(old.body) if old is not None else {}
        before = dict(entries)
        for planned in planned_ones:
            entries[str(planned.digest)] = _descriptor(store, planned)
        if entries != before:
            index = {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_INDEX,
                "manifests": [entries[digest] for digest in sorted(entries)],
            }
            kept.write(name, subject, json.dumps(index, separators=(",", ":")).encode())


def _entries(body: bytes) -> dict[str, Any]:
    try:
        return {entry["digest"]: entry for entry in json.loads(body)["manifests"]}
    except (ValueError, LookupError, TypeError):
        return {}


def _descriptor(store: Store, planned: PlannedManifest) -> dict[str, Any]:
    """Return a referrer's descriptor as the API lists it (distribution-spec, Listing Referrers)."""
    raw = files.read_small(store.layout.blob(planned.digest), MANIFEST_LIMIT)
    if raw is None:
        raise StoreError(f"the manifest {planned.digest} is not here")
    document: dict[str, Any] = strict_json.loads(raw)
    config = document.get("config")
    found: dict[str, Any] = {
        "mediaType": planned.media_type,
        "digest": str(planned.digest),
        "size": planned.size,
    }
    artifact_type = document.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    if artifact_type:
        found["artifactType"] = artifact_type
    if isinstance(document.get("annotations"), dict):
        found["annotations"] = document["annotations"]
    return found
