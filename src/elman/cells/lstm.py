"""LSTM (Hochreiter & Schmidhuber 1997) with a forget gate (Gers et al. 2000), no peepholes, one bias.

i, f, g, o = split(W x_t + U h_{t-1} + b)         rows ordered i, f, g, o, as in torch.nn.LSTM
c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
h_t = sigmoid(o) * tanh(c_t)
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elman import ops

FORGET_BIAS = 1.0
"""Starts the forget gate at 0.73 instead of 0.5, so that gradients reach back (Jozefowicz et al. 2015)."""


class LSTMState(NamedTuple):
    """What crosses a token: the output and the cell, each [B, H]."""

    h: Tensor
    c: Tensor


class LSTMCell(nn.Module):
    """One LSTM layer. Input [B, T, D], output [B, T, H]."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each gate its own Xavier and orthogonal matrix; zero biases but the forget gate's."""
        for matrix in self.weight_ih.data.chunk(4):
            nn.init.xavier_uniform_(matrix)
        for matrix in self.weight_hh.data.chunk(4):
            nn.init.orthogonal_(matrix)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.bias.data.chunk(4)[1], FORGET_BIAS)

    def initial_state(self, batch_size: int) -> LSTMState:
        """Zeros."""
        return LSTMState(*(self.bias.new_zeros(batch_size, self.hidden_size) for _ in LSTMState._fields))

    def forward(self, x: Tensor, state: LSTMState, reset: Tensor | None = None) -> tuple[Tensor, LSTMState]:
        """See `Cell`."""
        outputs, h, c = ops.lstm(x, self.weight_ih, self.weight_hh, self.bias, state.h, state.c, reset)
        return outputs, LSTMState(h, c)
