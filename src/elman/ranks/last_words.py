"""How a rank ends: it says why, once for all ranks that end for the same reason, and the others are told."""

import contextlib
import hashlib
import json
import signal
import threading
import time
from collections.abc import Iterator

from elman.errors import ElmanError, RankError, StoppedError
from elman.ranks.place import Place
from elman.ranks.roll import SILENT, TERMINATED, Roll, is_of_a_collective
from elman.ranks.store import JobStore


class Terminated(BaseException):
    """SIGTERM, in whatever the main thread was doing."""


@contextlib.contextmanager
def termination_raised() -> Iterator[None]:
    """SIGTERM as an exception, so that there are last words; unless somebody else takes care of it."""
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    yield
    if ours:  # after an error the process ends
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def last_words(
    error: BaseException, place: Place, store: JobStore | None, roll: Roll | None
) -> BaseException:
    """What this rank ends with; the others are told, unless it ends because of them.

    Args:
        error: What it met.
        place: Of this rank.
        store: What has been found of the store.
        roll: Of the job, if it has begun.
    """
    _ignore_termination()  # torchrun ends the rest as soon as one has ended
    ours = SystemExit(128 + signal.SIGTERM) if isinstance(error, Terminated) else error
    if store is None:
        return ours
    try:
        if roll is not None:
            if is_of_a_collective(error):
                ours = roll.call()
            elif isinstance(error, Terminated) or _was_stopped(error):  # because another was lost, perhaps
                ours = roll.find_lost(expected=False) or ours
        if isinstance(ours, RankError):
            key, told = "left", str(ours)
        else:
            reason = TERMINATED if isinstance(error, Terminated) else _reason(error)
            key, told = "end", json.dumps({"reason": reason, "asked": _was_stopped(error)})
        if isinstance(ours, (ElmanError, KeyboardInterrupt)):
            said = hashlib.sha256(f"{type(ours).__name__}: {ours}".encode()).hexdigest()
            if store.count(f"said/{said}") > 1:
                ours = SystemExit(ours.exit_code if isinstance(ours, ElmanError) else 130)
        store.write(f"{key}/{place.rank}", told)
        if place.keeps_store:
            linger(store, place)
    except RankError as no_store:
        return ours if isinstance(ours, (ElmanError, SystemExit)) else no_store
    return ours


def linger(store: JobStore, place: Place) -> None:
    """Keep the store until the others have left as well, or seem to be lost."""
    deadline = time.monotonic() + SILENT
    while time.monotonic() < deadline and any(
        store.has(f"join/{rank}") for rank in store.without("end", store.without("left", place.others))
    ):
        time.sleep(0.05)


def _was_stopped(error: BaseException) -> bool:
    return isinstance(error, StoppedError) and error.exit_code == 128 + signal.SIGTERM


def _terminate(number: int, frame: object) -> None:
    raise Terminated


def _ignore_termination() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ElmanError) else f"{type(error).__name__}: {text}"
