"""minGRU and minLSTM step by step: the fast paths against their definitions."""

from functools import partial

import pytest
import torch

from elman import ops
from elman.ops import reference
from tests.compare import assert_equal_to, assert_errs_no_more, assert_same_function, pull_back
from tests.ops.recurrences import every_shape
from tests.ops.resets import every_reset, make_resets

OPS = {"mingru": (ops.mingru, reference.mingru, 2), "minlstm": (ops.minlstm, reference.minlstm, 3)}

every_op = pytest.mark.parametrize("name", OPS)


def make(name, shape, dtype=torch.float64):
    (batch, steps, width), gates = shape, OPS[name][2]
    return [
        torch.randn(batch, steps, width + 2, dtype=dtype),
        torch.randn(gates * width, width + 2, dtype=dtype),
        torch.randn(gates * width, dtype=dtype),
        torch.randn(batch, width, dtype=dtype),
    ]


def both(name, reset):
    """The fast path and the definition."""
    return [partial(op, reset_BT=reset) for op in OPS[name][:2]]


@every_op
@every_shape
@every_reset
def test_the_fast_path_equals_the_definition(name, shape, resets):
    assert_same_function(*both(name, make_resets(resets, *shape[:2])), make(name, shape), 1e-10)


@every_op
@every_shape
@every_reset
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(name, shape, resets):
    inputs, names = make(name, shape, torch.float32), ["outputs", "h", "d x", "d W", "d b", "d h"]
    assert_errs_no_more(*both(name, make_resets(resets, *shape[:2])), inputs, names)


@every_op
def test_a_candidate_of_exactly_zero_has_the_slope_of_those_above(name):
    op, definition, gates = OPS[name]
    x = torch.zeros(1, 3, 2, dtype=torch.float64)
    inputs = [x, torch.randn(gates, 2).double(), torch.zeros(gates).double(), torch.zeros(1, 1).double()]
    expected, gradients, cotangents = pull_back(definition, inputs)
    found, fast, _ = pull_back(op, inputs, cotangents)
    assert_equal_to(found, expected)
    assert_equal_to(fast, gradients)


@every_op
@every_reset
def test_gradients_equal_finite_differences(name, resets):
    inputs = [tensor.requires_grad_() for tensor in make(name, (2, 4, 3))]
    reset = make_resets(resets, 2, 4)
    assert torch.autograd.gradcheck(lambda *given: OPS[name][0](*given, reset), inputs)


@every_op
def test_a_gate_that_is_nearly_shut_still_leaks(name):
    """The share that is added keeps its digits below what float32 adds to one."""
    op, definition, gates = OPS[name]
    bias = torch.tensor([-20.0, 3.0] if gates == 2 else [20.0, -20.0, 3.0])
    weight, x, h = torch.zeros(gates, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1)
    _, found = op(x, weight, bias, h)
    _, exact = definition(x.double(), weight.double(), bias.double(), h.double())
    assert abs(found.item() / exact.item() - 1) < 1e-5


@every_op
def test_under_autocast_only_products_are_bfloat16(name):
    op, (inputs, reset) = OPS[name][0], (make(name, (3, 9, 16), torch.float32), make_resets("one row", 3, 9))
    exact, wanted, cotangents = pull_back(lambda *given: op(*given, reset), inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return op(*given, reset)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    for value, precise in zip([*found, *gradients], [*exact, *wanted], strict=True):
        assert value.dtype == torch.float32
        error = (value - precise).norm() / precise.norm()
        assert 0 < error < 2**-5
