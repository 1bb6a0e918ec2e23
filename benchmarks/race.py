"""Sides timed in turns, in one process: A B C, C B A, A B C, ...

Whatever else the machine does then meets all of them, and a trend meets them in both orders. What the sides return
is compared in every round, outside the clock. The first rounds are not counted.

    ratio of B to A = median seconds of B / median seconds of A
    its spread      = quartiles of (seconds of B / seconds of A), round by round
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from benchmarks.agreement import require_agreement

FLOAT32_TOLERANCE = 1e-4
"""Of the largest value; sums in another order differ by less."""

BFLOAT16_TOLERANCE = 3e-2
"""Products with eight bits of mantissa, a few of them in a row, against float32."""

Clock = Callable[[Callable[[], Any]], tuple[float, Any]]
"""Calls, and gives the seconds and the result."""


class Side(NamedTuple):
    """One way to compute something."""

    name: str
    run: Callable[[], Any]
    """One repetition; returns what is to agree with the other sides."""
    tolerance: float = FLOAT32_TOLERANCE
    """How far its values may be from the reference's, as a share of the largest."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one side, round by round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds: a quarter of the rounds was faster than the first, a quarter slower than the second."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(low), float(high)

    def divided(self, by: float) -> "Timing":
        """A share of each round: seconds a token, of rounds of `by` tokens."""
        return Timing(self.name, tuple(each / by for each in self.seconds))


def ratio_quartiles(peer: Timing, ours: Timing) -> tuple[float, float]:
    """Quartiles of `peer` / `ours`, round by round."""
    low, high = np.percentile(np.divide(peer.seconds, ours.seconds), (25, 75))
    return float(low), float(high)


def wall_clock(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds by the clock on the wall."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def race(
    reference: Side,
    *others: Side,
    seconds: float,
    least: int = 3,
    most: int = 200,
    warmups: int = 1,
    clock: Clock = wall_clock,
) -> dict[str, Timing]:
    """Time all sides in turns.

    Args:
        reference: The side whose values the others must have.
        others: The others, ours among them.
        seconds: No round begins after so much time, warm-up included, once `least` are there.
        least: Rounds at least.
        most: Rounds at most.
        warmups: Rounds before, compared but not counted.
        clock: How a call is timed.

    Returns:
        A timing for each side, by name.

    Raises:
        DisagreementError: The values of two sides differ, in any round.
    """
    sides = [reference, *others]
    taken: dict[str, list[float]] = {side.name: [] for side in sides}
    started = time.perf_counter()
    for turn in range(warmups + most):
        rounds = turn - warmups
        if rounds >= least and time.perf_counter() - started > seconds:
            break
        values: dict[str, Any] = {}
        for side in sides if turn % 2 == 0 else reversed(sides):
            spent, values[side.name] = clock(side.run)
            if rounds >= 0:
                taken[side.name].append(spent)
        for side in others:
            require_agreement(
                side.name, values[side.name], reference.name, values[reference.name], side.tolerance
            )
    return {name: Timing(name, tuple(spent)) for name, spent in taken.items()}
