"""`mirror explain`: what a name means here, who is asked for it and as whom, what is here, what a pull would do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from mirror.config import Config, matches
from mirror.config.access import ANYBODY
from mirror.content.answers import BRING, Target
from mirror.content.service import Content
from mirror.errors import Denied, MirrorError, NameInvalid, NameUnknown, RecordDamaged, StoreUnreadable
from mirror.oci import manifest
from mirror.oci.digest import Digest
from mirror.oci.reference import check_name, parse_reference
from mirror.registry.access import Access
from mirror.registry.clients import ANONYMOUS
from mirror.store import files
from mirror.store.layout import Layout
from mirror.store.manifests import Manifests
from mirror.store.sets import Pins
from mirror.store.tags import Tags
from mirror.store.threads import Threads
from mirror.upstream.client import UpstreamClient

_MANIFEST_LIMIT = 8 * 1024 * 1024
_MOST = 20_000  # contents of one image that are looked for
_LONGEST = 2000  # characters of a name with all that a client may write around it


class Spelled(NamedTuple):
    """A name as a client spells it: the path, the host that it would send as `ns`, and which one is meant."""

    name: str
    ns: str | None
    reference: Digest | str
    host: str = ""  # of a URL


def parse(text: str) -> Spelled:
    """Return what `text` spells: NAME[:TAG][@DIGEST], with a host before it, `?ns=HOST` behind it, or a whole URL.

    Raises InvalidRequest.
    """
    if len(text) > _LONGEST:
        raise NameInvalid("the name is too long")
    text, _, query = text.partition("?")
    ns = next(iter(parse_qs(query).get("ns", ())), None)
    text, host = text.removeprefix("docker://"), ""
    if text.startswith(("http://", "https://")):
        host, path = urlsplit(text).netloc, urlsplit(text).path.lstrip("/")
        text = path if path.startswith("v2/") or "/v2/" in path else f"{host}/{path}"
    reference = ""
    prefix, v2, rest = f"/{text}".partition("/v2/")
    if v2:
        # As containerd has it, an upstream may stand before /v2/.
        text = f"{prefix.strip('/')}/{rest}".lstrip("/")
        for kind in ("manifests", "blobs", "referrers"):
            head, found, tail = text.partition(f"/{kind}/")
            if found:
                text, reference = head, tail
        text = text.removesuffix("/tags/list")
    text, at, digest = text.partition("@")
    head, slash, last = text.rpartition("/")
    last, colon, tag = last.partition(":")
    name = f"{head}{slash}{last}"
    return Spelled(name, ns, parse_reference(digest if at else reference or (tag if colon else "latest")), host)


class Explain:
    """Explains names by a configuration and its store. Asks no upstream, and shows no secret."""

    def __init__(
        self,
        config: Config,
        content: Content,
        layout: Layout,
        upstreams: Mapping[str, UpstreamClient],
        readers: Threads,
    ) -> None:
        self._config = config
        self._content = content
        self._layout = layout
        self._upstreams = upstreams
        self._readers = readers
        self._access = Access(config.clients.anonymous, config.clients.rules, catalog=config.clients.catalog)
        self._own = _own_hosts(config)
        self._pins = Pins(layout)

    async def __call__(self, text: str) -> dict[str, Any]:
        """Return the explanation of a name. Raises InvalidRequest where it is none."""
        spelled = parse(text)
        if not self._content.settled:
            await self._content.settle()
        found: dict[str, Any] = {"given": text, "reference": str(spelled.reference)}
        try:
            target, why = self._decide(spelled)
        except NameUnknown as error:
            return found | {"kind": "unknown", "pull": _pull("404", error.what, error.remedy)}
        except StoreUnreadable as error:
            return found | {"kind": "unknown", "pull": _pull("503", error.what, error.remedy)}
        found |= {"name": target.name, "decided_by": why, "kind": _kind(target)}
        found["clients"] = self._clients(target)
        if target.upstream:
            found["upstream"] = await self._upstream(target)
        here = await self._readers.run(self._here, target, spelled.reference)
        found["here"] = here
        found["pull"] = self._foresee(target, spelled.reference, found)
        return found

    def _decide(self, spelled: Spelled) -> tuple[Target, str]:
        """Return what a name means, however a client spells it. Raises NameUnknown, InvalidRequest, StoreUnreadable."""
        first, _, rest = spelled.name.partition("/")
        name, ns = spelled.name, spelled.ns
        if ns is None and spelled.host in self._config.upstreams:
            ns = spelled.host  # what is asked of that registry, a client would ask of this one with `ns`
        if rest and first.lower() in self._own:
            name, first = rest, rest.partition("/")[0]
        elif rest and ns is None and first not in self._config.upstreams and _is_host(first):
            return self._decide_by_host(name, first, rest)
        return self._content.decide(check_name(name), ns)

    def _decide_by_host(self, name: str, host: str, rest: str) -> tuple[Target, str]:
        """Return what a name means whose host is no upstream's key, for a client that has this mirror configured."""
        try:
            return self._content.decide(check_name(rest), host)
        except NameUnknown:
            if ":" in host:
                raise
            target, why = self._content.decide(check_name(name), None)
            # Whoever writes the host means that registry, and not one of that name at the default upstream.
            if target.upstream and target.upstream == self._config.default_upstream and not target.aliased:
                raise
            return target, why

    def _clients(self, target: Target) -> dict[str, Any]:
        """Return what clients without a login may do, and which rules there are for this repository."""
        rules = [
            {
                "where": self._config.source.where("clients", "rules", number),
                "who": list(rule.who),
                "may": list(rule.may),
                "repositories": list(rule.repositories),
            }
            for number, rule in enumerate(self._config.clients.rules)
            if rule.covers(target.name)
        ]
        verbs = sorted(self._access.verbs(ANONYMOUS, target.name))
        if not target.hosted:
            verbs = [verb for verb in verbs if verb == "pull"]
        named = (rule["where"] for rule in rules if not {ANONYMOUS.name, ANYBODY}.isdisjoint(rule["who"]))
        without = "rules cover it, and none names anonymous" if rules else ""
        decides = next(named, without) or f"clients.anonymous: {self._config.clients.anonymous}"
        return {"anonymous": verbs, "decided_by": decides, "rules": rules}

    async def _upstream(self, target: Target) -> dict[str, Any]:
        config, client = self._config.upstreams[target.upstream], self._upstreams[target.upstream]
        rules = config.repositories
        sources = await client.credential_sources(target.repository)
        denied = next((one for one in rules.deny if matches([one], target.repository)), "")
        return {
            "name": target.upstream,
            "repository": target.repository,
            "allowed": rules.allows(target.repository),
            "rule": f"deny: {denied}" if denied else f"allow: {', '.join(rules.allow)}",
            "endpoints": [
                {
                    "url": f"{one.endpoint}/v2/{target.repository}/",
                    "credential": source,
                    "breaker": one.breaker,
                    "asked_again": round(one.asked_again, 1),
                    "last_error": one.last_error,
                    "login": one.credential,
                }
                for one, source in zip(client.health(), sources, strict=True)
            ],
        }

    # -- what is here ----------------------------------------------------------------------------------------

    def _here(self, target: Target, reference: Digest | str) -> dict[str, Any]:
        """Return what the store has of an image. For threads."""
        found: dict[str, Any] = {"digest": None, "tag": None, "pinned_by": [], "manifest": False, "contents": None}
        digest: Digest | None
        if isinstance(reference, Digest):
            digest = reference
        else:
            try:
                found["tag"], digest = self._tag(target, reference)
            except RecordDamaged as error:
                digest, found["damaged"] = None, {"what": error.what, "remedy": error.remedy}
        if digest is None:
            return found
        found["digest"] = str(digest)
        found["pinned_by"] = self._pins.holders([str(digest)])[str(digest)]
        try:
            row = Manifests(self._layout).read_manifest(target.name, digest)
        except RecordDamaged as error:
            row, found["damaged"] = None, {"what": error.what, "remedy": error.remedy}
        found["member"] = row is not None or Manifests(self._layout).is_member(target.name, digest)
        found["manifest"] = files.modified(self._layout.blob(digest)) is not None
        if found["manifest"]:
            found["contents"] = self._contents(digest, row.media_type if row is not None else "")
        return found

    def _tag(self, target: Target, tag: str) -> tuple[dict[str, Any] | None, Digest | None]:
        pinned = self._content.known.tags.get((target.name, tag))
        if pinned is not None:
            return {"fresh": True, "why": "an image set says what it means", "checked": None, "fresh_for": None}, pinned
        record = Tags(self._layout).read(target.name, tag)
        if record is None:
            return None, None
        fresh_for = self._config.upstreams[target.upstream].tags.fresh_for if target.upstream else None
        age = time.time() - record.checked
        if fresh_for is None:
            fresh, why = True, "nobody else says what it means"
        elif self._config.offline:
            fresh, why = True, "nothing is asked while offline"
        else:
            fresh = 0 <= age < fresh_for
            why = f"checked {age:.0f} s ago, and believed for {fresh_for:.0f} s"
        return {"fresh": fresh, "why": why, "checked": record.checked, "fresh_for": fresh_for}, record.digest

    def _contents(self, digest: Digest, media_type: str) -> dict[str, Any] | None:
        """Return how much of an image is here, its platforms included; None where its manifest cannot be read."""
        waiting = [(digest, media_type)]
        seen: dict[Digest, int] = {}
        missing: list[str] = []
        lacking = total = 0
        while waiting and len(seen) < _MOST:
            at, media = waiting.pop()
            try:
                raw = files.read_small(self._layout.blob(at), _MANIFEST_LIMIT)
                read = manifest.parse(raw, media) if raw is not None else None
            except (OSError, MirrorError):
                return None
            if read is None:
                continue
            for one in read.named:
                if one.digest in seen:
                    continue
                seen[one.digest] = one.size
                total += one.size
                if files.modified(self._layout.blob(one.digest)) is None:
                    missing.append(str(one.digest))
                    lacking += one.size
            waiting += [(one.digest, one.media_type) for one in read.children]
        return {
            "count": len(seen),
            "bytes": total,
            "missing": len(missing),
            "missing_bytes": lacking,
            "examples": missing[:5],
        }

    # -- what a pull would do --------------------------------------------------------------------------------

    def _foresee(self, target: Target, reference: Digest | str, found: dict[str, Any]) -> dict[str, str]:
        name = f"{target.name}{'@' if isinstance(reference, Digest) else ':'}{reference}"
        here, upstream = found["here"], found.get("upstream")
        if "pull" not in found["clients"]["anonymous"]:
            login = "a login that a rule under clients lets in" if found["clients"]["rules"] else "a login"
            return _pull("401", f"clients without a login may not pull {target.name}", f"it takes {login}")
        if upstream is not None and not upstream["allowed"]:
            try:
                self._content.resolve(target.name, None, None)
            except (Denied, NameUnknown) as error:
                return _pull("404", error.what, error.remedy)
        damaged = here.get("damaged")
        if damaged and (not target.upstream or self._config.offline):
            return _pull("503", damaged["what"], damaged["remedy"])
        if not target.upstream:
            if here["manifest"] and here["member"]:
                return _whole(f"{name} is served from here", here)
            bring = BRING if self._config.offline else "sync or load a set that holds it"
            return _pull("404", f"{name} is not here", "push it" if target.hosted else _mended(here) or bring)
        away = upstream is not None and all(one["breaker"] != "closed" for one in upstream["endpoints"])
        if self._config.offline:
            if here["manifest"]:
                return _whole(f"{name} is served from here; the mirror is offline", here)
            return _pull("404", f"{name} is not here and the mirror is offline", _mended(here) or BRING)
        return _proxied(name, target, here, away=away)


