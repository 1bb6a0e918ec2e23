"""mLSTM (Beck et al. 2024, xLSTM, equations 19 to 27): an LSTM whose cell is a matrix, with heads.

    q, k, v, o, i, f = split(W x_t + b)                              i and f one number a head; k over sqrt(D)
    C_t = sigmoid(f) C_{t-1} + exp(i) v k^T
    n_t = sigmoid(f) n_{t-1} + exp(i) k
    h_t = sigmoid(o) * C_t q / max(|n_t . q|, 1)

Nothing depends on h_{t-1}, so that a whole sequence is a few large products (`ops.mlstm`). What is carried is C, n
and the exponent that is taken out of both; `docs/xlstm.md` derives this.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elman import ops
from elman.cells.base import project
from elman.cells.slstm import FORGET_BIAS, INPUT_GAIN, head_width
from elman.ops.mlstm import Form


class MLSTMState(NamedTuple):
    """What crosses a token: memory [B, N, D, D] and normaliser [B, N, D], both times exp(-m), and m [B, N]."""

    c: Tensor
    n: Tensor
    m: Tensor


class MLSTMCell(nn.Module):
    """One mLSTM layer. Input [B, T, D], output [B, T, H].

    `form` says how a sequence is computed, see `ops.mlstm`; a single step is always `recurrent`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_heads: int = 1, *, form: Form = "chunkwise"
    ) -> None:
        super().__init__()
        self.form = form
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.head_width = head_width(hidden_size, num_heads)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size + 2 * num_heads, input_size))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size + 2 * num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each role its own Xavier matrix; gates that remember and weigh all steps alike at first."""
        rows = [self.hidden_size] * 4 + [self.num_heads] * 2
        *matrices, input_gate, forget_gate = self.weight_ih.data.split(rows)
        for matrix in matrices:
            nn.init.xavier_uniform_(matrix)
        initialize_gates(input_gate, forget_gate, self.bias)

    def initial_state(self, batch_size: int) -> MLSTMState:
        """Zeros."""
        return empty_state(self.bias, batch_size, self.num_heads, self.head_width)

    def forward(self, x: Tensor, state: MLSTMState, reset: Tensor | None = None) -> tuple[Tensor, MLSTMState]:
        """See `Cell`."""
        pre = project(x, self.weight_ih, self.bias).to(state.c.dtype)
        *qkv, o, i, f = pre.split([self.hidden_size] * 4 + [self.num_heads] * 2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.num_heads, self.head_width)) for part in qkv)
        form = "recurrent" if x.shape[1] == 1 else self.form
        outputs, *after = ops.mlstm(q, k * self.head_width**-0.5, v, i, f, *state, reset, form=form)
        return o.sigmoid() * outputs.flatten(-2), MLSTMState(*after)

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        return f"form={self.form!r}"


def initialize_gates(input_gate: Tensor, forget_gate: Tensor, bias: Tensor) -> None:
    """Small weights for both gates; zero biases but the forget gate's, which are the last of them."""
    nn.init.xavier_uniform_(input_gate, INPUT_GAIN)
    nn.init.xavier_uniform_(forget_gate, INPUT_GAIN)
    nn.init.zeros_(bias)
    bias.data[-len(forget_gate) :].copy_(torch.linspace(*FORGET_BIAS, len(forget_gate)))


def empty_state(like: Tensor, batch_size: int, num_heads: int, width: int) -> MLSTMState:
    """The state before a document, in the dtype and on the device of `like`."""
    return MLSTMState(
        like.new_zeros(batch_size, num_heads, width, width),
        like.new_zeros(batch_size, num_heads, width),
        like.new_zeros(batch_size, num_heads),
    )
