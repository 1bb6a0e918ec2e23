"""The GRU recurrence over a whole sequence, input products included, as one autograd function.

    r = sigmoid(W_r x_t + b_r + U_r h_{t-1})    rows ordered r, z, n, as in torch.nn.GRU
    z = sigmoid(W_z x_t + b_z + U_z h_{t-1})
    q = U_n h_{t-1} + c                         c is the bias inside the reset, torch's b_hn
    n = tanh(W_n x_t + b_n + r * q)
    h_t = (1 - z) * n + z * h_{t-1}

Backward through time, with a_t the gradient that reaches h_t:

    d^n = a_t (1 - z)(1 - n^2)    d^z = a_t (h_{t-1} - n) z (1 - z)    d^r = d^n q r (1 - r)
    a_{t-1} += z a_t + U^T [d^r, d^z, r d^n]

Cho et al. (2014), in the form of Chung et al. (2014) with the reset after the product, as cuDNN and torch have
it. The definition is `reference.gru`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops import reference, vendor
from elman.ops.dispatch import whole_sequence
from elman.ops.sequence import (
    add_product,
    drop,
    previous_states,
    product_gradients,
    states_with_first,
    symmetric_,
)

# Axes: B batch, T time, D input width, H hidden width, G the three gates side by side (3 H). Inside, time comes first.


def gru(
    x_BTD: Tensor,
    weight_GD: Tensor,
    weight_GH: Tensor,
    bias_G: Tensor,
    bias_H: Tensor,
    h_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Every hidden state of a GRU, and the last of them.

    Args:
        x_BTD: [B, T, D], the inputs.
        weight_GD: [3 H, D], input weights as in torch.nn.GRU, gates r, z, n.
        weight_GH: [3 H, H], recurrent weights.
        bias_G: [3 H].
        bias_H: [H], the bias inside the reset.
        h_BH: [B, H], the state before the first step.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    outputs, h_BH = whole_sequence(
        reference.gru, vendor.gru, _GRU, x_BTD, (weight_GD, weight_GH), (bias_G, bias_H), (h_BH,), reset_BT
    )
    return outputs, h_BH


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TBD: Tensor,
        weight_GD: Tensor,
        weight_GH: Tensor,
        bias_G: Tensor,
        bias_H: Tensor,
        h_BH: Tensor,
        dropped: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        steps, batch, width = len(x_TBD), *h_BH.shape
        h_all = states_with_first(h_BH, steps)
        gates_TBG, q_TBH = h_BH.new_empty(steps, batch, 3 * width), h_BH.new_empty(steps, batch, width)
        add_product(bias_G, x_TBD.flatten(0, 1), weight_GD.T, out=gates_TBG.flatten(0, 1))
        weight_rz, weight_n = weight_GH.T.split([2 * width, width], dim=-1)
        for t, gates_BG in enumerate(gates_TBG.unbind(0)):
            rz_BG, n_BH = gates_BG.split([2 * width, width], dim=-1)
            h_BH = drop(h_BH, dropped[t])
            r_BH, z_BH = add_product(rz_BG, h_BH, weight_rz, out=rz_BG).sigmoid_().split(width, dim=-1)
            q_BH = add_product(bias_H, h_BH, weight_n, out=q_TBH[t])
            symmetric_(n_BH.addcmul_(r_BH, q_BH).mul_(2).sigmoid_())
            h_BH = torch.lerp(n_BH, h_BH, z_BH, out=h_all[t + 1])
        ctx.dropped = dropped
        ctx.save_for_backward(x_TBD, weight_GD, weight_GH, h_all, gates_TBG, q_TBH)
        return h_all[1:], h_BH.clone()  # a state must not keep the whole sequence alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor, grad_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBD, weight_GD, weight_GH, h_all, gates_TBG, q_TBH = ctx.saved_tensors
        width, slope = q_TBH.shape[-1], torch.ops.aten
        # For n, r, z, and q: W has made the first three of them, in its rows rolled by one gate, and U the last three.
        d_TBG = gates_TBG.new_empty(*gates_TBG.shape[:-1], 4 * width)
        a_BH, work_BH = grad_TBH[-1] + grad_BH, torch.empty_like(grad_BH)
        above = [torch.zeros_like(grad_BH), *grad_TBH[:-1].unbind(0)]
        for t in reversed(range(len(d_TBG))):
            dropped_B1 = ctx.dropped[t]
            r_BH, z_BH, n_BH = gates_TBG[t].split(width, dim=-1)
            d_n, d_r, d_z, d_q = d_TBG[t].split(width, dim=-1)
            torch.sub(a_BH, torch.mul(a_BH, z_BH, out=work_BH), out=d_n)
            slope.tanh_backward.grad_input(d_n, n_BH, grad_input=d_n)
            slope.sigmoid_backward.grad_input(torch.mul(d_n, q_TBH[t], out=d_r), r_BH, grad_input=d_r)
            torch.sub(drop(h_all[t], dropped_B1), n_BH, out=d_z).mul_(a_BH)
            slope.sigmoid_backward.grad_input(d_z, z_BH, grad_input=d_z)
            torch.mul(d_n, r_BH, out=d_q)
            above_BH = drop(work_BH, dropped_B1).add(above[t])
            a_BH = add_product(above_BH, drop(d_TBG[t, :, width:], dropped_B1), weight_GH, out=a_BH)
        d_W, d_U = d_TBG[..., : 3 * width], d_TBG[..., width:]
        d_x, d_weight_x = product_gradients(
            d_W, x_TBD, weight_GD.roll(width, dims=0), wanted=ctx.needs_input_grad[0]
        )
        _, d_weight_h = product_gradients(d_U, previous_states(h_all, ctx.dropped), weight_GH, wanted=False)
        d_bias = d_TBG.sum(dim=(0, 1))
        d_bias_G, d_bias_H = d_bias[: 3 * width].roll(-width), d_bias[3 * width :]
        return d_x, d_weight_x.roll(-width, dims=0), d_weight_h, d_bias_G, d_bias_H, a_BH, None
