"""The gated sum: the fast path against its definition, and against the paper's parallel form in log space."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman import ops
from elman.cells.mingru import MinGRUCell, MinGRUState, positive
from elman.cells.minlstm import MinLSTMCell, MinLSTMState
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


def in_log_space(log_a, log_b, h):
    """All h_t at once, as Feng et al. (2024) print it, with the state already activated: log(h), not log g(h)."""
    sums = torch.cat([torch.zeros_like(log_a[:, :1]), log_a.cumsum(1)], dim=1)
    values = torch.cat([h.log()[:, None], log_b], dim=1)
    return (sums + torch.logcumsumexp(values - sums, dim=1)).exp()[:, 1:]


@pytest.mark.parametrize("start", [1e-6, 0.5, 0.8, 30.0])
@pytest.mark.parametrize("name", ["mingru", "minlstm"])
def test_the_parallel_form_of_the_paper_gives_the_same_from_any_state(name, start):
    width, x = 5, torch.randn(3, 11, 4).double()
    h = torch.full((3, width), start).double()
    if name == "mingru":
        cell = MinGRUCell(4, width).double()
        z, v = (x @ cell.weight_ih.T).chunk(2, dim=-1)
        log_a, log_b = -torch.nn.functional.softplus(z), torch.nn.functional.logsigmoid(z)
        outputs, _ = cell(x, MinGRUState(h))
    else:
        cell = MinLSTMCell(4, width).double()
        f, i, v = (x @ cell.weight_ih.T).chunk(3, dim=-1)
        total = f.sigmoid() + i.sigmoid()
        log_a, log_b = (f.sigmoid() / total).log(), (i.sigmoid() / total).log()
        outputs, _ = cell(x, MinLSTMState(h))
    assert_equal_to([outputs], [in_log_space(log_a, log_b + positive(v).log(), h)], 1e-12)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_g_is_positive_and_increasing(first, second):
    low, high = positive(torch.tensor(sorted([first, second]), dtype=torch.float64))
    assert 0 <= low <= high


def test_the_gates_of_minlstm_survive_when_both_are_shut():
    cell = MinLSTMCell(1, 1).double()
    with torch.no_grad():
        cell.weight_ih.copy_(torch.tensor([[-800.0], [-801.0], [0.0]]))
    outputs, _ = cell(torch.ones(1, 1, 1).double(), MinLSTMState(torch.ones(1, 1).double()))
    kept = torch.sigmoid(torch.tensor(1.0)).double()  # sigmoid(f) / sigmoid(i) is e
    assert_equal_to([outputs.flatten()], [kept + (1 - kept) * torch.tensor([0.5]).double()], 1e-6)
