"""What everything that predicts the next token promises, by whatever means: networks, counts and mixtures.

Axes: B batch, T time, V vocabulary.
"""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from elman.models.base import LanguageModel, map_state, select_rows
from elman.models.mixture import Mixture
from elman.models.ngram import NgramModel
from tests.compare import assert_equal_to
from tests.contract.families import FAMILIES, OTHERS, PAD, VOCAB_SIZE, make_language_model, random_state

B, T = 3, 7
FLOAT32_RESULT = 2e-6
"""How far a log-probability that is returned in float32 may be from one in float64, in nats."""

MODELS = [*FAMILIES, *OTHERS]

every_model = pytest.mark.parametrize("name", MODELS)
every_dtype = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float64) for name in MODELS] + [(name, torch.float32) for name in FAMILIES],
)
remembering = pytest.mark.parametrize("name", [name for name in MODELS if name != "ngram-1"])
"""All but the one that looks back on nothing."""


def make(name: str, dtype: torch.dtype = torch.float64):
    """A model, tokens and targets (padding among them), a state that is not the first, and resets."""
    model = make_language_model(name, dtype)
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    tokens[0, 2] = targets[1, 3] = PAD
    reset = torch.rand(B, T) < 0.3
    assert reset.any()
    return model, tokens, targets, random_state(model, B), reset


def contents(model: LanguageModel) -> list[Tensor]:
    """A copy of all the numbers of a model."""
    if isinstance(model, Mixture):
        return [tensor for part in model.parts for tensor in contents(part)]
    if isinstance(model, NgramModel):
        return [torch.from_numpy(array.copy()) for array in model.arrays().values()]
    assert isinstance(model, nn.Module)
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


@every_model
def test_the_model_meets_the_protocol(name):
    model, tokens, targets, state, reset = make(name)
    assert isinstance(model, LanguageModel)
    assert model.vocab_size == VOCAB_SIZE
    assert model.device == torch.device("cpu")
    log_probs, after = model.log_probs(tokens, state, reset)
    nats, after_score = model.score(tokens, targets, state, reset)
    assert (log_probs.shape, log_probs.dtype) == ((B, T, VOCAB_SIZE), torch.float32)
    assert (nats.shape, nats.dtype) == ((B, T), torch.float32)
    assert not log_probs.requires_grad
    assert not nats.requires_grad
    assert_equal_to(after_score, after)
    start = model.initial_state(5)
    assert all(len(part) == 5 for part in tree_leaves(start))
    assert type(after) is type(start)
    assert [(part.shape[1:], part.dtype) for part in tree_leaves(after)] == [
        (part.shape[1:], part.dtype) for part in tree_leaves(start)
    ]


@every_dtype
def test_probabilities_sum_to_one(name, dtype):
    model, tokens, _, state, reset = make(name, dtype)
    log_probs, _ = model.log_probs(tokens, state, reset)
    assert log_probs.double().logsumexp(dim=-1).abs().max() < 1e-6


@every_dtype
def test_a_score_is_minus_the_log_probability(name, dtype):
    model, tokens, targets, state, reset = make(name, dtype)
    nats, _ = model.score(tokens, targets, state, reset)
    log_probs, _ = model.log_probs(tokens, state, reset)
    assert_equal_to(nats, -log_probs.gather(2, targets[..., None]).squeeze(2), FLOAT32_RESULT)
    assert not nats.isnan().any()


@every_dtype
def test_cutting_a_text_changes_nothing(name, dtype):
    model, tokens, targets, state, reset = make(name, dtype)
    whole_log_probs, last = model.log_probs(tokens, state, reset)
    whole_nats, _ = model.score(tokens, targets, state, reset)
    for cuts in ([1], [4], [6], [2, 3], range(1, T)):
        pieces, carried, carried_by_score = [], state, state
        for start, end in pairwise([0, *cuts, T]):
            part = slice(start, end)
            log_probs, carried = model.log_probs(tokens[:, part], carried, reset[:, part])
            nats, carried_by_score = model.score(
                tokens[:, part], targets[:, part], carried_by_score, reset[:, part]
            )
            pieces.append((log_probs, nats))
        log_probs, nats = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
        assert_equal_to(log_probs, whole_log_probs, FLOAT32_RESULT, f"cut at {cuts}")
        assert_equal_to(nats, whole_nats, FLOAT32_RESULT, f"cut at {cuts}")
        for end_state in (carried, carried_by_score):
            assert_equal_to(end_state, last)


