"""Whether two sides computed the same. A comparison of speed between different results is worth nothing.

    difference(a, b) = max over tensors of  max |a - b| / max |b|          0 where both are empty or zero

Integers (token ids, counts) must be equal: one that differs is infinitely far off, as are a NaN on one side and
another structure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class DisagreementError(Exception):
    """Two sides were to compute the same and did not; there is nothing to report about their speed."""


def difference(found: Any, expected: Any) -> float:
    """How far `found` is from `expected`, as a share of the largest number of each tensor of `expected`.

    Args:
        found: A number, a tensor, an array, or sequences and mappings of them.
        expected: The same structure.

    Returns:
        0 for equal, infinity for what cannot be compared.
    """
    if isinstance(expected, Mapping):
        if not isinstance(found, Mapping) or found.keys() != expected.keys():
            return math.inf
        return max((difference(found[key], expected[key]) for key in expected), default=0.0)
    if isinstance(expected, Sequence) and not all(isinstance(item, int | float) for item in expected):
        if not isinstance(found, Sequence) or len(found) != len(expected):
            return math.inf
        return max(map(difference, found, expected), default=0.0)
    b = torch.as_tensor(expected).detach()
    try:
        a = torch.as_tensor(found).detach()
    except (TypeError, ValueError, RuntimeError):  # it is no array of numbers
        return math.inf
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    if not b.is_floating_point():
        return 0.0 if torch.equal(a.to(b.dtype), b) else math.inf
    a, b = a.to(b.device, torch.float64), b.double()
    largest, apart = b.abs().max().item(), (a - b).abs().max().item()
    if not math.isfinite(apart):
        return math.inf
    return apart / largest if largest else (math.inf if apart else 0.0)


def require_agreement(name: str, found: Any, reference: str, expected: Any, tolerance: float) -> None:
    """Refuse to go on where `found` is not `expected`.

    Raises:
        DisagreementError: The difference is above `tolerance`.
    """
    apart = difference(found, expected)
    if not apart <= tolerance:
        raise DisagreementError(
            f"{name!r} and {reference!r} differ by {apart:.2g} of the largest value, and {tolerance:.2g} is"
            " allowed; nothing is reported until they agree"
        )
