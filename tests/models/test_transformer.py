"""The Transformer is plain attention over what each position may see, however the text comes in pieces.

Axes: B batch, T time, C cached places, N heads, D width of a head.
"""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from elman.cells.norm import RMSNorm
from elman.errors import ConfigError
from elman.evaluate.doctor import check_model
from elman.models.base import LanguageModel, detach, map_state, select_rows
from elman.models.transformer import TransformerLanguageModel, TransformerState
from tests.compare import assert_equal_to
from tests.largest_tensor import LargestTensor

VOCAB_SIZE, PAD = 11, 2
B, T = 3, 13
HIDDEN, HEADS, LAYERS = 8, 2, 3

every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
every_mlp = pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
every_context = pytest.mark.parametrize("context", [1, 3, 40])
"""Without a cache; shorter than the text, which is read in blocks; longer."""


def make(dtype: torch.dtype = torch.float64, *, context: int = 5, embedding_dim: int = 6, **settings):
    """A model whose every parameter is random, except for the padding row."""
    settings = {"tie_embeddings": False, **settings}
    model = TransformerLanguageModel(
        VOCAB_SIZE, embedding_dim, HIDDEN, LAYERS, HEADS, context=context, pad_index=PAD, **settings
    )
    model = model.to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        for module in model.modules():
            if isinstance(module, RMSNorm):
                module.gain.sub_(1)  # scales of both signs and of no great size
    model.zero_padding_row()
    return model


def make_batch():
    """Tokens and targets (padding among them), and resets."""
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    tokens[0, 2] = targets[1, 3] = PAD
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[0, 4] = reset[0, 5] = reset[1, 9] = reset[2, 0] = True
    return tokens, targets, reset


def random_state(model: TransformerLanguageModel, batch_size: int = B) -> TransformerState:
    """Some places hold a token and some do not; what the empty ones hold must not matter."""
    empty = model.initial_state(batch_size)
    keys, values = (tuple(map(torch.randn_like, part)) for part in (empty.keys, empty.values))
    valid = torch.rand(empty.valid.shape) < 0.6
    valid[0], valid[1, -1:] = True, False
    return TransformerState(keys, values, valid)


def gradients(model, nats: Tensor) -> list[Tensor]:
    model.zero_grad()
    nats.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


# The definition


def turned(vector: Tensor, position: int) -> Tensor:
    """Pair j of `vector` turned by position / 10000^(2 j / D), as 2 x 2 matrices."""
    pairs = []
    for j, pair in enumerate(vector.view(-1, 2)):
        angle = position / 10_000 ** (2 * j / len(vector))
        c, s = math.cos(angle), math.sin(angle)
        pairs.append(torch.tensor([[c, -s], [s, c]], dtype=vector.dtype) @ pair)
    return torch.cat(pairs)


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(dim=-1, keepdim=True) + 1e-6).rsqrt() * weight


def attention(x: Tensor, layer, context: int) -> Tensor:
    """Every position looks at the tokens it may see, from scratch; x is [T, H]."""
    q, k, v = (x @ layer.attention.query_key_value.weight.T).view(len(x), 3, HEADS, -1).unbind(1)
    rows = []
    for t in range(len(x)):
        heads = []
        for head in range(HEADS):
            seen = range(max(0, t - context + 1), t + 1)
            query = turned(q[t, head], t)
            scores = torch.stack([query @ turned(k[s, head], s) for s in seen])
            weights = (scores / math.sqrt(q.shape[-1])).softmax(dim=0)
            heads.append(sum(w * v[s, head] for w, s in zip(weights, seen, strict=True)))
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ layer.attention.output.weight.T


def feed_forward(x: Tensor, mlp) -> Tensor:
    if hasattr(mlp, "gate_up"):
        gate, up = (x @ matrix.T for matrix in mlp.gate_up.weight.chunk(2))
        return (gate * gate.sigmoid() * up) @ mlp.down.weight.T
    up = x @ mlp.up.weight.T
    return (up * 0.5 * (1 + torch.erf(up / math.sqrt(2)))) @ mlp.down.weight.T


