"""The two residual blocks of xLSTM (Beck et al. 2024, figures 10 and 11), each a cell like any other.

    MLSTMBlock    a, b = split(U norm(x))                            up to twice the width, two branches
                  s = SiLU(conv(a))                                  causal, depthwise, four steps wide
                  h = mLSTM(q = Q s, k = K s, v = V a, gates of s)   Q, K, V block-diagonal over the heads
                  y = x + D ((norm(h) + skip * s) * SiLU(b))         norm of every head by itself

    SLSTMBlock    s = SiLU(conv(norm(x)))
                  h = sLSTM(z, o of norm(x), gates i, f of s)
                  x' = x + norm(h)
                  a, b = split(U norm(x')),  y = x' + D (GELU(a) * b)    four thirds of the width

Where the input has another width than the block, a bias-free matrix brings it there first. A stack of blocks is a
stack of cells. The state is that of the recurrence and the last inputs of the convolution.

Axes: B batch, T time, D width, N heads, P steps before the present one that the convolution sees.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman import ops
from elman.cells import mlstm, slstm
from elman.ops.mlstm import Form

EPSILON = 1e-5
"""Added to mean squares and variances; what a head has forgotten all of is not blown up to size one."""

REACH = 3
"""P: the convolution sees this many steps before the present one."""


class MLSTMBlockState(NamedTuple):
    """What crosses a token: the convolution's last inputs [B, P, D], then as in `MLSTMState`."""

    inputs: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


class MLSTMBlock(nn.Module):
    """An mLSTM between two projections. Input [B, T, D], output [B, T, H].

    `form` is that of `MLSTMCell`; the heads share the inner width, 2 H.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_heads: int = 1, *, form: Form = "chunkwise"
    ) -> None:
        super().__init__()
        self.form = form
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        inner = 2 * hidden_size
        self.head_width = slstm.head_width(inner, num_heads)
        self.enter = _width_changer(input_size, hidden_size)
        self.gain = nn.Parameter(torch.empty(hidden_size))
        self.up = nn.Linear(hidden_size, 2 * inner, bias=False)
        self.convolution = CausalConvolution(inner)
        self.query_key = nn.Parameter(torch.empty(2, num_heads, self.head_width, self.head_width))
        self.value = nn.Parameter(torch.empty(num_heads, self.head_width, self.head_width))
        self.gates = nn.Linear(inner, 2 * num_heads)
        self.head_gain = nn.Parameter(torch.empty(inner))
        self.skip = nn.Parameter(torch.empty(inner))
        self.down = nn.Linear(inner, hidden_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier matrices, plain norms, an open way around the memory, gates as in `MLSTMCell`."""
        for linear in (self.enter, self.up, self.down):
            _reset_linear(linear)
        self.convolution.reset_parameters()
        for matrix in (*self.query_key.data.flatten(0, 1), *self.value.data):
            nn.init.xavier_uniform_(matrix)
        input_gate, forget_gate = self.gates.weight.data.chunk(2)
        mlstm.initialize_gates(input_gate, forget_gate, self.gates.bias)
        for gain in (self.gain, self.head_gain):
            nn.init.zeros_(gain)
        nn.init.ones_(self.skip)

    def initial_state(self, batch_size: int) -> MLSTMBlockState:
        """Zeros."""
        memory = mlstm.empty_state(self.gain, batch_size, self.num_heads, self.head_width)
        return MLSTMBlockState(self.convolution.initial_state(batch_size), *memory)

    def forward(
        self, x: Tensor, state: MLSTMBlockState, reset: Tensor | None = None
    ) -> tuple[Tensor, MLSTMBlockState]:
        """See `Cell`."""
        x = self.enter(x).to(self.gain.dtype)  # under autocast, the sums stay as they are
        stored, gate = self.up(_norm(x, self.gain)).chunk(2, dim=-1)
        seen, inputs = self.convolution(stored, state.inputs, reset)
        seen = F.silu(seen)
        heads = (self.num_heads, self.head_width)
        q, k = torch.einsum("btnd,rned->rbtne", seen.unflatten(-1, heads), self.query_key)
        v = torch.einsum("btnd,ned->btne", stored.unflatten(-1, heads), self.value)
        i, f = self.gates(seen).chunk(2, dim=-1)
        form = "recurrent" if x.shape[1] == 1 else self.form
        k = k * self.head_width**-0.5
        h, *memory = ops.mlstm(q, k, v, i, f, state.c, state.n, state.m, reset, form=form)
        h = _head_norm(h, self.head_gain) + self.skip * seen
        return x + self.down(h * F.silu(gate)), MLSTMBlockState(inputs, *memory)

    def extra_repr(self) -> str:
        """What `print(model)` shows of the block."""
        return f"form={self.form!r}"


class SLSTMBlockState(NamedTuple):
    """What crosses a token: the convolution's last inputs [B, P, D], then as in `SLSTMState`."""

    inputs: Tensor
    h: Tensor
    c: Tensor
    m: Tensor


