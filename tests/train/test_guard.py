"""What is not finite is counted, told and mended one stream at a time; what is merely odd is told."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import DivergedError
from elman.models.base import map_state, tensors_in
from elman.train.guard import KNOWN, MOST_BAD, RECENT, SPIKE, Guard, revive
from elman.train.step import Outcome
from tests.contract.families import FAMILIES, make_model, random_state
from tests.seed import same_seed  # noqa: F401 - autouse

STREAMS = 4
MODEL = make_model(FAMILIES["lstm-untied-equal-1"], torch.float32)
STATE = MODEL.initial_state(STREAMS)

BAD_NUMBERS = [math.nan, math.inf, -math.inf]


def outcome(loss: float = 1.0, norm: float = 1.0, state=STATE) -> Outcome:
    return Outcome(torch.tensor(loss), torch.tensor(norm), state)


def place(step: int) -> dict[str, int]:
    """Where the loader was before a step, unlike that of any other."""
    return {"epoch": step % 3, "offset": 7 * step}


def told(losses, first: int = 1, guard: Guard | None = None) -> list[dict]:
    """The events of a guard that sees `losses`, a step each."""
    events: list[dict] = []
    guard = guard or Guard(MODEL)
    guard._log = events.append
    for step, loss in enumerate(losses, start=first):
        guard(step, outcome(loss), place(step))
    return events


def spoil(state, leaf: int, stream: int, value: float):
    """A copy with one number of one stream replaced."""
    copy = map_state(torch.clone, state)
    tensors_in(copy)[leaf][stream].view(-1)[-1] = value
    return copy


# ---- steps that are not finite --------------------------------------------------------------------------


def test_what_is_finite_passes_untouched():
    events: list[dict] = []
    guard = Guard(MODEL, events.append)
    state = random_state(MODEL, STREAMS)
    assert guard(1, outcome(state=state), place(1)) is state
    assert events == []


@pytest.mark.parametrize("value", BAD_NUMBERS)
@pytest.mark.parametrize("which", ["loss", "norm"])
def test_a_step_that_is_not_finite_is_an_event_with_its_batch(value, which):
    events: list[dict] = []
    guard = Guard(MODEL, events.append)
    guard(6, outcome(), place(6))
    guard(7, outcome(**{which: value}), place(7))
    (event,) = events
    assert json.loads(json.dumps(event, allow_nan=False)) == event
    expected = {"loss": "1.0", "gradient_norm": "1.0"}
    expected["loss" if which == "loss" else "gradient_norm"] = str(value)
    assert event == {"step": 7, "event": "step is not finite", **expected, "batch": place(7)}


@given(
    bad=st.sets(st.integers(1, 4 * RECENT), max_size=30),
    look_every=st.sampled_from([1, 2, 7, 64]),
)
def test_more_than_a_few_of_the_recent_steps_have_diverged(bad, look_every):
    guard = Guard(MODEL)
    guard._look_every = look_every
    steps = range(1, 4 * RECENT + 1)

    def count(step):
        return len([at for at in bad if step - RECENT < at <= step])

    expected = next((step for step in steps if step in bad and count(step) > MOST_BAD), None)
    found = None
    try:
        for step in steps:
            guard(step, outcome(math.nan if step in bad else 1.0), place(step))
        guard.look()
    except DivergedError as error:
        found = str(error)
        assert step - expected < look_every  # an accelerator is asked now and then
    if expected is None:
        assert found is None
    else:
        start = f"step {expected}: {MOST_BAD + 1} of the last {min(expected, RECENT)} steps were not finite"
        assert found is not None
        assert found.startswith(start)
        assert "lower learning_rate" in found


# ---- streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_one_lost_stream_begins_afresh_and_the_others_are_untouched(name):
    model = make_model(FAMILIES[name], torch.float32)
    initial, healthy = model.initial_state(STREAMS), random_state(model, STREAMS)
    events: list[dict] = []
    guard = Guard(model, events.append)
    leaves = [number for number, leaf in enumerate(tensors_in(healthy)) if leaf.is_floating_point()]
    for step, leaf in enumerate(leaves, start=1):
        events.clear()
        found = guard(step, outcome(state=spoil(healthy, leaf, 2, math.nan)), place(step))
        assert events == [{"step": step, "event": "state is not finite", "streams": [2]}]
        for now, before, first in zip(*map(tensors_in, (found, healthy, initial)), strict=True):
            for stream in range(STREAMS):
                assert torch.equal(now[stream], (first if stream == 2 else before)[stream])


@given(
    lost=st.dictionaries(st.integers(0, STREAMS - 1), st.sampled_from(BAD_NUMBERS)),
    leaf=st.integers(0, 1),
)
def test_every_lost_stream_is_revived_and_no_other(lost, leaf):
    state = map_state(torch.randn_like, STATE)
    for stream, value in lost.items():
        state = spoil(state, leaf, stream, value)
    revived, lost_B = revive(state, STATE)
    assert lost_B.nonzero()[:, 0].tolist() == sorted(lost)
    for now, before in zip(tensors_in(revived), tensors_in(state), strict=True):
        for stream in range(STREAMS):
            assert torch.equal(
                now[stream], torch.zeros_like(now[stream]) if stream in lost else before[stream]
            )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_state_as_it_begins_is_sound(name):
    model = make_model(FAMILIES[name], torch.float32)
    initial = model.initial_state(STREAMS)
    _, lost = revive(initial, initial)
    assert not lost.any()


def test_an_infinity_that_a_state_begins_with_is_meant_so():
    first = (torch.full((STREAMS, 3), -math.inf), torch.zeros(STREAMS, 3))
    now = (first[0].clone(), torch.randn(STREAMS, 3))
    now[0][1] = 2.5  # some have left it
    revived, lost = revive(now, first)
    assert not lost.any()
    assert all(torch.equal(one, other) for one, other in zip(revived, now, strict=True))
    now[0][3, 1] = math.nan  # which nothing begins with
    now[1][0, 2] = -math.inf
    revived, lost = revive(now, first)
    assert lost.tolist() == [True, False, False, True]
    assert torch.equal(revived[0][0], first[0][0])
    assert torch.equal(revived[1][3], first[1][3])
    assert torch.equal(revived[1][1], now[1][1])


def test_a_model_whose_states_begin_with_an_infinity_raises_no_alarm(monkeypatch):
    state = (torch.full((STREAMS, 3), -math.inf), torch.ones(STREAMS, 3))
    monkeypatch.setattr(MODEL, "initial_state", lambda streams: (state[0], torch.zeros(streams, 3)))
    events: list[dict] = []
    found = Guard(MODEL, events.append)(1, outcome(state=state), place(1))
    assert events == []
    assert all(torch.equal(one, other) for one, other in zip(found, state, strict=True))


# ---- spikes ---------------------------------------------------------------------------------------------


@given(
    losses=st.lists(st.floats(0.5, 8.0, width=32), min_size=KNOWN, max_size=2 * RECENT),
    jump=st.floats(0.0, 12.0),
)
def test_a_spike_is_a_loss_far_above_the_recent_ones(losses, jump):
    recent = losses[-RECENT:]
    mean, deviation = statistics.fmean(recent), statistics.pstdev(recent)
    guard = Guard(MODEL)
    told(losses, guard=guard)
    last = torch.tensor(mean + jump * deviation).item()
    events = told([last], first=len(losses) + 1, guard=guard)
    if deviation == 0 or last <= mean + SPIKE * deviation:
        assert events == []
        return
    (event,) = events
    assert event == {
        "step": len(losses) + 1,
        "event": "loss spike",
        "loss": last,
        "mean": pytest.approx(mean),
        "deviation": pytest.approx(deviation),
        "batch": place(len(losses) + 1),
    }


def test_a_few_losses_are_no_measure():
    wave = [2.0 + i % 2 for i in range(KNOWN)]
    assert told([*wave[:-1], 1e6]) == []
    assert [event["step"] for event in told([*wave, 1e6])] == [KNOWN + 1]


def test_what_is_not_finite_is_no_part_of_the_measure():
    wave = [2.0 + i % 2 for i in range(KNOWN)]
    events = told([*wave[:10], math.inf, *wave[10:], 3.1, 1e6])
    assert [event["event"] for event in events] == ["step is not finite", "loss spike"]
    assert events[1]["mean"] == pytest.approx(statistics.fmean([*wave, 3.1]))


# ---- an accelerator, which is not waited for --------------------------------------------------------------


def test_an_accelerator_is_asked_now_and_then_and_nothing_is_lost():
    losses = [2.0 + i % 2 for i in range(KNOWN + 1)] + [math.nan, 9e3, 2.0, math.nan, 9e9]
    at_once = told(losses)
    assert len(at_once) == 4
    events: list[dict] = []
    guard = Guard(MODEL, events.append)
    guard._look_every = 4
    for step, loss in enumerate(losses, start=1):
        guard(step, outcome(loss), place(step))
        seen = step // 4 * 4
        assert events == [event for event in at_once if event["step"] <= seen]
    guard.look()
    assert events == at_once
    guard.look()
    assert events == at_once


def test_an_accelerators_streams_are_revived_at_once_all_the_same():
    guard = Guard(MODEL)
    guard._look_every = 64
    healthy = map_state(torch.randn_like, STATE)
    found = guard(1, outcome(state=spoil(healthy, 1, 3, math.inf)), place(1))
    for now, before in zip(tensors_in(found), tensors_in(healthy), strict=True):
        assert torch.equal(now[:3], before[:3])
        assert not now[3].any()


# ---- kept -----------------------------------------------------------------------------------------------


@given(losses=st.lists(st.sampled_from([1.0, 1.1, 1.2, 50.0, math.nan]), max_size=120), data=st.data())
def test_a_guard_that_is_kept_goes_on_as_if_nothing_had_been(losses, data):
    cut = data.draw(st.integers(0, len(losses)))

    def see(guard, part, first):
        events, end = [], None
        try:
            guard._log = events.append
            for step, loss in enumerate(part, start=first):
                guard(step, outcome(loss), place(step))
        except DivergedError as error:
            end = str(error)
        return events, end

    whole = see(Guard(MODEL), losses, 1)
    first = Guard(MODEL)
    events, end = see(first, losses[:cut], 1)
    if end is None:
        second = Guard(MODEL)
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        more, end = see(second, losses[cut:], cut + 1)
        events = events + more
    assert (events, end) == whole


def test_what_an_accelerator_was_not_yet_asked_for_is_kept_too():
    events: list[dict] = []
    guard = Guard(MODEL, events.append)
    guard._look_every = 64
    for step, loss in enumerate([1.5, math.nan, 2.5], start=1):
        guard(step, outcome(loss), place(step))
    assert guard.state_dict() == {"bad": [2], "losses": [1.5, 2.5]}
    assert [event["step"] for event in events] == [2]


def test_going_back_forgets_what_came_after():
    guard = Guard(MODEL)
    guard._look_every = 64
    kept = guard.state_dict()
    guard(1, outcome(math.nan), place(1))
    guard.load_state_dict(kept)
    guard.look()
    assert guard.state_dict() == kept == {"bad": [], "losses": []}
