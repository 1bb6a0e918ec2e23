"""Cross-entropy of a linear output layer, without ever holding all of its logits.

    nats_n = log sum_v exp(z_nv) - z_{n, y_n}          z = H W^T + b

With vocabularies of thousands this layer is nearly all the work and all the memory of a recurrent language
model, so rows are taken a chunk at a time, a chunk's logits stay in the cache, and the gradients are
computed while they are there. With p_nv = exp(z_nv - max_v z_nv) and Z_n = sum_v p_nv, c_n being the weight
of row n in the loss:

    dH_n = c_n ((p_n W) / Z_n - W_{y_n})
    dW   = sum_n p_n^T (c_n H_n / Z_n) - scatter(c_n H_n at y_n)       db likewise, with 1 in place of H_n

so the division by Z and the target's -1 touch only the small arrays, never the one of V columns. The idea of
fusing loss and projection is that of cut cross-entropy (Wijmans et al. 2024). The definition is
`reference.linear_cross_entropy`.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import product_dtype, without_autocast

# Axes: N rows, C rows of a chunk, D width, V vocabulary.

CHUNK_ELEMENTS = 1 << 21
"""Logits held at a time where LEAST_ROWS allows (8 MB in float32), in cache with what is used beside them."""

LEAST_ROWS = 256
"""Rows of a chunk at least, however large the vocabulary: every chunk reads and writes all of dW."""

Reduction = Literal["sum", "mean", "none"]


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    reduction: Reduction = "sum",
) -> Tensor:
    """Nats of each target under softmax(W h + b), summed, averaged or one by one.

    Args:
        hidden_ND: [N, D]; rows that do not count are left out by the caller, before the product.
        weight_VD: [V, D].
        bias_V: [V], or None.
        targets_N: Int64 [N], each in 0..V-1.
        reduction: "sum" and "mean" compute their gradients in the forward pass; "none" recomputes the
            logits when gradients are asked for.

    Returns:
        A scalar, or [N] for "none", in nats and in the dtype of `weight_VD`. The mean over no rows is zero.
    """
    if bias_V is None:
        bias_V = weight_VD.new_zeros(len(weight_VD))
    dtype = product_dtype(weight_VD)
    with without_autocast(weight_VD):
        nats: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND.to(weight_VD.dtype), weight_VD, bias_V, targets_N, reduction == "none", dtype
        )
    return nats / max(1, len(targets_N)) if reduction == "mean" else nats


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        by_row: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.dtype, ctx.by_row = dtype, by_row
        wants_gradients = any(ctx.needs_input_grad[:3])
        gradients = _Gradients(hidden, weight, bias) if wants_gradients and not by_row else None
        nats = _run(hidden, weight, bias, targets, dtype, gradients, None)
        if by_row:
            ctx.save_for_backward(hidden, weight, bias, targets)
            return nats
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        return nats.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        if ctx.by_row:
            hidden, weight, bias, targets = ctx.saved_tensors
            gradients = _Gradients(hidden, weight, bias)
            _run(hidden, weight, bias, targets, ctx.dtype, gradients, grad)
            return gradients.hidden, gradients.weight, gradients.bias, None, None, None
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        return d_hidden * grad, d_weight * grad, d_bias * grad, None, None, None


class _Gradients:
    """Where the gradients of a call are summed up."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor) -> None:
        self.hidden = torch.empty_like(hidden)
        self.weight = torch.zeros_like(weight)
        self.bias = torch.zeros_like(bias)


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    gradients: _Gradients | None,
    row_weights: Tensor | None,
) -> Tensor:
    """Nats of every row; with `gradients`, also the gradients of their sum weighted by `row_weights`."""
    low_weight, low_hidden, low_bias = weight.to(dtype), hidden.to(dtype), bias.to(dtype)
    nats = hidden.new_empty(len(hidden))
    rows = max(1, min(len(hidden), max(LEAST_ROWS, CHUNK_ELEMENTS // len(weight))))
    # One workspace for all chunks: fresh memory of this size would cost a page fault every few logits.
    low_workspace = low_hidden.new_empty(rows, len(weight))
    lowered = dtype != hidden.dtype
    workspace = hidden.new_empty(rows, len(weight)) if lowered else low_workspace
    for start in range(0, len(hidden), rows):
        chunk = slice(start, start + rows)
        y_C = targets[chunk]
        low_CV = torch.addmm(low_bias, low_hidden[chunk], low_weight.T, out=low_workspace[: len(y_C)])
        logits_CV = workspace[: len(y_C)].copy_(low_CV) if lowered else low_CV
        largest_C1 = logits_CV.amax(dim=1, keepdim=True)
        target_C1 = logits_CV.gather(1, y_C[:, None])
        p_CV = logits_CV.sub_(largest_C1).exp_()
        total_C1 = p_CV.sum(dim=1, keepdim=True)
        nats[chunk] = (largest_C1 + total_C1.log() - target_C1).squeeze(1)
        if gradients is None:
            continue
        weight_C1 = total_C1.new_ones(len(y_C), 1) if row_weights is None else row_weights[chunk, None]
        share_C1 = weight_C1 / total_C1
        low_p = low_CV.copy_(p_CV) if lowered else p_CV
        gradients.hidden[chunk] = (low_p @ low_weight).to(hidden.dtype).mul_(share_C1)
        gradients.hidden[chunk] -= weight[y_C] * weight_C1
        share_CD = (hidden[chunk] * share_C1).to(dtype)
        if dtype == weight.dtype:
            gradients.weight.addmm_(low_p.T, share_CD)
        else:
            gradients.weight += low_p.T @ share_CD
        gradients.weight.index_add_(0, y_C, hidden[chunk] * weight_C1, alpha=-1)
        gradients.bias += (p_CV.T @ share_C1).squeeze(1)
        gradients.bias.index_add_(0, y_C, weight_C1.squeeze(1), alpha=-1)
    return nats
