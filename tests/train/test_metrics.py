"""metrics.jsonl survives kills and full disks; the progress line never ends or dirties anything."""

import io
import json
import math
import re
import sys
import types
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import InputError, MissingExtraError
from elman.train import metrics
from elman.train.metrics import NOWHERE, MetricsLog, Progress, TensorBoardLog, read_metrics

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


def test_records_come_back_in_order(tmp_path):
    records = [{"step": i, "loss": i / 7, "note": "é\n\ud800"} for i in range(5)]
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for i, record in enumerate(records):
            log.write(record)
            assert read_metrics(tmp_path / "metrics.jsonl") == records[: i + 1]  # on disk at once


@given(st.floats())
def test_every_number_is_strict_json(tmp_path_factory, value):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write({"loss": value, "nested": {"losses": [value]}})
    found = json.loads(path.read_text(), parse_constant=refuse)
    expected = value if math.isfinite(value) else None
    assert found == {"loss": expected, "nested": {"losses": [expected]}}


@pytest.mark.parametrize("whole", [0, 1, 3, 3000])
@pytest.mark.parametrize("torn", [b"", b"{", b'{"step": 9', b"x" * 70_000])
def test_a_torn_last_line_is_read_over_and_dropped(tmp_path, whole, torn):
    path = tmp_path / "metrics.jsonl"
    records = [{"step": step, "text": "some more of it"} for step in range(whole)]
    path.write_bytes(b"".join(json.dumps(record).encode() + b"\n" for record in records) + torn)
    assert read_metrics(path) == records
    with MetricsLog(path) as log:
        log.write({"step": -1})
    assert read_metrics(path) == [*records, {"step": -1}]


@pytest.mark.parametrize("line", ["{", "[1]", "\x00\x00", '"step"'])
def test_a_damaged_whole_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: not"):
        read_metrics(path)


def test_files_that_cannot_be_opened_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot write metrics"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl")
    with pytest.raises(InputError, match="cannot read metrics"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_full_disk_warns_once_and_leaves_whole_lines(tmp_path):
    resource = pytest.importorskip("resource")  # a limit on the size of files stands in for the disk
    path, told = tmp_path / "metrics.jsonl", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with MetricsLog(path, warn=told.append) as log:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            for step in range(20):
                log.write({"step": step})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.write({"step": 20})
    steps = [record["step"] for record in read_metrics(path)]
    assert 0 < len(steps) < 20
    assert steps == [*range(len(steps) - 1), 20]  # nothing torn in between, and on again when there is room
    assert len(told) == 1
    assert "metrics.jsonl" in told[0]


@given(before=st.integers(0, 20), after=st.integers(0, 20), torn=st.booleans())
def test_a_log_goes_back_to_where_a_checkpoint_was(tmp_path_factory, before, after, torn):
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(before):
            log.write({"step": step})
        kept = json.loads(json.dumps(log.state_dict()))
        for step in range(after):
            log.write({"step": 100 + step, "of a future": "that is left"})
    if torn:  # as a process that is killed leaves it
        with path.open("ab") as file:
            file.write(b'{"step": 9')
    with MetricsLog(path) as log:
        log.load_state_dict(kept)
        assert log.state_dict() == kept
        log.write({"step": before})
    assert [record["step"] for record in read_metrics(path)] == list(range(before + 1))


def test_a_log_that_is_shorter_than_it_was_stays_as_it_is(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1})
        log.load_state_dict({"bytes": 10_000})  # a rescued run begins without one
        log.write({"step": 2})
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_nowhere_takes_everything_and_keeps_nothing():
    with MetricsLog(NOWHERE, warn=pytest.fail) as log:
        log.write({"step": 1})
        assert log.state_dict() == {"bytes": 0}
        log.load_state_dict({"bytes": 0})
        log.load_state_dict({"bytes": 5000})  # of the first rank, which has records
        log.write({"step": 2})
    assert NOWHERE.read_bytes() == b""


def test_tensorboard_gets_every_number_at_its_step(tmp_path, monkeypatch):
    seen = []

    class Writer:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    with TensorBoardLog(tmp_path) as log:
        log.write({"step": 7, "loss": 1.5, "valid": None, "note": "x", "done": True, "tokens": 3})
    assert seen == [str(tmp_path), ("loss", 1.5, 7), ("tokens", 3, 7), "closed"]


def test_tensorboard_on_a_full_disk_warns_once(tmp_path, monkeypatch):
    class Writer:
        def __init__(self, folder):
            pass

        def add_scalar(self, name, value, step):
            raise OSError(28, "No space left on device")

        close = add_scalar

    monkeypatch.setattr(Writer, "close", lambda self: self.add_scalar("", 0, 0))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    told = []
    with TensorBoardLog(tmp_path, warn=told.append) as log:
        log.write({"step": 1, "loss": 1.0})
        log.write({"step": 2, "loss": 1.0})
    assert len(told) == 1
    assert "No space left" in told[0]


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"elman\[track\]"):
        TensorBoardLog(tmp_path)


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
    monkeypatch.setattr(metrics, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
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
