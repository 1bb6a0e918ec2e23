"""What every network promises in training: exact losses and gradients, padding and rows that do not count.

`test_protocol` holds what it promises beside, as every other model does.

Axes: B batch, T time, V vocabulary.
"""

import copy
import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from elman.config import OptimizerConfig
from elman.models.base import detach, map_state, select_rows
from elman.models.build import build, count_parameters
from elman.ops.chunks import Chunks
from elman.train.optimizer import make_optimizer
from tests.compare import assert_equal_to
from tests.contract.families import DEEP, FAMILIES, PAD, RECURRENT, VOCAB_SIZE, make_model, random_state
from tests.largest_tensor import LargestTensor

B, T = 3, 7
FLOAT32_RESULT = 2e-6
"""How far a log-probability that is returned in float32 may be from one in float64, in nats."""

every_family = pytest.mark.parametrize("family", FAMILIES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def make(family: str, dtype: torch.dtype = torch.float64, **settings):
    """A model, tokens and targets (padding among them), a state that is not zero, and resets."""
    model = make_model(replace(FAMILIES[family], **settings), dtype)
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    tokens[0, 2] = targets[1, 3] = PAD
    reset = torch.rand(B, T) < 0.3
    assert reset.any()
    return model, tokens, targets, random_state(model, B), reset


def naive_nats(model, tokens, targets, state, reset=None) -> Tensor:
    """Nats [B, T] of every target, from all logits at once, in the dtype of the model."""
    logits, _ = model(tokens, state, reset)
    return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def gradients(model, nats: Tensor) -> list[Tensor]:
    """The gradient of every parameter, as `backward` accumulates it."""
    model.zero_grad()
    nats.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


# The loss


@every_family
@every_dtype
def test_log_probabilities_are_those_of_the_logits(family, dtype):
    model, tokens, _, state, reset = make(family, dtype)
    log_probs, _ = model.log_probs(tokens, state, reset)
    logits, _ = model(tokens, state, reset)
    assert_equal_to(log_probs.double(), logits.detach().double().log_softmax(dim=-1), FLOAT32_RESULT)


@every_family
@every_dtype
@pytest.mark.parametrize("resets", [False, True], ids=["carried", "resets"])
def test_the_loss_is_the_sum_of_the_scores(family, dtype, resets):
    model, tokens, targets, state, reset = make(family, dtype)
    reset = reset if resets else None
    counted = torch.rand(B, T) < 0.5
    scores, after_score = model.score(tokens, targets, state, reset)
    for chosen in (None, counted, torch.ones_like(counted)):
        nats, after = model.loss(tokens, targets, state, reset, chosen)
        wanted = scores if chosen is None else scores[chosen]
        assert_equal_to(nats.detach().double(), wanted.double().sum(), 1e-5)
        assert_equal_to(detach(after), after_score)


@every_family
@every_dtype
def test_loss_and_gradients_are_those_of_all_logits_at_once(family, dtype):
    model, tokens, targets, state, reset = make(family, dtype)
    counted = torch.rand(B, T) < 0.5
    nats = model.loss(tokens, targets, state, reset, counted)[0]
    expected = naive_nats(model, tokens, targets, state, reset)[counted].sum()
    assert_equal_to(nats.detach(), expected.detach())
    found, wanted = gradients(model, 3 * nats), gradients(model, 3 * expected)
    assert_equal_to(found, wanted, 1e-11 if dtype == torch.float64 else 1e-4)
    assert all(gradient.any() for gradient in found)


@every_family
def test_no_tensor_comes_near_the_size_of_all_logits(family, monkeypatch):
    vocab_size, batch, steps = 500, 20, 10
    model = make_model(FAMILIES[family], torch.float64, vocab_size)
    tokens, targets = torch.randint(vocab_size, (2, batch, steps))
    state, all_logits = model.initial_state(batch), batch * steps * vocab_size
    expected, _ = model.score(tokens, targets, state)
    with LargestTensor() as everything:
        model.log_probs(tokens, state)
    assert everything.elements == all_logits  # the measurement sees what there is to see

    module = sys.modules["elman.ops.linear_cross_entropy"]
    monkeypatch.setattr(module, "choose_chunks", lambda *shape: Chunks(rows=16, words=100))
    with LargestTensor() as scoring:
        found, _ = model.score(tokens, targets, state)
    assert 0 < scoring.elements < all_logits / 10
    with LargestTensor() as training:
        gradients(model, model.loss(tokens, targets, state)[0])
    assert 0 < training.elements < all_logits / 10
    assert_equal_to(found, expected, FLOAT32_RESULT)


# State


@every_family
@every_dtype
def test_cutting_a_text_changes_no_loss_and_no_gradient(family, dtype):
    model, tokens, targets, state, reset = make(family, dtype)
    counted = torch.rand(B, T) < 0.7
    whole, last = model.loss(tokens, targets, state, reset, counted)
    expected = gradients(model, whole)
    for cuts in ([3], [1, 6], range(1, T)):
        carried, loss = state, 0.0
        for start, end in pairwise([0, *cuts, T]):
            part = slice(start, end)
            nats, carried = model.loss(
                tokens[:, part], targets[:, part], carried, reset[:, part], counted[:, part]
            )
            loss = loss + nats
        assert_equal_to(loss.detach(), whole.detach())
        assert_equal_to(detach(carried), detach(last))
        assert_equal_to(gradients(model, loss), expected, 1e-11 if dtype == torch.float64 else 1e-4)


@every_family
def test_without_a_state_a_document_begins(family):
    model, tokens, _, state, _ = make(family)
    assert_equal_to(model(tokens), model(tokens, model.initial_state(B)), tolerance=0)
    assert not torch.allclose(model(tokens)[0], model(tokens, state)[0])


@every_family
@pytest.mark.parametrize("streams", [0, 1, B - 1, B + 1])
def test_a_state_of_other_streams_is_refused(family, streams):
    model, tokens, targets, state, reset = make(family)
    other = model.initial_state(streams)
    message = f"the state is of {streams} streams, and the tokens are of {B};"
    for read, arguments in (
        (model, (tokens, other, reset)),
        (model.features, (tokens, other, reset)),
        (model.log_probs, (tokens, other, reset)),
        (model.loss, (tokens, targets, other, reset)),
        (model.score, (tokens, targets, other)),
    ):
        with pytest.raises(ValueError, match=message):
            read(*arguments)
    *first, last = tree_leaves(state)
    torn = tree_unflatten([*first, last[:1]], tree_structure(state))  # one part of it alone
    with pytest.raises(ValueError, match=f"the state is of 1 streams, and the tokens are of {B};"):
        model.loss(tokens, targets, torn)
    for read, arguments in ((model.log_probs, (tokens, state)), (model.score, (tokens, targets, state))):
        read(*arguments)


@every_family
def test_nothing_is_kept_on_the_model(family):
    model, tokens, targets, state, reset = make(family)
    before = map_state(Tensor.clone, state)
    attributes = [dict(vars(module)) for module in model.modules()]
    first, second = (model.loss(tokens, targets, state, reset) for _ in range(2))
    assert_equal_to(second, first, tolerance=0)
    assert_equal_to(state, before, tolerance=0)
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert not list(model.buffers())


@every_family
def test_detaching_a_state_ends_its_history_and_selecting_keeps_its_type(family):
    model, tokens, _, state, _ = make(family)
    _, after = model(tokens, state)
    assert all(part.requires_grad == part.is_floating_point() for part in tree_leaves(after))
    ended = detach(after)
    assert not any(part.requires_grad for part in tree_leaves(ended))
    for chosen in (ended, select_rows(after, slice(0, 2)), select_rows(after, torch.tensor([2, 2]))):
        assert type(chosen) is type(after)
        assert [type(layer) for layer in chosen] == [type(layer) for layer in after]
    for part, chosen in zip(
        tree_leaves(after), tree_leaves(select_rows(after, torch.tensor([2, 2]))), strict=True
    ):
        assert torch.equal(chosen, part[[2, 2]])


# Rows that do not count


@every_family
def test_targets_that_do_not_count_influence_nothing(family):
    model, tokens, targets, state, reset = make(family)
    counted = torch.rand(B, T) < 0.5
    assert counted.any()
    assert not counted.all()
    nats, _ = model.loss(tokens, targets, state, reset, counted)
    expected = gradients(model, nats)
    for other in (PAD, -100, VOCAB_SIZE + 5):
        replaced = targets.masked_fill(~counted, other)
        found, _ = model.loss(tokens, replaced, state, reset, counted)
        assert torch.equal(found, nats)
        assert_equal_to(gradients(model, found), expected, tolerance=0)
    more, _ = model.loss(tokens, targets, state, reset)
    assert more > nats


@every_family
def test_inputs_after_the_last_counted_target_influence_nothing(family):
    model, tokens, targets, state, reset = make(family)
    lengths = torch.tensor([7, 3, 1])
    counted = torch.arange(T) < lengths[:, None]
    nats, _ = model.loss(tokens, targets, state, reset, counted)
    expected = gradients(model, nats)
    for _ in range(3):
        replaced = torch.where(counted, tokens, torch.randint(VOCAB_SIZE, (B, T)))
        found, _ = model.loss(replaced, targets, state, reset, counted)
        assert_equal_to(found.detach(), nats.detach())
        assert_equal_to(gradients(model, found), expected)
    longer = [F.pad(part, (0, 4), value=PAD) for part in (tokens, targets)]
    masks = [F.pad(part, (0, 4)) for part in (reset, counted)]
    found, _ = model.loss(*longer, state, *masks)
    assert_equal_to(found.detach(), nats.detach())
    assert_equal_to(gradients(model, found), expected)


@every_family
def test_a_batch_without_a_counted_target_costs_nothing(family):
    model, tokens, targets, state, reset = make(family)
    nats, _ = model.loss(tokens, targets, state, reset, torch.zeros(B, T, dtype=torch.bool))
    assert nats.item() == 0.0
    assert not any(gradient.any() for gradient in gradients(model, nats))


# Padding


@every_family
@pytest.mark.parametrize("initialization", ["by_role", "xavier"])
@pytest.mark.parametrize("copied", [False, True], ids=["itself", "a copy"])
def test_the_padding_row_is_zero_and_stays_zero(family, initialization, copied):
    config = replace(FAMILIES[family], initialization=initialization)
    model = build(config, VOCAB_SIZE, PAD)
    assert not model.embedding.weight[PAD].any()
    assert model.embedding.weight.any(dim=1).sum() == VOCAB_SIZE - 1
    model = copy.deepcopy(model) if copied else model
    before = model.embedding.weight.detach().clone()
    optimizer = make_optimizer(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5))
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    tokens[0, 2] = targets[1, 3] = PAD
    state = model.initial_state(B)
    for _ in range(5):
        optimizer.zero_grad()
        model.loss(tokens, targets, state)[0].backward()
        optimizer.step()
    moved = (model.embedding.weight != before).any(dim=1)
    assert moved.tolist() == [index != PAD for index in range(VOCAB_SIZE)]
    assert not model.embedding.weight[PAD].any()
    if config.tie_embeddings:
        assert model.head.weight is model.embedding.weight
    else:
        assert model.head.weight[PAD].any()


