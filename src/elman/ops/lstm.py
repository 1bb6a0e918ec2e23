"""The LSTM recurrence over a whole sequence, as one autograd function.

    i, f, g, o = split(pre_t + U h_{t-1})     pre_t = W x_t + b; rows ordered i, f, g, o, as in torch.nn.LSTM
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

Backward through time, with a_t the gradient that reaches h_t and e_t the one that reaches c_t from later
steps: the local slopes of all gates are computed for all steps at once, so that a step of the loop is one
product and five element-wise operations:

    e_t += a_t * slope_c                      slope_c = sigmoid(o) (1 - tanh(c)^2)
    d_t = [e_t, e_t, e_t, a_t] * slope_ifgo   the gradient of pre_t
    a_{t-1} += U^T d_t,  e_{t-1} = e_t * sigmoid(f)

Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), no peepholes. The definition is
`reference.lstm`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import product_dtype, without_autocast

# Axes: B batch, T time, H hidden width, G the four gates side by side (4 H). Inside, time comes first.


def lstm(
    pre_BTG: Tensor, weight_GH: Tensor, h_BH: Tensor, c_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Every output of an LSTM, and the two parts of its last state.

    Args:
        pre_BTG: [B, T, 4 H], input products plus bias, gates i, f, g, o.
        weight_GH: [4 H, H], recurrent weights as in torch.nn.LSTM.
        h_BH: [B, H], the output before the first step.
        c_BH: [B, H], the cell before the first step.
        reset_BT: Bool [B, T]; true drops both before that step.

    Returns:
        [B, T, H], [B, H] and [B, H], in the dtype of `h_BH`.
    """
    dtype = product_dtype(h_BH)
    pre_TBG = pre_BTG.transpose(0, 1).to(h_BH.dtype).contiguous()
    reset_TB1 = None if reset_BT is None else reset_BT.T.unsqueeze(-1)
    with without_autocast(h_BH):
        h_TBH, c_BH = _LSTM.apply(pre_TBG, weight_GH, h_BH, c_BH, reset_TB1, dtype)  # type: ignore[no-untyped-call]
    return h_TBH.transpose(0, 1), h_TBH[-1].clone(), c_BH  # a state must not keep the sequence alive


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre_TBG: Tensor,
        weight_GH: Tensor,
        h_BH: Tensor,
        c_BH: Tensor,
        reset_TB1: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        ctx.dtype = dtype
        weight_low = weight_GH.to(dtype)
        steps, batch, width = len(pre_TBG), *h_BH.shape
        gates_TBG = torch.empty_like(pre_TBG)
        h_TBH, c_TBH, squashed_TBH = (pre_TBG.new_empty(steps, batch, width) for _ in range(3))
        previous_h, previous_c = h_BH, c_BH
        for t in range(steps):
            if reset_TB1 is not None:
                previous_h = previous_h.masked_fill(reset_TB1[t], 0.0)
                previous_c = previous_c.masked_fill(reset_TB1[t], 0.0)
            product_BG = torch.mm(previous_h.to(dtype), weight_low.T)
            gates_BG = torch.add(pre_TBG[t], product_BG, out=gates_TBG[t])
            i_BH, f_BH, g_BH, o_BH = gates_BG.split(width, dim=-1)
            gates_BG[:, : 2 * width].sigmoid_()
            g_BH.tanh_()
            o_BH.sigmoid_()
            previous_c = torch.mul(f_BH, previous_c, out=c_TBH[t]).addcmul_(i_BH, g_BH)
            torch.tanh(previous_c, out=squashed_TBH[t])
            previous_h = torch.mul(o_BH, squashed_TBH[t], out=h_TBH[t])
        ctx.save_for_backward(weight_GH, h_BH, c_BH, reset_TB1, gates_TBG, h_TBH, c_TBH, squashed_TBH)
        return h_TBH, previous_c.clone()

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_TBH: Tensor, grad_c_BH: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        weight_GH, h_BH, c_BH, reset_TB1, gates_TBG, h_TBH, c_TBH, squashed_TBH = ctx.saved_tensors
        dtype, weight_low, width = ctx.dtype, weight_GH.to(ctx.dtype), h_BH.shape[-1]
        previous_h = torch.cat([h_BH[None], h_TBH[:-1]])
        previous_c = torch.cat([c_BH[None], c_TBH[:-1]])
        if reset_TB1 is not None:
            previous_h.masked_fill_(reset_TB1, 0.0)
            previous_c.masked_fill_(reset_TB1, 0.0)

        i, f, g, o = gates_TBG.split(width, dim=-1)
        slope_c = o * (1 - squashed_TBH * squashed_TBH)
        d_TBG = torch.cat(
            [g * i * (1 - i), previous_c * f * (1 - f), i * (1 - g * g), squashed_TBH * o * (1 - o)], dim=-1
        )
        d_TBGH = d_TBG.unflatten(-1, (4, width))

        a_BH, e_BH = torch.zeros_like(h_BH), grad_c_BH.clone()
        for t in reversed(range(len(d_TBG))):
            a_BH.add_(grad_TBH[t])
            e_BH.addcmul_(a_BH, slope_c[t])
            d_TBGH[t, :, :3].mul_(e_BH[:, None])
            d_TBGH[t, :, 3].mul_(a_BH)
            a_BH = torch.mm(d_TBG[t].to(dtype), weight_low).to(h_BH.dtype)
            e_BH.mul_(f[t])
            if reset_TB1 is not None:
                a_BH.masked_fill_(reset_TB1[t], 0.0)
                e_BH.masked_fill_(reset_TB1[t], 0.0)
        d_weight = d_TBG.flatten(0, 1).to(dtype).T @ previous_h.flatten(0, 1).to(dtype)
        return d_TBG, d_weight.to(weight_GH.dtype), a_BH, e_BH, None, None
