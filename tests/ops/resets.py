"""Where documents begin, in the ways that a recurrence is tried with."""

import pytest
import torch

RESETS = ["none", "some", "first", "all", "one row"]

every_reset = pytest.mark.parametrize("resets", RESETS)


def make_resets(kind: str, batch: int, steps: int) -> torch.Tensor | None:
    """Bool [batch, steps], or None."""
    reset = torch.zeros(batch, steps, dtype=torch.bool)
    if kind == "some":
        reset = torch.rand(batch, steps) < 0.4
    elif kind == "first":
        reset[:, 0] = True
    elif kind == "one row":
        reset[-1, steps // 2] = True
    return None if kind == "none" else reset | (kind == "all")