def reference(model: TransformerLanguageModel, tokens: Tensor) -> Tensor:
    """Logits [T, V] of one document: no cache, no window, no blocks, positions from its beginning."""
    x = model.embedding(tokens)
    if model.from_embedding is not None:
        x = x @ model.from_embedding.weight.T
    for layer in model.layers:
        x = x + attention(normed(x, 1 + layer.attention_norm.gain), layer, model.context)
        x = x + feed_forward(normed(x, 1 + layer.mlp_norm.gain), layer.mlp)
    x = normed(x, 1 + model.norm.gain)
    if model.to_embedding is not None:
        x = x @ model.to_embedding.weight.T
    return x @ model.head.weight.T + model.head.bias


def reference_of_documents(model: TransformerLanguageModel, tokens: Tensor, reset: Tensor) -> Tensor:
    """Logits [B, T, V], every document by itself."""
    rows = []
    for row, begins in zip(tokens, reset, strict=True):
        edges = [0, *(t for t in range(1, len(row)) if begins[t]), len(row)]
        rows.append(torch.cat([reference(model, row[start:end]) for start, end in pairwise(edges)]))
    return torch.stack(rows)


@every_mlp
@every_context
@pytest.mark.parametrize(("tied", "embedding_dim"), [(False, HIDDEN), (True, 6)], ids=["untied", "tied"])
def test_logits_and_gradients_are_those_of_the_definition(mlp, context, tied, embedding_dim):
    model = make(context=context, mlp=mlp, embedding_dim=embedding_dim, tie_embeddings=tied)
    assert (model.from_embedding is None) is (embedding_dim == HIDDEN)
    tokens, targets, reset = make_batch()
    expected = reference_of_documents(model, tokens, reset)
    assert_equal_to(model(tokens, reset=reset)[0].detach(), expected.detach())
    nats = F.cross_entropy(expected.transpose(1, 2), targets, reduction="sum")
    found, _ = model.loss(tokens, targets, model.initial_state(B), reset)
    assert_equal_to(found.detach(), nats.detach())
    wanted = gradients(model, nats)
    assert all(gradient.any() for gradient in wanted)
    assert_equal_to(gradients(model, found), wanted, 1e-11)


def test_the_definition_sees_order_and_distance():
    """Else a model without positions would pass."""
    model, tokens = make(context=40), torch.tensor([3, 4, 5, 6, 7, 8])
    swapped = tokens[[1, 0, 2, 3, 4, 5]]
    first = model(tokens[None])[0][0, -1]
    assert not torch.allclose(first, model(swapped[None])[0][0, -1])
    assert_equal_to(model(swapped[None])[0][0].detach(), reference(model, swapped).detach())


def test_gradients_are_those_of_finite_differences():
    model = make(context=3)
    tokens = torch.randint(VOCAB_SIZE, (2, 7))
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[0, 4] = True
    state = random_state(model, 2)
    names = [name for name, _ in model.named_parameters()]
    chosen = [name for name in names if "layers.1" in name or name == "from_embedding.weight"]

    def function(keys, values, *parameters):
        start = TransformerState((keys, *state.keys[1:]), (values, *state.values[1:]), state.valid)
        weights = dict(zip(chosen, parameters, strict=True))
        logits, after = torch.func.functional_call(model, weights, (tokens, start, reset))
        return logits, *after.keys, *after.values

    inputs = [state.keys[0], state.values[0], *(model.get_parameter(name) for name in chosen)]
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


# State


@every_dtype
@every_context
@pytest.mark.parametrize("cuts", [[1], [6, 7], list(range(1, T))], ids=str)
def test_cutting_a_text_changes_nothing(dtype, context, cuts):
    model, (tokens, targets, reset) = make(dtype, context=context), make_batch()
    state = random_state(model)
    logits, last = model(tokens, state, reset)
    loss, _ = model.loss(tokens, targets, state, reset)
    expected = gradients(model, loss)
    pieces, total, carried, by_loss = [], 0.0, state, state
    for start, end in pairwise([0, *cuts, T]):
        part = slice(start, end)
        piece, carried = model(tokens[:, part], carried, reset[:, part])
        nats, by_loss = model.loss(tokens[:, part], targets[:, part], by_loss, reset[:, part])
        pieces.append(piece)
        total = total + nats
    assert_equal_to(torch.cat(pieces, dim=1).detach(), logits.detach())
    assert_equal_to(total.detach(), loss.detach())
    for after in (carried, by_loss):
        assert_equal_to(detach(after)[:2], detach(last)[:2])
        assert torch.equal(after.valid, last.valid)
    assert_equal_to(gradients(model, total), expected, 1e-11 if dtype == torch.float64 else 1e-4)


