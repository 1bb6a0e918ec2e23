"""Sampled softmax: cross-entropy with the partition sum estimated from negatives that the whole batch shares.

    Z_n = exp(z_{n,y_n}) + sum over s in S, s != y_n, of exp(z_ns + log w_s)        z_nv = H_n . W_v + b_v
    nats_n = log Z_n - z_{n,y_n}

S holds word v with probability pi_v and w_v = 1 / pi_v, so each negative stands for the 1 / pi_v words it was
drawn among (Horvitz & Thompson 1952) and the mean of Z_n over the draws is the whole sum over the vocabulary,
whatever pi > 0. The logarithm of an unbiased sum is below the logarithm of its mean: the nats are a little
low on average, so they train a model but do not score it. With every word in S and weights of 1 they are
exact. Bengio & Senecal (2003, 2008); one set for a whole batch: Jean et al. (2015).

With p_ns = exp(z_ns + log w_s - m_n), p_n that of the target, Z_n = p_n + sum_s p_ns and c_n the gradient that
reaches nats_n:

    dH_n = (p_n W_S) c_n / Z_n + g_n W_{y_n}                 g_n = (p_n / Z_n - 1) c_n
    dW_S = sum_n p_ns^T (c_n H_n / Z_n)     dW_{y_n} += g_n H_n      db likewise, with 1 in place of H_n

Only p has N x S elements, few enough to be kept for the backward pass, and the division by Z never touches
them. The definition is `reference.sampled_softmax`; where S comes from is `proposal`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.linear_cross_entropy import Reduction
from elman.ops.precision import product_dtype, without_autocast

# Axes: N rows, S negatives, D width, V vocabulary.


class Negatives(NamedTuple):
    """The words that stand for the rest of the vocabulary in one batch."""

    ids: Tensor
    """Int64 [S], no id twice."""

    log_weights: Tensor
    """[S], -log of the probability with which each id is in the set."""


def sampled_softmax(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    negatives: Negatives,
    *,
    reduction: Reduction = "sum",
    sparse: bool = False,
) -> Tensor:
    """Nats of each target against the negatives, summed, averaged or one by one.

    A negative that is the target of a row is no negative for that row.

    Args:
        hidden_ND: [N, D]; rows that do not count are left out by the caller, before the product.
        weight_VD: [V, D].
        bias_V: [V], or None.
        targets_N: Int64 [N], each in 0..V-1.
        negatives: Ids and log weights, as `proposal.Proposal` draws them.
        reduction: "sum", "mean" or "none".
        sparse: Give the gradient of `weight_VD` as a sparse tensor of S + N rows, not coalesced: ids of
            negatives, then targets. Otherwise it is dense, and zero but for those rows.

    Returns:
        A scalar, or [N] for "none", in nats and in the dtype of `weight_VD`. The mean over no rows is zero.
    """
    dtype = product_dtype(weight_VD)
    with without_autocast(weight_VD):
        nats_N: Tensor = _SampledSoftmax.apply(  # type: ignore[no-untyped-call]
            hidden_ND.to(weight_VD.dtype), weight_VD, bias_V, targets_N, *negatives, sparse, dtype
        )
        if reduction == "none":
            return nats_N
        return nats_N.sum() / max(1, len(targets_N)) if reduction == "mean" else nats_N.sum()


class _SampledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        ids_S: Tensor,
        log_weights_S: Tensor,
        sparse: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        target_weight_ND = weight_VD.index_select(0, targets_N)
        low_weight_SD = weight_VD.index_select(0, ids_S).to(dtype)
        target_logit_N = torch.linalg.vecdot(hidden_ND, target_weight_ND)
        offset_S = log_weights_S.to(weight_VD.dtype)
        if bias_V is not None:
            target_logit_N = target_logit_N + bias_V.index_select(0, targets_N)
            offset_S = offset_S + bias_V.index_select(0, ids_S)
        p_NS = _logits(hidden_ND, low_weight_SD, offset_S)
        # Hits count towards the maximum, but the weight of one word is far from underflow.
        largest_N = torch.maximum(p_NS.amax(dim=1), target_logit_N)
        p_NS.sub_(largest_N[:, None]).exp_()
        _clear_hits(p_NS, targets_N, ids_S, len(weight_VD))
        target_p_N = (target_logit_N - largest_N).exp_()
        total_N = p_NS.sum(dim=1).add_(target_p_N)

        ctx.vocab_size, ctx.biased, ctx.sparse = len(weight_VD), bias_V is not None, sparse
        ctx.save_for_backward(
            hidden_ND, low_weight_SD, target_weight_ND, targets_N, ids_S, p_NS.to(dtype), target_p_N, total_N
        )
        return total_N.log().add_(largest_N - target_logit_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, low_weight_SD, target_weight_ND, targets_N, ids_S, low_p_NS, target_p_N, total_N = (
            ctx.saved_tensors
        )
        dtype, wide = low_p_NS.dtype, hidden_ND.dtype
        share_N = grad_N / total_N
        target_N = target_p_N * share_N - grad_N
        d_hidden_ND = (low_p_NS @ low_weight_SD).to(wide).mul_(share_N[:, None])
        d_hidden_ND.addcmul_(target_weight_ND, target_N[:, None])

        # Transposed, and with one row rather than a vector: oneDNN's faster forms of p^T times something.
        share_ND = (hidden_ND * share_N[:, None]).to(dtype)
        d_negatives_SD = (share_ND.T @ low_p_NS).T.to(wide)
        d_targets_ND = hidden_ND * target_N[:, None]
        shape = (ctx.vocab_size, hidden_ND.shape[1])
        if ctx.sparse:
            d_weight_VD = torch.sparse_coo_tensor(
                torch.cat([ids_S, targets_N])[None],
                torch.cat([d_negatives_SD, d_targets_ND]),
                shape,
                check_invariants=False,
            )
        else:
            d_weight_VD = hidden_ND.new_zeros(shape)
            d_weight_VD.index_add_(0, ids_S, d_negatives_SD).index_add_(0, targets_N, d_targets_ND)
        d_bias_V = None
        if ctx.biased:
            d_bias_V = hidden_ND.new_zeros(ctx.vocab_size)
            d_negatives_S = (share_N[None].to(dtype) @ low_p_NS)[0].to(wide)
            d_bias_V.index_add_(0, ids_S, d_negatives_S).index_add_(0, targets_N, target_N)
        return d_hidden_ND, d_weight_VD, d_bias_V, None, None, None, None, None


def _logits(hidden_ND: Tensor, low_weight_SD: Tensor, offset_S: Tensor) -> Tensor:
    """[N, S] H W_S^T + offset, the sum in the dtype of `hidden_ND`: a log weight needs more than 8 bits."""
    if low_weight_SD.dtype == hidden_ND.dtype:
        return torch.addmm(offset_S, hidden_ND, low_weight_SD.T)
    return (hidden_ND.to(low_weight_SD.dtype) @ low_weight_SD.T).to(hidden_ND.dtype).add_(offset_S)


def _clear_hits(p_NS: Tensor, targets_N: Tensor, ids_S: Tensor, vocab_size: int) -> None:
    """Set p to zero where a negative is the row's target, by looking at one element a row and not at all S."""
    column_V = ids_S.new_full((vocab_size,), -1)
    column_V[ids_S] = torch.arange(len(ids_S), device=ids_S.device)
    column_N = column_V.index_select(0, targets_N)
    looked_at_N1 = column_N.clamp(min=0)[:, None]
    kept_N1 = p_NS.gather(1, looked_at_N1).masked_fill_((column_N >= 0)[:, None], 0.0)
    p_NS.scatter_(1, looked_at_N1, kept_N1)
