"""A step learns, leaves alone what is not finite, and is the same step when it is recorded and replayed."""

import copy

import pytest
import torch
from torch import Tensor

from elman.config import ModelConfig, OptimizerConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.store import store_from_ids
from elman.models.base import map_state, tensors_in
from elman.models.build import build
from elman.ops.proposal import Proposal
from elman.train import step as stepping
from elman.train.optimizer import make_optimizer
from elman.train.step import WARM_UP, EagerStep, Outcome, RecordedStep, make_step, to_inputs

PAD, START, END, VOCAB = 0, 1, 2, 11
CPU = torch.device("cpu")

STORE = store_from_ids([[3 + (i * j) % 7 for j in range(i)] for i in range(12)], start_id=START, end_id=END)


def streams(batch_size=3, bptt=4):
    return iter(StreamLoader(STORE, batch_size, bptt, pad_id=PAD))


def trainee(**settings):
    torch.manual_seed(0)
    shape = {"cell": "lstm", "embedding_dim": 6, "hidden_size": 5, "num_layers": 1}
    model = build(ModelConfig(**shape | {"tie_embeddings": True}), VOCAB, PAD).train()
    config = OptimizerConfig(**{"learning_rate": 0.05} | settings)
    model.embedding.sparse = config.row_sparse
    return model, make_optimizer(model, config)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def given(batch, negatives=None, *, fresh=False):
    return to_inputs(batch, int(batch.counted.sum()), negatives, CPU, fresh=fresh)


# ---- what a step is given ---------------------------------------------------------------------------------


def test_masks_that_say_nothing_are_left_out():
    batch = next(streams(batch_size=2, bptt=3))
    first = given(batch)
    assert first.counted is None
    assert first.reset is not None  # the streams begin
    fresh = batch._replace(reset=torch.zeros_like(batch.reset).index_fill_(1, torch.tensor(0), True))
    assert given(fresh, fresh=True).reset is None
    assert given(fresh).reset is not None
    later = fresh._replace(reset=fresh.reset.roll(1, dims=1))
    assert given(later, fresh=True).reset is not None


def test_what_is_counted_is_what_the_batch_says():
    (batch,) = (next(iter(DocumentLoader(STORE, 12, None, pad_id=PAD))),)
    inputs = given(batch)
    assert inputs.counted is not None
    assert inputs.targets_counted.item() == int(batch.counted.sum()) < batch.counted.numel()


# ---- learning ---------------------------------------------------------------------------------------------


def test_a_step_moves_the_weights_against_the_gradient_of_the_mean():
    model, optimizer = trainee(clip_norm=None)
    inputs = given(next(streams()))
    state = model.initial_state(3)
    step = EagerStep(model, optimizer)
    losses = [step(inputs, state).loss.item() for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_changes_nothing():
    model, optimizer = trainee()
    with torch.no_grad():
        model.head.bias[4] = torch.nan
    before = weights(model)
    outcome = EagerStep(model, optimizer)(given(next(streams())), model.initial_state(3))
    assert not torch.isfinite(outcome.gradient_norm)
    for found, kept in zip(weights(model), before, strict=True):
        assert torch.equal(found.nan_to_num(7.0), kept.nan_to_num(7.0))


def test_the_norm_is_that_before_clipping():
    inputs = given(next(streams()))
    norms = []
    for clip_norm in (None, 1e-3):
        model, optimizer = trainee()
        norms.append(EagerStep(model, optimizer, clip_norm)(inputs, model.initial_state(3)).gradient_norm)
    assert norms[0] == norms[1] > 1e-3


@pytest.mark.parametrize("row_sparse", [False, True])
def test_a_sampled_step_with_every_word_is_the_exact_step(row_sparse):
    """And padding keeps its zero vector, though as a class of the softmax it has a gradient."""
    batches, everything = streams(), Proposal(torch.ones(VOCAB, dtype=torch.int64), VOCAB)
    exact, exact_optimizer = trainee()
    sampled, sampled_optimizer = trainee(row_sparse=row_sparse)
    state = exact.initial_state(3)
    for _ in range(4):
        batch, negatives = next(batches), everything.draw(torch.Generator())
        wanted = EagerStep(exact, exact_optimizer)(given(batch), state)
        found = EagerStep(sampled, sampled_optimizer)(given(batch, negatives), state)
        torch.testing.assert_close(found[:2], wanted[:2])
        for one, other in zip(weights(sampled), weights(exact), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)
    assert not sampled.embedding.weight[PAD].any()


# ---- recording --------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(stepping, "MOST_RECORDINGS", 1)
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


def test_on_an_accelerator_the_optimizer_leaves_out_what_is_not_finite(monkeypatch):
    """There nobody looks at the gradient: torch's fused AdamW is told, and does nothing."""
    monkeypatch.setattr(stepping, "is_recordable", lambda model, optimizer: True)
    model, optimizer = trainee()
    good, before = given(next(streams())), weights(model)
    step = EagerStep(model, optimizer)
    step(good, model.initial_state(3))
    moved = weights(model)
    assert any(not torch.equal(one, other) for one, other in zip(moved, before, strict=True))
    bad = good._replace(targets_counted=torch.tensor(0.0))  # a loss, and a gradient, that is infinite
    assert not torch.isfinite(step(bad, model.initial_state(3)).gradient_norm)
    assert all(map(torch.equal, weights(model), moved))


def test_on_a_processor_nothing_is_recorded():
    model, optimizer = trainee()
    assert isinstance(make_step(model, optimizer, 1.0, torch.float32), EagerStep)