def test_the_gradient_crosses_a_cut_unless_the_state_is_detached():
    model, (tokens, targets, _) = make(), make_batch()
    wanted = gradients(model, model.loss(tokens, targets, model.initial_state(B))[0])
    for end, same in ((lambda state: state, True), (detach, False)):
        head, middle = model.loss(tokens[:, :6], targets[:, :6], model.initial_state(B))
        tail, _ = model.loss(tokens[:, 6:], targets[:, 6:], end(middle))
        found = gradients(model, head + tail)
        assert all(torch.allclose(*pair) for pair in zip(found, wanted, strict=True)) is same


@every_dtype
def test_a_long_stream_is_as_exact_as_a_short_one(dtype):
    """A prediction depends on the last L (context - 1) + 1 tokens only, after any number of them."""
    context, length = 4, 2_000
    model = make(dtype, context=context)
    tokens = torch.randint(VOCAB_SIZE, (2, length))
    reach = LAYERS * (context - 1) + 1
    with torch.no_grad():
        state = model.initial_state(2)
        for start in range(0, length - 1, 100):
            logits, state = model(tokens[:, start : start + 100], state)
        assert_equal_to(logits[:, -1], model(tokens[:, -reach:])[0][:, -1])
        assert not torch.allclose(logits[:, -1], model(tokens[:, 1 - reach :])[0][:, -1])
        whole, after = model(tokens)
        assert_equal_to(whole[:, -1], logits[:, -1])
        assert_equal_to(after[:2], state[:2])


@every_context
def test_a_state_has_one_size_and_holds_nothing_else(context):
    model = make(torch.float32, context=context)
    places = context - 1
    for length in (1, 2, 7, 30):
        _, state = model(torch.randint(VOCAB_SIZE, (B, length)))
        assert type(state) is TransformerState
        assert (state.valid.shape, state.valid.dtype) == ((B, places), torch.bool)
        assert state.valid.sum(dim=1).tolist() == [min(length, places)] * B
        assert state.valid[:, max(0, places - length) :].all()  # the latest are last
        assert (len(state.keys), len(state.values)) == (LAYERS, LAYERS)
        for part in (*state.keys, *state.values):
            assert (part.shape, part.dtype) == ((B, HEADS, places, HIDDEN // HEADS), torch.float32)
            assert part.untyped_storage().nbytes() == part.numel() * 4
            assert not part.masked_fill(state.valid[:, None, :, None], 0.0).any()


@every_context
def test_a_reset_begins_a_document(context):
    model, (tokens, _, _) = make(context=context), make_batch()
    state = random_state(model)
    for t in range(T):
        reset = torch.zeros(B, T, dtype=torch.bool)
        reset[:, t] = True
        logits, after = model(tokens, state, reset)
        fresh, after_fresh = model(tokens[:, t:])
        assert_equal_to(detach(logits)[:, t:], detach(fresh))
        assert_equal_to(detach(after)[:2], detach(after_fresh)[:2])
        assert torch.equal(after.valid, after_fresh.valid)
        if context > 1:
            assert not torch.allclose(logits[:, t], model(tokens, state)[0][:, t])


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("context", [2, 40])
def test_what_a_reset_hides_is_gone_even_if_it_is_not_finite(context, poison):
    model, (tokens, targets, _) = make(context=context), make_batch()
    clean = random_state(model)
    clean = clean._replace(valid=torch.ones_like(clean.valid))
    poisoned = TransformerState(
        *(tuple(torch.full_like(part, poison) for part in parts) for parts in clean[:2]), clean.valid
    )
    for t in (0, 1, 4, T - 1):
        reset = torch.zeros(B, T, dtype=torch.bool)
        reset[[0, 2], t] = True
        expected, after = model(tokens, clean, reset)
        found, found_after = model(tokens, poisoned, reset)
        assert_equal_to(found[[0, 2], t:].detach(), expected[[0, 2], t:].detach())
        assert_equal_to(select_rows(detach(found_after), [0, 2])[:2], select_rows(detach(after), [0, 2])[:2])
        assert found[:, 0][[t > 0, True, t > 0]].isnan().all()  # where it is seen, it shows
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 0] = True
    wanted = gradients(model, model.loss(tokens, targets, clean, reset)[0])
    assert_equal_to(gradients(model, model.loss(tokens, targets, poisoned, reset)[0]), wanted)


def test_empty_places_hold_nothing_even_if_they_are_not_finite():
    model, (tokens, _, reset) = make(), make_batch()
    state = random_state(model)
    spoilt = TransformerState(
        *(
            tuple(part.masked_fill(~state.valid[:, None, :, None], torch.nan) for part in parts)
            for parts in state[:2]
        ),
        state.valid,
    )
    assert torch.isnan(spoilt.keys[0]).any()
    found, found_after = model(tokens, spoilt, reset)
    expected, after = model(tokens, state, reset)
    assert_equal_to([found, *found_after[:2]], [expected, *after[:2]])


@pytest.mark.parametrize("t", range(T))
def test_no_gradient_flows_across_a_reset(t):
    model, (tokens, _, _) = make(context=40), make_batch()
    state = random_state(model)
    keys = [part.clone().requires_grad_() for part in state.keys]
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, t] = True
    logits, after = model(tokens, TransformerState(tuple(keys), state.values, state.valid), reset)
    (logits[:, t:].square().sum() + sum(part.square().sum() for part in after.values)).backward()
    for part in keys:
        assert not part.grad[1].any()
        seen = state.valid[:, None, t:, None].expand_as(part[:, :, t:])  # token t sees these directly
        assert torch.equal(part.grad[[0, 2], :, t:] != 0, seen[[0, 2]])


