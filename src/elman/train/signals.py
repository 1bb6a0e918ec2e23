"""Signals in a training: once to end it well, Ctrl-C twice to end it at once.

    SIGINT    Ctrl-C                                 exit code 130
    SIGTERM   a scheduler, a service, `kill`         143
    SIGHUP    the terminal is gone                   129, unless it is ignored, as under `nohup`

The step that runs is finished and a checkpoint is written; `StoppedError` then ends the command. Before and after the
steps there is nothing to save, and it is raised at once.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from elman.errors import StoppedError
from elman.train.say import Say

Handler = Any
"""What `signal.signal` takes and gives back."""

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Signals:
    """Remembers the first signal that asks to stop. A second Ctrl-C is a KeyboardInterrupt."""

    def __init__(self, say: Say) -> None:
        self.asked: signal.Signals | None = None
        self._say = say
        self._told = False
        self._interrupts = 0
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        """Listen, if this is the main thread; elsewhere signals do not arrive."""
        self._before = _listen(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals as they were."""
        if self.asked and not self._told:
            self._tell()
        _restore(self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts == 2:
            raise KeyboardInterrupt
        self.asked = self.asked or signal.Signals(number)
        # Amid a write to the same stream, which cannot be entered twice.
        with contextlib.suppress(RuntimeError):
            self._tell()

    def _tell(self) -> None:
        if not self._told and self.asked:
            again = " (Ctrl-C again stops at once)" if self.asked == signal.SIGINT else ""
            self._say(f"{self.asked.name}: finishing the step and saving{again}")
            self._told = True


@contextlib.contextmanager
def stopping_at_once(way_out: str) -> Iterator[None]:
    """A context in which a signal that asks to stop is a StoppedError there and then, with what to do about it."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError(f"stopped by {signal.Signals(number).name}; {way_out}", number)

    before = _listen(stop)
    try:
        yield
    finally:
        _restore(before)


def _listen(handler: Handler) -> dict[signal.Signals, Handler]:
    """Let `handler` have the signals that ask to stop, but for those that are ignored; what they had before."""
    before = {}
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:
            with contextlib.suppress(ValueError):  # only the main thread may listen
                before[number] = signal.signal(number, handler)
    return before


def _restore(before: dict[signal.Signals, Handler]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