@every_family
def test_padding_as_input_is_a_zero_vector(family):
    model, _, _, _, _ = make(family)
    padding, word = model.embed(torch.tensor([PAD, 0]))
    assert not padding.any()
    assert word.any()


# Shape


@every_family
def test_a_tied_matrix_is_one_matrix(family):
    config, (model, *_) = FAMILIES[family], make(family)
    names = dict(model.named_parameters())
    tied = model.head.weight is model.embedding.weight
    assert tied is config.tie_embeddings
    assert ("head.weight" in names) is not tied
    memory = {p.data_ptr(): p.numel() for p in model.parameters()}
    assert count_parameters(model) == sum(memory.values())
    through_matrix = tied and config.embedding_dim != config.hidden_size
    assert (model.to_embedding is not None) is through_matrix
    width = config.embedding_dim if tied else config.hidden_size
    assert model.head.weight.shape == (VOCAB_SIZE, width)
    outside = ("embedding.", "head.", "to_embedding.")
    body = sum(parameter.numel() for name, parameter in names.items() if not name.startswith(outside))
    head = 0 if tied else VOCAB_SIZE * config.hidden_size
    between = config.hidden_size * config.embedding_dim if through_matrix else 0
    embedding = VOCAB_SIZE * config.embedding_dim
    assert count_parameters(model) == embedding + body + between + head + VOCAB_SIZE
    assert len(model.cells if family in RECURRENT else model.layers) == config.num_layers


