"""Ctrl-C in a training: once to end it well, twice to end it at once."""

import contextlib
import signal
from collections.abc import Callable
from types import FrameType
from typing import Self


class Interrupt:
    """Ctrl-C once: finish the step, keep the model. Twice: stop at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._told = False

    def __enter__(self) -> Self:
        """Listen, if this is the main thread; elsewhere signals do not arrive."""
        self._before = None
        with contextlib.suppress(ValueError):
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signal as it was."""
        if self.asked and not self._told:
            self._tell()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(
            RuntimeError
        ):  # amid a write to the same stream, which cannot be entered twice
            self._tell()

    def _tell(self) -> None:
        self._say("interrupted: finishing the step and keeping the model (Ctrl-C again stops at once)")
        self._told = True
