"""The LSTM recurrence: the fast path against its definition, and torch's own network in the cell."""

import pytest
import torch
from torch import nn

from elman import ops
from elman.cells.lstm import LSTMCell, LSTMState
from elman.ops import reference
from tests.compare import assert_equal_to, assert_no_worse_than_eager, pull_back
from tests.ops.resets import every_reset, make_resets

# Axes: B batch, T time, H hidden width; inputs are two wider.
SHAPES = [(1, 1, 1), (1, 6, 3), (4, 1, 2), (3, 7, 5), (2, 33, 17)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(shape, dtype=torch.float64):
    batch, steps, width = shape
    inputs = width + 2
    return [
        torch.randn(batch, steps, inputs, dtype=dtype),
        torch.randn(4 * width, inputs, dtype=dtype) / inputs**0.5,
        torch.randn(4 * width, width, dtype=dtype) / width**0.5,
        torch.randn(4 * width, dtype=dtype),
        torch.randn(batch, width, dtype=dtype),
        torch.randn(batch, width, dtype=dtype),
    ]


@every_shape
@every_reset
def test_the_fast_path_equals_the_definition(shape, resets):
    inputs, reset = make(shape), make_resets(resets, *shape[:2])
    expected, gradients, cotangents = pull_back(lambda *given: reference.lstm(*given, reset), inputs)
    found, fast, _ = pull_back(lambda *given: ops.lstm(*given, reset), inputs, cotangents)
    assert_equal_to(found, expected, 1e-10)
    assert_equal_to(fast, gradients, 1e-10)


@every_shape
@every_reset
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(shape, resets):
    inputs, reset = make(shape, torch.float32), make_resets(resets, *shape[:2])
    eager, eager_gradients, cotangents = pull_back(lambda *given: reference.lstm(*given, reset), inputs)
    wide = [tensor.double() for tensor in inputs]
    exact, exact_gradients, _ = pull_back(
        lambda *given: reference.lstm(*given, reset), wide, [c.double() for c in cotangents]
    )
    fast, fast_gradients, _ = pull_back(lambda *given: ops.lstm(*given, reset), inputs, cotangents)
    names = ["outputs", "h", "c", "d x", "d W", "d U", "d b", "d h", "d c"]
    for name, *three in zip(
        names,
        [*fast, *fast_gradients],
        [*eager, *eager_gradients],
        [*exact, *exact_gradients],
        strict=True,
    ):
        assert_no_worse_than_eager(*three, name)


def test_the_last_state_is_the_last_output():
    outputs, last, _ = ops.lstm(*make((3, 7, 5)))
    assert torch.equal(last, outputs[:, -1])


@every_reset
def test_gradients_equal_finite_differences(resets):
    inputs = [tensor.requires_grad_() for tensor in make((2, 4, 3))]
    reset = make_resets(resets, 2, 4)
    assert torch.autograd.gradcheck(lambda *given: ops.lstm(*given, reset), inputs)


def test_gradients_scale_with_what_comes_from_above_and_add_up():
    inputs = [tensor.requires_grad_() for tensor in make((3, 7, 5))]
    once = torch.autograd.grad(ops.lstm(*inputs)[0].sum(), inputs)
    shared = ops.lstm(*inputs)[0].sum()
    thrice = torch.autograd.grad(2 * shared + ops.lstm(*inputs)[0].sum(), inputs)
    assert_equal_to(thrice, [3 * gradient for gradient in once])


def test_what_needs_no_gradient_gets_none():
    x, weight_ih, *others = make((2, 3, 4))
    outputs, *_ = ops.lstm(x, weight_ih.requires_grad_(), *others)
    outputs.sum().backward()
    assert weight_ih.grad.any()
    assert all(tensor.grad is None for tensor in (x, *others))


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_inputs_stay_finite(size):
    x, *others = make((2, 5, 3), torch.float32)
    outputs, gradients, _ = pull_back(ops.lstm, [x * size, *others])
    assert all(tensor.isfinite().all() for tensor in (*outputs, *gradients))
    assert outputs[0].abs().max() <= 1


def test_under_autocast_only_products_are_bfloat16():
    shape = (3, 9, 16)
    inputs, reset = make(shape, torch.float32), make_resets("one row", 3, 9)
    exact, wanted, cotangents = pull_back(lambda *given: ops.lstm(*given, reset), inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return ops.lstm(*given, reset)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    for value, precise in zip([*found, *gradients], [*exact, *wanted], strict=True):
        assert value.dtype == torch.float32
        error = (value - precise).norm() / precise.norm()
        assert 0 < error < 2**-6  # bfloat16 rounds by 2^-9; the recurrence carries it on


def load(cell: LSTMCell, theirs: nn.LSTM) -> None:
    with torch.no_grad():
        cell.weight_ih.copy_(theirs.weight_ih_l0)
        cell.weight_hh.copy_(theirs.weight_hh_l0)
        cell.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)


@pytest.mark.parametrize(("inputs", "hidden"), [(3, 5), (5, 3), (1, 1)])
def test_weights_of_torch_give_the_results_of_torch(inputs, hidden):
    theirs = nn.LSTM(inputs, hidden, batch_first=True).double()
    cell = LSTMCell(inputs, hidden).double()
    load(cell, theirs)
    x = torch.randn(2, 7, inputs, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(2, hidden, dtype=torch.float64, requires_grad=True) for _ in range(2))

    y, after = cell(x, LSTMState(h, c))
    expected, (last_h, last_c) = theirs(x, (h[None], c[None]))
    assert_equal_to((y, *after), (expected, last_h[0], last_c[0]), 1e-10)

    cotangents = [torch.randn_like(y), torch.randn_like(h), torch.randn_like(c)]
    found = torch.autograd.grad([y, *after], [x, h, c, *cell.parameters()], cotangents)
    wanted = torch.autograd.grad(
        [expected, last_h[0], last_c[0]],
        [x, h, c, theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0],
        cotangents,
    )
    assert_equal_to(found, wanted, 1e-10)
