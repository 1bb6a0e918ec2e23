"""How much work a call is, in a number that no clock has a part in.

    few, many = effort(lambda: prepare(text)), effort(lambda: prepare(4 * text))
    assert many < 5 * few                                      what takes the square of it takes 16 times as much

It is the number of functions that are called, and of characters in the strings whose methods are called: each of
them may look at the whole string.
"""

import sys
from collections.abc import Callable
from types import FrameType


def effort(work: Callable[[], object]) -> int:
    """Of `work`, in this thread."""
    done = 0

    def count(frame: FrameType, event: str, function: object) -> None:
        nonlocal done
        if event in ("call", "c_call"):
            owner = getattr(function, "__self__", None)
            done += 1 + (len(owner) if isinstance(owner, str | bytes) else 0)

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return done
