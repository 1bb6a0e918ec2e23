"""What a cell is: parameters, the state before the first token, and a whole sequence at once.

Axes: B batch, T time, D input width, H hidden width.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


class Cell(Protocol):
    """One recurrence. Cutting a sequence anywhere and passing the state on changes nothing."""

    def initial_state(self, batch_size: int) -> Any:
        """The state before a document's first token, for `batch_size` streams: a named tuple of [B, ...]."""
        ...

    def __call__(self, x: Tensor, state: Any, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Outputs for every step, and the state after the last.

        Args:
            x: [B, T, D].
            state: What `initial_state` or an earlier call returned.
            reset: Bool [B, T]; true drops the state before that step.

        Returns:
            [B, T, H] and the state.
        """
        ...

    def reset_parameters(self) -> None:
        """Initialise every parameter by its role."""
        ...


def project(x_BTD: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x_t + b for every step, in one product.

    The result is [B, T, G] but lies in memory with time first, as the recurrences want it.
    """
    return torch.nn.functional.linear(x_BTD.transpose(0, 1), weight, bias).transpose(0, 1)
