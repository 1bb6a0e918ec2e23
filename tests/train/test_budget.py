"""A budget ends a run by whichever limit comes first, and does not count pauses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.config import TrainingConfig
from elman.ranks import Ranks
from elman.train.budget import Budget, is_marked


class Clock:
    """Seconds, as told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize(
    ("limits", "steps_per_epoch", "last"),
    [
        ({"max_steps": 7}, 100, 7),
        ({"epochs": 1.0}, 100, 100),
        ({"epochs": 2.5}, 7, 18),
        ({"epochs": 1e-6}, 100, 1),
        ({"max_steps": 7, "epochs": 1.0}, 5, 5),
        ({"max_steps": 7, "epochs": 1.0}, 9, 7),
    ],
)
def test_steps_and_epochs_end_a_run_exactly(clock, limits, steps_per_epoch, last):
    budget = Budget(TrainingConfig(**limits), steps_per_epoch, clock)
    clock.now += 1e9  # time is no limit here
    assert budget.used(0) == 0
    assert budget.used(last - 1) < 1
    assert budget.used(last) == 1


def test_time_ends_a_run(clock):
    budget = Budget(TrainingConfig(max_time=10.0), 1, clock)
    assert budget.used(10**9) == 0
    clock.now += 5
    assert budget.used(0) == 0.5
    clock.now += 5
    assert budget.used(0) == 1
    clock.now += 5
    assert budget.used(0) > 1


def test_whichever_is_nearer_counts(clock):
    budget = Budget(TrainingConfig(max_time=10.0, max_steps=10), 1, clock)
    clock.now += 5
    assert budget.used(2) == 0.5
    assert budget.used(8) == 0.8


@given(spans=st.lists(st.tuples(st.booleans(), st.integers(0, 100))))
def test_time_stands_still_in_a_pause(spans):
    clock = Clock()
    budget = Budget(TrainingConfig(max_time=100.0), 1, clock)
    trained = 0
    for pause, seconds in spans:
        if pause:
            with budget.paused():
                clock.now += seconds
                assert budget.seconds == trained  # already inside, where a validation is recorded
                assert budget.used(0) == trained / 100
        else:
            clock.now += seconds
            trained += seconds
        assert budget.seconds == trained
        assert budget.used(0) == trained / 100


def test_a_pause_ends_with_an_error_too(clock):
    budget = Budget(TrainingConfig(max_time=100.0), 1, clock)
    with pytest.raises(KeyError), budget.paused():
        clock.now += 5
        raise KeyError
    clock.now += 3
    assert budget.seconds == 3


def test_the_clock_starts_with_the_budget():
    assert 0 <= Budget(TrainingConfig(max_time=1.0), 1).seconds < 1


# ---- what the schedules see -------------------------------------------------------------------------------


def test_about_a_thousand_steps_a_decade_are_marked():
    marked = [step for step in range(1, 100_001) if is_marked(step)]
    assert marked[:4] == [1, 10, 20, 30]
    assert len([step for step in marked if step <= 1000]) == 101
    for decade in (1000, 10_000):
        assert len([step for step in marked if decade < step <= 10 * decade]) == 900


PASSING = st.lists(st.tuples(st.integers(1, 40), st.floats(0, 30)), min_size=1, max_size=40)
"""How many steps are done, and how long they take."""


@given(spans=PASSING, max_steps=st.sampled_from([None, 300]))
def test_schedules_see_the_clock_at_marked_steps_only(spans, max_steps):
    clock = Clock()
    budget = Budget(TrainingConfig(max_time=100.0, max_steps=max_steps), 1, clock)
    step, seen, shares = 0, 0.0, []
    for steps, seconds in spans:
        for _ in range(steps):
            step += 1
            clock.now += seconds / steps
            if is_marked(step):
                seen = budget.seconds / 100
            share, over = budget.look(step)
            assert share == max(seen, step / max_steps if max_steps else 0)
            assert over == (budget.used(step) >= 1)  # the end does not wait for a mark
            clock.now += 0.25
            assert budget.look(step)[0] == share  # asked again, as where a run is taken up
            shares.append(share)
    assert shares == sorted(shares)


@given(spans=PASSING, cut=st.integers(0, 40))
def test_a_budget_that_is_kept_goes_on_and_the_time_between_is_none(spans, cut):
    def shares(pause):
        clock = Clock()
        config = TrainingConfig(max_time=100.0, max_steps=1000)
        budget, step, found = Budget(config, 1, clock), 0, []
        for number, (steps, seconds) in enumerate(spans):
            if pause and number == cut:
                kept = json.loads(json.dumps(budget.state_dict()))
                clock.now += 12_345
                budget = Budget(config, 1, clock)
                clock.now += 54_321
                budget.load_state_dict(kept)
            step, clock.now = step + steps, clock.now + seconds
            found.append((*budget.look(step), budget.seconds))
        return found

    for one, other in zip(shares(False), shares(True), strict=True):
        assert one == pytest.approx(other, abs=1e-9)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ({"max_time": 10.0}, {"max_time": 40.0}, 0.25),
        ({"max_time": 10.0}, {"max_steps": 50}, 0.4),
        ({"max_steps": 20}, {"max_steps": 50}, 0.4),
        ({"max_steps": 20}, {"max_time": 40.0}, 0.25),
        ({"max_time": 10.0}, {"epochs": 10.0}, 0.2),
    ],
)
def test_a_run_that_is_given_more_is_at_the_share_of_the_new_budget_at_once(clock, before, after, share):
    budget = Budget(TrainingConfig(**before), 10, clock)
    clock.now += 10
    assert budget.look(20) == (1.0, True)
    longer = Budget(TrainingConfig(**after), 10, clock)
    longer.load_state_dict(budget.state_dict())
    assert longer.look(20) == (share, False)
    assert longer.look(21)[0] >= share  # not at a mark


def test_the_clock_of_the_first_rank_counts(clock):
    class Link:
        def broadcast(self, value):
            return json.loads(json.dumps([0.5, True]))

    budget = Budget(TrainingConfig(max_time=10.0), 1, clock, Ranks(1, 2, _link=Link()))
    assert budget.look(1) == (0.5, True)
