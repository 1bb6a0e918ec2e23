"""The gated sum, step by step: the fast path against its definition."""

import torch

from elman import ops
from elman.ops import reference
from tests.compare import assert_equal_to, assert_no_worse_than_eager, pull_back
from tests.ops.test_lstm import every_reset, every_shape, make_resets


def make(shape, dtype=torch.float64):
    batch, steps, width = shape
    return [
        torch.rand(batch, steps, width, dtype=dtype),
        torch.randn(batch, steps, width, dtype=dtype),
        torch.randn(batch, width, dtype=dtype),
    ]


@every_shape
@every_reset
def test_the_fast_path_equals_the_definition(shape, resets):
    inputs, reset = make(shape), make_resets(resets, *shape[:2])
    expected, gradients, cotangents = pull_back(lambda *given: reference.linear_scan(*given, reset), inputs)
    found, fast, _ = pull_back(lambda *given: ops.linear_scan(*given, reset), inputs, cotangents)
    assert_equal_to(found, expected, 1e-10)
    assert_equal_to(fast, gradients, 1e-10)


@every_shape
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(shape):
    inputs = make(shape, torch.float32)
    eager, eager_gradients, cotangents = pull_back(reference.linear_scan, inputs)
    exact, exact_gradients, _ = pull_back(
        reference.linear_scan, [tensor.double() for tensor in inputs], [c.double() for c in cotangents]
    )
    fast, fast_gradients, _ = pull_back(ops.linear_scan, inputs, cotangents)
    for ours, theirs, truth in zip(
        [*fast, *fast_gradients], [*eager, *eager_gradients], [*exact, *exact_gradients], strict=True
    ):
        assert_no_worse_than_eager(ours, theirs, truth, 1e-5)
