"""sLSTM and mLSTM as cells, and the blocks around them: heads, gates at the start, and the convolution.

What every cell promises is in `tests/contract/test_cells.py`.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from elman.cells.mlstm import MLSTMCell, MLSTMState
from elman.cells.slstm import SLSTMCell, SLSTMState
from elman.cells.xlstm import CausalConvolution, MLSTMBlock, SLSTMBlock
from elman.errors import ConfigError
from elman.models.base import map_state
from tests.compare import assert_equal_to, pull_back

# Axes: B batch, T time, D input width, H hidden width.
MAKERS = [SLSTMCell, MLSTMCell, SLSTMBlock, MLSTMBlock]
FORMS = ["recurrent", "parallel", "chunkwise"]

every_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
every_heads = pytest.mark.parametrize("heads", [1, 2, 4])


def randomize(cell: nn.Module, dtype=torch.float64) -> nn.Module:
    cell = cell.to(dtype)
    for parameter in cell.parameters():
        parameter.data.normal_(std=0.5)
    return cell


def random_state(cell: nn.Module, batch: int):
    return map_state(torch.randn_like, cell.initial_state(batch))


def read(cell, x, state, reset, cuts=()):
    """Outputs and last state of a sequence read in pieces."""
    outputs = []
    for start, end in pairwise([0, *cuts, x.shape[1]]):
        y, state = cell(x[:, start:end], state, reset[:, start:end])
        outputs.append(y)
    return torch.cat(outputs, dim=1), *state


@every_maker
@every_heads
@pytest.mark.parametrize("inputs", [8, 5])
def test_cutting_changes_nothing_with_any_number_of_heads(make, heads, inputs):
    cell = randomize(make(inputs, 8, num_heads=heads))
    state, reset = random_state(cell, 3), torch.rand(3, 70) < 0.05
    x = torch.randn(3, 70, inputs, dtype=torch.float64)
    names = [name for name, _ in cell.named_parameters()]

    def function(cuts):
        def call(*given):
            parameters = dict(zip(names, given[1 : 1 + len(names)], strict=True))

            def functional(*arguments):
                return torch.func.functional_call(cell, parameters, arguments)

            return read(functional, given[0], type(state)(*given[1 + len(names) :]), reset, cuts)

        return call

    given = [x, *cell.parameters(), *state]
    whole, gradients, cotangents = pull_back(function([]), given)
    for cuts in ([1], [33, 34, 66], [64]):
        pieces, found, _ = pull_back(function(cuts), given, cotangents)
        assert_equal_to(pieces, whole, 1e-11)
        for one, other in zip(found, gradients, strict=True):
            assert_equal_to(one, other, 1e-11 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("make", [MLSTMCell, MLSTMBlock])
def test_every_form_gives_the_same(make):
    cell = randomize(make(5, 8, num_heads=2))
    state, reset = random_state(cell, 3), torch.rand(3, 70) < 0.05
    x = torch.randn(3, 70, 5, dtype=torch.float64)
    found = []
    for form in FORMS:
        cell.form = form
        found.append(read(cell, x, state, reset))
        assert form in repr(cell)
    assert_equal_to(found[1], found[0], 1e-11)
    assert_equal_to(found[2], found[0], 1e-11)


@pytest.mark.parametrize("make", [MLSTMCell, MLSTMBlock])
def test_a_misspelt_form_is_refused(make):
    cell = make(3, 4, form="parralel")
    with pytest.raises(ConfigError, match="parralel"):
        cell(torch.zeros(1, 2, 3), cell.initial_state(1))


@every_maker
@pytest.mark.parametrize("heads", [0, -1, 3])
def test_heads_that_do_not_divide_the_width_are_refused(make, heads):
    with pytest.raises(ConfigError, match=rf"num_heads \({heads}\)"):
        make(8, 8, num_heads=heads)


@every_maker
@every_heads
def test_the_state_is_one_row_of_finite_numbers_a_stream(make, heads):
    cell = make(8, 8, num_heads=heads)
    state = cell.initial_state(3)
    for _ in range(2):
        assert all(part.isfinite().all() and len(part) == 3 for part in state)
        _, state = cell(100 * torch.randn(3, 9, 8), state)


def test_slstm_is_the_paper():
    cell = randomize(SLSTMCell(3, 4, num_heads=2))
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    h, c, n = (torch.zeros(2, 4, dtype=torch.float64) for _ in range(3))
    blocks = [torch.block_diag(*gate.split(2)) for gate in cell.weight_hh.chunk(4)]
    expected = []
    for t in range(6):
        pre = F.linear(x[:, t], cell.weight_ih, cell.bias) + torch.cat(
            [h @ block.T for block in blocks], dim=-1
        )
        z, i, f, o = pre.chunk(4, dim=-1)
        c, n = f.sigmoid() * c + i.exp() * z.tanh(), f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        expected.append(h)
    y, after = cell(x, cell.initial_state(2))
    assert_equal_to((y, after), (torch.stack(expected, dim=1), SLSTMState(h, c / n, n.log())))


def test_mlstm_is_the_paper():
    cell = randomize(MLSTMCell(3, 4, num_heads=2))
    x = torch.randn(2, 6, 3, dtype=torch.float64)
    c, n = torch.zeros(2, 2, 2, 2, dtype=torch.float64), torch.zeros(2, 2, 2, dtype=torch.float64)
    expected = []
    for t in range(6):
        q, k, v, o, gates = F.linear(x[:, t], cell.weight_ih, cell.bias).split(4, dim=-1)
        q, k, v = (part.unflatten(-1, (2, 2)) for part in (q, k / 2**0.5, v))
        i, f = gates[:, :2].exp()[..., None], gates[:, 2:].sigmoid()[..., None]
        c = f[..., None] * c + i[..., None] * v[..., :, None] * k[..., None, :]
        n = f * n + i * k
        h = (c @ q[..., None]).squeeze(-1) / (n * q).sum(-1, keepdim=True).abs().clamp(min=1)
        expected.append(o.sigmoid() * h.flatten(1))
    y, after = cell(x, cell.initial_state(2))
    assert_equal_to(y, torch.stack(expected, dim=1))
    scale = after.m.exp()[..., None]
    assert_equal_to((after.c * scale[..., None], after.n * scale), (c, n))
    assert isinstance(after, MLSTMState)


@every_maker
def test_a_fresh_cell_remembers_and_weighs_its_steps_alike(make):
    """With biases as they begin, the forget gates lie between sigmoid(3) and sigmoid(6), the input gates at 1."""
    cell = make(8, 8, num_heads=2)
    bias = cell.gates.bias if make is MLSTMBlock else cell.bias
    if make in (MLSTMCell, MLSTMBlock):
        i, f = bias[-4:-2], bias[-2:]
        weights = cell.gates.weight if make is MLSTMBlock else cell.weight_ih[-4:]
    else:
        i, f = bias[8:16], bias[16:24]
        weights = cell.weight_hh[8:16]
    assert not i.any()
    assert 0.95 < f.sigmoid().min() < f.sigmoid().max() < 0.998
    assert 0 < weights.norm() < 0.5


def test_recurrences_begin_orthogonal_within_a_head_and_inputs_as_xavier():
    slstm, mlstm = SLSTMCell(16, 8, num_heads=2), MLSTMCell(16, 8, num_heads=2)
    for gate, matrix in enumerate(slstm.weight_hh.split(8)):
        for block in matrix.split(4):
            torch.testing.assert_close(block @ block.T, (0.01 if gate == 1 else 1.0) * torch.eye(4))
    bound = (6 / (16 + 8)) ** 0.5  # Glorot & Bengio (2010), equation 16
    inputs = [*slstm.weight_ih.split(8), *mlstm.weight_ih[:32].split(8)]
    sizes = [matrix.abs().max() / bound for matrix in inputs]
    assert [0.8 < size <= 1 for size in sizes] == [True, False, *[True] * 6]
    assert 0.08 < sizes[1] <= 0.1
    assert not slstm.bias[[*range(16), *range(24, 32)]].any()
    assert not mlstm.bias[:34].any()


@every_maker
def test_a_fresh_cell_learns_from_its_first_step(make):
    cell = make(5, 8, num_heads=2)
    x = torch.randn(3, 9, 5)
    y, _ = cell(x, cell.initial_state(3))
    y.square().sum().backward()
    assert all(parameter.grad.any() for parameter in cell.parameters())
    assert 0.001 < y.std() < 10


# The convolution


def test_the_convolution_is_that_of_torch():
    layer = randomize(CausalConvolution(5))
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    before = torch.randn(2, 3, 5, dtype=torch.float64)
    whole = torch.cat([before, x], dim=1).mT
    expected = F.conv1d(whole, layer.weight.T[:, None], layer.bias, groups=5).mT
    y, last = layer(x, before)
    assert_equal_to(y, expected)
    assert torch.equal(last, x[:, -3:])


@pytest.mark.parametrize("t", range(6))
def test_the_convolution_does_not_look_past_a_reset(t):
    layer = randomize(CausalConvolution(4))
    x, before = torch.randn(2, 6, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[1, t] = True
    poisoned, spoilt = x.clone(), before.clone()
    poisoned[1, :t], spoilt[1] = torch.nan, torch.nan
    y, last = layer(poisoned, spoilt, reset)
    clean, clean_last = layer(x[:, t:], layer.initial_state(2))
    untouched, untouched_last = layer(x, before)
    assert_equal_to((y[1, t:], last[1]), (clean[1], clean_last[1]))
    assert_equal_to((y[0], last[0]), (untouched[0], untouched_last[0]))
    assert y[1, :t].isnan().all()


@pytest.mark.parametrize("make", [SLSTMBlock, MLSTMBlock])
def test_a_stack_of_blocks_is_a_stack_of_cells(make):
    blocks = [randomize(make(width, 8, num_heads=2)) for width in (5, 8, 8)]
    assert [isinstance(block.enter, nn.Identity) for block in blocks] == [False, True, True]
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    whole = x
    for block in blocks:
        whole, _ = block(whole, block.initial_state(2))
    states = [block.initial_state(2) for block in blocks]
    for t in range(7):
        token = x[:, t : t + 1]
        for layer, block in enumerate(blocks):
            token, states[layer] = block(token, states[layer])
        assert_equal_to(token, whole[:, t : t + 1], 1e-10)


@pytest.mark.parametrize("make", [SLSTMBlock, MLSTMBlock])
def test_a_block_without_its_down_projections_passes_its_input_on(make):
    block = randomize(make(8, 8, num_heads=2))
    nn.init.zeros_(block.down.weight)
    if make is SLSTMBlock:
        nn.init.constant_(block.head_gain, -1.0)  # gains are kept as their distance from one
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    assert torch.equal(block(x, random_state(block, 2))[0], x)
