"""Cross-entropy of a linear output layer, without ever holding all of its logits.

    nats_n = log sum_v exp(z_nv) - z_{n, y_n}          z = H W^T + b

With vocabularies of thousands this layer is nearly all the work and all the memory of a recurrent language
model, so rows are taken a chunk at a time, and the gradients are computed while a chunk's exponentials are
there. With p_nv = exp(z_nv) and Z_n = sum_v p_nv, c_n being the weight of row n in the loss:

    dH_n = c_n ((p_n W) / Z_n - W_{y_n})
    dW   = sum_n p_n^T (c_n H_n / Z_n) - scatter(c_n H_n at y_n)       db likewise, with 1 in place of H_n

so the division by Z and the target's -1 touch only the small arrays, never the one of V columns. The bias is one
more column of W, beside a column of ones in H. Where Z is neither so large nor so small that digits would be
lost, which is known afterwards and nearly always so, the largest logit of a row is not taken away first: each
tile of words then passes through the cache once. Otherwise the chunk is done again with it taken away.

The idea of fusing loss and projection is that of cut cross-entropy (Wijmans et al. 2024). The definition is
`reference.linear_cross_entropy`.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.chunks import Chunks, choose_chunks
from elman.ops.precision import product_dtype, without_autocast

# Axes: N rows, C rows of a chunk, D width, A width with the columns added, V vocabulary, T words of a tile.

ALIGNMENT = 8
"""The width with the bias is rounded up to a multiple of this, so that rows begin where vector loads like it."""

SAFE_TOTALS = (1e-20, 1e30)
"""Between these no sum of exponentials, and no product with one, has lost digits in float32 or a wider range."""

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
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden_ND, weight_VD, bias_V))
    way = "recomputed" if reduction == "none" else "at once" if wanted else "none"
    with without_autocast(weight_VD):
        nats: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden_ND.to(weight_VD.dtype), weight_VD, bias_V, targets_N, way, dtype
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
        way: Literal["none", "at once", "recomputed"],
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.dtype, ctx.by_row = dtype, way == "recomputed"
        gradients = _Gradients(hidden, weight) if way == "at once" else None
        nats = _run(hidden, weight, bias, targets, dtype, gradients)
        if way == "recomputed":
            ctx.save_for_backward(hidden, weight, bias, targets)
            return nats
        if gradients is not None:
            ctx.save_for_backward(*gradients.split())
        return nats.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        if ctx.by_row:
            hidden, weight, bias, targets = ctx.saved_tensors
            gradients = _Gradients(hidden, weight)
            _run(hidden, weight, bias, targets, ctx.dtype, gradients, row_weights=grad)
            return *gradients.split(), None, None, None
        d_hidden, d_weight, d_bias = ctx.saved_tensors
        return d_hidden * grad, d_weight * grad, d_bias * grad, None, None, None


class _Gradients:
    """Where the gradients of a call are summed up; that of the bias is a column beside those of the weights."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.hidden = torch.empty_like(hidden)
        self.matrix = weight.new_zeros(len(weight), _widened_width(weight))

    def split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Those of H, W and b."""
        width = self.hidden.shape[1]
        return self.hidden, self.matrix[:, :width], self.matrix[:, width]


def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    gradients: _Gradients | None,
    row_weights: Tensor | None = None,
) -> Tensor:
    """Nats of every row, [N]; with `gradients`, also the gradients of their sum weighted by `row_weights`."""
    hidden_NA = _widened(hidden, hidden.new_ones(len(hidden)), hidden.dtype)
    matrix_VA = _widened(weight, bias, dtype)
    vocab_size, width = weight.shape
    cut = choose_chunks(len(hidden), vocab_size, width, dtype, hidden.device)
    nats = hidden.new_empty(len(hidden))
    # One workspace for all chunks: fresh memory of this size would cost a page fault every few logits.
    # Words come first in it, because so many rows by so few columns are what products here are fastest at.
    workspace_VC = matrix_VA.new_empty(vocab_size, cut.rows)
    for start in range(0, len(hidden), cut.rows):
        rows = slice(start, start + cut.rows)
        hidden_CA, y_C = hidden_NA[rows], targets[rows]
        p_VC = workspace_VC.view(-1)[: vocab_size * len(y_C)].view(vocab_size, len(y_C))
        total_C, shift_C = _exponentials(hidden_CA.to(dtype), matrix_VA, p_VC, cut)
        target_CD = weight.index_select(0, y_C)
        target_logits_C = (hidden[rows] * target_CD).sum(dim=1) + bias.index_select(0, y_C)
        if dtype != hidden.dtype:
            # Of the target, what the sum holds and what is taken from it have to be the same number.
            total_C += (target_logits_C - shift_C).exp() - p_VC.gather(0, y_C[None])[0]
        nats[rows] = total_C.log() + shift_C - target_logits_C
        if gradients is None:
            continue
        weight_C1 = hidden.new_ones(len(y_C), 1) if row_weights is None else row_weights[rows, None]
        share_C1 = weight_C1 / total_C[:, None]
        share_CA = (hidden_CA * share_C1).to(dtype)
        d_hidden_CD = gradients.hidden[rows].zero_()
        for words in _tiles(cut, vocab_size):
            p_TC = p_VC[words]
            _add_product(d_hidden_CD, p_TC.T, matrix_VA[words, :width])
            _add_product(gradients.matrix[words], p_TC, share_CA)
        d_hidden_CD.mul_(share_C1).sub_(target_CD * weight_C1)
        gradients.matrix.index_add_(0, y_C, hidden_CA * weight_C1, alpha=-1)
    return nats


def _exponentials(hidden_CA: Tensor, matrix_VA: Tensor, p_VC: Tensor, cut: Chunks) -> tuple[Tensor, Tensor]:
    """Fill `p_VC` with exp(z - shift); the sums over words and the shifts, [C] each, in the wider type."""
    hidden_AC = hidden_CA.T.contiguous()
    wide = torch.promote_types(p_VC.dtype, torch.float32)
    if p_VC.device.type == "cpu":  # elsewhere, to look at the totals would be to wait for them
        total_C = torch.zeros(len(hidden_CA), dtype=wide)
        for words in _tiles(cut, len(p_VC)):
            p_TC = torch.mm(matrix_VA[words], hidden_AC, out=p_VC[words]).exp_()
            total_C += p_TC.to(wide).sum(dim=0)
        low, high = SAFE_TOTALS
        if torch.finfo(p_VC.dtype).max > high and bool(((total_C > low) & (total_C < high)).all()):
            return total_C, torch.zeros_like(total_C)
    torch.mm(matrix_VA, hidden_AC, out=p_VC)
    shift_C = p_VC.amax(dim=0)
    p_VC.sub_(shift_C).exp_()
    return p_VC.sum(dim=0, dtype=wide), shift_C.to(wide)


def _tiles(cut: Chunks, vocab_size: int) -> list[slice]:
    return [slice(start, start + cut.words) for start in range(0, vocab_size, cut.words)]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total` += `left` @ `right`; a product in a narrower type is rounded once, and sums stay in the wider."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _widened(matrix: Tensor, column: Tensor, dtype: torch.dtype) -> Tensor:
    """`matrix` with one more column, and zeros up to a multiple of ALIGNMENT."""
    width = matrix.shape[1]
    wide = matrix.new_zeros(len(matrix), _widened_width(matrix), dtype=dtype)
    wide[:, :width] = matrix
    wide[:, width] = column
    return wide


def _widened_width(matrix: Tensor) -> int:
    return -(-(matrix.shape[1] + 1) // ALIGNMENT) * ALIGNMENT
