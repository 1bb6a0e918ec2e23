"""The Elman recurrence over a whole sequence, as one autograd function.

    h_t = tanh(pre_t + U h_{t-1})            pre_t = W x_t + b, computed for all t in one product beforehand

Backward through time, with a_t the gradient that reaches h_t:

    d_t = (1 - h_t^2) a_t                     the gradient of pre_t
    a_{t-1} += U^T d_t                        what flows to the step before
    dU = sum_t d_t h_{t-1}^T                  one product over all steps, after the loop

so a step costs one small product and a few element-wise operations, into memory allocated once (Elman 1990;
Werbos 1990 for the gradient). The definition is `reference.elman`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import product_dtype, without_autocast

# Axes: B batch, T time, H hidden width. Inside, time comes first, so that a step is one block of memory.


def elman(
    pre_BTH: Tensor, weight_HH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every hidden state of an Elman network, and the last of them.

    Args:
        pre_BTH: [B, T, H], input products plus bias.
        weight_HH: [H, H], recurrent weights as in torch.nn.RNN: row i makes unit i.
        h_BH: [B, H], the state before the first step.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    dtype = product_dtype(h_BH)
    pre_TBH = pre_BTH.transpose(0, 1).to(h_BH.dtype).contiguous()
    reset_TB1 = None if reset_BT is None else reset_BT.T.unsqueeze(-1)
    with without_autocast(h_BH):
        h_TBH = _Elman.apply(pre_TBH, weight_HH, h_BH, reset_TB1, dtype)  # type: ignore[no-untyped-call]
    return h_TBH.transpose(0, 1), h_TBH[-1].clone()  # a state must not keep the whole sequence alive


class _Elman(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre_TBH: Tensor,
        weight_HH: Tensor,
        h_BH: Tensor,
        reset_TB1: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.dtype = dtype
        weight_low = weight_HH.to(dtype)
        h_TBH = torch.empty_like(pre_TBH)
        previous_BH = h_BH
        for t in range(len(pre_TBH)):
            if reset_TB1 is not None:
                previous_BH = previous_BH.masked_fill(reset_TB1[t], 0.0)
            product_BH = torch.mm(previous_BH.to(dtype), weight_low.T)
            previous_BH = torch.add(pre_TBH[t], product_BH, out=h_TBH[t]).tanh_()
        ctx.save_for_backward(h_TBH, weight_HH, h_BH, reset_TB1)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        h_TBH, weight_HH, h_BH, reset_TB1 = ctx.saved_tensors
        dtype, weight_low = ctx.dtype, weight_HH.to(ctx.dtype)
        d_TBH = 1 - h_TBH * h_TBH
        carry_BH = torch.zeros_like(h_BH)
        for t in reversed(range(len(d_TBH))):
            d_TBH[t].mul_(carry_BH.add_(grad_TBH[t]))
            carry_BH = torch.mm(d_TBH[t].to(dtype), weight_low).to(h_BH.dtype)
            if reset_TB1 is not None:
                carry_BH.masked_fill_(reset_TB1[t], 0.0)
        previous_TBH = torch.cat([h_BH[None], h_TBH[:-1]])
        if reset_TB1 is not None:
            previous_TBH.masked_fill_(reset_TB1, 0.0)
        d_weight = d_TBH.flatten(0, 1).to(dtype).T @ previous_TBH.flatten(0, 1).to(dtype)
        return d_TBH, d_weight.to(weight_HH.dtype), carry_BH, None, None
