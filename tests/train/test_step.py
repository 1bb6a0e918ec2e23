"""A step learns and leaves alone what is not finite."""

from types import SimpleNamespace

import pytest
import torch

from elman.data.batches import DocumentLoader
from elman.ops.proposal import Proposal
from elman.train import step as stepping
from elman.train.step import EagerStep, sum_of_ranks
from tests.train.trainee import PAD, STORE, VOCAB, given, streams, trainee, weights


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


def test_on_an_accelerator_the_optimizer_leaves_out_what_is_not_finite(monkeypatch):
    """There nobody looks at the gradient: torch's fused AdamW is told, and does nothing."""
    monkeypatch.setattr(stepping, "is_recordable", lambda model, optimizer: True)
    model, optimizer = trainee()
    good, before = given(next(streams())), weights(model)
    step = EagerStep(model, optimizer)
    step(good, model.initial_state(3))
    moved = weights(model)
    assert any(not torch.equal(one, other) for one, other in zip(moved, before, strict=True))
    infinite = torch.tensor(float("inf"))
    gradients = step._gradients
    with monkeypatch.context() as with_a_loss_that_is_infinite:
        with_a_loss_that_is_infinite.setattr(
            step, "_gradients", lambda *given: (infinite, gradients(*given)[1])
        )
        assert torch.isfinite(step(good, model.initial_state(3)).gradient_norm)
    assert all(map(torch.equal, weights(model), moved))
    bad = good._replace(targets_counted=torch.tensor(0.0))  # a loss, and a gradient, that is infinite
    assert not torch.isfinite(step(bad, model.initial_state(3)).gradient_norm)
    assert all(map(torch.equal, weights(model), moved))


# ---- several ranks ----------------------------------------------------------------------------------------


@pytest.fixture
def exchange(monkeypatch) -> torch.futures.Future:
    """What comes of the exchange of gradients between three ranks; all others send as many tens as their number."""
    future: torch.futures.Future = torch.futures.Future()

    def all_gather(of_all, mine, *, async_op):
        for rank, tensor in enumerate(of_all):
            tensor.copy_(10.0 * rank if rank else mine)
        return SimpleNamespace(get_future=lambda: future)

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    return future


def test_gradients_of_all_ranks_are_added(exchange):
    exchange.set_result([])
    bucket = SimpleNamespace(buffer=lambda: torch.tensor([1.0, 2.0]))
    assert sum_of_ranks(None, bucket).wait().tolist() == [31.0, 32.0]


def test_an_exchange_that_failed_gives_no_gradient(exchange):
    exchange.set_exception(RuntimeError("Application timeout caused pair closure"))
    with pytest.raises(RuntimeError, match="pair closure"):
        sum_of_ranks(None, SimpleNamespace(buffer=lambda: torch.ones(2))).wait()
