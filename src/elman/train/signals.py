"""Signals in a training: once to end it well, Ctrl-C twice to end it at once.

    SIGINT    Ctrl-C                                 exit code 130
    SIGTERM   a scheduler, a service, `kill`         143
    SIGHUP    the terminal is gone                   129, unless it is ignored, as under `nohup`

The step that runs is finished and a checkpoint is written; `StoppedError` then ends the command.
"""

import contextlib
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Signals:
    """Remembers the first signal that asks to stop. A second Ctrl-C is a KeyboardInterrupt."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked: signal.Signals | None = None
        self._say = say
        self._told = False
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Listen, if this is the main thread; elsewhere signals do not arrive."""
        for number in STOPPING:
            if signal.getsignal(number) == signal.SIG_IGN and number != signal.SIGINT:
                continue
            with contextlib.suppress(ValueError):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals as they were."""
        if self.asked and not self._told:
            self._tell()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts == 2:
            raise KeyboardInterrupt
        self.asked = self.asked or signal.Signals(number)
        with contextlib.suppress(
            RuntimeError
        ):  # amid a write to the same stream, which cannot be entered twice
            self._tell()

    def _tell(self) -> None:
        if not self._told and self.asked:
            again = " (Ctrl-C again stops at once)" if self.asked == signal.SIGINT else ""
            self._say(f"{self.asked.name}: finishing the step and saving{again}")
            self._told = True
