"""Registries that an endpoint redirects the API itself to: there we are nobody, whoever we are at the endpoint.

A vanity host leads `/v2/…` on to a registry that wants a token of its own, which anybody gets. No credential is ever
looked up or sent here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace

from yarl import URL

from mirror.errors import UpstreamDenied, UpstreamError, UpstreamInvalid
from mirror.upstream import auth, failures
from mirror.upstream.realm import RealmRule
from mirror.upstream.redirect import Listed
from mirror.upstream.secret import Secret
from mirror.upstream.token_service import Asked, TokenServices
from mirror.upstream.tokens import TokenCache
from mirror.upstream.transport import Answer, Transport

# A vanity host leads to one registry, or to a few by repository.
_MOST_PLACES = 8
_ADDRESS = re.compile(r"/v2/(?:(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/[^/]+)?")
_REFUSED = frozenset({401, 403})


class _Place:
    """One registry elsewhere, and what it last asked for."""

    def __init__(self, services: TokenServices) -> None:
        self.services = services
        self.asked: Asked | None = None


class Guests:
    """Anonymous logins at the registries that one endpoint leads to; the eight used last are remembered."""

    def __init__(self, transport: Transport, realms: RealmRule, tokens: TokenCache, listed: Listed) -> None:
        self._transport = transport
        self._realms = realms
        self._tokens = tokens
        self._listed = listed
        self._places: OrderedDict[str, _Place] = OrderedDict()

    async def authorization(self, url: URL, private: bool) -> Secret | None:
        """Return the header for a request to `url`; None to ask without, as long as nobody there asked for one.

        `private`: all that led there answered from private addresses.
        """
        place = self._places.get(failures.origin(url))
        if place is None or place.asked is None or not is_registry(url):
            return None
        self._places.move_to_end(failures.origin(url))
        asked = replace(place.asked, from_private=private and place.asked.from_private)
        try:
            return await place.services.header(asked.challenges[0], None, _repository(url), asked)
        except UpstreamError:
            place.asked = None  # it is asked without, and says anew what it wants
            return None

    async def renew(self, refused: Answer, private: bool, sent: Secret | None) -> Secret | None:
        """Return a new header after the 401 `refused`; None if it is no registry's, or asks for no token.

        `private` as above. Raise UpstreamDenied if nobody gets a token for that, UpstreamInvalid for a realm that the
        registry may not name or a service that makes no sense, TokenServiceAway.
        """
        asked = Asked.read(refused, _repository(refused.url))
        if asked is None or not is_registry(refused.url):
            return None
        asked = replace(asked, from_private=private and asked.from_private)
        problem: UpstreamInvalid | None = None
        for chosen in auth.usable(asked.challenges, None):
            place = self._place(refused.url)
            try:
                header = await place.services.header(chosen, None, _repository(refused.url), asked, sent)
            except failures.AddressForbidden:
                raise
            except UpstreamInvalid as error:
                problem = problem or UpstreamInvalid(error.what, _remedy(refused.url))
                continue
            except UpstreamDenied as error:
                raise UpstreamDenied(error.what, _remedy(refused.url)) from None
            place.asked = asked.beginning_with(chosen)
            return header
        if problem is not None:
            raise problem
        return None

    def _place(self, url: URL) -> _Place:
        """Return the registry at the origin of `url`."""
        name = failures.origin(url)
        place = self._places.get(name)
        if place is None:
            realms = self._realms.of(url.origin())
            place = _Place(TokenServices(url.origin(), self._transport, realms, self._tokens, self._listed, None))
            self._places[name] = place
        self._places.move_to_end(name)
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)
        return place


def is_registry(url: URL) -> bool:
    """Tell whether `url` is an address of the API, as a registry has it."""
    return _ADDRESS.fullmatch(url.raw_path) is not None


def refusal(answer: Answer, endpoint: str) -> UpstreamDenied | None:
    """Return what to say of a registry's 401 or 403 to nobody; None for another answer, or one to a signed address."""
    address = _ADDRESS.fullmatch(answer.url.raw_path)
    signed = answer.url.raw_query_string and address is not None and address["kind"] in ("manifests", "blobs")
    if address is None or signed or answer.status not in _REFUSED:
        return None
    where = failures.origin(answer.url)
    what = f"{endpoint} leads to the registry {where}, which does not give that to everybody ({answer.status})"
    return UpstreamDenied(what, _remedy(answer.url))


def _remedy(url: URL) -> str:
    return f"it does not exist there, or needs a login: name {failures.origin(url)} under `endpoints`"


def _repository(url: URL) -> str:
    address = _ADDRESS.fullmatch(url.raw_path)
    return (address["name"] or "") if address is not None else ""