class SLSTMBlock(nn.Module):
    """An sLSTM and a gated network after it. Input [B, T, D], output [B, T, H]."""

    def __init__(self, input_size: int, hidden_size: int, num_heads: int = 1) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        width, inner = slstm.head_width(hidden_size, num_heads), round(hidden_size * 4 / 3)
        self.enter = _width_changer(input_size, hidden_size)
        self.gain = nn.Parameter(torch.empty(hidden_size))
        self.convolution = CausalConvolution(hidden_size)
        self.weight_zo = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        self.weight_if = nn.Parameter(torch.empty(2 * hidden_size, hidden_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, width))
        self.bias = nn.Parameter(torch.empty(4 * hidden_size))
        self.head_gain = nn.Parameter(torch.empty(hidden_size))
        self.network_gain = nn.Parameter(torch.empty(hidden_size))
        self.up = nn.Linear(hidden_size, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier matrices, plain norms, gates and recurrence as in `SLSTMCell`."""
        for linear in (self.enter, self.up, self.down):
            _reset_linear(linear)
        self.convolution.reset_parameters()
        matrices = (*self.weight_zo.data.chunk(2), *self.weight_if.data.chunk(2))
        for matrix, gain in zip(matrices, (1.0, 1.0, slstm.INPUT_GAIN, 1.0), strict=True):
            nn.init.xavier_uniform_(matrix, gain)
        slstm.initialize_recurrence(self.weight_hh, self.bias, self.num_heads)
        for gain_vector in (self.gain, self.head_gain, self.network_gain):
            nn.init.zeros_(gain_vector)

    def initial_state(self, batch_size: int) -> SLSTMBlockState:
        """Zeros, and the logarithm of no normaliser."""
        memory = slstm.empty_state(self.bias, batch_size)
        return SLSTMBlockState(self.convolution.initial_state(batch_size), *memory)

    def forward(
        self, x: Tensor, state: SLSTMBlockState, reset: Tensor | None = None
    ) -> tuple[Tensor, SLSTMBlockState]:
        """See `Cell`."""
        x = self.enter(x).to(self.gain.dtype)  # under autocast, the sums stay as they are
        normed = _norm(x, self.gain)
        seen, inputs = self.convolution(normed, state.inputs, reset)
        z, o = F.linear(normed, self.weight_zo).chunk(2, dim=-1)
        i, f = F.linear(F.silu(seen), self.weight_if).chunk(2, dim=-1)
        pre = torch.cat([z, i, f, o], dim=-1) + self.bias
        h, *memory = ops.slstm(pre, self.weight_hh, state.h, state.c, state.m, reset)
        x = x + _head_norm(h.unflatten(-1, (self.num_heads, -1)), self.head_gain)
        a, b = self.up(_norm(x, self.network_gain)).chunk(2, dim=-1)
        return x + self.down(F.gelu(a) * b), SLSTMBlockState(inputs, *memory)


class CausalConvolution(nn.Module):
    """y_t = b + w_0 x_{t-P} + ... + w_P x_t, channel by channel; zeros stand before a document."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(REACH + 1, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The size of the input is kept; zero bias."""
        nn.init.uniform_(self.weight, -((3 / (REACH + 1)) ** 0.5), (3 / (REACH + 1)) ** 0.5)
        nn.init.zeros_(self.bias)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, [B, P, D]."""
        return self.bias.new_zeros(batch_size, REACH, len(self.bias))

    def forward(self, x: Tensor, before: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs [B, T, D] and the last P inputs [B, P, D], of which those before a reset are zero."""
        steps = x.shape[1]
        inputs = torch.cat([before, x.to(before.dtype)], dim=1)
        document = None if reset is None else F.pad(reset.cumsum(dim=1), (REACH, 0))
        y = self.bias
        for tap, weight in enumerate(self.weight):
            seen = inputs[:, tap : tap + steps]
            if document is not None:
                seen = _without(document[:, tap : tap + steps] != document[:, REACH:], seen)
            y = y + weight * seen
        last = inputs[:, -REACH:].clone()  # a state must not keep the sequence alive
        if document is not None:
            last = _without(document[:, -REACH:] != document[:, -1:], last)
        return y, last


def _without(other_BT: Tensor, x_BTD: Tensor) -> Tensor:
    """Zeros for the steps that belong to another document."""
    return x_BTD.masked_fill(other_BT[..., None], 0.0)


def _width_changer(input_size: int, hidden_size: int) -> nn.Module:
    return nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size, bias=False)


def _reset_linear(linear: nn.Module) -> None:
    if isinstance(linear, nn.Linear):
        nn.init.xavier_uniform_(linear.weight)


# A gain is kept as its distance from one, so that what zeroes or shrinks vectors leaves a plain norm.


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], 1 + gain, EPSILON)


def _head_norm(x_BTND: Tensor, gain: Tensor) -> Tensor:
    """Every head brought to mean zero and variance one by itself, then side by side: [B, T, N D]."""
    return F.layer_norm(x_BTND, x_BTND.shape[-1:], eps=EPSILON).flatten(-2) * (1 + gain)
