"""The endpoints of an upstream: a breaker for each, and the order and overlap in which they are asked."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from mirror.errors import UpstreamError, UpstreamUnavailable
from mirror.upstream.failures import Lasting, NoConnection

HEDGE_SECONDS = 6.0  # DESIGN 2.9
LAST_SECONDS = 60.0  # DESIGN 2.9: what the last one left is given
FAILURES = 5  # faults.md 2: opens after 5 failures in 30 s
WINDOW_SECONDS = 30.0
OPEN_SECONDS = 5.0  # doubles with every probe that fails, up to:
LONGEST_OPEN_SECONDS = 60.0


class Breaker:
    """Says whether an endpoint may be asked now. Open after 5 failures in 30 s; then one probe at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._open_until = 0.0
        self._open_for = 0.0  # 0: closed
        self._probing = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if not self._open_for:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    def wait(self) -> float:
        """Return the seconds until the endpoint may be asked: 0 is now."""
        if not self._open_for:
            return 0.0
        if self._probing:
            return 1.0
        return max(0.0, self._open_until - self._clock())

    def begin(self) -> None:
        """A request starts; of a half-open breaker it is the probe."""
        self._probing = bool(self._open_for)

    def succeeded(self) -> None:
        """The endpoint answered, whatever it said."""
        self._failures.clear()
        self._open_for = 0.0
        self._probing = False

    def failed(self) -> None:
        """The endpoint was away, too slow or answered 5xx."""
        now = self._clock()
        if self._open_for and not self._probing:
            return  # asked before it opened, many at once perhaps: that says nothing new
        self._failures.append(now)
        if self._open_for or (len(self._failures) == FAILURES and now - self._failures[0] <= WINDOW_SECONDS):
            self._open(now)
        self._probing = False

    def rest(self) -> None:
        """The endpoint was silent or out of reach while another answered: it is left alone at once."""
        now = self._clock()
        if now >= self._open_until:  # of many that waited for it the first says all
            self._open(now)
        self._probing = False

    def _open(self, now: float) -> None:
        self._open_for = min(self._open_for * 2, LONGEST_OPEN_SECONDS) if self._open_for else OPEN_SECONDS
        self._open_until = now + self._open_for

    def abandoned(self) -> None:
        """The request ended without a verdict."""
        self._probing = False


class Asked(Protocol):
    """An endpoint as this module sees it."""

    @property
    def breaker(self) -> Breaker: ...

    @property
    def name(self) -> str: ...

    @property
    def probes(self) -> set[asyncio.Future[Any]]: ...

    def was_silent(self, seconds: float) -> None: ...


EndpointT = TypeVar("EndpointT", bound=Asked)
AnswerT = TypeVar("AnswerT")


async def ask_in_order(
    endpoints: Sequence[EndpointT],
    ask: Callable[[EndpointT], Awaitable[AnswerT]],
    discard: Callable[[AnswerT], None],
    hedge: float = HEDGE_SECONDS,
) -> AnswerT:
    """Return the first answer. The next endpoint is asked when one fails, or has not answered after `hedge` seconds.

    When all fail, raise the error of the last endpoint in order: the ones before it are copies, and what a copy
    lacks the last one may have. An endpoint whose breaker is open is passed over; one that has rested is asked beside
    the next, and is judged by that when nobody waits for it any more. `discard` gets what came too late.
    """
    errors: dict[int, UpstreamError] = {}
    ready: list[int] = []
    for index, endpoint in enumerate(endpoints):
        if (wait := endpoint.breaker.wait()) > 0:
            errors[index] = Lasting(
                f"{endpoint.name} failed {FAILURES} times and is asked again in {wait:.0f} s", "", endpoint.name, wait
            )
        else:
            ready.append(index)
    if len(ready) == 1:
        try:
            return await ask(endpoints[ready[0]])
        except UpstreamError as error:
            errors[ready[0]] = error
    elif ready:
        race = _Race(endpoints, ask, discard)
        if await race.run(ready, hedge):
            return race.answers[0]
        errors.update(race.errors)
    raise errors[len(endpoints) - 1]