def _proxied(name: str, target: Target, here: dict[str, Any], *, away: bool) -> dict[str, str]:
    """Foresee a pull from an upstream that may be asked."""
    lacking = (here["contents"] or {}).get("missing", 0)
    rest = f"; {lacking} of the items that it names are fetched when they are asked for" if lacking else ""
    tag = here["tag"]
    if tag is not None and not tag["fresh"]:
        if away:
            return _pull("STALE", f"'{target.upstream}' is away: the digest known for {name} is served{rest}")
        return _pull("HIT", f"'{target.upstream}' is asked by HEAD whether {name} has moved; the rest is here{rest}")
    if here["manifest"] and not here["member"]:
        return _pull("HIT", f"'{target.upstream}' is asked once whether {target.name} has it; the bytes are here{rest}")
    if here["manifest"]:
        return _pull("HIT", f"{name} is served from here and nobody is asked{rest}")
    if away:
        return _pull("503", f"{name} is not here and '{target.upstream}' is away", "ask again; mirror check --online")
    return _pull("MISS", f"{name} is fetched from '{target.upstream}' and kept")


def _whole(what: str, here: dict[str, Any]) -> dict[str, str]:
    """Foresee a pull of what nobody else is asked for, and of which something may be missing."""
    lacking = (here["contents"] or {}).get("missing", 0)
    if not lacking:
        return _pull("HIT", what)
    are = "1 of the items that it names is" if lacking == 1 else f"{lacking} of the items that it names are"
    return _pull("HIT", f"{what}, but {are} not here, and answered 404", _mended(here))


def _mended(here: dict[str, Any]) -> str:
    """Return what mends an image that sets here should have; empty where none names it."""
    sets = [one for one in here["pinned_by"] if "@" in one]
    return f"{', '.join(sets)} should hold it: mirror verify {sets[0]} says what is missing" if sets else ""


def _pull(answer: str, what: str, remedy: str = "") -> dict[str, str]:
    return {"answer": answer, "what": what, "remedy": remedy}


def _kind(target: Target) -> str:
    return "proxied" if target.upstream else "hosted" if target.hosted else "set"


def _is_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"


def _own_hosts(config: Config) -> frozenset[str]:
    hosts = {address.lower() for address in config.listen if not address.startswith("unix:")}
    hosts |= {f"localhost:{address.rpartition(':')[2]}" for address in hosts}
    if config.external_url:
        hosts.add(urlsplit(config.external_url).netloc.lower())
    return frozenset(hosts)
