"""The simple recurrent network (Elman 1990), with one bias.

    h_t = tanh(W x_t + U h_{t-1} + b)

The chapter writes x_t W_h + h_{t-1} U_h + b_h: its matrices are the transposes of these, which are laid out
as torch.nn.RNN lays them out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elman import ops


class ElmanState(NamedTuple):
    """What crosses a token: the hidden vector, [B, H]."""

    h: Tensor


class ElmanCell(nn.Module):
    """One layer of Elman's network. Input [B, T, D], output [B, T, H]."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Orthogonal recurrence (norms neither grow nor fade), Xavier input matrix, zero bias."""
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)
        nn.init.zeros_(self.bias)

    def initial_state(self, batch_size: int) -> ElmanState:
        """Zeros, as in the chapter."""
        return ElmanState(self.bias.new_zeros(batch_size, len(self.bias)))

    def forward(self, x: Tensor, state: ElmanState, reset: Tensor | None = None) -> tuple[Tensor, ElmanState]:
        """See `Cell`."""
        outputs, h = ops.elman(x, self.weight_ih, self.weight_hh, self.bias, state.h, reset)
        return outputs, ElmanState(h)
