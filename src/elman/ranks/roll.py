"""Which ranks are lost, when one was waited for in vain or a collective has failed.

Keys of the store, where R is a rank:

    pulse/R    signs of life, see `pulse`          end/R     it has failed or was asked to end, and why, as JSON
    roll       the roll is called                  left/R    it has left, and what it said; nothing if all was done
    here/R     it has heard the roll call
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Final

from torch import distributed
from torch.distributed import DistError
from torch.distributed.distributed_c10d import _abort_process_group

from elman.errors import RankError
from elman.ranks.place import Place, named
from elman.ranks.pulse import Pulse, Watch
from elman.ranks.store import AGAIN, JobStore

ROLL_CALL: Final = 10.0
"""Seconds in which a rank that is well answers the roll call."""

SILENT: Final = 5.0
"""Seconds without a pulse after which, where something has failed already, a rank counts as dead."""

TERMINATED: Final = "terminated"
"""Why a rank has ended that somebody has ended."""

MARKS: Final = (
    "gloo",
    "Gloo",
    "NCCL",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "Timed out waiting",
    "Read timeout",
    "Write timeout",
)
"""Some of these words are in every error of a collective; most of them have no class of their own."""


class Roll:
    """The ranks of a job, as one of them looks for the others."""

    def __init__(self, store: JobStore, place: Place, pulse: Pulse, timeout: float) -> None:
        self._store, self._place, self._pulse, self._timeout = store, place, pulse, timeout

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """A context in which the error of a collective becomes one that says which rank did not answer."""
        try:
            yield
        except RuntimeError as error:
            if not is_of_a_collective(error):
                raise
            raise self.call() from error

    def watch(self) -> Callable[[list[int]], None]:
        """A look at some ranks that are waited for, to be had now and then.

        It raises RankError: One has ended, or has not worked for the timeout.
        """
        watch = Watch(self._sign_of, "at work")

        def look(ranks: list[int]) -> None:
            if ended := self._ended(ranks):
                raise ended
            idle = [rank for rank, silence in watch.silence(ranks).items() if silence > self._timeout]
            if idle:
                raise RankError(
                    f"{named(idle)} did nothing for {self._timeout:.0f} s while the others waited;"
                    f" stopped, stuck or cut off: {AGAIN}"
                )

        return look

    def wait(self, missing: Callable[[], list[int]]) -> None:
        """Wait until no rank is missing; the missing ones must be at work. Raises what a look of `watch` raises."""
        look, pause = self.watch(), 0.001
        while absent := missing():
            try:
                look(absent)
            except RankError:
                if missing():  # it may have come just before it ended
                    raise
            time.sleep(pause)
            pause = min(2 * pause, 0.05)

    def call(self) -> RankError:
        """The error that names the lost, when a collective has failed."""
        self._pulse.answered.set()
        self._store.write(f"here/{self._place.rank}", "")
        self._store.write("roll", "")
        drop_group()  # whoever waits for us in it wakes up
        return self.find_lost(expected=True) or RankError(
            f"the connection between the ranks broke, and all of them still answer; {AGAIN}"
        )

    def find_lost(self, *, expected: bool) -> RankError | None:
        """The error that names the ranks that are lost; also those that live and do not come, if `expected`."""
        others, watch = self._place.others, Watch(self._sign_of, "alive")
        deadline = time.monotonic() + ROLL_CALL
        while True:
            if ended := self._ended(others, even_asked=expected):
                return ended
            absent = [rank for rank in self._there(others) if not self._store.has(f"here/{rank}")]
            silent = [rank for rank, silence in watch.silence(absent).items() if silence > SILENT]
            unsure = set(absent) - set(silent) - watch.moved
            if (not unsure and (silent or not absent or not expected)) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if silent:
            return RankError(f"{named(silent)} no longer answered: killed, stopped or cut off; {AGAIN}")
        if not expected:
            return None
        if absent:
            return RankError(
                f"{named(absent)} did not come to where the others waited for {self._timeout:.0f} s;"
                f" it hangs or is far slower: {AGAIN}"
            )
        for rank in others:
            if self._store.has(f"left/{rank}") and (said := self._store.read(f"left/{rank}")):
                return RankError(said)  # perhaps of this rank, which came too late
        terminated = [rank for rank in others if self._store.has(f"end/{rank}")]
        return RankError(f"{named(terminated)} was terminated; {AGAIN}") if terminated else None

    def _there(self, ranks: list[int]) -> list[int]:
        """Those of `ranks` that have neither ended nor left."""
        return self._store.without("end", self._store.without("left", ranks))

    def _ended(self, ranks: list[int], *, even_asked: bool = True) -> RankError | None:
        """The error that tells why the first of `ranks` that has failed did; perhaps only because it was asked to."""
        for rank in ranks:
            if self._store.has(f"end/{rank}"):
                end = json.loads(self._store.read(f"end/{rank}"))
                if end["reason"] != TERMINATED and (even_asked or not end["asked"]):
                    return RankError(f"rank {rank} has ended: {end['reason']}")
        return None

    def _sign_of(self, rank: int) -> str:
        key = f"pulse/{rank}"
        return (
            self._store.read(key) if self._store.has(key) else "0 0"
        )  # perhaps it was lost before its first


def drop_group() -> None:
    """End the group, if there is one, without waiting for anybody in it."""
    if not distributed.is_initialized():
        return
    if "nccl" in distributed.get_backend_config():
        _abort_process_group()  # to destroy it is to wait for its kernels, which wait for who is lost
    else:
        distributed.destroy_process_group()


def is_of_a_collective(error: BaseException) -> bool:
    """Whether torch.distributed raised it."""
    return isinstance(error, RuntimeError) and (
        isinstance(error, DistError) or any(mark in str(error) for mark in MARKS)
    )
