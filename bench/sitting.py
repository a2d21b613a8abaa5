"""A sitting: both sides started afresh with empty stores, doing the same in turns of short slices.

Processor time is compared, since time on the clock depends on whoever else uses the machine. What disturbs it is held
still where that is possible, and is the same for both sides everywhere:

- Both run on one processor, and so does who asks. On several it is chance whether a question wakes a worker or finds
  it awake, and with it the cost: slices of the same program differed by 40 %. It also means one worker.
- Two starts of the same program differ by some 3 % for as long as they run: by where its objects lie, and in which
  order its sets are. So both get the same seed of hashes, another one each sitting, and no random addresses.
- What both keep of their memory is the same: bench/side.py.
- A disturbance lasts longer than a slice, and so falls on both. With --first nobody comes between: that is kind to
  nobody else on the machine, and so it is not the default.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.content import Blob, Content
from bench.ground import warm_up
from bench.peers import Mirror, Nginx
from bench.processes import Server
from bench.side import BASE, CURRENT, Side
from bench.works import WARM, Slice, Work

# What a slice leaves to be done later (log lines every quarter of a second, entries of the index) is done by then.
_REST = 0.4  # seconds
_FEWEST_ROUNDS = 5
_CALM = 2.5  # seconds after which a service has nothing to do any more that its start left
_LOOK = 1.0  # seconds, at how busy processors are
_FIRST = 1  # of the priorities that go before all that have none
_ASK, _NO_RANDOM_ADDRESSES = 0xFFFFFFFF, 0x0040000  # personality(2)


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds a slice of one side: of the processor and on the clock, and of the processor after slices' ends."""

    slices: list[float]
    clock: list[float]
    later: float

    @property
    def cost(self) -> float:
        """Processor seconds of a slice, with what it leaves to be done later; a few wild slices move nothing."""
        return statistics.median(self.slices) + self.later


@dataclass(frozen=True, slots=True)
class Course:
    """What one work took in one sitting, of each side."""

    base: Spent
    current: Spent

    @property
    def ratio(self) -> float:
        """The current side's processor time to the base's, with what was done between slices.

        Of the slices it is that of the middle half of the rounds: what disturbs a round or two does not count.
        """
        slices = self._rounds(self.current.slices, self.base.slices) * (self.base.cost - self.base.later)
        return (slices + self.current.later) / self.base.cost

    @property
    def clock_ratio(self) -> float:
        """The same of the time on the clock, where what is done later costs nobody anything."""
        return self._rounds(self.current.clock, self.base.clock)

    @staticmethod
    def _rounds(current: Sequence[float], base: Sequence[float]) -> float:
        ratios = sorted(sum(current[at : at + 2]) / sum(base[at : at + 2]) for at in range(0, len(base), 2))
        outer = len(ratios) // 4
        return statistics.fmean(ratios[outer : len(ratios) - outer])


class Bed:
    """What all sittings share: content in `memory`, an upstream that serves it, and the two sides."""

    def __init__(self, folder: Path, memory: Path, sides: Sequence[Side], running: ExitStack) -> None:
        self.content = Content(memory / "content", WARM)
        self.folder = folder
        self.sides = sides
        self._upstream = Nginx(folder / "upstream", memory / "content", self.content.manifest.digest)
        running.enter_context(self._upstream)
        self._upstream.start()
        self._sat = 0
        with self._servers():
            pass  # compiled are they from now on, and what does not start is known

    def sit(self, works: Sequence[Work], share: float = 1.0) -> list[Course]:
        """Start both sides, return what each work took in that share of its seconds, and end them."""
        with self._servers() as servers:
            for server in servers.values():
                warm_up(server, self.content)
            time.sleep(_CALM)
            return [self._course(work, servers, share * work.seconds) for work in works]

    @contextmanager
    def _servers(self) -> Iterator[dict[str, Mirror]]:
        """Start both with empty stores; the first one is another each time."""
        self._sat += 1
        folder = self.folder / "sitting"
        folder.mkdir()
        seed = str(random.randrange(1, 2**32))
        upstream = f"http://127.0.0.1:{self._upstream.port}"
        try:
            with ExitStack() as running:
                servers: dict[str, Mirror] = {}
                for number in (0, 1) if self._sat % 2 else (1, 0):
                    # Names as long as each other: with their lengths everything in memory would lie elsewhere.
                    server = self.sides[number].server(folder / f"side-{number}", upstream, workers=1)
                    server.environment["PYTHONHASHSEED"] = seed
                    running.enter_context(server)
                    server.start()
                    servers[server.name] = server
                yield servers
        finally:
            shutil.rmtree(folder)

    def _course(self, work: Work, servers: dict[str, Mirror], seconds: float) -> Course:
        """Have each server do two slices a round, A B B A, so that neither gains by a drift."""
        with ExitStack() as running:
            turns = [Turn(server, work.open(server, self.content, running)) for server in servers.values()]
            self._round(work, turns)  # the first one warms up
            for turn in turns:
                turn.begin()
            rounds, began = 0, time.monotonic()
            while rounds < _FEWEST_ROUNDS or time.monotonic() - began < seconds:
                self._round(work, turns)
                rounds += 1
            time.sleep(_REST)
            spent = {turn.name: turn.spent() for turn in turns}
        return Course(spent[BASE], spent[CURRENT])

    def _round(self, work: Work, turns: Sequence[Turn]) -> None:
        for pair in (turns, turns[::-1]):
            with self._fresh(work.fresh) as image:
                for turn in pair:
                    turn.take(image)

    @contextmanager
    def _fresh(self, size: int) -> Iterator[Blob | None]:
        image = self.content.fresh(size) if size else None
        try:
            yield image
        finally:
            if image is not None:
                image.path.unlink()


class Turn:
    """One side's turns in a course."""

    def __init__(self, server: Server, do: Slice) -> None:
        self.name = server.name
        self._used = server.clock()
        self._do = do
        self.begin()

    def begin(self) -> None:
        """Forget what was before."""
        self._began = self._used()
        self._slices: list[float] = []
        self._clock: list[float] = []

    def take(self, image: Blob | None) -> None:
        """Do one slice."""
        cpu, clock = self._used(), time.perf_counter()
        self._do(image)
        self._clock.append(time.perf_counter() - clock)
        self._slices.append(self._used() - cpu)

    def spent(self) -> Spent:
        """Return what it took until now."""
        later = self._used() - self._began - sum(self._slices)
        return Spent(self._slices, self._clock, later / len(self._slices))


def one_processor() -> int:
    """Have this process, and whatever it starts, run on one processor: the one with the least to do. Return which."""
    before = _busy()
    time.sleep(_LOOK)
    busy = _busy()
    chosen = min(os.sched_getaffinity(0), key=lambda number: busy[number] - before[number])
    os.sched_setaffinity(0, {chosen})
    return chosen


def _busy() -> dict[int, int]:
    """Return how long each processor has been busy since the boot, in ticks."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return {
        int(name[3:]): sum(map(int, (*fields[:3], *fields[5:8])))
        for name, *fields in lines
        if name.startswith("cpu") and name != "cpu"
    }


def go_first() -> None:
    """Let this process, and whatever it starts, go before all others that want the processor; raise PermissionError.

    A nice value would not do: where sessions are scheduled as groups, it counts within its session only.
    """
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_FIRST))


def still_addresses() -> bool:
    """Have whatever this process starts lie at the same addresses each time; return whether the kernel lets it."""
    libc = ctypes.CDLL(None)
    return int(libc.personality(libc.personality(_ASK) | _NO_RANDOM_ADDRESSES)) != -1
