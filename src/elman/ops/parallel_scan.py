"""A gated sum over time, all steps at once: the parallel form of `reference.linear_scan`.

    h_t = a_t * h_{t-1} + b_t                                            given as log a_t, so that 0 <= a_t <= 1

Two steps in a row are one step of the same kind, so a sequence is solved through one of half its length, made
of its pairs (Blelloch 1990), in 2 log T rounds and 2 T steps of work:

    log a = log a_1 + log a_2            b = exp(log a_2) * b_1 + b_2

Only the decays are logarithms. Feng et al. (2024, appendix B) take those of b and of the state too and sum all
decays from the start, A_t = log a_1 + ... + log a_t (Heinsen 2023):

    log h_t = A_t + log(exp(log h_0) + sum_{s <= t} exp(log b_s - A_s))

There a state of zero or below has no logarithm, and A_t grows with t until the difference of two of its values
has lost its digits, at once if a single gate is shut tight. Here nothing is subtracted or divided: a sum of
decays covers only the steps it stands for, an underflow is the zero it should be, and b and the state are any
numbers. Backward through time the gradient g_t that reaches h_t is a sum of the same kind, read from the end:

    g_t = dh_t + a_{t+1} * g_{t+1}        db_t = g_t        dlog a_t = g_t * a_t * h_{t-1}        dh_0 = a_1 * g_1

The definition is `reference.parallel_scan`.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import without_autocast

# Axes: B batch, T time, H hidden width. Inside, time comes first.


def parallel_scan(
    log_a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t = exp(log a_t) * h_{t-1} + b_t, and the last of them.

    Args:
        log_a_BTH: [B, T, H], at most 0; the logarithm of the share that is kept. Minus infinity keeps nothing.
        b_BTH: [B, T, H], what is added, of any sign.
        h_BH: [B, H], the state before the first step, of any sign.
        reset_BT: Bool [B, T]; true drops the state before that step.

    Returns:
        [B, T, H] and [B, H], in the dtype of `h_BH`.
    """
    log_a_TBH, b_TBH = (x.transpose(0, 1).to(h_BH.dtype) for x in (log_a_BTH, b_BTH))
    if reset_BT is not None:
        log_a_TBH = log_a_TBH.masked_fill(reset_BT.T.unsqueeze(-1), -math.inf)
    with without_autocast(h_BH):
        h_TBH = _ParallelScan.apply(log_a_TBH, b_TBH, h_BH)  # type: ignore[no-untyped-call]
    return h_TBH.transpose(0, 1), h_TBH[-1].clone()  # a state must not keep the whole sequence alive


class _ParallelScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_a_TBH: Tensor, b_TBH: Tensor, h_BH: Tensor) -> Tensor:
        h_TBH = b_TBH.clone(memory_format=torch.contiguous_format)
        h_TBH[0].add_(_kept(h_BH, log_a_TBH[0]))
        _solve(log_a_TBH, h_TBH)
        ctx.save_for_backward(log_a_TBH, h_BH, h_TBH)
        return h_TBH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_a_TBH, h_BH, h_TBH = ctx.saved_tensors
        # Read from the end, step t decays by what step t + 1 keeps; that of the last is never used.
        g_TBH = grad_TBH.flip(0)
        _solve(log_a_TBH.roll(-1, dims=0).flip(0), g_TBH)
        g_TBH = g_TBH.flip(0)
        previous_TBH = torch.cat([h_BH[None], h_TBH[:-1]])
        return g_TBH * _kept(previous_TBH, log_a_TBH), g_TBH, _kept(g_TBH[0], log_a_TBH[0])


def _solve(log_a_TBH: Tensor, h_TBH: Tensor) -> None:
    """Turn b_t, which `h_TBH` holds, into h_t = a_t * h_{t-1} + b_t in place, where h_1 = b_1."""
    if len(h_TBH) == 1:
        return
    a_TBH, nothing_TBH = log_a_TBH.exp(), log_a_TBH.isneginf()
    first, second, third = slice(None, -1, 2), slice(1, None, 2), slice(2, None, 2)
    # What the second step of a pair drops stays dropped: minus infinity plus NaN would be NaN.
    log_pairs = (log_a_TBH[first] + log_a_TBH[second]).masked_fill_(nothing_TBH[second], -math.inf)
    h_TBH[second].add_((a_TBH[second] * h_TBH[first]).masked_fill_(nothing_TBH[second], 0.0))
    _solve(log_pairs, h_TBH[second])
    h_TBH[third].add_((a_TBH[third] * h_TBH[1:-1:2]).masked_fill_(nothing_TBH[third], 0.0))


def _kept(h: Tensor, log_a: Tensor) -> Tensor:
    """exp(log a) * h; where nothing is kept, zero even of infinity and NaN."""
    return (log_a.exp() * h).masked_fill_(log_a.isneginf(), 0.0)
