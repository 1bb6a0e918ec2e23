"""A step that is recorded and replayed is the same step."""

import copy

import pytest
import torch
from torch import Tensor

from elman.models.base import map_state, tensors_in
from elman.ops.proposal import Proposal
from elman.train import recorded_step as recording
from elman.train.recorded_step import WARM_UP, RecordedStep, make_step
from elman.train.step import EagerStep, Outcome
from tests.train.trainee import VOCAB, given, streams, trainee, weights


@pytest.mark.parametrize("sampled", [False, True])
def test_a_recorded_step_is_the_eager_step(sampled):
    """Over batches with resets and without, with masks and without, whose state is carried on."""
    proposal, generator = Proposal(torch.ones(VOCAB, dtype=torch.int64), 5), torch.Generator().manual_seed(0)
    eager_model, eager_optimizer = trainee()
    model, optimizer = trainee()
    eager = EagerStep(eager_model, eager_optimizer)
    recorded = []

    def record(function):
        """As a CUDA graph: nothing runs before it is replayed, and results stay in one place."""
        outcome = Outcome(torch.zeros(()), torch.zeros(()), copy.deepcopy(model.initial_state(3)))

        def replay():
            found = function()
            map_state(Tensor.copy_, outcome.state, found.state)
            outcome.loss.copy_(found.loss)
            outcome.gradient_norm.copy_(found.gradient_norm)

        recorded.append(replay)
        return replay, outcome

    step = RecordedStep(EagerStep(model, optimizer), record)
    state, eager_state = model.initial_state(3), eager_model.initial_state(3)
    batches = streams(bptt=2)
    for _ in range(60):
        inputs = given(next(batches), proposal.draw(generator) if sampled else None)
        wanted, found = eager(inputs, eager_state), step(inputs, state)
        assert torch.equal(found.loss, wanted.loss)
        assert torch.equal(found.gradient_norm, wanted.gradient_norm)
        state, eager_state = found.state, wanted.state
        for one, other in zip(tensors_in(state), tensors_in(eager_state), strict=True):
            assert torch.equal(one, other)
    assert len(recorded) >= 2
    for one, other in zip(weights(model), weights(eager_model), strict=True):
        assert torch.equal(one, other)


def test_a_shape_is_recorded_once_and_only_after_it_was_seen_often_enough():
    model, optimizer = trainee()
    recorded = []

    def record(function):
        recorded.append(function)
        outcome = function()
        return (lambda: None), outcome

    step = RecordedStep(EagerStep(model, optimizer), record)
    batch = next(streams())
    whole = batch._replace(counted=torch.ones_like(batch.counted))
    for number in range(WARM_UP + 4):
        assert len(recorded) == (number > WARM_UP)
        step(given(whole), model.initial_state(3))
    masked = batch._replace(counted=torch.ones_like(batch.counted).index_fill_(1, torch.tensor(0), False))
    for _ in range(WARM_UP + 4):
        step(given(masked), model.initial_state(3))
    assert len(recorded) == 1


def test_too_many_shapes_are_not_recorded(monkeypatch):
    monkeypatch.setattr(recording, "MOST_RECORDINGS", 1)
    model, optimizer = trainee()
    recorded = []

    def record(function):
        recorded.append(function)
        return (lambda: None), function()

    step = RecordedStep(EagerStep(model, optimizer), record)
    for bptt in (1, 2, 3):
        batch = next(streams(bptt=bptt))
        for _ in range(WARM_UP + 3):
            step(given(batch), model.initial_state(3))
    assert len(recorded) == 1


def test_on_a_processor_nothing_is_recorded():
    model, optimizer = trainee()
    assert isinstance(make_step(model, optimizer, 1.0, torch.float32), EagerStep)
