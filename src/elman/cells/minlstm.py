"""minLSTM (Feng et al. 2024, section 3.2 and appendix B), with the two gates normalised to a sum of one.

    f, i, v = split(W x_t + b)
    F = sigmoid(f) / (sigmoid(f) + sigmoid(i))                       I = 1 - F
    h_t = F * h_{t-1} + I * g(v)                                    g as in minGRU

Both forms keep the digits of F when both gates are nearly shut; the parallel one computes it as
sigmoid(log sigmoid(f) - log sigmoid(i)).
The recurrence has the two forms of minGRU.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman import ops
from elman.cells.base import project
from elman.cells.mingru import Form, gated_scan, require_form, resolve_form


class MinLSTMState(NamedTuple):
    """What crosses a token: the hidden vector, [B, H]."""

    h: Tensor


class MinLSTMCell(nn.Module):
    """One minLSTM layer. Input [B, T, D], output [B, T, H]. `form` as in `MinGRUCell`."""

    def __init__(self, input_size: int, hidden_size: int, *, form: Form = "auto") -> None:
        super().__init__()
        self.form = require_form(form)
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.bias = nn.Parameter(torch.empty(3 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each matrix its own Xavier; zero biases."""
        for matrix in self.weight_ih.data.chunk(3):
            nn.init.xavier_uniform_(matrix)
        nn.init.zeros_(self.bias)

    def initial_state(self, batch_size: int) -> MinLSTMState:
        """Zeros."""
        return MinLSTMState(self.bias.new_zeros(batch_size, self.hidden_size))

    def forward(
        self, x: Tensor, state: MinLSTMState, reset: Tensor | None = None
    ) -> tuple[Tensor, MinLSTMState]:
        """See `Cell`."""
        if resolve_form(self.form, x.device) == "sequential":
            outputs, h = ops.minlstm(x, self.weight_ih, self.bias, state.h, reset)
        else:
            f, i, v = project(x, self.weight_ih, self.bias).to(state.h.dtype).chunk(3, dim=-1)
            outputs, h = gated_scan(F.logsigmoid(i) - F.logsigmoid(f), v, state.h, reset)
        return outputs, MinLSTMState(h)

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        return f"form={self.form!r}"