class _Race(Generic[EndpointT, AnswerT]):
    """One question to several endpoints; the first answer is `answers[0]`."""

    def __init__(
        self,
        endpoints: Sequence[EndpointT],
        ask: Callable[[EndpointT], Awaitable[AnswerT]],
        discard: Callable[[AnswerT], None],
    ) -> None:
        self._endpoints = endpoints
        self._ask = ask
        self._discard = discard
        self._running: dict[asyncio.Future[AnswerT], int] = {}
        self._late: set[int] = set()  # asked so long ago that the next was asked too, or nobody's to wait for
        self.answers: list[AnswerT] = []
        self.errors: dict[int, UpstreamError] = {}

    async def run(self, order: Sequence[int], hedge: float) -> bool:
        """Tell whether there is an answer; ask the next endpoint after `hedge` seconds or a failure."""
        silent: set[int] = set()
        try:
            for position, index in enumerate(order):
                is_last = position == len(order) - 1
                beside = not is_last and self._endpoints[index].breaker.state == "half-open"
                self._running[self._probe(index, hedge) if beside else self._begin(index)] = index
                while self._running and not self._decided():
                    if await self._settle(None if is_last else 0.0 if beside else hedge) == 0:
                        self._late.update(self._running.values())
                        if not beside:
                            silent.update(self._running.values())
                    elif is_last or self.answers:
                        continue
                    break
                if self._decided():
                    break
            if self._decided():
                for index in silent & set(self._running.values()):
                    self._endpoints[index].was_silent(hedge)
                for index, error in self.errors.items():
                    if isinstance(error, NoConnection):
                        self._endpoints[index].breaker.rest()
            return bool(self.answers)
        finally:
            await self._stop()

    def _begin(self, index: int) -> asyncio.Future[AnswerT]:
        return asyncio.ensure_future(self._ask(self._endpoints[index]))

    def _probe(self, index: int, seconds: float) -> asyncio.Future[AnswerT]:
        """Ask an endpoint that has rested, whoever answers first: silence for so long has it rest again."""
        endpoint = self._endpoints[index]

        async def judge() -> AnswerT:
            try:
                async with asyncio.timeout(seconds):
                    return await self._ask(endpoint)
            except TimeoutError:
                endpoint.was_silent(seconds)
                raise UpstreamUnavailable(
                    f"{endpoint.name} sent no answer within {seconds:.0f} s", "", endpoint.name
                ) from None

        probe = asyncio.ensure_future(judge())
        endpoint.probes.add(probe)
        probe.add_done_callback(endpoint.probes.discard)
        return probe

    def _decided(self) -> bool:
        """Whether there is an answer, or the last endpoint in order has said that there is none and others are late."""
        if self.answers:
            return True
        said = self.errors.get(len(self._endpoints) - 1)
        if said is None or isinstance(said, UpstreamUnavailable):
            return False
        return self._late.issuperset(self._running.values())

    async def _settle(self, timeout: float | None) -> int:
        """Wait for something to end, sort it into answers and errors, and return how many ended."""
        done, _ = await asyncio.wait(self._running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in sorted(done, key=lambda task: self._running[task]):
            index = self._running.pop(task)
            error = task.exception()
            if isinstance(error, UpstreamError):
                self.errors[index] = error
            elif error is not None:
                raise error
            elif self.answers:
                self._discard(task.result())
            else:
                self.answers.append(task.result())
        return len(done)

    async def _stop(self) -> None:
        """End what runs, but for probes: those end by themselves, soon."""
        ended = []
        for task, index in self._running.items():
            if task in self._endpoints[index].probes:
                task.add_done_callback(self._drop)
            else:
                task.cancel()
                ended.append(task)
        for outcome in await asyncio.gather(*ended, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                self._discard(outcome)

    def _drop(self, probe: asyncio.Future[AnswerT]) -> None:
        if not probe.cancelled() and probe.exception() is None:
            self._discard(probe.result())
