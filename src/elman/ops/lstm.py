"""The LSTM recurrence over a whole sequence, input products included, as one autograd function.

    i, f, g, o = split(W x_t + U h_{t-1} + b)   rows ordered i, f, g, o, as in torch.nn.LSTM
    c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
    h_t = sigmoid(o) * tanh(c_t)

Backward through time, with a_t the gradient that reaches h_t and e_t the one that reaches c_t, i to o the gates
after sigmoid and tanh, and q = tanh(c_t):

    e_t += a_t o (1 - q^2)
    d_t = [e_t g i (1 - i), e_t c_{t-1} f (1 - f), e_t i (1 - g^2), a_t q o (1 - o)]
    a_{t-1} += U^T d_t,  e_{t-1} = e_t f

Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), no peepholes. The definition is
`reference.lstm`.
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

# Axes: B batch, T time, D input width, H hidden width, G the four gates side by side (4 H). Inside, time comes first.


def lstm(
    x_BTD: Tensor,
    weight_GD: Tensor,
    weight_GH: Tensor,
    bias_G: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every output of an LSTM, and the two parts of its last state.

    Args:
        x_BTD: [B, T, D], the inputs.
        weight_GD: [4 H, D], input weights as in torch.nn.LSTM, gates i, f, g, o.
        weight_GH: [4 H, H], recurrent weights.
        bias_G: [4 H].
        h_BH: [B, H], the output before the first step.
        c_BH: [B, H], the cell before the first step.
        reset_BT: Bool [B, T]; true drops both before that step.

    Returns:
        [B, T, H], [B, H] and [B, H], in the dtype of `h_BH`.
    """
    outputs, h_BH, c_BH = whole_sequence(
        reference.lstm, vendor.lstm, _LSTM, x_BTD, (weight_GD, weight_GH), (bias_G,), (h_BH, c_BH), reset_BT
    )
    return outputs, h_BH, c_BH


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TBD: Tensor,
        weight_GD: Tensor,
        weight_GH: Tensor,
        bias_G: Tensor,
        h_BH: Tensor,
        c_BH: Tensor,
        dropped: list[Tensor | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, width = len(x_TBD), *h_BH.shape
        h_all, c_all = states_with_first(h_BH, steps), states_with_first(c_BH, steps)
        gates_TBG, q_TBH = h_BH.new_empty(steps, batch, 4 * width), h_BH.new_empty(steps, batch, width)
        add_product(bias_G, x_TBD.flatten(0, 1), weight_GD.T, out=gates_TBG.flatten(0, 1))
        for t, gates_BG in enumerate(gates_TBG.unbind(0)):
            add_product(gates_BG, drop(h_BH, dropped[t]), weight_GH.T, out=gates_BG)
            i_BH, f_BH, g_BH, o_BH = gates_BG.split(width, dim=-1)
            g_BH.mul_(2)
            gates_BG.sigmoid_()  # one call for all gates: the one for tanh has been doubled before
            symmetric_(g_BH)
            c_BH = torch.mul(f_BH, drop(c_BH, dropped[t]), out=c_all[t + 1]).addcmul_(i_BH, g_BH)
            q_BH = symmetric_(torch.mul(c_BH, 2, out=q_TBH[t]).sigmoid_())
            h_BH = torch.mul(o_BH, q_BH, out=h_all[t + 1])
        ctx.dropped = dropped
        ctx.save_for_backward(x_TBD, weight_GD, weight_GH, h_all, c_all, gates_TBG, q_TBH)
        return h_all[1:], h_BH.clone(), c_BH.clone()  # a state must not keep the whole sequence alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor, grad_h: Tensor, grad_c: Tensor) -> tuple[Tensor | None, ...]:
        x_TBD, weight_GD, weight_GH, h_all, c_all, gates_TBG, q_TBH = ctx.saved_tensors
        d_TBG, width, slope = torch.empty_like(gates_TBG), q_TBH.shape[-1], torch.ops.aten
        a_BH, e_BH, reached_BH = grad_TBH[-1] + grad_h, grad_c.clone(), torch.empty_like(grad_c)
        above = [torch.zeros_like(grad_h), *grad_TBH[:-1].unbind(0)]
        for t in reversed(range(len(d_TBG))):
            i_BH, f_BH, g_BH, o_BH = gates_TBG[t].split(width, dim=-1)
            d_i, d_f, d_g, d_o = d_TBG[t].split(width, dim=-1)
            torch.mul(a_BH, o_BH, out=reached_BH)
            e_BH.add_(slope.tanh_backward.grad_input(reached_BH, q_TBH[t], grad_input=reached_BH))
            slope.sigmoid_backward.grad_input(torch.mul(e_BH, g_BH, out=reached_BH), i_BH, grad_input=d_i)
            torch.mul(e_BH, drop(c_all[t], ctx.dropped[t]), out=reached_BH)
            slope.sigmoid_backward.grad_input(reached_BH, f_BH, grad_input=d_f)
            slope.tanh_backward.grad_input(torch.mul(e_BH, i_BH, out=reached_BH), g_BH, grad_input=d_g)
            slope.sigmoid_backward.grad_input(torch.mul(a_BH, q_TBH[t], out=reached_BH), o_BH, grad_input=d_o)
            add_product(above[t], drop(d_TBG[t], ctx.dropped[t]), weight_GH, out=a_BH)
            e_BH = drop(e_BH.mul_(f_BH), ctx.dropped[t])
        d_x, d_weight_x = product_gradients(d_TBG, x_TBD, weight_GD, wanted=ctx.needs_input_grad[0])
        _, d_weight_h = product_gradients(d_TBG, previous_states(h_all, ctx.dropped), weight_GH, wanted=False)
        return d_x, d_weight_x, d_weight_h, d_TBG.sum(dim=(0, 1)), a_BH, e_BH, None
