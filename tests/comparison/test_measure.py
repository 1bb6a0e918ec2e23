"""Costs are those that a hand would count; places in documents are counted from one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from elman.compare import measure
from elman.compare.measure import PeakMemory, flops_per_token, generation_speed, loss_by_position, state_bytes
from elman.config import ModelConfig
from elman.models.build import build
from elman.models.ngram import estimate

E, H, V = 3, 5, 11
START, END, PAD = 0, 1, 2


def recurrent(cell, layers=1, tied=False):
    sizes = {"embedding_dim": E, "hidden_size": H, "num_layers": layers, "tie_embeddings": tied}
    return build(ModelConfig(cell=cell, **sizes), V, PAD).eval()


def counted():
    tokens = np.array([3, 4, 5, END, 4, 5, END])
    return estimate((tokens, np.array([0, 4, 7])), V, 3, start_id=START, excluded_ids=[PAD])


class Attention(nn.Module):
    """Causal attention over the tokens of one call: no more of a model than its products."""

    vocab_size, device = V, torch.device("cpu")

    def initial_state(self, batch_size):
        return ()

    def forward(self, tokens, state, reset=None):
        x = torch.ones(1, 1, tokens.shape[1], H)
        return F.scaled_dot_product_attention(x, x, x, is_causal=True).sum(-1)[0], state


@pytest.mark.parametrize(
    ("cell", "layers", "tied", "products"),
    [
        ("elman", 1, False, E * H + H * H + H * V),
        ("lstm", 1, False, E * 4 * H + H * 4 * H + H * V),
        ("lstm", 2, False, E * 4 * H + H * 4 * H + H * 4 * H + H * 4 * H + H * V),
        ("lstm", 1, True, E * 4 * H + H * 4 * H + H * E + E * V),
        ("gru", 1, False, E * 3 * H + H * 3 * H + H * V),
        ("mingru", 1, False, E * 2 * H + H * V),
    ],
)
@pytest.mark.parametrize("tokens", [1, 64])
def test_products_are_those_that_a_hand_counts(cell, layers, tied, products, tokens):
    assert flops_per_token(recurrent(cell, layers, tied), tokens) == 2 * products


@pytest.mark.parametrize("tokens", [8, 32])
def test_attention_is_seen_and_grows_with_its_window(tokens):
    assert flops_per_token(Attention(), tokens) == 2 * 2 * H * tokens


def test_counting_takes_no_products():
    assert flops_per_token(counted()) == 0


def test_a_state_has_the_bytes_of_its_numbers():
    assert state_bytes(recurrent("gru")) == 4 * H
    assert state_bytes(recurrent("lstm", layers=3)) == 3 * 2 * 4 * H
    assert state_bytes(counted()) == 2 * 8


@pytest.mark.parametrize("model", [recurrent("lstm"), counted()], ids=["lstm", "3-gram"])
def test_generation_goes_on_to_the_last_token(model, monkeypatch):
    calls, ticks = [], iter([100.0, 104.0])
    plain = type(model).log_probs
    monkeypatch.setattr(
        type(model), "log_probs", lambda *given: calls.append(given[1].shape) or plain(*given)
    )
    monkeypatch.setattr(measure.time, "perf_counter", lambda: (len(calls), next(ticks))[1])
    assert generation_speed(model, start_id=START, end_id=END, tokens=40) == 10.0
    assert calls == [(1, 1)] * (measure.WARM_UP_TOKENS + 40)


@pytest.mark.skipif(not measure._forget_peak(), reason="the system does not keep a highest value")
def test_the_highest_memory_is_found_after_it_is_freed():
    size = 60_000_000
    earlier = np.ones(2 * size, np.uint8)
    del earlier  # a peak before the context is not its own
    with PeakMemory() as memory:
        block = np.ones(size, np.uint8)
        del block
    assert memory.bytes is not None
    assert 0.95 * size <= memory.bytes < 1.3 * size  # the system counts pages in batches
    with PeakMemory() as memory:
        pass
    assert memory.bytes < size / 4


@pytest.mark.skipif(not measure._forget_peak(), reason="the system does not keep a highest value")
def test_memory_that_was_free_at_entry_counts_when_it_is_taken():
    blocks = [np.ones(50_000, np.uint8) for _ in range(1200)]  # small enough to come from the heap
    del blocks[:-1]  # the last one holds the heap up
    with PeakMemory() as memory:
        again = [np.ones(50_000, np.uint8) for _ in range(1200)]
        del again
    assert memory.bytes > 50_000_000


def test_where_the_system_tells_nothing_there_is_no_measure(monkeypatch):
    monkeypatch.setattr(measure, "_forget_peak", lambda: False)
    with PeakMemory(torch.device("cpu")) as memory:
        pass
    assert memory.bytes is None


def test_an_error_passes_through_the_context():
    with pytest.raises(ZeroDivisionError), PeakMemory():
        1 / 0  # noqa: B018


def test_places_are_binned_by_powers_of_two():
    # documents of 1, 5 and 8 targets; each target costs its place
    places = [1, *range(1, 6), *range(1, 9)]
    found = loss_by_position(np.array(places, float), np.array([0, 1, 6, 14]))
    assert found == [(1, 1.0, 3), (2, 2.5, 4), (4, (4 + 5 + 4 + 5 + 6 + 7) / 6, 6), (8, 8.0, 1)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(0, 2**32))
def test_every_target_is_in_one_bin(lengths, seed):
    starts = np.concatenate([[0], np.cumsum(lengths)])
    nats = np.random.default_rng(seed).random(starts[-1])
    found = loss_by_position(nats, starts)
    assert sum(bin.targets for bin in found) == len(nats)
    assert sum(bin.nats * bin.targets for bin in found) == pytest.approx(nats.sum())
    assert [bin.position for bin in found] == [1 << k for k in range(max(lengths).bit_length())]
    assert all(bin.targets > 0 for bin in found)


def test_bins_may_be_chosen_and_the_last_has_no_end():
    found = loss_by_position(np.arange(1.0, 8), np.array([0, 7]), edges=[1, 4, 100])
    assert found == [(1, 2.0, 3), (4, 5.5, 4)]
