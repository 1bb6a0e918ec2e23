"""The sLSTM recurrence: the fast path against its definition, and that against the recurrence without logarithms."""

from functools import partial

import pytest
import torch

from elman import ops
from elman.ops import reference
from elman.ops.reference import LOG_OF_NOTHING
from tests.compare import assert_equal_to, assert_errs_no_more, assert_same_function, pull_back
from tests.ops.resets import every_reset, make_resets

# Axes: B batch, T time, N heads, D width of a head, H = N D.
SHAPES = [(1, 1, 1, 1), (1, 6, 1, 3), (4, 1, 2, 2), (3, 7, 1, 5), (2, 9, 3, 4), (2, 5, 4, 1), (2, 33, 1, 17)]
NAMES = ["outputs", "h", "c", "m", "d pre", "d weight", "d h", "d c", "d m"]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(shape, dtype=torch.float64):
    batch, steps, heads, width = shape
    hidden = heads * width
    return [
        torch.randn(batch, steps, 4 * hidden, dtype=dtype),
        torch.randn(4 * hidden, width, dtype=dtype) / width**0.5,
        *(torch.randn(batch, hidden, dtype=dtype) for _ in range(3)),
    ]


def fresh(batch: int, hidden: int, dtype=torch.float64):
    zeros = torch.zeros(batch, hidden, dtype=dtype)
    return [zeros, zeros, torch.full_like(zeros, LOG_OF_NOTHING)]


def without_logarithms(pre, weight, h, c, n, reset=None):
    """The paper's equations as they stand, for one head: every h, and the last c and n, nothing taken out."""
    outputs = []
    for t in range(pre.shape[1]):
        if reset is not None:
            h, c, n = (part.masked_fill(reset[:, t, None], 0.0) for part in (h, c, n))
        z, i, f, o = (pre[:, t] + h @ weight.T).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        outputs.append(h)
    return torch.stack(outputs, dim=1), c, n


@pytest.mark.parametrize("size", [1.0, 30.0, 100.0])
@pytest.mark.parametrize("start", ["fresh", "carried"])
@every_reset
def test_the_definition_is_the_recurrence_of_the_paper(size, start, resets):
    pre, weight, h, c, m = make((3, 9, 1, 5))
    pre = pre.clamp(-1, 1) * size
    if start == "fresh":
        h, c, m = fresh(3, 5)
    n = m.exp() if start == "carried" else torch.zeros_like(m)
    reset = make_resets(resets, 3, 9)
    outputs, last_c, last_n = without_logarithms(pre, weight, h, c * n, n, reset)
    found, last_h, c, m = reference.slstm(pre, weight, h, c, m, reset)
    assert outputs.isfinite().all()
    assert_equal_to((found, last_h, c, m), (outputs, outputs[:, -1], last_c / last_n, last_n.log()), 1e-11)
    narrow = [tensor.float() for tensor in (pre, weight, h, c, m)]
    assert all(part.isfinite().all() for part in ops.slstm(*narrow, reset))


def both(reset):
    """The fast path and the definition."""
    return [partial(module.slstm, reset_BT=reset) for module in (ops, reference)]


@every_shape
@every_reset
def test_the_fast_path_equals_the_definition(shape, resets):
    assert_same_function(*both(make_resets(resets, *shape[:2])), make(shape), 1e-12)


@every_shape
@every_reset
def test_in_float32_the_fast_path_errs_no_more_than_the_definition(shape, resets):
    assert_errs_no_more(*both(make_resets(resets, *shape[:2])), make(shape, torch.float32), NAMES)


@every_reset
def test_gradients_equal_finite_differences(resets):
    inputs = [tensor.requires_grad_() for tensor in make((2, 4, 2, 2))]
    reset = make_resets(resets, 2, 4)
    assert torch.autograd.gradcheck(lambda *given: ops.slstm(*given, reset), inputs)