# Rows and order


@every_dtype
def test_a_row_does_not_depend_on_its_batch(dtype):
    model, (tokens, _, reset) = make(dtype), make_batch()
    state = random_state(model)
    logits, after = detach(model(tokens, state, reset))
    for rows in (slice(0, 1), slice(1, 2), slice(2, 3), torch.tensor([2, 0, 1])):
        found, found_after = detach(model(tokens[rows], select_rows(state, rows), reset[rows]))
        assert_equal_to(found, logits[rows])
        assert_equal_to(found_after[:2], select_rows(after, rows)[:2])
        assert torch.equal(found_after.valid, after.valid[rows])


def test_a_poisoned_row_does_not_reach_the_others():
    model, (tokens, _, reset) = make(), make_batch()
    state = random_state(model)
    state = state._replace(valid=torch.ones_like(state.valid))
    expected, _ = model(tokens, state, reset)
    for part in (*state.keys, *state.values):
        part[1] = torch.nan
    found, _ = model(tokens, state, reset)
    assert_equal_to(found[[0, 2]].detach(), expected[[0, 2]].detach())
    assert found[1, :9].isnan().any()


@every_context
def test_the_future_does_not_change_the_past(context):
    model, (tokens, _, reset) = make(context=context), make_batch()
    state = random_state(model)
    logits, _ = model(tokens, state, reset)
    for t in range(1, T):
        later = tokens.clone()
        later[:, t:] = (later[:, t:] + 1) % VOCAB_SIZE
        found, _ = model(later, state, reset)
        assert_equal_to(found[:, :t].detach(), logits[:, :t].detach())
        assert not torch.allclose(found[:, t], logits[:, t])


def test_a_state_is_a_value():
    model, (tokens, targets, reset) = make(), make_batch()
    state = random_state(model)
    before = map_state(Tensor.clone, state)
    attributes = [dict(vars(module)) for module in model.modules()]
    first, second = (model.loss(tokens, targets, state, reset) for _ in range(2))
    assert_equal_to(second[0], first[0], tolerance=0)
    for found, expected in ((state, before), (second[1], first[1])):
        assert all(map(torch.equal, tree_leaves(found), tree_leaves(expected)))
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert not list(model.buffers())


