"""The recurrences that torch has too: the fast paths against their definitions, and torch's own networks in the cells."""

from functools import partial

import pytest
import torch
from torch import nn

from elman import ops
from elman.cells.elman import ElmanCell, ElmanState
from elman.cells.gru import GRUCell, GRUState
from elman.cells.lstm import LSTMCell, LSTMState
from elman.ops import reference
from tests.compare import assert_equal_to, assert_errs_no_more, assert_same_function, pull_back
from tests.ops.recurrences import RECURRENCES, every_recurrence, every_shape
from tests.ops.resets import every_reset, make_resets

CELLS = {
    "elman": (ElmanCell, ElmanState, nn.RNN),
    "gru": (GRUCell, GRUState, nn.GRU),
    "lstm": (LSTMCell, LSTMState, nn.LSTM),
}


def both(name, reset):
    """The fast path and the definition."""
    return [partial(getattr(module, name), reset_BT=reset) for module in (ops, reference)]


@every_recurrence
@every_shape
@every_reset
def test_the_fast_path_equals_the_definition(name, shape, resets):
    fast, definition = both(name, make_resets(resets, *shape[:2]))
    assert_same_function(fast, definition, RECURRENCES[name].make(shape), 1e-10)


@every_recurrence
@every_shape
@every_reset
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(name, shape, resets):
    fast, definition = both(name, make_resets(resets, *shape[:2]))
    recurrence = RECURRENCES[name]
    assert_errs_no_more(fast, definition, recurrence.make(shape, torch.float32), recurrence.names)


@every_recurrence
def test_the_last_state_is_the_last_output(name):
    outputs, last, *_ = getattr(ops, name)(*RECURRENCES[name].make((3, 7, 5)))
    assert torch.equal(last, outputs[:, -1])


@every_recurrence
@every_reset
def test_gradients_equal_finite_differences(name, resets):
    inputs = [tensor.requires_grad_() for tensor in RECURRENCES[name].make((2, 4, 3))]
    fast, _ = both(name, make_resets(resets, 2, 4))
    assert torch.autograd.gradcheck(fast, inputs)


@every_recurrence
def test_gradients_scale_with_what_comes_from_above_and_add_up(name):
    op = getattr(ops, name)
    inputs = [tensor.requires_grad_() for tensor in RECURRENCES[name].make((3, 7, 5))]
    once = torch.autograd.grad(op(*inputs)[0].sum(), inputs)
    shared = op(*inputs)[0].sum()
    thrice = torch.autograd.grad(2 * shared + op(*inputs)[0].sum(), inputs)
    assert_equal_to(thrice, [3 * gradient for gradient in once])


@every_recurrence
def test_what_needs_no_gradient_gets_none(name):
    x, weight_ih, *others = RECURRENCES[name].make((2, 3, 4))
    outputs, *_ = getattr(ops, name)(x, weight_ih.requires_grad_(), *others)
    outputs.sum().backward()
    assert weight_ih.grad.any()
    assert all(tensor.grad is None for tensor in (x, *others))


@every_recurrence
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_inputs_stay_finite(name, size):
    recurrence = RECURRENCES[name]
    x, *others = recurrence.make((2, 5, 3), torch.float32)
    for part in others[-len(recurrence.state) :]:
        part.clamp_(-1, 1)  # a GRU may keep what it is given
    outputs, gradients, _ = pull_back(getattr(ops, name), [x * size, *others])
    assert all(tensor.isfinite().all() for tensor in (*outputs, *gradients))
    assert outputs[0].abs().max() <= 1


@every_recurrence
def test_under_autocast_only_products_are_bfloat16(name):
    inputs = RECURRENCES[name].make((3, 9, 16), torch.float32)
    fast, _ = both(name, make_resets("one row", 3, 9))
    exact, wanted, cotangents = pull_back(fast, inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return fast(*given)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    for value, precise in zip([*found, *gradients], [*exact, *wanted], strict=True):
        assert value.dtype == torch.float32
        error = (value - precise).norm() / precise.norm()
        assert 0 < error < 2**-6  # bfloat16 rounds by 2^-9; the recurrence carries it on


def with_weights_of(theirs: nn.RNNBase, cell: nn.Module) -> nn.Module:
    """`cell`, which adds up the two biases of torch, but for the one that a GRU's reset gate comes before."""
    with torch.no_grad():
        cell.weight_ih.copy_(theirs.weight_ih_l0)
        cell.weight_hh.copy_(theirs.weight_hh_l0)
        cell.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
        if isinstance(cell, GRUCell):
            alone = slice(-theirs.hidden_size, None)
            cell.bias[alone] = theirs.bias_ih_l0[alone]
            cell.bias_hn.copy_(theirs.bias_hh_l0[alone])
    return cell


@every_recurrence
@pytest.mark.parametrize(("inputs", "hidden"), [(3, 5), (5, 3), (4, 4), (1, 1)])
def test_weights_of_torch_give_the_results_of_torch(name, inputs, hidden):
    make_cell, make_state, make_theirs = CELLS[name]
    theirs = make_theirs(inputs, hidden, batch_first=True).double()
    cell = with_weights_of(theirs, make_cell(inputs, hidden).double())
    x = torch.randn(2, 7, inputs, dtype=torch.float64, requires_grad=True)
    state = [torch.randn(2, hidden, dtype=torch.float64, requires_grad=True) for _ in RECURRENCES[name].state]

    y, after = cell(x, make_state(*state))
    first = tuple(part[None] for part in state)
    expected, last = theirs(x, first if name == "lstm" else first[0])
    last = last if name == "lstm" else (last,)
    assert_equal_to((y, *after), (expected, *(part[0] for part in last)), 1e-12)

    cotangents = [torch.randn_like(y), *map(torch.randn_like, state)]
    found = torch.autograd.grad([y, *after], [x, *state, *cell.parameters()], cotangents)
    *wanted, hidden_bias = torch.autograd.grad(
        [expected, *(part[0] for part in last)], [x, *state, *theirs.parameters()], cotangents
    )
    assert_equal_to(found, [*wanted, hidden_bias[-hidden:]] if name == "gru" else wanted, 1e-10)
