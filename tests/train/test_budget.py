"""A budget ends a run by whichever limit comes first, and does not count pauses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.config import TrainingConfig
from elman.train.budget import Budget


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
