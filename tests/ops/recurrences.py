"""The recurrences that torch has too: what each is given, and where its definition is."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

# Axes: B batch, T time, H hidden width; inputs are two wider.
SHAPES = [(1, 1, 1), (1, 6, 3), (4, 1, 2), (3, 7, 5), (2, 33, 17)]

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@dataclass(frozen=True)
class Recurrence:
    """What tells one from the others."""

    gates: int
    """Blocks of H rows in a weight."""
    biases: dict[str, int]
    """By name, the blocks of H numbers."""
    state: tuple[str, ...]
    """The parts that are carried from step to step."""

    @property
    def names(self) -> list[str]:
        """Of its outputs and its gradients."""
        return ["outputs", *self.state, *(f"d {name}" for name in ("x", "W", "U", *self.biases, *self.state))]

    def make(self, shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """Random x, weights, biases and state."""
        batch, steps, width = shape
        inputs = width + 2
        return [
            torch.randn(batch, steps, inputs, dtype=dtype),
            torch.randn(self.gates * width, inputs, dtype=dtype) / inputs**0.5,
            torch.randn(self.gates * width, width, dtype=dtype) / width**0.5,
            *(torch.randn(blocks * width, dtype=dtype) for blocks in self.biases.values()),
            *(torch.randn(batch, width, dtype=dtype) for _ in self.state),
        ]


RECURRENCES = {
    "elman": Recurrence(1, {"b": 1}, ("h",)),
    "gru": Recurrence(3, {"b": 3, "b_hn": 1}, ("h",)),
    "lstm": Recurrence(4, {"b": 4}, ("h", "c")),
}

every_recurrence = pytest.mark.parametrize("name", RECURRENCES)
