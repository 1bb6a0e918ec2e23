"""How long a run goes on: by time, by steps or by passes over the text, whichever ends first."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from elman.config import TrainingConfig


class Budget:
    """Knows the share of a run that is done. Time stands still while `paused`, for validation and the like."""

    def __init__(
        self, config: TrainingConfig, steps_per_epoch: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        limits = [
            config.max_steps,
            None if config.epochs is None else math.ceil(config.epochs * steps_per_epoch),
        ]
        self.max_steps = min((limit for limit in limits if limit is not None), default=None)
        self.max_time = config.max_time
        self._clock = clock
        self._started = clock()
        self._paused = 0.0
        self._stopped: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        now = self._clock() if self._stopped is None else self._stopped
        return now - self._started - self._paused

    def used(self, step: int) -> float:
        """The share of the budget gone when `step` steps are done; 1 or more ends the run."""
        by_steps = step / self.max_steps if self.max_steps else 0.0
        by_time = self.seconds / self.max_time if self.max_time else 0.0
        return max(by_steps, by_time)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which time stands still."""
        self._stopped = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - self._stopped
            self._stopped = None
