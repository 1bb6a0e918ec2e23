"""The Elman recurrence over a whole sequence, input products included, as one autograd function.

    h_t = tanh(W x_t + U h_{t-1} + b)        W x_t + b for all t in one product, before the loop

Backward through time, with a_t the gradient that reaches h_t:

    d_t = (1 - h_t^2) a_t                     the gradient of what tanh is taken of
    a_{t-1} += U^T d_t                        what flows to the step before
    dU = sum_t d_t h_{t-1}^T                  one product over all steps, after the loop; dW and dx alike

so a step costs one small product and one or two element-wise operations, into memory allocated once (Elman 1990;
Werbos 1990 for the gradient). The definition is `reference.elman`.
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

# Axes: B batch, T time, D input width, H hidden width. Inside, time comes first.


def elman(
    x_BTD: Tensor,
    weight_HD: Tensor,
    weight_HH: Tensor,
    bias_H: Tensor,
    h_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Every hidden state of an Elman network, and the last of them.

    Args:
        x_BTD: [B, T, D], the inputs.
        weight_HD: [H, D], input weights as in torch.nn.RNN: row i makes unit i.
        weight_HH: [H, H], recurrent weights.
        bias_H: [H].
        h_BH: [B, H], the state before the first step.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    outputs, h_BH = whole_sequence(
        reference.elman, vendor.elman, _Elman, x_BTD, (weight_HD, weight_HH), (bias_H,), (h_BH,), reset_BT
    )
    return outputs, h_BH


class _Elman(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TBD: Tensor,
        weight_HD: Tensor,
        weight_HH: Tensor,
        bias_H: Tensor,
        h_BH: Tensor,
        dropped: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        states_TBH = states_with_first(h_BH, len(x_TBD))
        h_TBH = states_TBH[1:]
        add_product(bias_H, x_TBD.flatten(0, 1), weight_HD.T, out=h_TBH.flatten(0, 1))
        for next_BH, dropped_B1 in zip(h_TBH.unbind(0), dropped, strict=True):
            add_product(next_BH, drop(h_BH, dropped_B1), weight_HH.T, out=next_BH, times=2)
            h_BH = symmetric_(next_BH.sigmoid_())
        ctx.dropped = dropped
        ctx.save_for_backward(x_TBD, weight_HD, weight_HH, states_TBH)
        return h_TBH, h_BH.clone()  # a state must not keep the whole sequence alive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor, grad_BH: Tensor) -> tuple[Tensor | None, ...]:
        x_TBD, weight_HD, weight_HH, states_TBH = ctx.saved_tensors
        d_TBH = torch.empty_like(states_TBH[1:])
        a_BH = grad_TBH[-1] + grad_BH
        above = [torch.zeros_like(grad_BH), *grad_TBH[:-1].unbind(0)]
        for t in reversed(range(len(d_TBH))):
            d_BH = torch.ops.aten.tanh_backward.grad_input(a_BH, states_TBH[t + 1], grad_input=d_TBH[t])
            add_product(above[t], drop(d_BH, ctx.dropped[t]), weight_HH, out=a_BH)
        d_x, d_weight_x = product_gradients(d_TBH, x_TBD, weight_HD, wanted=ctx.needs_input_grad[0])
        _, d_weight_h = product_gradients(
            d_TBH, previous_states(states_TBH, ctx.dropped), weight_HH, wanted=False
        )
        return d_x, d_weight_x, d_weight_h, d_TBH.sum(dim=(0, 1)), a_BH, None
