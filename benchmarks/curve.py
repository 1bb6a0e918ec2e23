"""A curve of validation perplexity over seconds of training: the times of its points, and what lies between them.

    at c between points a and b:   log perplexity_c = the straight line between theirs, over log seconds

which is the line between them on the chart.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from benchmarks.recipe import Result

CLOSE = 1.1
"""A first point that comes late by this factor at most stands for the time that was asked for."""

GOAL_SECONDS = 10.0
"""C5: for what the chapter's loop reaches in its whole training."""


class Point(NamedTuple):
    """A model on its way."""

    seconds: float
    """Of training, above zero."""
    perplexity: float
    """Of the held-out text."""


Curve = Sequence[Point]
"""In the order of time, which grows strictly."""


def doubling(seconds: float) -> list[float]:
    """The times of the points: 1, 2, 4, ... and the end."""
    return [float(2**k) for k in range(64) if 2**k < seconds] + [seconds]


def curve(results: Sequence[Result]) -> Curve:
    """The points of results in the order of time, without those whose perplexity is not finite."""
    points = {r["seconds"]: r["perplexity"] for r in results if r["perplexity"] is not None and r["seconds"]}
    return [Point(seconds, points[seconds]) for seconds in sorted(points)]


def perplexity_at(points: Curve, seconds: float) -> float | None:
    """Between its points; None before the first and after the last."""
    if points and points[0].seconds / CLOSE <= seconds <= points[0].seconds:
        return points[0].perplexity
    for (start, before), (end, after) in pairwise(points):
        if start <= seconds <= end:
            share = math.log(seconds / start) / math.log(end / start)
            return math.exp(math.log(before) * (1 - share) + math.log(after) * share)
    return None


def seconds_to(points: Curve, perplexity: float) -> float | None:
    """When a curve first is at `perplexity` or below; None if it never is. The first point is as early as it gets."""
    if points and points[0].perplexity <= perplexity:
        return points[0].seconds
    for (start, before), (end, after) in pairwise(points):
        if after <= perplexity:
            share = math.log(before / perplexity) / math.log(before / after)
            return math.exp(math.log(start) * (1 - share) + math.log(end) * share)
    return None


def time_to_quality(ours: Curve, peer: Curve) -> dict[str, Any] | None:
    """C5: when ours is where the peer's curve ends, beside the goal; None where one of the curves is empty.

    ratio = seconds of the peer's curve / ours                  goal = seconds of the peer's curve / GOAL_SECONDS
    """
    if not ours or not peer:
        return None
    last, seconds = peer[-1], seconds_to(ours, peer[-1].perplexity)
    return {
        "perplexity": last.perplexity,
        "ours_seconds": seconds,
        "peer_seconds": last.seconds,
        "ratio": None if seconds is None else last.seconds / seconds,
        "goal": last.seconds / GOAL_SECONDS,
        "met": seconds is not None and seconds <= GOAL_SECONDS,
    }
