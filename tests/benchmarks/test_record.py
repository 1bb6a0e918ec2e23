"""A record says the same in its numbers, in JSON and in the table."""

import json

import pytest

from benchmarks.goals import GOALS, MEGABYTES_64, goal_ratio
from benchmarks.race import Timing
from benchmarks.record import (
    Record,
    describe_machine,
    show_seconds,
    table,
    versus,
    versus_bound,
    versus_bytes,
)

ASKED_FOR = {"part", "ours_seconds", "peer", "peer_seconds", "ratio", "goal", "fraction_of_limit"}

OURS, PEER = Timing("elman", (1.0, 2.0, 3.0)), Timing("nn.RNN", (4.0, 6.0, 8.0))


def a_record(**facts):
    return versus("C6", "elman, forward and backward", OURS, PEER, limit=0.5, shape="B1", **facts)


def test_ratios_and_fractions_are_of_the_medians():
    record = a_record(peer_limit=3.0)
    assert (record.ours_seconds, record.peer_seconds, record.ratio) == (2.0, 6.0, 3.0)
    assert (record.fraction_of_limit, record.peer_fraction_of_limit) == (0.25, 0.5)
    assert record.rounds == 3


def test_one_limit_serves_both():
    assert a_record().peer_fraction_of_limit == 0.5 / 6


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.part} {goal.what} {goal.peer}")
def test_a_goal_is_met_from_its_ratio_on(goal):
    for ratio, met in ((goal.ratio * 0.999, False), (goal.ratio, True), (None, None)):
        record = Record(part=goal.part, what=goal.what, peer=goal.peer, ratio=ratio)
        assert (record.goal, record.met) == (goal.ratio, met)


def test_a_line_without_a_goal_is_neither_met_nor_missed():
    record = Record(part="C6", what="anything", peer="anyone", ratio=100.0)
    assert (record.goal, record.met) == (None, None)


def test_no_line_has_two_goals():
    assert len({goal[:3] for goal in GOALS}) == len(GOALS)
    assert goal_ratio(*GOALS[-1][:3]) == GOALS[-1].ratio


def test_a_line_of_json_has_what_programs_ask_for():
    machine = describe_machine()
    line = json.loads(a_record().to_json(machine))
    assert line.keys() >= ASKED_FOR | {"shape", "dtype", "met", "rounds", *machine}
    assert line["ours_quartiles"] == [1.5, 2.5]
    assert line["goal"] == 2.0
    assert line["met"] is True


def test_the_table_shows_both_sides_the_goal_and_the_limit():
    head, rule, row = table([a_record()]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    for shown in ("2 s (1.5 s to 2.5 s)", "6 s (5 s to 7 s)", "3 x", "2 x, met", "25% / 8%"):
        assert shown in row


def test_the_table_says_what_was_missed_and_what_was_not_measured():
    missed = versus_bytes("C3", "memory of output layer and loss", 128_000_000, MEGABYTES_64, 64_000_000)
    absent = Record(part="C9", what="scoring", peer="kenlm", note="not measured: pip install kenlm")
    text = table([missed, absent])
    assert "128 MB" in text
    assert "1 x, **missed**" in text
    assert "not measured: pip install kenlm" in text


def test_a_note_stands_beside_what_was_measured():
    _, _, row = table([a_record(note="best chunk: 256 rows")]).splitlines()
    assert row.endswith("| best chunk: 256 rows |")
    assert "3 x" in row


def test_a_peak_that_the_system_does_not_tell_is_not_measured():
    for ours, peer in ((None, 5), (5, None)):
        record = versus_bytes("C3", "memory", ours, "peer", peer, shape="N1")
        assert record.note.startswith("not measured")
        assert record.ratio is record.ours_bytes is record.peer_bytes is None
        assert record.shape == "N1"


def test_a_bound_is_a_peer_that_takes_as_long_as_allowed():
    record = versus_bound(
        "C8", "a million tokens of streams", Timing("elman", (0.5, 0.5)), "1 M tokens/s", 1.0
    )
    assert (record.ratio, record.met) == (2.0, True)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (12.34, "12.3 s"),
        (1.0, "1 s"),
        (0.0123, "12.3 ms"),
        (4.56e-6, "4.56 µs"),
        (123.4, "123 s"),
        (0, "0 µs"),
    ],
)
def test_seconds_have_three_digits(seconds, shown):
    assert show_seconds(seconds) == shown
