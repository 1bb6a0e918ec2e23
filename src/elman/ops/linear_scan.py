"""A gated sum over time, step by step, as one autograd function: the recurrence of minGRU and minLSTM.

    h_t = a_t * h_{t-1} + b_t

Backward through time, with g_t the gradient that reaches h_t:

    db_t = g_t       da_t = g_t * h_{t-1}       g_{t-1} += a_t * g_t

Nothing is multiplied by a matrix, so a step is one element-wise operation. On a CPU this loop is faster than
`ops.parallel_scan`, which takes all steps at once with more work, unless a step is too small to keep the processor
busy. The definition is `reference.linear_scan`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import without_autocast

# Axes: B batch, T time, H hidden width. Inside, time comes first.


def linear_scan(
    a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t = a_t * h_{t-1} + b_t, and the last of them.

    Args:
        a_BTH: [B, T, H], the share of the state that is kept.
        b_BTH: [B, T, H], what is added.
        h_BH: [B, H], the state before the first step.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    a_TBH, b_TBH = (x.transpose(0, 1).to(h_BH.dtype).contiguous() for x in (a_BTH, b_BTH))
    reset_TB1 = None if reset_BT is None else reset_BT.T.unsqueeze(-1)
    with without_autocast(h_BH):
        h_TBH = _LinearScan.apply(a_TBH, b_TBH, h_BH, reset_TB1)  # type: ignore[no-untyped-call]
    return h_TBH.transpose(0, 1), h_TBH[-1].clone()  # a state must not keep the whole sequence alive


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a_TBH: Tensor, b_TBH: Tensor, h_BH: Tensor, reset_TB1: Tensor | None) -> Tensor:
        h_TBH = torch.empty_like(b_TBH)
        previous_BH = h_BH
        for t in range(len(a_TBH)):
            if reset_TB1 is not None:
                previous_BH = previous_BH.masked_fill(reset_TB1[t], 0.0)
            previous_BH = torch.addcmul(b_TBH[t], a_TBH[t], previous_BH, out=h_TBH[t])
        ctx.save_for_backward(a_TBH, h_BH, reset_TB1, h_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        a_TBH, h_BH, reset_TB1, h_TBH = ctx.saved_tensors
        g_TBH = torch.empty_like(h_TBH)
        carry_BH = torch.zeros_like(h_BH)
        for t in reversed(range(len(a_TBH))):
            torch.add(carry_BH, grad_TBH[t], out=g_TBH[t])
            carry_BH = g_TBH[t] * a_TBH[t]
            if reset_TB1 is not None:
                carry_BH.masked_fill_(reset_TB1[t], 0.0)
        previous_TBH = torch.cat([h_BH[None], h_TBH[:-1]])
        if reset_TB1 is not None:
            previous_TBH.masked_fill_(reset_TB1, 0.0)
        return g_TBH * previous_TBH, g_TBH, carry_BH, None
