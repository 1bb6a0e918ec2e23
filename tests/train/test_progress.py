"""The progress line never ends or dirties anything."""

import io
import re
import sys
import types
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.train import progress as showing
from elman.train.progress import Progress

NUMBERS = {
    "step": 123_456,
    "tokens_per_second": 45_678.0,
    "loss": 4.3214,
    "bits_per_byte": 1.9871,
    "learning_rate": 3.2e-3,
    "gradient_norm": 0.871,
    "seconds_left": 38.2,
}
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def train(progress, updates=1000):
    """A training as the progress line sees it."""
    with progress:
        for i in range(updates + 1):
            progress.update(i / updates, **NUMBERS)


def assert_plain(text):
    lines = text.splitlines()
    assert len(lines) == 11  # 0%, 10%, ... 100%
    assert lines[0].startswith("  0%")
    assert lines[-1].startswith("100%")
    assert not set(text) & {chr(code) for code in [*range(32), *range(127, 160)] if code != 10}
    for shown in ("step 123,456", "loss 4.321", "1.987 bits/byte", "45.7k tok/s", "3.2e-03", "0.87", "0:38"):
        assert shown in lines[5]


def test_without_a_terminal_progress_is_plain_lines_every_tenth(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # asks rich for colours, not a log file for control characters
    file = io.StringIO()
    train(Progress(file=file))
    assert_plain(file.getvalue())


def test_a_dumb_terminal_is_no_terminal(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    train(Progress(file=terminal))
    assert_plain(terminal.getvalue())


def test_progress_goes_to_stderr_only(capsys):
    train(Progress())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert_plain(captured.err)


def test_quiet_prints_nothing(terminal):
    train(Progress(quiet=True, file=terminal))
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("width", [1, 2, 5, 20, 40, 79, 80, 200])
def test_a_terminal_of_any_width_is_never_overrun(terminal, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    train(Progress(file=terminal))
    lines = [line for part in terminal.getvalue().split("\n") for line in ANSI.sub("", part).split("\r")]
    assert max(map(len, lines)) <= width
    if width >= 20:
        assert any("100%" in line for line in lines)
        assert any("step 123,456" in line for line in lines)
    if width >= 80:
        assert any("━━━" in line for line in lines)
        assert any(line.rstrip().endswith("|g| 0.87") for line in lines)  # everything fits


def test_a_terminal_is_redrawn_at_most_five_times_a_second(terminal, monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(showing, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    redraws = []
    with Progress(file=terminal) as progress:
        for i in range(1000):  # ten seconds
            clock.now = i / 100
            before = len(terminal.getvalue())
            progress.update(i / 1000, **NUMBERS)
            if len(terminal.getvalue()) > before:
                redraws.append(clock.now)
    assert 40 <= len(redraws) <= 50
    assert min(b - a for a, b in pairwise(redraws)) >= 0.2 - 1e-9
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_the_terminal_is_given_back_after_an_exception(terminal):
    def interrupted():
        with Progress(file=terminal) as progress:
            progress.update(0.5, step=1)
            raise KeyboardInterrupt

    stderr = sys.stderr
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sys.stderr is stderr
    assert terminal.getvalue().endswith("\x1b[?25h")


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "I/O error"), ValueError("closed file")])
@pytest.mark.parametrize("method", ["write", "flush"])
def test_a_lost_stderr_does_not_end_training(terminal, monkeypatch, is_terminal, error, method):
    attempts = []

    def fail(*_):
        attempts.append(1)
        raise error

    monkeypatch.setattr(terminal, "isatty", lambda: is_terminal)
    monkeypatch.setattr(terminal, method, fail)
    train(Progress(file=terminal))
    assert attempts == [1]  # tried, and not again


def test_a_closed_or_absent_stderr_does_not_end_training(monkeypatch):
    closed = io.StringIO()
    closed.close()
    for stderr in (closed, None):
        monkeypatch.setattr(sys, "stderr", stderr)
        train(Progress())


@given(st.floats(), st.floats())
def test_any_number_can_be_shown(fraction, value):
    file = io.StringIO()
    with Progress(file=file) as progress:
        progress.update(fraction, **dict.fromkeys(set(NUMBERS) - {"step"}, value), step=3)
    assert re.fullmatch(r"[ \d]{3}%  step 3  .*\n", file.getvalue())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (987, "987"),
        (999.7, "1k"),
        (45_678, "45.7k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (1.234e6, "1.23M"),
    ],
)
def test_speed_is_shown_with_three_digits(value, text):
    file = io.StringIO()
    with Progress(file=file) as progress:
        progress.update(0.0, tokens_per_second=value)
    assert file.getvalue() == f"  0%  {text} tok/s\n"
