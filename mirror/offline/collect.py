"""From an image set to a plan: releases found, trusted and opened; every image with its closure and signatures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mirror.config.values import count_text
from mirror.content.answers import Target
from mirror.oci.digest import Digest
from mirror.offline import assemble
from mirror.offline.assemble import Holdings, Key
from mirror.offline.attached import Attaching, Attachments
from mirror.offline.bounded import Bounded
from mirror.offline.closure import Closure, Closures
from mirror.offline.collect_among import releases_among
from mirror.offline.collect_image import Resolving, named
from mirror.offline.collect_release import Asked, Opened, Releases, Verify
from mirror.offline.each import each
from mirror.offline.graph import Fetch, Selection, excerpt, select
from mirror.offline.image_set import ImageSet
from mirror.offline.plan import GraphExcerpt, Plan
from mirror.offline.source import ImageSource, Lacking
from mirror.offline.wanted import FAILED, Gate, Troubles, Wanted, Wishes, check_tags

_EVERY = 25  # images between two words of progress


@dataclass(frozen=True, slots=True)
class Collected:
    """A plan and what came with it.

    `signatures` are the bytes of every release's OpenPGP signatures by release digest. `failures` are what could not
    be had and is not planned; the plan's own `lacking` names it too. `unknown_hosts` says for each registry that no
    upstream is configured for what needs it.
    """

    plan: Plan
    signatures: Mapping[Digest, Sequence[tuple[int, bytes]]]
    warnings: tuple[str, ...]
    failures: tuple[Lacking, ...]
    unknown_hosts: Mapping[str, Sequence[str]]


async def collect(
    image_set: ImageSet,
    name: str,
    source: ImageSource,
    graphs: Fetch,
    signatures: Verify,
    *,
    require_signature: bool,
    parallel: int = 8,
    progress: Callable[[str], None] = lambda _: None,
) -> Collected:
    """Return the plan of `image_set` under `name`, asking `source` at most `parallel` questions at once.

    The same answers give the same plan, whatever their order. An image that cannot be had is left out and reported;
    what `graphs` and `signatures` raise ends it, as do VersionMismatch and other Corrupt, StoreFull, ConfigurationError
    where one tag would name two images, and UpstreamUnavailable where nothing else can be said.
    """
    collection = _Collection(
        image_set, source, graphs, signatures, require_signature=require_signature, parallel=parallel, progress=progress
    )
    return await collection.run(name)


class _Collection:
    """One run over an image set."""

    def __init__(
        self,
        image_set: ImageSet,
        source: ImageSource,
        graphs: Fetch,
        verify: Verify,
        *,
        require_signature: bool,
        parallel: int,
        progress: Callable[[str], None],
    ) -> None:
        self._image_set = image_set
        source = Bounded(source, parallel)
        self._graphs = graphs
        self._require_signature = require_signature
        self._parallel = parallel
        self._progress = progress
        self._troubles = Troubles()
        self._closures = Closures(source)
        self._attaching = Attaching(source, self._closures)
        self._gate = Gate(image_set, source, self._troubles)
        self._resolving = Resolving(source, self._gate, self._troubles, parallel)
        self._releases = Releases(
            source, self._closures, verify, image_set, self._troubles, require_signature=require_signature
        )

    async def run(self, name: str) -> Collected:
        """Return what the image set comes to."""
        selections = await self._selections()
        asked = await self._asked(selections)
        opened = [one for one in await each(self._open, asked, self._parallel) if one is not None]
        wishes = Wishes()
        for one in opened:
            for wanted in self._releases.images(one, self._gate):
                wishes.add(wanted)
        for wanted in await self._named(opened):
            wishes.add(wanted)
        holdings = Holdings()
        wished = wishes.sorted()
        closures: list[tuple[Wanted, Closure]] = []

        async def read() -> None:
            closures.extend(await self._read(wished))

        async def learn() -> None:
            await self._learn((one.target, one.digest) for one in wished)

        await each(lambda work: work(), [read, learn], 2)
        among = await releases_among(closures, self._releases, self._troubles, self._parallel)
        for release in among.opened:
            self._note(release)
        whole = assemble.keep_whole(among.images, holdings, self._troubles)
        attached = await self._attached(whole)
        return self._collected(name, selections, [*opened, *among.opened], among.signatures, whole, attached, holdings)

    async def _selections(self) -> dict[str, Selection]:
        """Return which releases the channels come to, by architecture."""
        if not self._image_set.channels:
            return {}
        found: dict[str, Selection] = {}
        for architecture in self._image_set.architectures:
            found[architecture] = await select(self._image_set.channels, architecture, self._graphs)
            self._troubles.warnings.update(found[architecture].warnings)
        return found

    async def _asked(self, selections: Mapping[str, Selection]) -> list[Asked]:
        """Return the releases to open: those of the channels, and those that were given by pullspec."""
        found: dict[tuple[str, Digest, str], Asked] = {}
        for architecture, selection in selections.items():
            for one in selection.releases:
                target = self._gate.target(one.payload, f"release {one.version} ({architecture})")
                if target is not None and one.payload.digest is not None:
                    asked = Asked(
                        one.payload,
                        target,
                        one.payload.digest,
                        one.version,
                        architecture,
                        one.channels,
                        one.why,
                        one.risks,
                    )
                    found[(target.name, asked.digest, architecture)] = asked
        given = self._image_set.releases
        wheres = self._image_set.release_wheres or tuple(map(str, given))
        resolved = await self._resolving.resolve(list(zip(given, wheres, strict=True)))
        by_graph = {key[:2] for key in found}
        for place, (target, digest) in resolved.items():
            if (target.name, digest) not in by_graph:
                pullspec = given[place]
                found[(target.name, digest, "")] = Asked(pullspec, target, digest, why="asked for by name")
        return [found[key] for key in sorted(found)]

    async def _open(self, asked: Asked) -> Opened | None:
        try:
            opened = await self._releases.open(asked)
        except FAILED as error:
            self._troubles.add(str(asked.pullspec), error)
            return None
        self._note(opened)
        return opened

    def _note(self, opened: Opened) -> None:
        self._troubles.warnings.update(f"{opened.label}: {one}" for one in opened.payload.warnings)
        keys = f"signed by {', '.join(opened.signed_by)}" if opened.signed_by else "signature not verified"
        self._progress(f"{opened.label}: {keys}, {count_text(len(opened.payload.components), 'component')}")

    async def _named(self, opened: Sequence[Opened]) -> list[Wanted]:
        """Return the images that were asked for by name. What nodes demand of them is what any of the releases says."""
        scopes = frozenset(scope for one in opened for scope in one.payload.sigstore_scopes)
        return await named(self._image_set.images, scopes, self._resolving, self._troubles)

    async def _read(self, wanted: Sequence[Wanted]) -> list[tuple[Wanted, Closure]]:
        """Return the images that can be had, with their closures."""
        done = 0

        async def read(one: Wanted) -> Closure | None:
            nonlocal done
            closure = None
            try:
                closure = await self._closures.read(one.target, one.digest, one.platforms)
            except FAILED as error:
                self._troubles.add(one.pullspec, error)
            done += 1
            if done % _EVERY == 0 or done == len(wanted):
                self._progress(f"{done} of {count_text(len(wanted), 'image')} read")
            return closure

        closures = await each(read, wanted, self._parallel)
        return [(one, closure) for one, closure in zip(wanted, closures, strict=True) if closure is not None]

    async def _learn(self, subjects: Iterable[tuple[Target, Digest]]) -> None:
        """Find out how each repository is asked for what is attached."""
        targets: dict[str, Target] = {}
        digests: dict[str, list[Digest]] = defaultdict(list)
        for target, digest in subjects:
            targets[target.name] = target
            digests[target.name].append(digest)
        await each(lambda name: self._attaching.learn(targets[name], digests[name]), sorted(targets), self._parallel)

    async def _attached(self, whole: Sequence[tuple[Wanted, Closure]]) -> dict[Key, Attachments]:
        """Return what is attached to each image and to each planned child of it."""
        subjects: dict[Key, Wanted] = {}
        for wanted, closure in whole:
            for manifest in closure.manifests:
                subjects.setdefault((manifest.name, manifest.digest), wanted)

        async def find(key: Key) -> Attachments:
            return await self._attaching.find(subjects[key].target, subjects[key].source, key[1])

        keys = sorted(subjects)
        await self._learn(
            (subjects[key].target, key[1]) for key in keys
        )  # with the children of lists, more than before
        found = dict(zip(keys, await each(find, keys, self._parallel), strict=True))
        if keys:
            signed = sum(one.signed for one in found.values())
            self._progress(f"{count_text(signed, 'sigstore signature')} found, of {count_text(len(keys), 'manifest')}")
        return found

    def _collected(
        self,
        name: str,
        selections: Mapping[str, Selection],
        opened: Sequence[Opened],
        signed: Mapping[Digest, Sequence[tuple[int, bytes]]],
        whole: Sequence[tuple[Wanted, Closure]],
        attached: Mapping[Key, Attachments],
        holdings: Holdings,
    ) -> Collected:
        troubles = self._troubles
        lacking: set[str] = set()
        check_tags([wanted for wanted, _ in whole])
        images = [
            *assemble.images(whole, attached, lacking),
            *assemble.attachments(whole, attached, holdings, troubles),
        ]
        away = troubles.nothing_but_away()
        if away is not None and not images:
            raise away
        here = {wanted.key for wanted, _ in whole}
        releases = [one for one in opened if (one.asked.target.name, one.asked.digest) in here]
        signatures = {digest: list(found) for digest, found in signed.items() if found}
        signatures |= {one.asked.digest: list(one.signatures) for one in releases if one.signatures}
        # The reason may read otherwise next time, and a plan is the same when its content is.
        lacking.update(f"{one.what} could not be found when this was planned: plan again" for one in troubles.failures)
        plan = Plan.build(
            name,
            releases=[assemble.release(one) for one in releases],
            images=images,
            manifests=holdings.manifests.values(),
            blobs=holdings.blobs.values(),
            signatures=assemble.signatures(signatures),
            graphs=_excerpts(selections, releases),
            blocked=troubles.blocked,
            left_out=holdings.left_out,
            lacking=lacking,
            require_signature=self._require_signature,
        )
        return Collected(
            plan,
            signatures,
            tuple(sorted(troubles.warnings | holdings.left_out)),
            tuple(sorted(troubles.failures, key=lambda one: (one.what, one.why))),
            {host: sorted(wheres) for host, wheres in sorted(troubles.unknown_hosts.items())},
        )


def _excerpts(selections: Mapping[str, Selection], releases: Sequence[Opened]) -> list[GraphExcerpt]:
    """Return what the graph says of the planned releases, for each channel and architecture that was asked for."""
    found = []
    for architecture, selection in selections.items():
        versions = {one.payload.version for one in releases if one.architecture == architecture}
        for channel, graph in sorted(selection.graphs.items()):
            found.append(GraphExcerpt(channel, architecture, excerpt(graph, versions)))
    return found
