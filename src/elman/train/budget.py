"""How long a run goes on: by time, by steps or by passes over the text, whichever ends first."""

import math
import time
from collections.abc import Callable

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

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self._clock() - self._started - self._paused

    def used(self, step: int) -> float:
        """The share of the budget gone when `step` steps are done; 1 or more ends the run."""
        by_steps = step / self.max_steps if self.max_steps else 0.0
        by_time = self.seconds / self.max_time if self.max_time else 0.0
        return max(by_steps, by_time)

    def paused(self) -> "_Pause":
        """A context in which time does not count."""
        return _Pause(self)


class _Pause:
    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def __enter__(self) -> None:
        self._since = self._budget._clock()

    def __exit__(self, *_: object) -> None:
        self._budget._paused += self._budget._clock() - self._since