# Memory


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_memory_grows_with_the_length_not_with_its_square(dropout):
    model, length = make(torch.float32, context=4, dropout=dropout).train(), 256
    largest = []
    for steps in (length // 2, length):
        tokens, targets = torch.randint(VOCAB_SIZE, (2, 1, steps))
        with LargestTensor() as everything:
            gradients(model, model.loss(tokens, targets, model.initial_state(1))[0])
        largest.append(everything.elements)
    assert largest[1] < 2.1 * largest[0]
    assert largest[1] < length**2 / 4


def test_a_token_costs_as_much_as_the_context_is_long():
    model = make(torch.float32, context=64)
    tokens = torch.randint(VOCAB_SIZE, (1, 1))
    state = model(torch.randint(VOCAB_SIZE, (1, 200)))[1]
    with LargestTensor() as everything, torch.no_grad():
        model(tokens, state)
    assert everything.elements <= 64 * HIDDEN


# The protocol


@every_dtype
def test_the_model_meets_the_protocol(dtype):
    model, (tokens, targets, reset) = make(dtype), make_batch()
    assert isinstance(model, LanguageModel)
    state = random_state(model)
    log_probs, after = model.log_probs(tokens, state, reset)
    nats, after_score = model.score(tokens, targets, state, reset)
    assert (log_probs.shape, log_probs.dtype) == ((B, T, VOCAB_SIZE), torch.float32)
    assert log_probs.double().logsumexp(dim=-1).abs().max() < 1e-6
    assert_equal_to(nats, -log_probs.gather(2, targets[..., None]).squeeze(2), 2e-6)
    assert_equal_to(after_score[:2], after[:2])
    empty = model.initial_state(5)
    assert {part.dtype for part in (*empty.keys, *empty.values)} == {dtype}
    assert not any(part.any() for part in tree_leaves(empty))
    assert all(len(part) == 5 for part in tree_leaves(empty))
    chosen = select_rows(after, torch.tensor([2, 2]))
    assert type(chosen) is TransformerState
    assert torch.equal(chosen.keys[1], after.keys[1][[2, 2]])


@every_mlp
@pytest.mark.parametrize("context", [1, 6, 64])
def test_the_doctor_finds_nothing(mlp, context):
    model = make(torch.float32, context=context, mlp=mlp)
    assert [check for check in check_model(model) if not check.passed] == []


def test_one_token_of_one_text():
    model = make(torch.float32, context=1)
    logits, state = model(torch.tensor([[5]]))
    assert logits.shape == (1, 1, VOCAB_SIZE)
    assert state.valid.shape == (1, 0)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((10, 3, 4), "multiple of num_heads"),
        ((9, 3, 4), "must be even"),
        ((8, 2, 0), "context"),
    ],
)
def test_impossible_shapes_are_refused(shape, said):
    hidden_size, num_heads, context = shape
    with pytest.raises(ConfigError, match=said):
        TransformerLanguageModel(11, 8, hidden_size, 1, num_heads, context=context, pad_index=0)


# Parameters


