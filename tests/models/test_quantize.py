"""Small weights cost little, and the model stays what every model is: a distribution with a state that is a value."""

import copy
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from elman.config import ModelConfig
from elman.errors import ConfigError
from elman.models import quantize as quantize_module
from elman.models.base import LanguageModel, select_rows
from elman.models.build import build
from elman.models.quantize import (
    LARGEST,
    Int8Matrix,
    QuantizedLanguageModel,
    SmallEmbedding,
    SmallLinear,
    bytes_before_and_after,
    int8_products_are_exact,
    quantize,
    to_int8,
    weight_bytes,
)
from tests.contract.families import FAMILIES, OTHERS, PAD, VOCAB_SIZE, make_language_model, random_state

B, T = 3, 9
WEIGHTS = ["bfloat16", "int8"]
every_model = pytest.mark.parametrize("name", FAMILIES)
both = pytest.mark.parametrize("weights", WEIGHTS)


def make(name: str, weights: str):
    """A small model, tokens, targets, a state that is not the first, and resets."""
    exact = make_language_model(name, torch.float32)
    state = random_state(exact, B)
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    tokens[0, 2] = PAD
    return quantize(exact, weights), tokens, targets, state, torch.rand(B, T) < 0.3


@every_model
@both
def test_it_is_a_distribution_and_its_score_is_the_log_probability(name, weights):
    model, tokens, targets, state, reset = make(name, weights)
    assert isinstance(model, LanguageModel)
    assert (model.vocab_size, model.device) == (VOCAB_SIZE, torch.device("cpu"))
    log_probs, after = model.log_probs(tokens, state, reset)
    nats, after_score = model.score(tokens, targets, state, reset)
    assert (log_probs.dtype, nats.dtype) == (torch.float32, torch.float32)
    assert not log_probs.requires_grad
    assert log_probs.double().logsumexp(-1).abs().max() < 1e-6
    torch.testing.assert_close(nats, -log_probs.gather(2, targets[..., None]).squeeze(2))
    torch.testing.assert_close(tree_leaves(after_score), tree_leaves(after))
    assert {leaf.dtype for leaf in tree_leaves(after)} <= {torch.float32, torch.int64, torch.bool}


@every_model
@both
def test_cutting_a_text_and_leaving_rows_out_changes_nothing(name, weights):
    model, tokens, _, state, reset = make(name, weights)
    whole, last = model.log_probs(tokens, state, reset)
    # A sum in another order may fall on the other side of a rounding, which is a step of 1/127 in int8.
    close = {"rtol": 0, "atol": 0.02}
    head, middle = model.log_probs(tokens[:, :4], state, reset[:, :4])
    tail, end = model.log_probs(tokens[:, 4:], middle, reset[:, 4:])
    torch.testing.assert_close(torch.cat([head, tail], 1), whole, **close)
    torch.testing.assert_close(tree_leaves(end), tree_leaves(last), **close)
    alone, _ = model.log_probs(tokens[1:2], select_rows(state, slice(1, 2)), reset[1:2])
    torch.testing.assert_close(alone, whole[1:2], **close)


@every_model
@both
def test_it_is_near_the_model_it_was_made_of(name, weights):
    tokens = torch.randint(VOCAB_SIZE, (B, T))
    exact = make_language_model(name, torch.float32)
    before = exact.log_probs(tokens, exact.initial_state(B))[0]
    model = quantize(exact, weights)
    after = model.log_probs(tokens, model.initial_state(B))[0]
    assert 0 < (after - before).abs().mean() < 0.1  # of some nats


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(cell="elman", num_layers=2, hidden_size=32, embedding_dim=32, tie_embeddings=False),
        ModelConfig(cell="lstm", num_layers=1, hidden_size=32, embedding_dim=16, tie_embeddings=True),
        ModelConfig(
            family="transformer", num_layers=2, num_heads=2, hidden_size=32, embedding_dim=32, context=16
        ),
        ModelConfig(family="window", num_layers=1, hidden_size=48, embedding_dim=24, order=4),
    ],
    ids=["elman", "lstm", "transformer", "window"],
)
def test_a_trained_model_loses_next_to_nothing(config):
    model, vocab_size = build(config, 64, pad_index=0), 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    likely = torch.randint(1, vocab_size, (vocab_size, 4))  # each token has four successors

    def text(rows: int) -> torch.Tensor:
        tokens = [torch.randint(1, vocab_size, (rows,))]
        for choice in torch.randint(4, (33, rows)):
            tokens.append(likely[tokens[-1], choice])
        return torch.stack(tokens, dim=1)

    for _ in range(120):
        batch = text(32)
        optimizer.zero_grad()
        nats, _ = model.loss(batch[:, :-1], batch[:, 1:], model.initial_state(32))
        (nats / batch[:, 1:].numel()).backward()
        optimizer.step()
    batch = text(64)

    def bits(of: LanguageModel) -> float:
        nats, _ = of.score(batch[:, :-1], batch[:, 1:], of.initial_state(64))
        return nats.double().mean().item() / math.log(2)

    model.eval()
    exact = bits(model)
    assert exact < 3.5  # of 6 without training, 2 at best: there is something to lose
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for small, limit in (("bfloat16", 0.01), ("int8", 0.02)):
        again = build(config, vocab_size, pad_index=0)
        again.load_state_dict(weights)
        loss = bits(quantize(again, small)) - exact
        assert loss != 0
        assert abs(loss) < limit


