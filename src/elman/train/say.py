"""What a person is told while something works, a line at a time."""

from collections.abc import Callable

Say = Callable[[str], object]
"""Told a line at a time what was chosen and what happens."""


def warning(say: Say) -> Say:
    """`say`, for what is told even to those who want no progress."""
    return lambda line: say(f"warning: {line}")


def once(say: Say) -> Say:
    """`say`, silent after its first message."""
    told = False

    def tell(message: str) -> None:
        nonlocal told
        if not told:
            told = True
            say(message)

    return tell
