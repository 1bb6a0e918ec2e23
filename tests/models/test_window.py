"""The window model is equation 1 of Bengio et al. (2003) at every position, however the text comes in pieces.

Axes: B batch, T time.
"""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elman.errors import ConfigError
from elman.evaluate.doctor import check_model
from elman.models.base import LanguageModel, map_state, select_rows
from elman.models.contexts import BEFORE, ContextState
from elman.models.window import WindowLanguageModel
from tests.compare import assert_equal_to

VOCAB_SIZE, PAD = 11, 2
B, T = 3, 9

every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
every_order = pytest.mark.parametrize("order", [2, 4, 15])
"""A bigram; a few tokens; more than the text has."""


def make(dtype: torch.dtype = torch.float64, *, order: int = 4, num_layers: int = 2, **settings):
    """A model whose every parameter is random, except for the padding row."""
    model = WindowLanguageModel(VOCAB_SIZE, 3, 5, num_layers, order, pad_index=PAD, **settings)
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    model.zero_padding_row()
    return model


def make_batch(order: int):
    """Tokens and targets (padding among them), a state with and without beginnings, and resets."""
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    tokens[0, 2] = targets[1, 3] = PAD
    before = torch.randint(VOCAB_SIZE, (B, order - 1))
    before[1, : order // 2] = BEFORE
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[0, 4] = reset[0, 5] = reset[1, 8] = reset[2, 0] = True
    return tokens, targets, ContextState(before), reset


def gradients(model, nats: Tensor) -> list[Tensor]:
    model.zero_grad()
    nats.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def reference(model: WindowLanguageModel, tokens: Tensor, state: ContextState, reset: Tensor) -> Tensor:
    """Logits [B, T, V]: at every position, the vectors of its own last tokens side by side."""
    width, embedding_dim = model.order - 1, model.embedding.embedding_dim
    rows = []
    for row, before, begins in zip(tokens.tolist(), state.tokens.tolist(), reset.tolist(), strict=True):
        document = [token for token in before if token != BEFORE]
        for token, begin in zip(row, begins, strict=True):
            document = [*([] if begin else document), token]
            seen = [model.embedding.weight[t] * (t != PAD) for t in document[-width:]]
            missing = [torch.zeros(embedding_dim, dtype=torch.float64)] * (width - len(seen))
            x = torch.cat([*missing, *seen])
            for layer in model.layers:
                x = torch.tanh(layer.weight @ x + layer.bias)
            if model.to_embedding is not None:
                x = model.to_embedding.weight @ x
            rows.append(model.head.weight @ x + model.head.bias)
    return torch.stack(rows).view(*tokens.shape, VOCAB_SIZE)


@every_order
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_logits_and_gradients_are_those_of_the_definition(order, num_layers, tied):
    model = make(order=order, num_layers=num_layers, tie_embeddings=tied)
    tokens, targets, state, reset = make_batch(order)
    expected = reference(model, tokens, state, reset)
    assert_equal_to(model(tokens, state, reset)[0].detach(), expected.detach())
    nats, _ = model.loss(tokens, targets, state, reset)
    wanted = gradients(model, F.cross_entropy(expected.transpose(1, 2), targets, reduction="sum"))
    assert all(gradient.any() for gradient in wanted)
    assert_equal_to(gradients(model, nats), wanted, 1e-11)


def test_gradients_are_those_of_finite_differences():
    model = make()
    tokens, _, state, reset = make_batch(model.order)
    # The embedding is left out: its padding row has no gradient.
    chosen = {name: p for name, p in model.named_parameters() if name != "embedding.weight"}

    def function(*values):
        weights = dict(zip(chosen, values, strict=True))
        return torch.func.functional_call(model, weights, (tokens, state, reset))[0]

    inputs = [parameter.detach().clone().requires_grad_() for parameter in chosen.values()]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@every_dtype
@every_order
@pytest.mark.parametrize("cuts", [[1], [4, 5], [8], list(range(1, T))], ids=str)
def test_cutting_a_text_changes_nothing(dtype, order, cuts):
    model = make(dtype, order=order)
    tokens, targets, state, reset = make_batch(order)
    logits, last = model(tokens, state, reset)
    loss, _ = model.loss(tokens, targets, state, reset)
    expected = gradients(model, loss)
    pieces, total, carried = [], 0.0, state
    for start, end in pairwise([0, *cuts, T]):
        part = slice(start, end)
        nats, _ = model.loss(tokens[:, part], targets[:, part], carried, reset[:, part])
        piece, carried = model(tokens[:, part], carried, reset[:, part])
        pieces.append(piece)
        total = total + nats
    assert_equal_to(torch.cat(pieces, dim=1).detach(), logits.detach())
    assert torch.equal(carried.tokens, last.tokens)
    assert_equal_to(total.detach(), loss.detach())
    assert_equal_to(gradients(model, total), expected, 1e-11 if dtype == torch.float64 else 1e-4)


@every_order
def test_a_prediction_sees_the_tokens_of_its_order_and_no_other(order):
    model = make(order=order)
    tokens = torch.randint(VOCAB_SIZE, (1, 20))
    logits, _ = model(tokens)
    for t in range(20):
        other = tokens.clone()
        other[:, t] = (other[:, t] + 1) % VOCAB_SIZE
        changed = (model(other)[0] != logits).any(dim=2)[0]
        assert changed.tolist() == [t <= place < t + order - 1 for place in range(20)]


@every_order
def test_a_reset_begins_a_document(order):
    model = make(order=order)
    tokens, _, state, _ = make_batch(order)
    for t in range(T):
        reset = torch.zeros(B, T, dtype=torch.bool)
        reset[:, t] = True
        logits, after = model(tokens, state, reset)
        fresh, after_fresh = model(tokens[:, t:])
        assert_equal_to(logits[:, t:].detach(), fresh.detach())
        assert torch.equal(after.tokens, after_fresh.tokens)
        if order > 2:
            assert not torch.allclose(logits[:, t], model(tokens, state)[0][:, t])


@every_dtype
def test_a_row_does_not_depend_on_its_batch(dtype):
    model = make(dtype)
    tokens, _, state, reset = make_batch(model.order)
    logits, after = model(tokens, state, reset)
    for rows in (slice(0, 1), slice(2, 3), torch.tensor([2, 0, 1])):
        found, found_after = model(tokens[rows], select_rows(state, rows), reset[rows])
        assert_equal_to(found.detach(), logits[rows].detach())
        assert torch.equal(found_after.tokens, after.tokens[rows])
        assert type(found_after) is ContextState


@every_dtype
def test_the_model_meets_the_protocol(dtype):
    model = make(dtype)
    tokens, targets, state, reset = make_batch(model.order)
    before = map_state(Tensor.clone, state)
    assert isinstance(model, LanguageModel)
    log_probs, after = model.log_probs(tokens, state, reset)
    nats, after_score = model.score(tokens, targets, state, reset)
    assert (log_probs.shape, log_probs.dtype) == ((B, T, VOCAB_SIZE), torch.float32)
    assert log_probs.double().logsumexp(dim=-1).abs().max() < 1e-6
    assert_equal_to(nats, -log_probs.gather(2, targets[..., None]).squeeze(2), 2e-6)
    assert torch.equal(after.tokens, after_score.tokens)
    assert torch.equal(state.tokens, before.tokens)
    empty = model.initial_state(5)
    assert (empty.tokens.shape, empty.tokens.dtype) == ((5, 3), torch.int64)
    assert (empty.tokens == BEFORE).all()
    assert not list(model.buffers())


@every_order
def test_the_doctor_finds_nothing(order):
    model = make(torch.float32, order=order)
    assert [check for check in check_model(model) if not check.passed] == []


def test_one_token_of_one_text():
    assert make(order=2)(torch.tensor([[5]]))[0].shape == (1, 1, VOCAB_SIZE)


@pytest.mark.parametrize("order", [-1, 0, 1])
def test_an_order_without_context_is_refused(order):
    with pytest.raises(ConfigError, match=rf"order \({order}\) must be at least 2"):
        WindowLanguageModel(11, 3, 5, 1, order, pad_index=0)


def test_parameters_are_counted_without_memory_and_saved_whole():
    def make_one():
        return WindowLanguageModel(11, 3, 5, 2, 4, pad_index=0)

    with torch.device("meta"):
        empty = make_one()
    expected = 11 * 3 + (3 * 3 * 5 + 5) + (5 * 5 + 5) + 11 * 5 + 11
    assert sum(parameter.numel() for parameter in empty.parameters()) == expected
    model, other, tokens = make_one(), make_one(), torch.randint(11, (2, 6))
    assert not torch.equal(other(tokens)[0], model(tokens)[0])
    other.load_state_dict(model.state_dict())
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    for same in (other, empty, copy.deepcopy(model)):
        assert torch.equal(same(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "a copy"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_padding_row_is_zero_and_stays_zero(tied, copied):
    model = WindowLanguageModel(VOCAB_SIZE, 3, 5, 2, 4, pad_index=PAD, tie_embeddings=tied)
    model = copy.deepcopy(model) if copied else model
    assert not any(layer.bias.any() for layer in model.layers)
    tokens, targets, _, reset = make_batch(4)
    before = model.embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(tokens, targets, model.initial_state(B), reset)[0].backward()
        optimizer.step()
    assert not model.embedding.weight[PAD].any()
    assert (model.embedding.weight != before).any(dim=1).sum() == VOCAB_SIZE - 1


def test_dropout_acts_after_the_embedding_and_after_every_layer_in_training_only():
    model, plain = make(dropout=0.5), make()
    plain.load_state_dict(model.state_dict())
    tokens, _, state, reset = make_batch(model.order)
    assert_equal_to(model(tokens, state, reset)[0], plain(tokens, state, reset)[0], tolerance=0)
    dropped = []
    drop = model.train().drop
    model.drop = lambda x: dropped.append(drop(x)) or dropped[-1]
    read = []
    for module in (*model.layers, model.head):
        module.register_forward_pre_hook(lambda module, arguments: read.append(arguments[0]))
    model(tokens, state, reset)
    assert len(read) == len(model.layers) + 1
    assert_equal_to(read, dropped, tolerance=0)
    assert all((part == 0).double().mean() > 0.3 for part in dropped)


def test_bfloat16_products_stay_near_float32_and_keep_its_types():
    model = make(torch.float32)
    tokens, targets, state, reset = make_batch(model.order)
    exact, _ = model.loss(tokens, targets, state, reset)
    wanted = gradients(model, exact)
    with torch.autocast("cpu", torch.bfloat16):
        nats, after = model.loss(tokens, targets, state, reset)
    found = gradients(model, nats)
    assert (nats.dtype, after.tokens.dtype) == (torch.float32, torch.int64)
    assert nats != exact
    assert abs(nats - exact) < 0.02 * exact
    for gradient, expected in zip(found, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - expected).norm() < 0.1 * expected.norm()
