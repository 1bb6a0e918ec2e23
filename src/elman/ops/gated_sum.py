"""minGRU and minLSTM over a whole sequence, step by step, input products included, as one autograd function.

    z, v = split(W x_t + b)                      minGRU:  u = sigmoid(z)
    f, i, v = split(W x_t + b)                   minLSTM: u = sigmoid(i) / (sigmoid(f) + sigmoid(i))
    h_t = h_{t-1} + u * (p - h_{t-1})            p = g(v) = v + 1/2 if v >= 0, else sigmoid(v)

Both move the state by a share u towards a candidate. Backward through time, with a_t the gradient that reaches h_t:

    du = a_t (p - h_{t-1})                       dp = a_t u
    dz = du u (1 - u)                            dv = dp if v >= 0, else dp p (1 - p)
    di = dz (1 - sigmoid(i))                     df = -dz (1 - sigmoid(f))        dz by the same formula
    a_{t-1} += a_t - dp

No step has a product, so a processor spends its time on memory; here a step reads and writes only what is its own,
where `ops.parallel_scan` and its gates pass over the whole sequence many times. Feng et al. (2024, sections 3.1 and
3.2). The definitions are `reference.mingru` and `reference.minlstm`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops import reference
from elman.ops.dispatch import whole_sequence
from elman.ops.sequence import (
    add_product,
    drop,
    product_gradients,
    states_with_first,
)

# Axes: B batch, T time, D input width, H hidden width, G gates side by side (2 H or 3 H). Inside, time comes first.


def mingru(
    x_BTD: Tensor, weight_GD: Tensor, bias_G: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every hidden state of a minGRU, and the last of them.

    Args:
        x_BTD: [B, T, D], the inputs.
        weight_GD: [2 H, D], rows z, v.
        bias_G: [2 H].
        h_BH: [B, H], the state before the first step.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    outputs, h_BH = whole_sequence(
        reference.mingru, None, _GatedSum, x_BTD, (weight_GD,), (bias_G,), (h_BH,), reset_BT
    )
    return outputs, h_BH


def minlstm(
    x_BTD: Tensor, weight_GD: Tensor, bias_G: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every hidden state of a minLSTM, and the last of them. As `mingru`, with 3 H rows f, i, v."""
    outputs, h_BH = whole_sequence(
        reference.minlstm, None, _GatedSum, x_BTD, (weight_GD,), (bias_G,), (h_BH,), reset_BT
    )
    return outputs, h_BH


SHUT = -60.0
"""Below it sigmoid is exp to the last digit, so that only the difference of two gates matters, not their size."""


def _beyond_shut(pair_B2H: Tensor) -> Tensor:
    """[B, 1, H]: how far both gates lie below `SHUT`; without it their ratio would be that of two zeros."""
    return pair_B2H.amax(dim=1, keepdim=True).clamp_(max=SHUT).sub_(SHUT)


class _GatedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TBD: Tensor,
        weight_GD: Tensor,
        bias_G: Tensor,
        h_BH: Tensor,
        dropped: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        steps, batch, width = len(x_TBD), *h_BH.shape
        states_TBH = states_with_first(h_BH, steps)
        gates_TBG = h_BH.new_empty(steps, batch, len(bias_G))
        add_product(bias_G, x_TBD.flatten(0, 1), weight_GD.T, out=gates_TBG.flatten(0, 1))
        u_TBH, p_TBH = gates_TBG[..., :width], gates_TBG[..., -width:]  # u takes the place of z, p that of v
        if len(bias_G) == 3 * width:
            u_TBH = torch.empty_like(states_TBH[1:])
        for t, gates_BG in enumerate(gates_TBG.unbind(0)):
            u_BH, v_BH = u_TBH[t], p_TBH[t]
            if len(bias_G) == 3 * width:
                pair_B2H = gates_BG[:, : 2 * width].unflatten(-1, (2, width))
                pair_B2H.sub_(_beyond_shut(pair_B2H)).sigmoid_()
                torch.div(pair_B2H[:, 1], pair_B2H.sum(dim=1), out=u_BH)
            else:
                u_BH.sigmoid_()
            low_BH = v_BH.clamp(max=0).sigmoid_()  # g without a branch: a half is what it adds to v >= 0
            p_BH = v_BH.clamp_(min=0).add_(low_BH)
            h_BH = torch.lerp(drop(h_BH, dropped[t]), p_BH, u_BH, out=states_TBH[t + 1])
        ctx.dropped = dropped
        ctx.save_for_backward(x_TBD, weight_GD, states_TBH, gates_TBG, u_TBH)
        return states_TBH[1:], h_BH.clone()  # a state must not keep the whole sequence alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor, grad_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBD, weight_GD, states_TBH, gates_TBG, u_TBH = ctx.saved_tensors
        d_TBG, width, slope = torch.empty_like(gates_TBG), u_TBH.shape[-1], torch.ops.aten
        a_BH = grad_BH.clone()
        dp_BH, dz_BH, work_BH = (torch.empty_like(grad_BH) for _ in range(3))
        for t in reversed(range(len(d_TBG))):
            u_BH, p_BH, dropped_B1 = u_TBH[t], gates_TBG[t, :, -width:], ctx.dropped[t]
            a_BH.add_(grad_TBH[t])
            torch.mul(a_BH, u_BH, out=dp_BH)
            torch.sub(p_BH, drop(states_TBH[t], dropped_B1), out=dz_BH).mul_(a_BH)
            slope.sigmoid_backward.grad_input(dz_BH, u_BH, grad_input=dz_BH)
            if d_TBG.shape[-1] == 3 * width:
                f_BH, i_BH, _ = gates_TBG[t].split(width, dim=-1)
                torch.addcmul(dz_BH, dz_BH, i_BH, value=-1, out=d_TBG[t, :, width : 2 * width])
                torch.addcmul(dz_BH.neg(), dz_BH, f_BH, out=d_TBG[t, :, :width])
            else:
                d_TBG[t, :, :width] = dz_BH
            # p is at least a half where v is at least zero; there p (1 - p), taken at a half, lacks three quarters.
            dv_BH = d_TBG[t, :, -width:]
            slope.sigmoid_backward.grad_input(
                dp_BH, torch.clamp(p_BH, max=0.5, out=work_BH), grad_input=dv_BH
            )
            dv_BH.addcmul_(torch.ge(p_BH, 0.5, out=work_BH), dp_BH, value=0.75)
            a_BH = drop(a_BH.sub_(dp_BH), dropped_B1)
        d_x, d_weight = product_gradients(d_TBG, x_TBD, weight_GD, wanted=ctx.needs_input_grad[0])
        return d_x, d_weight, d_TBG.sum(dim=(0, 1)), a_BH, None
