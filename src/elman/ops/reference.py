"""The definition of every op, in the plainest code there is: the fast paths must agree with these.

Each runs in the dtype it is given (the tests give float64) and is differentiated by autograd.

Axes: B batch, T time, H hidden width, G gates, N rows, D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def elman(
    pre_BTH: Tensor, weight_HH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """h_t = tanh(pre_t + U h_{t-1}) for every t, and the last of them (Elman 1990). See `ops.elman`."""
    outputs = []
    for t in range(pre_BTH.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
        h_BH = torch.tanh(pre_BTH[:, t] + h_BH @ weight_HH.T)
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH


def lstm(
    pre_BTG: Tensor, weight_GH: Tensor, h_BH: Tensor, c_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Every h_t, the last h and the last c of an LSTM; rows ordered i, f, g, o. See `ops.lstm`."""
    outputs = []
    for t in range(pre_BTG.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
            c_BH = c_BH.masked_fill(reset_BT[:, t, None], 0.0)
        i_BH, f_BH, g_BH, o_BH = (pre_BTG[:, t] + h_BH @ weight_GH.T).chunk(4, dim=-1)
        c_BH = f_BH.sigmoid() * c_BH + i_BH.sigmoid() * g_BH.tanh()
        h_BH = o_BH.sigmoid() * c_BH.tanh()
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH, c_BH


def gru(
    pre_BTG: Tensor, weight_GH: Tensor, bias_H: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t of a GRU, and the last of them; rows ordered r, z, n. See `ops.gru`."""
    outputs = []
    for t in range(pre_BTG.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
        r_BH, z_BH, n_BH = pre_BTG[:, t].chunk(3, dim=-1)
        u_r, u_z, u_n = (h_BH @ weight_GH.T).chunk(3, dim=-1)
        r_BH, z_BH = (r_BH + u_r).sigmoid(), (z_BH + u_z).sigmoid()
        n_BH = (n_BH + r_BH * (u_n + bias_H)).tanh()
        h_BH = (1 - z_BH) * n_BH + z_BH * h_BH
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH


def linear_scan(
    a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t = a_t * h_{t-1} + b_t, and the last of them. See `ops.linear_scan`."""
    outputs = []
    for t in range(a_BTH.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
        h_BH = a_BTH[:, t] * h_BH + b_BTH[:, t]
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, *, reduction: str = "sum"
) -> Tensor:
    """Nats of each target under softmax(W h + b), reduced; all logits in memory at once."""
    return F.cross_entropy(F.linear(hidden_ND, weight_VD, bias_V), targets_N, reduction=reduction)
