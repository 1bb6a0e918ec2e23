"""GRU (Cho et al. 2014), with the reset after the recurrent product, as in torch.nn.GRU.

    r, z = sigmoid of split(W x_t + b + U h_{t-1})           rows ordered r, z, n
    n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c))
    h_t = (1 - z) * n + z * h_{t-1}

torch.nn.GRU has two biases for r and z, of which only the sum matters; here they are one.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elman import ops


class GRUState(NamedTuple):
    """What crosses a token: the hidden vector, [B, H]."""

    h: Tensor


class GRUCell(nn.Module):
    """One GRU layer. Input [B, T, D], output [B, T, H]."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hn = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each gate its own Xavier and orthogonal matrix; zero biases."""
        for matrix in self.weight_ih.data.chunk(3):
            nn.init.xavier_uniform_(matrix)
        for matrix in self.weight_hh.data.chunk(3):
            nn.init.orthogonal_(matrix)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.bias_hn)

    def initial_state(self, batch_size: int) -> GRUState:
        """Zeros."""
        return GRUState(self.bias.new_zeros(batch_size, self.hidden_size))

    def forward(self, x: Tensor, state: GRUState, reset: Tensor | None = None) -> tuple[Tensor, GRUState]:
        """See `Cell`."""
        outputs, h = ops.gru(x, self.weight_ih, self.weight_hh, self.bias, self.bias_hn, state.h, reset)
        return outputs, GRUState(h)