@every_model
@both
def test_every_embedding_and_linear_layer_is_small_and_counted_once(name, weights):
    exact = make_language_model(name, torch.float32)
    before = weight_bytes(exact)
    tied = exact.head.weight is exact.embedding.weight
    assert before == 4 * sum(parameter.numel() for parameter in exact.parameters())
    model = quantize(exact, weights)
    modules = list(model.network.modules())
    assert not [part for part in modules if isinstance(part, (torch.nn.Linear, torch.nn.Embedding))]
    assert isinstance(model.network.embedding, SmallEmbedding)
    assert isinstance(model.network.head, SmallLinear)
    assert (model.network.head.matrix is model.network.embedding.matrix) == tied
    assert bytes_before_and_after(model) == (before, model.bytes)
    small = {"bfloat16": torch.bfloat16, "int8": torch.int8}[weights]
    assert model.network.embedding.weight.dtype == small
    assert model.bytes < before


@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (3, 64)])
def test_int8_is_within_half_a_step_of_every_number(shape):
    rows = torch.randn(shape) * torch.logspace(-6, 6, shape[0])[:, None]
    rows[-1] = 0
    whole, scale = to_int8(rows)
    assert (whole.dtype, scale.shape) == (torch.int8, (shape[0], 1))
    assert whole.abs().max() <= LARGEST
    assert ((whole * scale - rows).abs() <= scale * 0.5001).all()
    assert (whole[-1] == 0).all()
    assert shape[0] == 1 or (whole[:-1].abs().amax(dim=1) == LARGEST).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 1)])
def test_an_int8_product_is_that_of_the_rounded_numbers(shape):
    matrix, x = torch.randn(37, 19), torch.randn(*shape, 19)
    made = Int8Matrix(matrix)
    q, scale = to_int8(x.flatten(0, -2))
    expected = (q * scale).double() @ (made.weight * made.scale).double().T
    y = made.product(x)
    assert y.shape == (*shape, 37)
    torch.testing.assert_close(y.flatten(0, -2).double(), expected, rtol=1e-5, atol=1e-5)
    ids = torch.tensor([[3, 0], [36, 3]])
    torch.testing.assert_close(made.rows(ids), matrix[ids], rtol=0, atol=made.scale.max().item())


@every_model
@both
def test_a_copy_is_the_same_model(name, weights):
    model, tokens, _, state, reset = make(name, weights)
    twin = copy.deepcopy(model)
    tied = model.network.head.matrix is model.network.embedding.matrix
    assert (twin.network.head.matrix is twin.network.embedding.matrix) == tied
    assert twin.network.embedding.matrix is not model.network.embedding.matrix
    for before, after in zip(
        tree_leaves(model.log_probs(tokens, state, reset)),
        tree_leaves(twin.log_probs(tokens, state, reset)),
        strict=True,
    ):
        assert torch.equal(before, after)


def test_what_has_no_matrices_is_refused():
    for name in OTHERS:
        with pytest.raises(ConfigError, match="int8 weights are for networks"):
            quantize(make_language_model(name, torch.float32), "int8")


@pytest.mark.skipif(not int8_products_are_exact(), reason="int8 products of this processor overflow")
@pytest.mark.parametrize("width", [3, 64, 1000])
def test_the_largest_int8_products_are_exact_where_that_is_said(width):
    a, b = ((2 * torch.randint(2, (2, 37, width)) - 1) * LARGEST).to(torch.int8)
    a[0], b[0], b[1] = LARGEST, LARGEST, -LARGEST
    assert torch.equal(torch._int_mm(a, b.T).long(), a.long() @ b.long().T)


def test_int8_is_refused_where_it_would_be_wrong(monkeypatch):
    name = next(iter(FAMILIES))
    monkeypatch.setattr(quantize_module, "int8_products_are_exact", lambda: False)
    with pytest.raises(ConfigError, match="overflow; take bfloat16"):
        quantize(make_language_model(name, torch.float32), "int8")
    assert isinstance(quantize(make_language_model(name, torch.float32), "bfloat16"), QuantizedLanguageModel)


def test_saturating_products_are_noticed(monkeypatch):
    monkeypatch.setattr(
        torch, "_int_mm", lambda a, b: (a.float() @ b.float()).clamp(-(2**15), 2**15 - 1).int()
    )
    assert not int8_products_are_exact.__wrapped__()
