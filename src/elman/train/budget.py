"""How long a run goes on: by time, by steps or by passes over the text, whichever ends first.

Schedules go by the share of the budget that is used. They read the clock at marked steps only, and each reading is
recorded, so that a run that is limited by time can be trained again from its records.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from elman.config import TrainingConfig
from elman.ranks import ALONE, Ranks


def is_marked(step: int) -> bool:
    """Whether a step is recorded, and the clock read for the schedules: the first, and about a thousand a decade."""
    every = 10 ** max(1, len(str(step)) - 3)
    return step == 1 or step % every == 0


class Schedule(Protocol):
    """What the loop asks of a budget."""

    def look(self, step: int) -> tuple[float, bool]:
        """After `step` steps: the share of the budget that schedules go by, and whether the run is over."""
        ...


class Budget:
    """Knows the share of a run that is done. Time stands still while `paused`, for validation and the like.

    Args:
        config: The limits.
        steps_per_epoch: Batches in one pass over the text.
        clock: Seconds, monotonic.
        ranks: The processes of the job; the clock of the first counts.
    """

    def __init__(
        self,
        config: TrainingConfig,
        steps_per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
        ranks: Ranks = ALONE,
    ) -> None:
        limits = [
            config.max_steps,
            None if config.epochs is None else math.ceil(config.epochs * steps_per_epoch),
        ]
        self.max_steps = min((limit for limit in limits if limit is not None), default=None)
        self.max_time = config.max_time
        self._clock, self._ranks = clock, ranks
        self._started = clock()
        self._paused = 0.0
        self._stopped: float | None = None
        self._seen, self._seen_at = 0.0, 0  # seconds that the schedules know of, and since which step

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        now = self._clock() if self._stopped is None else self._stopped
        return now - self._started - self._paused

    def used(self, step: int) -> float:
        """The share of the budget gone when `step` steps are done; 1 or more ends the run."""
        return max(self._by_steps(step), self._by_time(self.seconds))

    def look(self, step: int) -> tuple[float, bool]:
        """See `Schedule`; the same on all ranks."""
        if is_marked(step) and step > self._seen_at:
            self._seen, self._seen_at = self.seconds, step
        share = max(self._by_steps(step), self._by_time(self._seen))
        agreed, over = self._ranks.agree((share, self.used(step) >= 1))
        return agreed, over

    def _by_steps(self, step: int) -> float:
        return step / self.max_steps if self.max_steps else 0.0

    def _by_time(self, seconds: float) -> float:
        return seconds / self.max_time if self.max_time else 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which time stands still."""
        self._stopped = self._clock()
        try:
            yield
        finally:
            self._paused += self._clock() - self._stopped
            self._stopped = None

    def state_dict(self) -> dict[str, float]:
        """The time that is used, and that which the schedules know of."""
        return {"seconds": self.seconds, "seen": self._seen, "seen_at": self._seen_at}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from there; the budget may be another."""
        self._started, self._paused, self._stopped = self._clock() - state["seconds"], 0.0, None
        self._seen, self._seen_at = state["seen"], int(state["seen_at"])
