"""Sides run in turns, in both orders, and are refused as soon as they disagree. No test looks at the clock."""

import pytest

from benchmarks.agreement import DisagreementError
from benchmarks.race import Side, Timing, race, ratio_quartiles


def sides_that_note(order, values=None):
    def make(name):
        def run():
            order.append(name)
            return 1.0 if values is None else values[name]

        return Side(name, run)

    return [make(name) for name in "abc"]


def counting_clock():
    """Seconds that grow with every call: 1, 2, 3, ..."""
    calls = iter(range(1, 1000))
    return lambda run: (float(next(calls)), run())


@pytest.mark.parametrize("warmups", [0, 1, 2])
def test_rounds_go_forth_and_back_and_the_first_are_not_counted(warmups):
    order = []
    taken = race(*sides_that_note(order), seconds=0, least=4, most=4, warmups=warmups, clock=counting_clock())
    rounds = 4 + warmups
    assert "".join(order) == ("abccba" * rounds)[: 3 * rounds]
    assert taken.keys() == set("abc")
    counted = [second for timing in taken.values() for second in timing.seconds]
    assert sorted(counted) == list(range(3 * warmups + 1, 3 * rounds + 1))


def test_a_race_without_time_takes_the_least_rounds_and_one_with_time_the_most():
    for seconds, expected in ((0, 3), (1e9, 7)):
        taken = race(*sides_that_note([]), seconds=seconds, least=3, most=7)
        assert {len(timing.seconds) for timing in taken.values()} == {expected}


@pytest.mark.parametrize("wrong", "bc")
def test_a_side_that_computes_something_else_is_refused(wrong):
    values = {"a": [2.0, 1.0], "b": [2.0, 1.0], "c": [2.0, 1.0], wrong: [2.0, 1.01]}
    with pytest.raises(DisagreementError, match=f"'{wrong}' and 'a'"):
        race(*sides_that_note([], values), seconds=0)


def test_a_disagreement_after_the_warm_up_is_seen_too():
    values = iter([1.0, 1.0, 1.0, 2.0])
    with pytest.raises(DisagreementError):
        race(Side("a", lambda: 1.0), Side("b", lambda: next(values)), seconds=0, least=10)


def test_each_side_has_its_own_tolerance():
    rough = Side("b", lambda: 1.02, tolerance=0.03)
    race(Side("a", lambda: 1.0), rough, seconds=0, least=1)
    with pytest.raises(DisagreementError):
        race(Side("a", lambda: 1.0), rough._replace(tolerance=0.01), seconds=0, least=1)


def test_a_timing_is_its_median_and_quartiles():
    timing = Timing("x", (5.0, 1.0, 3.0, 2.0, 4.0))
    assert (timing.median, timing.quartiles) == (3.0, (2.0, 4.0))
    assert timing.divided(2).median == 1.5


def test_ratios_are_of_the_same_round():
    ours, peer = Timing("x", (1.0, 10.0, 100.0)), Timing("y", (2.0, 20.0, 200.0))
    assert ratio_quartiles(peer, ours) == (2.0, 2.0)
