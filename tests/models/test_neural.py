"""Kinds of dropout: what each drops, for how long one mask holds, and that the mean of what is left is the value.

Axes: B batch, T time, V vocabulary, E embedding width, H hidden width.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from elman.config import ModelConfig
from elman.errors import ConfigError
from elman.models.build import build
from elman.models.neural import NeuralLanguageModel
from tests.compare import assert_equal_to

V, PAD, B, T, H = 40, 2, 6, 12, 16

KINDS = ["dropout", "embedding_dropout", "weight_dropout"]
FAMILIES = ["recurrent", "transformer", "window"]


def make(**settings: object) -> NeuralLanguageModel:
    """A model in training mode, of embeddings without a zero but those of the padding."""
    shape = {"cell": "lstm", "embedding_dim": H, "hidden_size": H, "num_layers": 2, "context": 5, "order": 4}
    return build(ModelConfig(**shape | settings), V, PAD).train()


def words(batch: int = B, steps: int = T) -> Tensor:
    """Tokens that are not padding, whose vector is zero anyway."""
    return torch.randint(PAD + 1, V, (batch, steps))


def seen_by_cells(model: NeuralLanguageModel, tokens: Tensor) -> list[Tensor]:
    """The input [B, T, H] of every layer in one window."""
    seen: list[Tensor] = []
    handles = [
        cell.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach()))
        for cell in model.cells
    ]
    model(tokens)
    for handle in handles:
        handle.remove()
    return seen


# Values: dropout, locked_dropout


def test_a_locked_mask_holds_for_a_window_and_no_longer():
    model = make(dropout=0.5, locked_dropout=True)
    tokens = words()
    first, second = seen_by_cells(model, tokens), seen_by_cells(model, tokens)
    masks = []
    for layer in (*first, *second):
        dropped = layer == 0
        assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))  # one mask over time
        assert 0.3 < dropped.double().mean() < 0.7
        assert len({tuple(row) for row in dropped[:, 0].tolist()}) == B  # a mask of its own for each row
        masks.append(dropped[:, 0])
    # Another mask for another window, and for another layer.
    assert not any(torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_a_mask_that_is_not_locked_changes_with_time():
    (first, *_) = seen_by_cells(make(dropout=0.5), words())
    dropped = first == 0
    assert not torch.equal(dropped, dropped[:, :1].expand_as(dropped))


@pytest.mark.parametrize("locked", [False, True])
def test_what_is_left_has_the_same_mean(locked):
    model = make(dropout=0.25, locked_dropout=locked)
    x = torch.randn(1, 3, 50).expand(20_000, -1, -1)
    dropped = model.drop(x)
    kept = dropped != 0
    assert_equal_to(dropped[kept], x[kept] / 0.75)
    assert_equal_to(dropped.mean(dim=0), x[0], 0.05)


# Words: embedding_dropout


def test_a_word_is_dropped_wherever_it_stands_or_nowhere():
    model = make(embedding_dropout=0.4)
    tokens = words(20, 30)
    dropped_words = []
    for _ in range(3):
        x = model.embed(tokens)
        kept = x.any(dim=-1)
        fates = {}
        for token, keeps in zip(tokens.flatten().tolist(), kept.flatten().tolist(), strict=True):
            assert fates.setdefault(token, keeps) == keeps
        assert 0.2 < sum(fates.values()) / len(fates) < 0.95
        assert_equal_to(x[kept], model.embedding(tokens)[kept] / 0.6)
        dropped_words.append({token for token, keeps in fates.items() if not keeps})
    assert dropped_words[0] != dropped_words[1]


def test_a_word_is_dropped_in_every_context_of_a_window_model():
    """The words of a window are looked up at once, so that a word has one fate in all of them."""
    model, seen = make(family="window", embedding_dropout=0.4), []
    model.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].detach()))
    tokens = words(20, 30)
    model(tokens)
    latest, before = seen[0][..., -H:].any(dim=-1), seen[0][..., -2 * H : -H].any(dim=-1)
    assert torch.equal(latest[:, :-1], before[:, 1:])
    assert not latest.all()
    assert latest.any()


def test_the_mean_of_a_word_is_its_vector():
    model = make(embedding_dropout=0.25)
    tokens = words(1, 4)
    mean = torch.stack([model.embed(tokens) for _ in range(4000)]).mean(dim=0)
    assert_equal_to(mean, model.embedding(tokens), 0.05)


# Padding


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_network_can_be_copied(family):
    model = make(family=family).eval().requires_grad_(False)
    twin = copy.deepcopy(model)
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    tokens = words()
    assert torch.equal(twin(tokens)[0], model(tokens)[0])


# Weights: weight_dropout


class Recorder(nn.Module):
    """Stands for a cell and remembers what its matrices were at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_ih, self.weight_hh = (nn.Parameter(torch.randn(H, H)) for _ in range(2))
        self.bias = nn.Parameter(torch.randn(H))
        self.calls: list[dict[str, Tensor]] = []

    def forward(self, x, state, reset):
        self.calls.append({name: parameter.detach().clone() for name, parameter in self.named_parameters()})
        return x, state