@pytest.mark.parametrize("family", [name for name in FAMILIES if "-tied" in name])
def test_a_tied_matrix_gets_both_gradients(family):
    model, tokens, targets, _, _ = make(family)
    state = model.initial_state(B)  # a state of tokens would be looked up too
    nats = model.loss(tokens, targets, state)[0]
    (both,) = torch.autograd.grad(nats, [model.embedding.weight])
    untied = model.embedding.weight.detach().clone().requires_grad_()
    features, _ = model.features(tokens, state)
    (through_head,) = torch.autograd.grad(
        F.cross_entropy(
            F.linear(features.detach(), untied, model.head.bias).flatten(0, 1),
            targets.flatten(),
            reduction="sum",
        ),
        [untied],
    )
    through_input = both - through_head
    read = torch.zeros(VOCAB_SIZE, dtype=torch.bool).index_fill(0, tokens.flatten().unique(), True)
    read[PAD] = False  # nn.Embedding gives its padding row no gradient
    assert through_head.any(dim=1).all()
    assert (through_input.abs().amax(dim=1) > 1e-9).tolist() == read.tolist()


# Dropout


@every_family
def test_dropout_acts_in_training_only(family):
    model, tokens, targets, state, reset = make(family, dropout=0.5)
    plain, *_ = make(family)
    plain.load_state_dict(model.state_dict())
    model.eval()
    for call in ("score", "loss"):
        found, expected = (getattr(m, call)(tokens, targets, state, reset) for m in (model, plain.train()))
        assert_equal_to(found, expected, tolerance=0)
    assert_equal_to(model.log_probs(tokens, state, reset), plain.log_probs(tokens, state, reset), tolerance=0)
    model.train()
    first, second = (model.loss(tokens, targets, state, reset)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", RECURRENT)
def test_dropout_acts_after_the_embedding_and_after_every_cell(family):
    model, _, _, _, _ = make(family, dropout=0.25)
    tokens = torch.randint(3, VOCAB_SIZE, (20, 20))  # no padding, whose vector is zero anyway
    entered, left = [], []
    for cell in model.cells:
        cell.register_forward_pre_hook(lambda module, arguments: entered.append(arguments[0]))
        cell.register_forward_hook(lambda module, arguments, result: left.append(result[0]))
    reached_output = []
    model.norm.register_forward_pre_hook(lambda module, arguments: reached_output.append(arguments[0]))
    model.train()(tokens)
    before = [model.embedding(tokens), *left]
    after = [*entered, *reached_output]
    assert len(before) == len(after) == len(model.cells) + 1
    for value, dropped in zip(before, after, strict=True):
        kept = dropped != 0
        assert 0.65 < kept.double().mean() < 0.85
        assert_equal_to(dropped[kept], value[kept] / 0.75)


# Arithmetic


@pytest.mark.parametrize("family", DEEP)
def test_bfloat16_products_stay_near_float32_and_keep_its_types(family):
    config = FAMILIES[family]
    wider = {"embedding_dim": 8 * config.embedding_dim, "hidden_size": 8 * config.hidden_size}
    model = build(replace(config, **wider), VOCAB_SIZE, PAD).eval()
    tokens, targets = torch.randint(VOCAB_SIZE, (2, B, T))
    state, reset = model.log_probs(tokens, model.initial_state(B))[1], torch.rand(B, T) < 0.3
    exact, exact_after = model.loss(tokens, targets, state, reset)
    wanted = gradients(model, exact)
    with torch.autocast("cpu", torch.bfloat16):
        nats, after = model.loss(tokens, targets, state, reset)
    found = gradients(model, nats)
    assert nats.dtype == torch.float32
    assert [part.dtype for part in tree_leaves(after)] == [part.dtype for part in tree_leaves(state)]
    assert abs(nats - exact) < 0.01 * exact
    assert_equal_to(detach(after), detach(exact_after), 0.05)
    assert all(gradient.dtype == torch.float32 for gradient in found)
    found_vector, wanted_vector = (torch.cat([g.flatten() for g in group]) for group in (found, wanted))
    assert not torch.equal(found_vector, wanted_vector)
    assert (found_vector - wanted_vector).norm() < 0.06 * wanted_vector.norm()
