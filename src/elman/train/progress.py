"""A progress line for people: two lines on a terminal, redrawn; elsewhere a plain line for every tenth of the budget.

It may not end a training: a terminal that was closed is not mentioned at all.
"""

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

REDRAW_SECONDS = 0.2
"""At most five redraws a second: enough to look alive, too few to cost training time."""


class Progress:
    """How far a training is, on stderr: redrawn in place on a terminal, a plain line every tenth elsewhere.

        ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━━━   57%  0:38 left
        step 1,234  loss 4.321  1.987 bits/byte  45.6k tok/s  lr 3.2e-03  |g| 0.87

    Use it as a context manager. What does not fit the width of the terminal is left out, from the right.

    Args:
        quiet: Print nothing at all.
        file: Where to print; None takes sys.stderr as it is when the block is entered.
    """

    def __init__(self, *, quiet: bool = False, file: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = file
        self._file = _Patient(None)
        self._live: Live | None = None
        self._fraction = 0.0
        self._shown: dict[str, float] = {}
        self._drawn_at = -math.inf  # on time.monotonic
        self._tenth = -1

    def __enter__(self) -> Self:
        """Itself; the line appears with the first update."""
        self._file = _Patient(None if self._quiet else self._stream or sys.stderr)
        if self._file.isatty():
            console = Console(file=self._file, force_jupyter=False)  # type: ignore[arg-type]
            if console.is_terminal and not console.is_dumb_terminal:
                # stdout is the result and stays itself; stderr is redirected: warnings land above the bar.
                self._live = Live(self, console=console, auto_refresh=False, redirect_stdout=False)
                self._live.start()
        return self

    def update(
        self,
        fraction: float,
        *,
        step: int | None = None,
        tokens_per_second: float | None = None,
        loss: float | None = None,
        bits_per_byte: float | None = None,
        learning_rate: float | None = None,
        gradient_norm: float | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """Show where training stands; cheap enough to call every step.

        Args:
            fraction: Share of the budget used, 0 to 1.
            step: Optimizer steps done. Here and below None keeps what was shown before.
            tokens_per_second: Training speed.
            loss: Nats a token, in training.
            bits_per_byte: Of the last validation.
            learning_rate: Of the last step.
            gradient_norm: Of the last step, before clipping.
            seconds_left: Until the budget is used up.
        """
        given = {
            "step": step,
            "loss": loss,
            "bits_per_byte": bits_per_byte,
            "tokens_per_second": tokens_per_second,
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "seconds_left": seconds_left,
        }
        self._fraction = min(1.0, max(0.0, fraction))  # in this order, NaN is 0
        self._shown |= {name: value for name, value in given.items() if value is not None}
        if self._live is not None:
            now = time.monotonic()
            if now - self._drawn_at >= REDRAW_SECONDS:
                self._drawn_at = now
                self._live.refresh()
            return
        tenth = math.floor(self._fraction * 10 + 1e-9)  # 0.3 * 10 may fall just short of 3
        if tenth > self._tenth:
            self._tenth = tenth
            self._file.write("  ".join([self._percent(), *self._fields(), *self._time_left()]) + "\n")
            self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw the last state and give the terminal back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The bar with its percentage, and below it as many numbers as the width has room for."""
        if not self._shown:
            return
        tail = "  ".join([self._percent(), *self._time_left()])
        bar_width = options.max_width - len(tail) - 2
        if bar_width >= 4:
            bar = ProgressBar(
                total=1.0,
                completed=self._fraction,
                width=bar_width,
                complete_style="cyan",
                finished_style="cyan",
            )
            yield from console.render(bar, options)
            yield Segment("  ")
        yield Text(tail[: options.max_width], style="bold", no_wrap=True)
        line = Text(no_wrap=True)
        for field in self._fields():
            gap = "  " if line else ""
            if len(line) + len(gap) + len(field) > options.max_width:
                break
            line.append(gap + field)
        line.highlight_regex(r"step|loss|bits/byte|tok/s|lr|\|g\|", "dim")  # so that the numbers stand out
        yield line

    def _percent(self) -> str:
        # Rounded down: 100% is said when the budget is used, not shortly before.
        return f"{math.floor(self._fraction * 100 + 1e-9):3d}%"

    def _time_left(self) -> list[str]:
        seconds = self._shown.get("seconds_left", math.nan)
        return [f"{_clock(seconds)} left"] if math.isfinite(seconds) else []

    def _fields(self) -> list[str]:
        """The numbers known so far, those that matter most first."""
        shapes: dict[str, Callable[[float], str]] = {
            "step": lambda value: f"step {value:,.0f}",
            "loss": lambda value: f"loss {value:.3f}",
            "bits_per_byte": lambda value: f"{value:.3f} bits/byte",
            "tokens_per_second": lambda value: f"{_short(value)} tok/s",
            "learning_rate": lambda value: f"lr {value:.1e}",
            "gradient_norm": lambda value: f"|g| {value:.2f}",
        }
        return [shape(self._shown[name]) for name, shape in shapes.items() if name in self._shown]


class _Patient:
    """A text stream that may be missing, closed or a broken pipe, and never says so.

    Rich ends the process when it meets a broken pipe, so the exception has to be caught below it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "ascii"

    def write(self, text: str) -> int:
        try:
            if self._stream is not None:
                self._stream.write(text)
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._stream = None
        return len(text)

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._stream = None

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):
            return False


def _short(value: float) -> str:
    """Three digits and a suffix: 987, 45.6k, 1.23M."""
    if not math.isfinite(value) or abs(value) < 999.5:
        return f"{value:.0f}"
    scale, suffix = (1e3, "k") if abs(value) < 999_500 else (1e6, "M")
    digits = f"{value / scale:.3g}"
    return f"{digits if 'e' not in digits else f'{value / scale:.0f}'}{suffix}"


def _clock(seconds: float) -> str:
    """Hours only where there are any: 0:38, 12:05, 1:02:03."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