def test_only_the_weights_from_state_to_state_are_thinned():
    model, recorder = make(weight_dropout=0.3), Recorder()
    model.cells[0] = recorder
    before = {name: parameter.detach().clone() for name, parameter in recorder.named_parameters()}
    for _ in range(2):
        model(words(), ((), model.cells[1].initial_state(B)))
    first, second = recorder.calls  # one call a window, so one mask a window
    for name in ("weight_ih", "bias"):
        assert torch.equal(first[name], before[name])
    kept = first["weight_hh"] != 0
    assert 0.5 < kept.double().mean() < 0.9
    assert_equal_to(first["weight_hh"][kept], before["weight_hh"][kept] / 0.7)
    assert not torch.equal(first["weight_hh"], second["weight_hh"])
    for name, parameter in recorder.named_parameters():
        assert torch.equal(parameter, before[name])  # the weights themselves stay


@pytest.mark.parametrize("block", ["plain", "residual", "xlstm"])
def test_weights_are_thinned_inside_a_block_too(block):
    settings = {"cell": "slstm", "block": block, "num_heads": 2}
    model = make(**settings, weight_dropout=0.5)
    thinned = [model._thinned(cell) for cell in model.cells]
    assert all(len(matrices) == 1 for matrices in thinned)
    for matrices, cell in zip(thinned, model.cells, strict=True):
        (name,) = matrices
        assert name.endswith("weight_hh")
        assert name in dict(cell.named_parameters())
        assert 0.2 < (matrices[name] == 0).double().mean() < 0.8
    tokens = words()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])


def test_weights_that_are_dropped_get_no_gradient():
    model = make(weight_dropout=0.5, num_layers=1)
    torch.manual_seed(3)
    model.loss(words(), words(), model.initial_state(B))[0].backward()
    share = (model.cells[0].weight_hh.grad == 0).double().mean()
    assert 0.4 < share < 0.6
    assert (model.cells[0].weight_ih.grad != 0).all()


def test_the_mean_of_a_thinned_matrix_is_the_matrix():
    model = make(weight_dropout=0.25)
    cell = model.cells[0]
    mean = sum(model._thinned(cell)["weight_hh"] for _ in range(4000)) / 4000
    assert_equal_to(mean.detach(), cell.weight_hh.detach(), 0.03)


# All of them


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("locked", [False, True])
def test_none_acts_in_evaluation_and_each_acts_in_training(family, kind, locked):
    if kind == "weight_dropout" and family != "recurrent":
        return
    model = make(family=family, locked_dropout=locked, **{kind: 0.5})
    plain = make(family=family)
    plain.load_state_dict(model.state_dict())
    tokens = words()
    model.eval()
    state = model.initial_state(B)
    for call in (model.log_probs, plain.log_probs):
        assert torch.equal(call(tokens, state)[0], plain.log_probs(tokens, state)[0])
    assert torch.equal(model(tokens)[0], plain(tokens)[0])
    model.train()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    assert torch.equal(plain(tokens)[0], plain(tokens)[0])


@pytest.mark.parametrize("kind", [{"cell": "minlstm"}, {"cell": "mlstm", "num_heads": 1}])
def test_weights_that_are_not_there_cannot_be_dropped(kind):
    with pytest.raises(ConfigError, match="these cells have none"):
        build(ModelConfig(**kind, weight_dropout=0.5), V, PAD)
    with pytest.raises(ConfigError, match="is for recurrent models, not window"):
        ModelConfig(family="window", weight_dropout=0.5)
