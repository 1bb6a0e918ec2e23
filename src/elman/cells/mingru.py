"""minGRU (Feng et al. 2024, "Were RNNs all we needed?", section 3.1 and appendix B).

    z, v = split(W x_t + b)
    h_t = (1 - sigmoid(z)) * h_{t-1} + sigmoid(z) * g(v)            g(v) = v + 1/2 if v >= 0, else sigmoid(v)

The gates see the input only, so that all of them are computed at once, and the recurrence that is left can be
computed in two forms that agree from any state: step by step, or all steps at once with the decays in log
space. The state is the hidden vector itself, after g; nothing in a state is ever put through g again.
"""

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman import ops
from elman.cells.base import project
from elman.errors import ConfigError

Form = Literal["auto", "sequential", "parallel"]
"""How a sequence is computed: step by step, all steps at once, or as its device does it faster."""


class MinGRUState(NamedTuple):
    """What crosses a token: the hidden vector, [B, H]."""

    h: Tensor


class MinGRUCell(nn.Module):
    """One minGRU layer. Input [B, T, D], output [B, T, H].

    `form` may be given, read and changed at any time; `resolve_form` says what "auto" comes to on a device.
    """

    def __init__(self, input_size: int, hidden_size: int, *, form: Form = "auto") -> None:
        super().__init__()
        self.form = require_form(form)
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
        if resolve_form(self.form, x.device) == "sequential":
            outputs, h = ops.mingru(x, self.weight_ih, self.bias, state.h, reset)
        else:
            z, v = project(x, self.weight_ih, self.bias).to(state.h.dtype).chunk(2, dim=-1)
            outputs, h = gated_scan(z, v, state.h, reset)
        return outputs, MinGRUState(h)

    def extra_repr(self) -> str:
        """What `print(model)` shows of the layer."""
        return f"form={self.form!r}"


def positive(v: Tensor) -> Tensor:
    """g(v): continuous, increasing, and above zero."""
    return torch.where(v >= 0, v + 0.5, torch.sigmoid(v))


def gated_scan(z: Tensor, v: Tensor, h: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Every h_t = sigmoid(-z_t) * h_{t-1} + sigmoid(z_t) * g(v_t), and the last of them, all steps at once.

    Args:
        z: [B, T, H], the logit of the share that is new.
        v: [B, T, H], the candidate before g.
        h: [B, H], the state before the first step.
        reset: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H].
    """
    return ops.parallel_scan(F.logsigmoid(-z), torch.sigmoid(z) * positive(v), h, reset)


def resolve_form(form: Form, device: torch.device) -> Form:
    """The form that runs on `device`: "auto" is sequential on a CPU and parallel on an accelerator.

    A step costs a CPU little more than its arithmetic, and a scan has more of that. An accelerator waits for the
    launch of every operation, and a scan has as many rounds of them as T has binary digits, not T.
    """
    if require_form(form) != "auto":
        return form
    return "sequential" if device.type == "cpu" else "parallel"


def require_form(form: Form) -> Form:
    """The form itself, where it is one.

    Raises:
        ConfigError: It is not.
    """
    if form not in get_args(Form):
        raise ConfigError(f"form ({form!r}) must be one of {', '.join(get_args(Form))}")
    return form
