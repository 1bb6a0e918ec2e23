"""Results are strict JSON, tables that lose no number, and text that no terminal obeys."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.cli.render import print_json, print_table, say, visible

CONTROL = ["\x00", "\x07", "\x08", "\r", "\x1b", "\x7f", "\x9b", "\u202e", "\u2028", "\u2066", "\u061c"]


def test_numbers_that_json_lacks_are_null(capsys):
    print_json({"a": math.nan, "b": [math.inf, 1.5, (-math.inf,)], "c": {"d": math.nan}, "e": "né\udcff\n"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": [None, 1.5, [None]], "c": {"d": None}, "e": "né\udcff\n"}
    assert out.isascii()
    assert out.count("\n") == 1


@given(text=st.text(st.sampled_from([*CONTROL, "a", "é", "\t", "\n", "語", "\u200d"])))
def test_nothing_is_left_to_obey_and_nothing_else_is_changed(text):
    shown = visible(text)
    assert not any(mark in shown for mark in CONTROL)
    assert visible(shown) == shown
    if not any(mark in text for mark in CONTROL):
        assert shown == text


@pytest.mark.parametrize("width", [10, 24, 40, 80, 300])
def test_a_table_loses_no_number(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    numbers = ["1,234,567,890", "0.125", "9.9e+99"]
    print_table(["model", "a long heading", "b", "and one more heading"], [["runs/x", *numbers]] * 2)
    out = capsys.readouterr().out
    assert "…" not in out
    for number in numbers:
        assert out.count(number) == 2
    is_table = "model:" not in out
    assert is_table == (width >= 40)
    assert not is_table or max(map(len, out.splitlines())) <= width


def test_cells_are_made_visible(capsys):
    print_table(["model", "n"], [["[red]\x1b[31m[/red]", "1"]])
    assert r"[red]\x1b[31m[/red]" in capsys.readouterr().out


def test_progress_outlives_its_reader(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stderr", Gone())
    say("nobody hears")
