"""minGRU (Feng et al. 2024, "Were RNNs all we needed?", section 3.1 and appendix B).

    z, v = split(W x_t + b)
    h_t = (1 - sigmoid(z)) * h_{t-1} + sigmoid(z) * g(v)            g(v) = v + 1/2 if v >= 0, else sigmoid(v)

The gates see the input only, so that all of them are computed at once, and h stays positive, as the paper's
parallel form in log space needs it. The state is the hidden vector itself, after g.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elman import ops
from elman.cells.base import project


class MinGRUState(NamedTuple):
    """What crosses a token: the hidden vector, [B, H]."""

    h: Tensor


class MinGRUCell(nn.Module):
    """One minGRU layer. Input [B, T, D], output [B, T, H]."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(2 * hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(2 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each matrix its own Xavier; zero biases."""
        for matrix in self.weight_ih.data.chunk(2):
            nn.init.xavier_uniform_(matrix)
        nn.init.zeros_(self.bias)

    def initial_state(self, batch_size: int) -> MinGRUState:
        """Zeros."""
        return MinGRUState(self.bias.new_zeros(batch_size, self.hidden_size))

    def forward(
        self, x: Tensor, state: MinGRUState, reset: Tensor | None = None
    ) -> tuple[Tensor, MinGRUState]:
        """See `Cell`."""
        z, v = project(x, self.weight_ih, self.bias).to(state.h.dtype).chunk(2, dim=-1)
        outputs, h = ops.linear_scan(torch.sigmoid(-z), torch.sigmoid(z) * positive(v), state.h, reset)
        return outputs, MinGRUState(h)


def positive(v: Tensor) -> Tensor:
    """g(v): continuous, increasing, and above zero."""
    return torch.where(v >= 0, v + 0.5, torch.sigmoid(v))
