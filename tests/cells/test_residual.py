"""A cell with a way around it: what is added to what, what the norm sees, and what depth does to gradients.

The contract of every cell is held against residual cells in `tests/contract`; here the widths agree as well.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elman.cells.elman import ElmanCell
from elman.cells.lstm import LSTMCell
from elman.cells.minlstm import MinLSTMCell
from elman.cells.norm import EPSILON
from elman.cells.residual import ResidualCell
from elman.models.recurrent import RecurrentLanguageModel
from tests.compare import assert_equal_to, pull_back
from tests.contract.families import random_state

every_cell = pytest.mark.parametrize("cell", [ElmanCell, LSTMCell, MinLSTMCell])
every_width = pytest.mark.parametrize("widths", [(4, 4), (4, 6), (6, 4)], ids=str)


def make(cell, widths):
    """A residual cell of random parameters, in float64."""
    layer = ResidualCell(cell(*widths), *widths).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@every_cell
@every_width
def test_it_is_the_sum_of_two_ways(cell, widths):
    layer, x = make(cell, widths), torch.randn(3, 7, widths[0]).double()
    state, reset = random_state(layer, 3), torch.rand(3, 7) < 0.3
    mean_square = (x * x).mean(dim=-1, keepdim=True)
    inner, wanted_after = layer.cell(x / (mean_square + EPSILON).sqrt() * (1 + layer.norm.gain), state, reset)
    around = x if widths[0] == widths[1] else x @ layer.skip.weight.T
    found, after = layer(x, state, reset)
    assert_equal_to(found, around + inner)
    assert_equal_to(after, wanted_after)
    assert type(after) is type(state)


@every_cell
@every_width
def test_cuts_and_resets_change_nothing_whether_or_not_the_widths_agree(cell, widths):
    layer, x = make(cell, widths), torch.randn(3, 7, widths[0]).double()
    state, reset = random_state(layer, 3), torch.rand(3, 7) < 0.3
    inputs = [x, *state]

    def read(cuts):
        def function(x, *parts):
            carried, outputs = type(state)(*parts), []
            for start, end in pairwise([0, *cuts, 7]):
                y, carried = layer(x[:, start:end], carried, reset[:, start:end])
                outputs.append(y)
            return torch.cat(outputs, dim=1), *carried

        return function

    whole, gradients, cotangents = pull_back(read([]), inputs)
    for cuts in ([3], range(1, 7)):
        pieces, found, _ = pull_back(read(cuts), inputs, cotangents)
        assert_equal_to(pieces, whole)
        assert_equal_to(found, gradients)


@every_cell
def test_the_cell_sees_inputs_of_one_size(cell):
    layer, x = make(cell, (4, 4)), torch.randn(3, 7, 4).double()
    start = layer.initial_state(3)
    small, large = (layer(size * x, start)[0] - size * x for size in (1.0, 1e4))
    assert_equal_to(large, small, 1e-5)  # as far as EPSILON is small


def test_a_vector_of_zeros_stays_zero_and_its_gradient_finite():
    layer, x = make(LSTMCell, (4, 4)), torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    y, _ = layer(x, layer.initial_state(2))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    inner, _ = layer.cell(torch.zeros_like(x), layer.initial_state(2))
    assert_equal_to(y, inner)
    assert gradient.isfinite().all()


def test_only_different_widths_need_a_matrix_around():
    assert {name for name, _ in ResidualCell(ElmanCell(4, 4), 4, 4).named_parameters()} == {
        "norm.gain",
        *(f"cell.{name}" for name, _ in ElmanCell(4, 4).named_parameters()),
    }
    assert ResidualCell(ElmanCell(4, 6), 4, 6).skip.weight.shape == (6, 4)


def test_wrapping_leaves_the_weights_of_a_cell_and_a_reset_replaces_all():
    cell = ElmanCell(4, 6)
    before = [parameter.detach().clone() for parameter in cell.parameters()]
    layer = ResidualCell(cell, 4, 6)
    assert_equal_to(list(cell.parameters()), before, tolerance=0)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, torch.nan)
    layer.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert not layer.norm.gain.any()


@every_cell
def test_gradients_reach_the_first_layer_of_a_deep_stack(cell):
    """Through 24 layers at their initial weights, where a plain stack lets next to nothing through."""
    width, x = 16, torch.randn(2, 5, 16).double()

    def gradient_at_the_input(stack) -> float:
        def function(x):
            for layer in stack:
                x, _ = layer(x, layer.initial_state(2))
            return x

        _, (gradient,), _ = pull_back(function, [x])
        return float(gradient.norm() / x.norm())

    deep = gradient_at_the_input([ResidualCell(cell(width, width), width, width).double() for _ in range(24)])
    plain = gradient_at_the_input([cell(width, width).double() for _ in range(24)])
    assert 0.1 < deep < 100
    assert deep > plain


def test_a_deep_language_model_is_made_of_it():
    widths = [(5, 8), *[(8, 8)] * 5]
    cells = [ResidualCell(MinLSTMCell(*pair), *pair) for pair in widths]
    model = RecurrentLanguageModel(11, 5, cells, 8, pad_index=0)
    tokens, targets = torch.randint(1, 11, (2, 3, 9))
    log_probs, _ = model.log_probs(tokens, model.initial_state(3))
    nats, _ = model.score(tokens, targets, model.initial_state(3))
    assert log_probs.logsumexp(dim=-1).abs().max() < 1e-5
    assert_equal_to(nats, F.nll_loss(log_probs.transpose(1, 2), targets, reduction="none"))
    model.loss(tokens, targets, model.initial_state(3))[0].backward()
    assert all(parameter.grad.any() for parameter in model.cells.parameters())


def test_under_autocast_the_sum_of_a_stack_stays_float32():
    layer = ResidualCell(LSTMCell(4, 4), 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y, after = layer(torch.randn(2, 5, 4), layer.initial_state(2))
    assert {y.dtype, after.h.dtype, after.c.dtype} == {torch.float32}