@every_mlp
def test_parameters_are_counted_without_memory_and_saved_whole(mlp):
    def make_one():
        return TransformerLanguageModel(11, 6, 24, 2, 4, context=5, mlp=mlp, pad_index=0)

    with torch.device("meta"):
        empty = make_one()
    model = make_one()
    assert {name: p.shape for name, p in empty.named_parameters()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    width = 64 if mlp == "swiglu" else 96
    matrices = 4 * 24 * 24 + (3 if mlp == "swiglu" else 2) * 24 * width
    expected = 11 * 6 + 6 * 24 + 2 * (matrices + 2 * 24) + 24 + 11 * 24 + 11
    assert sum(p.numel() for p in empty.parameters()) == expected
    tokens = torch.randint(11, (2, 9))
    other = make_one()
    assert not torch.equal(other(tokens)[0], model(tokens)[0])
    other.load_state_dict(model.state_dict())
    for same in (other, copy.deepcopy(model)):
        assert torch.equal(same(tokens)[0], model(tokens)[0])
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(model.state_dict())
    assert torch.equal(empty(tokens)[0], model(tokens)[0])


def test_no_layer_has_a_bias():
    assert [name for name, _ in make().named_parameters() if "bias" in name] == ["head.bias"]


def test_branches_start_smaller_the_more_there_are():
    for layers in (2, 8):
        model = TransformerLanguageModel(11, 96, 96, layers, 4, context=5, pad_index=0)
        for layer in model.layers:
            for ending in (layer.attention.output, layer.mlp.down):
                expected = (2 * layers * ending.in_features) ** -0.5
                assert ending.weight.std().item() == pytest.approx(expected, rel=0.05)
            for beginning in (layer.attention.query_key_value, layer.mlp.gate_up):
                assert beginning.weight.std().item() == pytest.approx(96**-0.5, rel=0.05)
            assert (layer.attention_norm.gain == 0).all()


@pytest.mark.parametrize("copied", [False, True], ids=["itself", "a copy"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_padding_row_is_zero_and_stays_zero(tied, copied):
    model = TransformerLanguageModel(11, 6, 8, 2, 2, context=5, pad_index=PAD, tie_embeddings=tied)
    model = copy.deepcopy(model) if copied else model
    tokens, targets, reset = make_batch()
    before = model.embedding.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(tokens, targets, model.initial_state(B), reset)[0].backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimizer.step()
    assert not model.embedding.weight[PAD].any()
    assert (model.embedding.weight != before).any(dim=1).sum() == VOCAB_SIZE - 1


# Dropout and low precision


def test_dropout_acts_in_training_only():
    model, (tokens, targets, reset) = make(dropout=0.5), make_batch()
    plain = make()
    plain.load_state_dict(model.state_dict())
    state = random_state(model)
    assert_equal_to(model(tokens, state, reset)[0], plain(tokens, state, reset)[0], tolerance=0)
    first, second = (model.train().loss(tokens, targets, state, reset)[0] for _ in range(2))
    assert first != second


def test_dropout_acts_after_the_embedding_on_every_branch_and_on_the_weights():
    model, (tokens, _, _) = make(dropout=0.5), make_batch()
    model.train()
    dropped, branches = [], []
    model.drop = lambda x: dropped.append(x) or x
    for layer in model.layers:
        layer.attention.register_forward_hook(lambda module, arguments, result: branches.append(result[0]))
        layer.mlp.register_forward_hook(lambda module, arguments, result: branches.append(result))
    first, second = (model(tokens)[0] for _ in range(2))
    assert len(branches) == 2 * 2 * LAYERS
    expected = [model.embedding(tokens), *branches[: 2 * LAYERS]]
    assert_equal_to(dropped[: 1 + 2 * LAYERS], expected, tolerance=0)
    assert not torch.equal(first, second)  # what is left: the attention weights


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("embedding_dim", [6, HIDDEN])
def test_bfloat16_products_stay_near_float32_and_keep_its_types(dropout, embedding_dim):
    model = make(torch.float32, embedding_dim=embedding_dim, dropout=dropout).train(dropout > 0)
    tokens, targets, reset = make_batch()
    state = random_state(model)
    torch.manual_seed(1)
    exact, exact_after = model.loss(tokens, targets, state, reset)
    wanted = gradients(model, exact)
    norms = []
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.register_forward_hook(lambda module, arguments, result: norms.append(result.dtype))
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        nats, after = model.loss(tokens, targets, state, reset)
    found = gradients(model, nats)
    assert nats.dtype == torch.float32
    assert {part.dtype for part in (*after.keys, *after.values)} == {torch.float32}
    assert set(norms) == {torch.float32}
    assert len(norms) == 2 * LAYERS + 1
    assert nats != exact
    assert {gradient.dtype for gradient in found} == {torch.float32}
    if not dropout:  # else masks may be drawn in another order
        assert abs(nats - exact) < 0.02 * exact
        assert_equal_to(detach(after)[:2], detach(exact_after)[:2], 0.15)
        for gradient, expected in zip(found, wanted, strict=True):
            assert (gradient - expected).norm() < 0.1 * expected.norm()
