"""What the parts of one generation say in common: its plan, its signatures, and which part brings what."""

from __future__ import annotations

from mirror.errors import Corrupt, MirrorError
from mirror.oci.digest import Digest
from mirror.offline import part
from mirror.offline.found_parts import Damage, Given, Group
from mirror.offline.part import Contents, PartDamaged
from mirror.offline.part_file import PartFile
from mirror.offline.plan import Plan
from mirror.outside import Outside

_COPY_AGAIN = "copy the parts again, and compare them with SHA256SUMS"


class GroupReader:
    """Reads the small members, from whichever part has them whole; notes in `damaged` what is wrong, once each."""

    def __init__(self, group: Group, outside: Outside, damaged: list[Damage]) -> None:
        self._group = group
        self._outside = outside
        self._damaged = damaged
        self._marked = {(one.path, one.member) for one in damaged}

    def plan(self) -> tuple[Plan, bytes]:
        """Return the plan and its bytes. Raises Corrupt, PlanInvalid."""
        for given in self._group.parts:
            raw = self._small(given, part.PLAN)
            if raw is None:
                continue
            plan = Plan.parse(raw)
            if plan.set != self._group.set or plan.digest != self._group.plan or plan.dump() != raw:
                raise Corrupt(
                    f"the plan in {given.path} is not the one that its index names",
                    "ask who saved it; both mirrors should be of one release",
                )
            return plan, raw
        raise Corrupt(f"no part of {self._group} has its whole plan", _COPY_AGAIN)

    def signatures(self, plan: Plan) -> dict[Digest, list[bytes]]:
        """Return the signatures of the releases; raise Corrupt where one is damaged in every part."""
        found: dict[Digest, list[bytes]] = {}
        for one in plan.signatures:
            name = part.signature_name(one.release, one.number)
            bodies = (self._small(given, name) for given in self._group.parts)
            raw = next((body for body in bodies if body is not None and Digest.of(body) == one.digest), None)
            if raw is None:
                raise Corrupt(
                    f"signature {one.number} of the release {one.release} is damaged in every part of {self._group}",
                    _COPY_AGAIN,
                )
            found.setdefault(one.release, []).append(raw)
        return found

    def contents(self) -> list[tuple[part.Index, Contents]]:
        """Return for each save an index of it, and where its digests are; a save whose parts all lost that is empty."""
        return [(parts[0].index, self._contents(parts)) for parts in self._group.saves().values()]

    def mark(self, given: Given, member: str, why: str) -> None:
        """Note what is wrong with a member, or with a whole file (empty)."""
        if (given.path, member) not in self._marked:
            self._marked.add((given.path, member))
            self._damaged.append(Damage(given.path, member, why))

    def _contents(self, parts: list[Given]) -> Contents:
        for given in parts:
            raw = self._small(given, part.CONTENTS)
            if raw is not None:
                try:
                    return part.parse_contents(raw)
                except PartDamaged as error:
                    self.mark(given, part.CONTENTS, error.what)
        return {}

    def _small(self, given: Given, name: str) -> bytes | None:
        """Return a small member, None where it is damaged or not there."""
        try:
            with PartFile(self._outside, given.path) as opened:
                return opened.content(name)
        except KeyError:
            return None
        except OSError as error:
            self.mark(given, "", f"it cannot be read ({error.strerror})")
        except MirrorError as error:
            self.mark(given, name, error.what)
        return None
