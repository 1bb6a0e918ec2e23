"""sLSTM (Beck et al. 2024, xLSTM, equations 8 to 18): an LSTM whose input gate is an exponential, with heads.

    z, i, f, o = split(W x_t + R h_{t-1} + b)                       rows ordered z, i, f, o
    c_t = sigmoid(f) * c_{t-1} + exp(i) * tanh(z)
    n_t = sigmoid(f) * n_{t-1} + exp(i)
    h_t = sigmoid(o) * c_t / n_t

The cell is a running mean of tanh(z), weighted by how much each step matters beside all others, so that a step can
take the place of a long past at once. Heads mix their own outputs only: R is block-diagonal. What is carried is
c / n and log n, which neither overflow nor vanish; `docs/xlstm.md` derives this.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from elman import ops
from elman.cells.base import project
from elman.errors import ConfigError
from elman.ops.reference import LOG_OF_NOTHING

FORGET_BIAS = (3.0, 6.0)
"""The forget gates of a head start evenly between these: memories of about 20 to 400 tokens (paper, appendix D)."""

INPUT_GAIN = 0.1
"""Makes the weights of the input gate small: all steps matter alike until the network has learned which do more."""


class SLSTMState(NamedTuple):
    """What crosses a token, each [B, H]: the output, the cell over its normaliser, and log of the normaliser."""

    h: Tensor
    c: Tensor
    m: Tensor


class SLSTMCell(nn.Module):
    """One sLSTM layer. Input [B, T, D], output [B, T, H]."""

    def __init__(self, input_size: int, hidden_size: int, num_heads: int = 1) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, head_width(hidden_size, num_heads)))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each gate its own Xavier matrix, orthogonal within a head; gates that remember and weigh alike."""
        for matrix, gain in zip(self.weight_ih.data.chunk(4), (1.0, INPUT_GAIN, 1.0, 1.0), strict=True):
            nn.init.xavier_uniform_(matrix, gain)
        initialize_recurrence(self.weight_hh, self.bias, self.num_heads)

    def initial_state(self, batch_size: int) -> SLSTMState:
        """No output, no cell, and the logarithm of no normaliser."""
        return empty_state(self.bias, batch_size)

    def forward(self, x: Tensor, state: SLSTMState, reset: Tensor | None = None) -> tuple[Tensor, SLSTMState]:
        """See `Cell`."""
        pre = project(x, self.weight_ih, self.bias)
        outputs, *after = ops.slstm(pre, self.weight_hh, *state, reset)
        return outputs, SLSTMState(*after)


def head_width(hidden_size: int, num_heads: int) -> int:
    """Columns of one head.

    Raises:
        ConfigError: The heads do not divide the width.
    """
    if num_heads < 1 or hidden_size % num_heads:
        raise ConfigError(
            f"num_heads ({num_heads}) must divide the width of the state ({hidden_size}):"
            " change num_heads or hidden_size"
        )
    return hidden_size // num_heads


def initialize_recurrence(weight_hh: Tensor, bias: Tensor, num_heads: int) -> None:
    """Orthogonal blocks, small for the input gate; zero biases but the forget gate's."""
    width = weight_hh.shape[-1]
    for gate, matrix in enumerate(weight_hh.data.chunk(4)):
        for block in matrix.split(width):
            nn.init.orthogonal_(block, INPUT_GAIN if gate == 1 else 1.0)
    nn.init.zeros_(bias)
    bias.data.chunk(4)[2].copy_(torch.linspace(*FORGET_BIAS, width).repeat(num_heads))


def empty_state(like: Tensor, batch_size: int) -> SLSTMState:
    """The state before a document, in the dtype and on the device of `like`, [4 H]."""
    shape = batch_size, len(like) // 4
    return SLSTMState(like.new_zeros(shape), like.new_zeros(shape), like.new_full(shape, LOG_OF_NOTHING))
