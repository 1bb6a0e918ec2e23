"""The norm of sparse gradients is that of the dense ones that they stand for, and so is what is left of them."""

import math

import pytest
import torch

from elman.train.clip import clip_grad_norm

SHAPES = [(7, 3), (4,), (2, 5)]


def parameters(seed: int = 0) -> list[torch.nn.Parameter]:
    torch.manual_seed(seed)
    made = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in SHAPES]
    for parameter in made:
        parameter.grad = torch.randn_like(parameter)
    return [*made, torch.nn.Parameter(torch.ones(2))]  # and one without a gradient


def with_sparse() -> list[torch.nn.Parameter]:
    """The first gradient is the sum of two sparse ones that share rows."""
    made = parameters()
    rows, values = torch.tensor([[5, 1, 5]]), torch.randn(3, 3, dtype=torch.float64)
    one = torch.sparse_coo_tensor(rows, values, SHAPES[0], check_invariants=True)
    other = torch.sparse_coo_tensor(rows[:, :2], -2 * values[:2], SHAPES[0], check_invariants=True)
    made[0].grad = one + other
    assert not made[0].grad.is_coalesced()
    return made


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 3.0, 1e6, math.inf])
@pytest.mark.parametrize("make", [parameters, with_sparse])
def test_it_is_torchs_on_what_the_gradients_stand_for(make, max_norm):
    ours, theirs = make(), make()
    for parameter in theirs[:-1]:
        parameter.grad = parameter.grad.to_dense()
    norm = clip_grad_norm(iter(ours), max_norm)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, max_norm))
    for mine, other in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(mine.grad.to_dense(), other.grad)
    assert ours[-1].grad is None


def test_sparse_gradients_stay_sparse_and_hold_each_row_once():
    made = with_sparse()
    clip_grad_norm(made, 1.0)
    assert made[0].grad.is_coalesced()
    assert made[0].grad.indices().tolist() == [[1, 5]]


def test_a_norm_that_is_not_finite_is_returned():
    made = parameters()
    made[1].grad[0] = math.nan
    assert clip_grad_norm(made, 1.0).isnan()
    assert clip_grad_norm(made, math.inf).isnan()


def test_without_gradients_the_norm_is_zero():
    assert clip_grad_norm([torch.nn.Parameter(torch.ones(2))], 1.0) == 0
