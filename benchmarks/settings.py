"""What a part is told, and how much time there is.

The default run ends in ten minutes on two cores: a race ends after `seconds`, or after three rounds where its slow
side takes longer, and no part holds more than a few races.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every part is given."""

    limits: Limits
    """Of this machine's processor."""
    seconds: float = 8.0
    """For a race; it takes its least number of rounds in any case."""
    quick: bool = False
    """Tiny shapes, to see that the parts work; the numbers mean nothing."""
    text: Path | None = None
    """A text in place of the corpora that the parts make."""
    lmplz: Path | None = None
    """The program of KenLM that estimates."""
