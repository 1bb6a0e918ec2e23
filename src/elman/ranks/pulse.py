"""Signs of life of every rank, in the store of the job: does its process live, and does its main thread work?

Every half second a thread of each rank writes two numbers under `pulse/RANK`: how often it has written, which
stands still when the process was killed, stopped or cut off; and the processor time of the main thread with the times
it was found waiting for a disk, or for other threads that compute, which stands still as well where that thread sleeps,
or waits for what never comes.
"""

import contextlib
import faulthandler
import io
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

from torch.distributed import DistError, Store  # type: ignore[attr-defined]

BEAT: Final = 0.5
"""Seconds between two signs."""

PATIENCE: Final = 5.0
"""Seconds after a roll call from which on a rank that has not answered shows where it is."""

BUSY: Final = 0.1
"""Share of a processor that other threads take if the main thread waits for what they compute; a display takes less."""

Sign = Literal["alive", "at work"]


class Pulse:
    """Writes the signs of this rank until it is stopped."""

    def __init__(self, store: Store, rank: int) -> None:
        """`store` is a client of its own: one client does one thing at a time."""
        self.answered = threading.Event()
        """Set when the main thread has heard the roll call."""
        self._store, self._rank = store, rank
        self._stopped = threading.Event()
        self._work = _work_of_this_thread()
        store.set(f"pulse/{rank}", "0 0")
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more signs; an interpreter that ended while the thread is inside torch would abort."""
        self._stopped.set()
        self._thread.join(4 * BEAT)

    def _beat(self) -> None:
        count, expected_for = 0, 0.0
        with contextlib.suppress(DistError):  # the store has gone, which the main thread will find as well
            while not self._stopped.wait(BEAT):
                count += 1
                self._store.set(f"pulse/{self._rank}", f"{count} {self._work()}")
                if expected_for < PATIENCE and self._store.check(["roll"]) and not self.answered.is_set():
                    expected_for += BEAT
                    if expected_for >= PATIENCE:
                        self._show_stack()

    def _show_stack(self) -> None:
        """Say on stderr what keeps the main thread from answering."""
        with contextlib.suppress(OSError, io.UnsupportedOperation):  # no such stream, or none with a number
            print(f"rank {self._rank} does not answer; it is here:", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.stderr)


class Watch:
    """How long other ranks have shown no sign, as seen from here."""

    def __init__(self, read: Callable[[int], str], sign: Sign) -> None:
        """`read` gives the pulse of a rank."""
        self.moved: set[int] = set()
        """Ranks that have shown a sign since the watch began."""
        self._read, self._part = read, ("alive", "at work").index(sign)
        self._seen: dict[int, str] = {}
        self._silence: dict[int, float] = {}
        self._looked = time.monotonic()

    def silence(self, ranks: Iterable[int]) -> dict[int, float]:
        """Seconds without a sign, of each of `ranks`."""
        now = time.monotonic()
        # no more than that at once: if this process was stopped, so may the others have been
        elapsed = min(now - self._looked, 2 * BEAT)
        self._looked = now
        for rank in ranks:
            sign = self._read(rank).split()[self._part]
            if sign == self._seen.setdefault(rank, sign):
                self._silence[rank] = self._silence.get(rank, 0.0) + elapsed
            else:
                self._silence[rank] = 0.0
                self._seen[rank] = sign
                self.moved.add(rank)
        return {rank: self._silence[rank] for rank in ranks}


def _work_of_this_thread() -> Callable[[], int]:
    """Tells, to another thread, a number that grows as this thread computes, or waits for a disk or for more threads.

    Always, if a system cannot tell.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic_ns
    clock = time.pthread_getcpuclockid(threading.get_ident())
    state, waits = Path(f"/proc/self/task/{threading.get_native_id()}/stat"), 0
    asked, before = time.monotonic_ns(), time.process_time_ns()

    def work() -> int:
        nonlocal waits, asked, before
        now, own = time.monotonic_ns(), time.clock_gettime_ns(clock)
        others = time.process_time_ns() - own - time.thread_time_ns()
        waits += _waits_for_disk(state) or others - before > BUSY * (now - asked)
        asked, before = now, others
        return own + waits

    return work


def _waits_for_disk(state: Path) -> bool:
    """Whether a thread is in uninterruptible sleep ("D", proc(5)), as it is in a write or an fsync that takes long."""
    try:
        return state.read_bytes().rpartition(b")")[2].split()[0] == b"D"
    except OSError:  # not Linux
        return False
