"""Ways to compare two computations that several test files share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
"""How far two orders of the same arithmetic may lie apart, absolute and relative."""


def assert_equal_to(found: Any, expected: Any, tolerance: float | None = None, what: str = "") -> None:
    """Tensors, or nested sequences of them, agree to within the tolerance of their dtype, or `tolerance`.

    Those that are not of numbers with a fraction agree exactly.
    """
    if not isinstance(expected, Tensor):
        assert len(found) == len(expected)
        for index, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal_to(*pair, tolerance, f"{what}[{index}]")
        return
    bound = TOLERANCE.get(expected.dtype, 0.0) if tolerance is None else tolerance
    bound = bound if expected.is_floating_point() else 0.0
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound, msg=lambda text: f"{what}: {text}")


def pull_back(
    function: Callable[..., Any], inputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Outputs of `function`, the gradients of sum(output * cotangent) for every input, and the cotangents.

    Without `cotangents` random ones are drawn, so that no gradient passes by being summed up.
    """
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    found = function(*leaves)
    outputs = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if cotangents is None:
        cotangents = [torch.randn_like(output) for output in outputs]
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    return tuple(output.detach() for output in outputs), gradients, tuple(cotangents)


def assert_no_worse_than_eager(fast: Tensor, eager: Tensor, exact: Tensor, what: str = "") -> None:
    """A fast path may err as much as eager does in the same dtype, plus a few units in the last place.

    Args:
        fast: What is tested.
        eager: The definition, in the dtype of `fast`.
        exact: The definition in float64, on the same numbers.
        what: Named in the message.
    """
    assert fast.dtype == eager.dtype
    last_place = torch.finfo(fast.dtype).eps * float(exact.abs().max().clamp(min=1)) if exact.numel() else 0.0
    allowed = (eager.double() - exact).abs() + 16 * last_place
    excess = (fast.double() - exact).abs() - allowed
    assert bool((excess <= 0).all()), f"{what} exceeds eager by {excess.max():.3g} at {int(excess.argmax())}"


def assert_same_function(
    fast: Callable[..., Any],
    definition: Callable[..., Any],
    inputs: Sequence[Tensor],
    tolerance: float | None = None,
) -> None:
    """Outputs, and gradients for random cotangents, of `fast` are those of `definition`; as for `assert_equal_to`."""
    expected, gradients, cotangents = pull_back(definition, inputs)
    found, fast_gradients, _ = pull_back(fast, inputs, cotangents)
    assert_equal_to(found, expected, tolerance)
    assert_equal_to(fast_gradients, gradients, tolerance)


def assert_errs_no_more(
    fast: Callable[..., Any],
    definition: Callable[..., Any],
    inputs: Sequence[Tensor],
    names: Sequence[str],
    exact: Callable[..., Any] | None = None,
) -> None:
    """`assert_no_worse_than_eager` for every output and gradient of `fast`.

    Args:
        fast: What is tested.
        definition: In the dtype of `inputs` it is eager, in float64 exact.
        inputs: Of both.
        names: Of the outputs, then of the gradients.
        exact: Stands in for `definition` in float64, where it has other tensors in it.
    """
    eager, eager_gradients, cotangents = pull_back(definition, inputs)
    wide = [[tensor.double() for tensor in tensors] for tensors in (inputs, cotangents)]
    truth, true_gradients, _ = pull_back(exact or definition, *wide)
    found, gradients, _ = pull_back(fast, inputs, cotangents)
    for name, *three in zip(
        names, [*found, *gradients], [*eager, *eager_gradients], [*truth, *true_gradients], strict=True
    ):
        assert_no_worse_than_eager(*three, name)


def randn_like_all(tensors: Sequence[Tensor]) -> list[Tensor]:
    """A random tensor of the shape and dtype of each."""
    return [torch.randn_like(tensor) for tensor in tensors]
