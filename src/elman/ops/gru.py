"""The GRU recurrence over a whole sequence, as one autograd function.

    r = sigmoid(pre^r_t + U_r h_{t-1})        pre_t = W x_t + b; rows ordered r, z, n, as in torch.nn.GRU
    z = sigmoid(pre^z_t + U_z h_{t-1})
    q = U_n h_{t-1} + c                       c is the bias inside the reset, torch's b_hn
    n = tanh(pre^n_t + r * q)
    h_t = (1 - z) * n + z * h_{t-1}

Backward through time, with a_t the gradient that reaches h_t; the slopes are computed for all steps at once:

    d^n = a_t * (1 - z)(1 - n^2)    d^z = a_t * (h_{t-1} - n) z (1 - z)    d^r = d^n * q r (1 - r)
    a_{t-1} = z a_t + U^T [d^r, d^z, r d^n]

Cho et al. (2014), in the form of Chung et al. (2014) with the reset after the product, as cuDNN and torch have
it. The definition is `reference.gru`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import product_dtype, without_autocast

# Axes: B batch, T time, H hidden width, G the three gates side by side (3 H). Inside, time comes first.


def gru(
    pre_BTG: Tensor, weight_GH: Tensor, bias_H: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every hidden state of a GRU, and the last of them.

    Args:
        pre_BTG: [B, T, 3 H], input products plus bias, gates r, z, n.
        weight_GH: [3 H, H], recurrent weights as in torch.nn.GRU.
        bias_H: [H], the bias inside the reset.
        h_BH: [B, H], the state before the first step.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    dtype = product_dtype(h_BH)
    pre_TBG = pre_BTG.transpose(0, 1).to(h_BH.dtype).contiguous()
    reset_TB1 = None if reset_BT is None else reset_BT.T.unsqueeze(-1)
    with without_autocast(h_BH):
        h_TBH = _GRU.apply(pre_TBG, weight_GH, bias_H, h_BH, reset_TB1, dtype)  # type: ignore[no-untyped-call]
    return h_TBH.transpose(0, 1), h_TBH[-1].clone()  # a state must not keep the whole sequence alive


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre_TBG: Tensor,
        weight_GH: Tensor,
        bias_H: Tensor,
        h_BH: Tensor,
        reset_TB1: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.dtype = dtype
        steps, batch, width = len(pre_TBG), *h_BH.shape
        weight_low = weight_GH.to(dtype)
        gates_TBG = torch.empty_like(pre_TBG)
        h_TBH, q_TBH = (pre_TBG.new_empty(steps, batch, width) for _ in range(2))
        previous_BH = h_BH
        for t in range(steps):
            if reset_TB1 is not None:
                previous_BH = previous_BH.masked_fill(reset_TB1[t], 0.0)
            product_BG = torch.mm(previous_BH.to(dtype), weight_low.T)
            rz_BG, n_BH = gates_TBG[t, :, : 2 * width], gates_TBG[t, :, 2 * width :]
            torch.add(pre_TBG[t, :, : 2 * width], product_BG[:, : 2 * width], out=rz_BG).sigmoid_()
            torch.add(product_BG[:, 2 * width :], bias_H, out=q_TBH[t])
            r_BH, z_BH = rz_BG.split(width, dim=-1)
            torch.addcmul(pre_TBG[t, :, 2 * width :], r_BH, q_TBH[t], out=n_BH).tanh_()
            previous_BH = torch.lerp(n_BH, previous_BH, z_BH, out=h_TBH[t])
        ctx.save_for_backward(weight_GH, h_BH, reset_TB1, gates_TBG, q_TBH, h_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None, None]:
        weight_GH, h_BH, reset_TB1, gates_TBG, q_TBH, h_TBH = ctx.saved_tensors
        dtype, weight_low, width = ctx.dtype, weight_GH.to(ctx.dtype), h_BH.shape[-1]
        previous_TBH = torch.cat([h_BH[None], h_TBH[:-1]])
        if reset_TB1 is not None:
            previous_TBH.masked_fill_(reset_TB1, 0.0)
        r, z, n = gates_TBG.split(width, dim=-1)
        slope_n = (1 - z) * (1 - n * n)
        slope_z = (previous_TBH - n) * z * (1 - z)
        slope_r = slope_n * q_TBH * r * (1 - r)
        slope_TBGH = torch.stack([slope_r, slope_z, slope_n * r], dim=2)  # of what U is multiplied with

        a_BH = torch.zeros_like(h_BH)
        a_TBH = torch.empty_like(h_TBH)
        for t in reversed(range(len(h_TBH))):
            torch.add(a_BH, grad_TBH[t], out=a_TBH[t])
            d_BG = (slope_TBGH[t] * a_TBH[t][:, None]).flatten(1)
            a_BH = torch.mm(d_BG.to(dtype), weight_low).to(h_BH.dtype).addcmul_(a_TBH[t], z[t])
            if reset_TB1 is not None:
                a_BH.masked_fill_(reset_TB1[t], 0.0)
        d_TBGH = slope_TBGH.mul_(a_TBH[:, :, None])
        d_weight = d_TBGH.flatten(2).flatten(0, 1).to(dtype).T @ previous_TBH.flatten(0, 1).to(dtype)
        d_pre = torch.cat([d_TBGH[:, :, 0], d_TBGH[:, :, 1], slope_n * a_TBH], dim=-1)
        d_bias = d_TBGH[:, :, 2].sum(dim=(0, 1))
        return d_pre, d_weight.to(weight_GH.dtype), d_bias, a_BH, None, None