def test_gradients_from_a_fresh_state_equal_finite_differences():
    pre, weight, *_ = make((2, 4, 1, 3))
    leaves = [pre.requires_grad_(), weight.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *given: ops.slstm(*given, *fresh(2, 3)), leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("i", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("f", [-100.0, 0.0, 100.0])
def test_the_first_step_is_exact_whatever_its_gates(dtype, i, f):
    """n_1 = exp(i) and c_1 = exp(i) tanh(z), so h_1 = sigmoid(o) tanh(z), however small exp(i) is."""
    z, o = torch.randn(2, 3, 4, dtype=dtype)
    pre = torch.cat([z, torch.full_like(z, i), torch.full_like(z, f), o], dim=-1)[:, None]
    weight = torch.randn(16, 4, dtype=dtype)
    outputs, _, c, m = ops.slstm(pre, weight, *fresh(3, 4, dtype))
    assert torch.equal(c, z.tanh())
    assert torch.equal(m, torch.full_like(z, i))
    assert torch.equal(outputs[:, 0], o.sigmoid() * z.tanh())


@pytest.mark.parametrize("shift", [-50.0, 3.0, 50.0])
def test_a_common_factor_of_all_input_gates_changes_nothing_but_the_normaliser(shift):
    pre, weight, h, c, m = make((3, 7, 1, 5))
    shifted = pre.clone()
    shifted[..., 5:10] += shift
    outputs, last_h, last_c, last_m = ops.slstm(pre, weight, h, c, m)
    found = ops.slstm(shifted, weight, h, c, m + shift)
    assert_equal_to(found, (outputs, last_h, last_c, last_m + shift))
    first = ops.slstm(pre, weight, *fresh(3, 5))
    assert_equal_to(ops.slstm(shifted, weight, *fresh(3, 5))[:3], first[:3])


@pytest.mark.parametrize("size", [100.0, 1e4, 1e30])
@every_reset
def test_extreme_inputs_stay_finite(size, resets):
    pre, weight, *_ = make((2, 7, 2, 3), torch.float32)
    reset = make_resets(resets, 2, 7)
    inputs = [pre * size, weight, *fresh(2, 6, torch.float32)]
    outputs, gradients, _ = pull_back(lambda *given: ops.slstm(*given, reset), inputs)
    assert all(tensor.isfinite().all() for tensor in (*outputs, *gradients))
    assert outputs[0].abs().max() <= 1


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_cutting_anywhere_changes_nothing(steps):
    inputs, reset = make((3, 7, 2, 2)), make_resets("some", 3, 7)

    def in_two(pre, weight, *state):
        head, *state = ops.slstm(pre[:, :steps], weight, *state, reset[:, :steps])
        tail, *state = ops.slstm(pre[:, steps:], weight, *state, reset[:, steps:])
        return torch.cat([head, tail], dim=1), *state

    expected, gradients, cotangents = pull_back(lambda *given: ops.slstm(*given, reset), inputs)
    found, pieces, _ = pull_back(in_two, inputs, cotangents)
    assert_equal_to(found, expected)
    assert_equal_to(pieces, gradients)


@pytest.mark.parametrize("t", [0, 3])
def test_a_reset_drops_even_nan(t):
    pre, weight, *state = make((2, 6, 1, 3))
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[:, t] = True
    poisoned = [torch.full_like(part, torch.nan) for part in state]
    outputs, *after = ops.slstm(pre, weight, *poisoned, reset)
    assert outputs[:, :t].isnan().all()
    assert_equal_to((outputs[:, t:], *after), ops.slstm(pre[:, t:], weight, *fresh(2, 3)), tolerance=0)


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_state_dropped_at_once_leaves_no_trace_in_gradients(poison):
    pre, weight, *state = make((2, 5, 1, 3))
    reset = make_resets("first", 2, 5)
    poisoned = [torch.full_like(part, poison) for part in state]
    clean, gradients, cotangents = pull_back(
        lambda *given: ops.slstm(*given, reset), [pre, weight, *fresh(2, 3)]
    )
    found, others, _ = pull_back(
        lambda *given: ops.slstm(*given, reset), [pre, weight, *poisoned], cotangents
    )
    assert_equal_to(found, clean, tolerance=0)
    assert_equal_to(others, gradients, tolerance=0)


def test_heads_do_not_mix():
    pre, weight, *state = make((2, 6, 3, 2))
    whole = ops.slstm(pre, weight, *state)
    for head in range(3):
        columns = slice(2 * head, 2 * head + 2)
        own_pre = pre.unflatten(-1, (4, 6))[..., columns].flatten(-2)
        own_weight = weight.unflatten(0, (4, 6))[:, columns].flatten(0, 1)
        alone = ops.slstm(own_pre, own_weight, *(part[:, columns] for part in state))
        assert_equal_to([part[..., columns] for part in whole], alone)


def test_what_needs_no_gradient_gets_none():
    pre, weight, *state = make((2, 3, 2, 2))
    outputs, *_ = ops.slstm(pre, weight.requires_grad_(), *state)
    outputs.sum().backward()
    assert weight.grad.any()
    assert pre.grad is None
    assert all(part.grad is None for part in state)


@pytest.mark.parametrize("shape", [(3, 9, 1, 16), (3, 9, 2, 8)], ids=str)
def test_under_autocast_only_products_are_bfloat16(shape):
    inputs, reset = make(shape, torch.float32), make_resets("one row", 3, 9)
    exact, wanted, cotangents = pull_back(lambda *given: ops.slstm(*given, reset), inputs)

    def low(*given):
        with torch.autocast("cpu", torch.bfloat16):
            return ops.slstm(*given, reset)

    found, gradients, _ = pull_back(low, inputs, cotangents)
    for value, precise in zip([*found, *gradients], [*exact, *wanted], strict=True):
        assert value.dtype == torch.float32
        error = (value - precise).norm() / precise.norm()
        assert 0 < error < 2**-6  # bfloat16 rounds by 2^-9; the recurrence carries it on
