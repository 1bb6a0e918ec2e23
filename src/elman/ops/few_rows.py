"""W h + b for a handful of rows h: what an output layer costs when one token is generated at a time.

    y_nv = sum_d W_vd h_nd + b_v

With one row each weight is read for one multiplication, so the speed of memory decides. BLAS libraries differ in how
well they use it: torch's default on x86 takes a matrix-vector product of this shape at a fifth of that speed. Here
W is cut into blocks of rows, a batch of small products that all cores share. The definition is
`torch.nn.functional.linear`.

Axes: N rows, D width, V vocabulary, K blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = 64
"""K, enough to keep the cores busy."""

FEW = 16
"""Rows up to which the cut pays: 7 times as fast for one row of 32,000 x 128, 1.7 times for sixteen, even at 32."""

LEAST_WEIGHTS = 1 << 18
"""A matrix that is smaller lies near the cores anyway."""


def linear_few_rows(hidden: Tensor, weight_VD: Tensor, bias_V: Tensor) -> Tensor:
    """W h + b, for use where no gradients are taken.

    Args:
        hidden: [..., D]; with more than FEW rows in all it is an ordinary product.
        weight_VD: [V, D].
        bias_V: [V].

    Returns:
        [..., V].
    """
    rows_ND = hidden.reshape(-1, hidden.shape[-1])
    few = len(rows_ND) <= FEW and weight_VD.numel() >= LEAST_WEIGHTS and weight_VD.is_contiguous()
    kind = weight_VD.device.type
    if not few or kind != "cpu" or torch.is_autocast_enabled(kind) or hidden.dtype != weight_VD.dtype:
        return F.linear(hidden, weight_VD, bias_V)
    with torch.no_grad():
        even = len(weight_VD) // BLOCKS * BLOCKS
        y_VN = weight_VD.new_empty(len(weight_VD), len(rows_ND))
        rows_KDN = rows_ND.T.expand(BLOCKS, -1, -1)
        torch.bmm(
            weight_VD[:even].unflatten(0, (BLOCKS, -1)), rows_KDN, out=y_VN[:even].unflatten(0, (BLOCKS, -1))
        )
        torch.mm(weight_VD[even:], rows_ND.T, out=y_VN[even:])
        y_NV = y_VN.add_(bias_V[:, None]).T.contiguous()
        return y_NV.view(*hidden.shape[:-1], -1)
