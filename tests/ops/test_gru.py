"""The GRU recurrence: the fast path against its definition, and torch's own network in the cell."""

import pytest
import torch
from torch import nn

from elman import ops
from elman.cells.gru import GRUCell, GRUState
from elman.ops import reference
from tests.compare import assert_equal_to, assert_no_worse_than_eager, pull_back
from tests.ops.test_lstm import every_reset, every_shape, make_resets


def make(shape, dtype=torch.float64):
    batch, steps, width = shape
    inputs = width + 2
    return [
        torch.randn(batch, steps, inputs, dtype=dtype),
        torch.randn(3 * width, inputs, dtype=dtype) / inputs**0.5,
        torch.randn(3 * width, width, dtype=dtype) / width**0.5,
        torch.randn(3 * width, dtype=dtype),
        torch.randn(width, dtype=dtype),
        torch.randn(batch, width, dtype=dtype),
    ]


@every_shape
@every_reset
def test_the_fast_path_equals_the_definition(shape, resets):
    inputs, reset = make(shape), make_resets(resets, *shape[:2])
    expected, gradients, cotangents = pull_back(lambda *given: reference.gru(*given, reset), inputs)
    found, fast, _ = pull_back(lambda *given: ops.gru(*given, reset), inputs, cotangents)
    assert_equal_to(found, expected, 1e-10)
    assert_equal_to(fast, gradients, 1e-10)


@every_shape
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(shape):
    inputs = make(shape, torch.float32)
    eager, eager_gradients, cotangents = pull_back(reference.gru, inputs)
    exact, exact_gradients, _ = pull_back(
        reference.gru, [tensor.double() for tensor in inputs], [c.double() for c in cotangents]
    )
    fast, fast_gradients, _ = pull_back(ops.gru, inputs, cotangents)
    for ours, theirs, truth in zip(
        [*fast, *fast_gradients], [*eager, *eager_gradients], [*exact, *exact_gradients], strict=True
    ):
        assert_no_worse_than_eager(ours, theirs, truth, 1e-5)


def test_under_autocast_only_the_products_are_bfloat16():
    inputs = make((3, 9, 16), torch.float32)
    exact, last = ops.gru(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        low, low_last = ops.gru(*inputs)
    assert low.dtype == low_last.dtype == torch.float32
    assert 0 < (low - exact).abs().max() < 0.05
    assert (low_last - last).abs().max() < 0.05


@pytest.mark.parametrize("widths", [(3, 5), (4, 4)])
def test_torchs_weights_give_torchs_results(widths):
    theirs = nn.GRU(*widths, batch_first=True).double()
    ours = GRUCell(*widths).double()
    ih, hh = theirs.bias_ih_l0.detach(), theirs.bias_hh_l0.detach()
    size = 2 * widths[1]
    with torch.no_grad():
        ours.weight_ih.copy_(theirs.weight_ih_l0)
        ours.weight_hh.copy_(theirs.weight_hh_l0)
        ours.bias.copy_(torch.cat([ih[:size] + hh[:size], ih[size:]]))
        ours.bias_hn.copy_(hh[size:])
    x, h = torch.randn(3, 7, widths[0]).double(), torch.randn(3, widths[1]).double()
    outputs, last = theirs(x, h[None])
    found, state = ours(x, GRUState(h))
    assert_equal_to([found, state.h], [outputs, last[0]], 1e-12)
