"""The gated sum, all steps at once: against its definition, whatever the gates, the state and the length."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from elman import ops
from elman.ops import reference
from tests.compare import assert_equal_to, assert_errs_no_more, assert_same_function, pull_back
from tests.ops.recurrences import SHAPES
from tests.ops.resets import every_reset, make_resets

every_shape = pytest.mark.parametrize("shape", [*SHAPES, (2, 64, 3), (1, 127, 2)], ids=str)

GATES = {
    "open": (0.0, -1e-30),
    "shut": (-200.0, -1e4, -1e30),
    "nothing kept": (-math.inf,),
    "of every kind": None,
}


def make(shape, dtype=torch.float64):
    batch, steps, width = shape
    return [
        F.logsigmoid(2 * torch.randn(batch, steps, width, dtype=dtype)),
        torch.randn(batch, steps, width, dtype=dtype),
        torch.randn(batch, width, dtype=dtype),
    ]


def both(reset):
    """All steps at once, and the definition."""
    return [partial(module.parallel_scan, reset_BT=reset) for module in (ops, reference)]


@every_shape
@every_reset
def test_all_steps_at_once_equal_the_definition(shape, resets):
    assert_same_function(*both(make_resets(resets, *shape[:2])), make(shape))


@every_shape
@every_reset
def test_in_float32_it_errs_no_more_than_the_definition(shape, resets):
    inputs, names = make(shape, torch.float32), ["outputs", "h", "d log a", "d b", "d h"]
    assert_errs_no_more(*both(make_resets(resets, *shape[:2])), inputs, names)


@every_reset
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("start", [0.0, -3.0, 1e30])
def test_any_gates_and_any_state_will_do(gates, start, resets):
    log_a, b, h = make((3, 29, 4))
    choices = GATES[gates] or [value for values in GATES.values() if values for value in values]
    log_a = torch.tensor(choices).double()[torch.randint(len(choices), log_a.shape)]
    inputs = [log_a, b * (torch.rand_like(b) < 0.5), torch.full_like(h, start)]  # exp(-inf) is added, too
    reset = make_resets(resets, 3, 29)
    expected, gradients, cotangents = pull_back(lambda *given: reference.parallel_scan(*given, reset), inputs)
    found, fast, _ = pull_back(lambda *given: ops.parallel_scan(*given, reset), inputs, cotangents)
    assert all(tensor.isfinite().all() for tensor in (*found, *fast))
    assert_equal_to(found, expected)
    assert_equal_to(fast, gradients)


def by_cumulative_sums(log_a, log_b, h):
    """All h_t as Feng et al. (2024) and Heinsen (2023) print it, for a state above zero."""
    sums = F.pad(log_a.cumsum(1), (0, 0, 1, 0))
    values = torch.cat([h.log()[:, None], log_b], dim=1)
    return (sums + torch.logcumsumexp(values - sums, dim=1)).exp()[:, 1:]


def worst_relative_error(found, exact):
    return float(((found.double() - exact) / exact).abs().max())


@pytest.mark.parametrize("steps", [1000, 4099])
@pytest.mark.parametrize(("centre", "spread"), [(0, 1), (0, 20), (-30, 10), (8, 1), (6, 0)])
def test_no_digits_are_lost_over_a_long_sequence(steps, centre, spread):
    gate = centre + spread * torch.randn(2, steps, 4)
    b, h = F.sigmoid(-gate) * (0.1 + torch.rand(2, steps, 4)), torch.rand(2, 4)
    exact, _ = reference.linear_scan(gate.double().sigmoid(), b.double(), h.double())
    found, _ = ops.parallel_scan(F.logsigmoid(gate), b, h)
    assert worst_relative_error(found, exact) < 2e-6


def test_cumulative_sums_do_lose_them():
    """Which is why they are not used; the error that the test above would show is real."""
    gate = 20 * torch.randn(2, 1000, 4)
    b, h = F.sigmoid(-gate) * (0.1 + torch.rand(2, 1000, 4)), torch.rand(2, 4)
    exact, _ = reference.linear_scan(gate.double().sigmoid(), b.double(), h.double())
    assert worst_relative_error(by_cumulative_sums(F.logsigmoid(gate), b.log(), h), exact) > 1e-4
    exact_too = by_cumulative_sums(F.logsigmoid(gate.double()), b.double().log(), h.double())
    assert worst_relative_error(exact_too, exact) < 1e-9


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("steps", [9, 16])
def test_a_reset_drops_whatever_was_spoilt_before_it(poison, steps):
    log_a, b, h = make((2, steps, 3))
    reset = torch.zeros(2, steps, dtype=torch.bool)
    reset[:, 5] = True
    spoilt = [log_a.clone(), b.clone(), torch.full_like(h, poison)]
    spoilt[0][:, 1:5] = math.nan
    spoilt[1][:, 3] = poison
    clean = [log_a, b, h]

    def after_the_reset(*given):
        return ops.parallel_scan(*given, reset)[0][:, 5:]

    expected, gradients, cotangents = pull_back(after_the_reset, clean)
    found, from_spoilt, _ = pull_back(after_the_reset, spoilt, cotangents)
    assert_equal_to(found, expected)
    for ours, theirs in zip(from_spoilt[:2], gradients[:2], strict=True):
        assert theirs[:, 6:].all()
        assert_equal_to(ours[:, 5:], theirs[:, 5:])


@every_reset
def test_gradients_equal_finite_differences(resets):
    inputs = [tensor.requires_grad_() for tensor in make((2, 5, 2))]
    reset = make_resets(resets, 2, 5)
    assert torch.autograd.gradcheck(lambda *given: ops.parallel_scan(*given, reset), inputs)


def test_what_goes_in_is_left_as_it_was():
    given, reset = make((2, 9, 3)), make_resets("some", 2, 9)
    kept = [tensor.clone() for tensor in given]
    outputs, last = ops.parallel_scan(*(tensor.requires_grad_() for tensor in given), reset)
    (outputs.sum() + last.sum()).backward()
    for tensor, copy in zip(given, kept, strict=True):
        assert torch.equal(tensor, copy)
    assert torch.equal(last, outputs[:, -1])
    assert last.untyped_storage().data_ptr() != outputs.untyped_storage().data_ptr()


class CountingCalls(TorchDispatchMode):
    """How many tensor operations ran inside the context."""

    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


def test_a_sequence_of_twice_the_length_takes_one_more_round():
    def calls(steps: int) -> int:
        inputs = [tensor.requires_grad_() for tensor in make((1, steps, 1))]
        with CountingCalls() as counted:
            ops.parallel_scan(*inputs)[0].sum().backward()
        return counted.calls

    first, second, third = calls(64), calls(128), calls(256)
    assert second - first == third - second
    assert calls(1024) < 2 * first