@remembering
def test_the_state_says_what_came_before(name):
    model, tokens, _, state, _ = make(name)
    carried, _ = model.log_probs(tokens, state)
    fresh, _ = model.log_probs(tokens, model.initial_state(B))
    assert not torch.allclose(carried[:, 0], fresh[:, 0])


@every_model
def test_a_reset_begins_a_document(name):
    model, tokens, _, state, _ = make(name)
    carried, _ = model.log_probs(tokens, state)
    for t in range(T):
        reset = torch.zeros(B, T, dtype=torch.bool)
        reset[:, t] = True
        log_probs, after = model.log_probs(tokens, state, reset)
        fresh, after_fresh = model.log_probs(tokens[:, t:], model.initial_state(B))
        assert_equal_to(log_probs[:, t:], fresh, FLOAT32_RESULT)
        assert_equal_to(log_probs[:, :t], carried[:, :t], FLOAT32_RESULT)
        assert_equal_to(after, after_fresh)
        if name != "ngram-1":
            assert not torch.allclose(log_probs[:, t:], carried[:, t:])


@every_dtype
def test_a_row_does_not_depend_on_its_batch(name, dtype):
    model, tokens, targets, state, reset = make(name, dtype)
    nats, after = model.score(tokens, targets, state, reset)
    for row in range(B):
        one = slice(row, row + 1)
        alone, alone_after = model.score(tokens[one], targets[one], select_rows(state, one), reset[one])
        assert_equal_to(alone, nats[one], FLOAT32_RESULT)
        assert_equal_to(alone_after, select_rows(after, one))
    order = torch.tensor([2, 0, 1])
    permuted, permuted_after = model.score(
        tokens[order], targets[order], select_rows(state, order), reset[order]
    )
    assert_equal_to(permuted, nats[order], FLOAT32_RESULT)
    assert_equal_to(permuted_after, select_rows(after, order))


@every_model
def test_the_future_does_not_change_the_past(name):
    model, tokens, _, state, reset = make(name)
    log_probs, _ = model.log_probs(tokens, state, reset)
    for t in range(1, T):
        later = tokens.clone()
        later[:, t:] = (later[:, t:] + 1) % VOCAB_SIZE
        found, _ = model.log_probs(later, state, reset)
        assert_equal_to(found[:, :t], log_probs[:, :t], FLOAT32_RESULT)
        if name != "ngram-1":
            assert not torch.allclose(found[:, t:], log_probs[:, t:])


@every_model
def test_a_state_is_a_value(name):
    model, tokens, targets, state, reset = make(name)
    before, held = map_state(Tensor.clone, state), contents(model)
    inputs = [tokens.clone(), targets.clone(), reset.clone()]
    first, second = (
        (model.score(tokens, targets, state, reset), model.log_probs(tokens, state, reset)) for _ in range(2)
    )
    assert_equal_to(second, first, tolerance=0)
    assert_equal_to(state, before, tolerance=0)
    assert_equal_to(contents(model), held, tolerance=0)
    assert all(map(torch.equal, (tokens, targets, reset), inputs))


@every_model
def test_a_copy_is_the_same_model_with_memory_of_its_own(name):
    model, tokens, _, state, reset = make(name)
    log_probs, _ = model.log_probs(tokens, state, reset)
    found, _ = copy.deepcopy(model).log_probs(tokens, state, reset)
    assert_equal_to(found, log_probs, tolerance=0)


@every_model
def test_one_token_of_one_text(name):
    model = make_language_model(name)
    for token in (0, PAD, VOCAB_SIZE - 1):
        tokens = torch.tensor([[token]])
        log_probs, state = model.log_probs(tokens, model.initial_state(1))
        assert log_probs.shape == (1, 1, VOCAB_SIZE)
        assert all(len(part) == 1 for part in tree_leaves(state))
