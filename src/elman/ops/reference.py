"""The definition of every op, in the plainest code there is: the fast paths must agree with these.

Each runs in the dtype it is given (the tests give float64) and is differentiated by autograd.

Axes: B batch, T time, D width, H hidden width, G gates, N rows, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def elman(
    x_BTD: Tensor,
    weight_HD: Tensor,
    weight_HH: Tensor,
    bias_H: Tensor,
    h_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = tanh(W x_t + U h_{t-1} + b) for every t, and the last of them (Elman 1990). See `ops.elman`."""
    outputs = []
    for t in range(x_BTD.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
        h_BH = torch.tanh(x_BTD[:, t] @ weight_HD.T + h_BH @ weight_HH.T + bias_H)
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH


def lstm(
    x_BTD: Tensor,
    weight_GD: Tensor,
    weight_GH: Tensor,
    bias_G: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Every h_t, the last h and the last c of an LSTM; rows ordered i, f, g, o. See `ops.lstm`."""
    outputs = []
    for t in range(x_BTD.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
            c_BH = c_BH.masked_fill(reset_BT[:, t, None], 0.0)
        gates_BG = x_BTD[:, t] @ weight_GD.T + h_BH @ weight_GH.T + bias_G
        i_BH, f_BH, g_BH, o_BH = gates_BG.chunk(4, dim=-1)
        c_BH = f_BH.sigmoid() * c_BH + i_BH.sigmoid() * g_BH.tanh()
        h_BH = o_BH.sigmoid() * c_BH.tanh()
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH, c_BH


def gru(
    x_BTD: Tensor,
    weight_GD: Tensor,
    weight_GH: Tensor,
    bias_G: Tensor,
    bias_H: Tensor,
    h_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Every h_t of a GRU, and the last of them; rows ordered r, z, n. See `ops.gru`."""
    outputs = []
    for t in range(x_BTD.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
        r_BH, z_BH, n_BH = (x_BTD[:, t] @ weight_GD.T + bias_G).chunk(3, dim=-1)
        u_r, u_z, u_n = (h_BH @ weight_GH.T).chunk(3, dim=-1)
        r_BH, z_BH = (r_BH + u_r).sigmoid(), (z_BH + u_z).sigmoid()
        n_BH = (n_BH + r_BH * (u_n + bias_H)).tanh()
        h_BH = (1 - z_BH) * n_BH + z_BH * h_BH
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH


def linear_scan(
    a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t = a_t * h_{t-1} + b_t, and the last of them: what minGRU, minLSTM and `parallel_scan` come to."""
    outputs = []
    for t in range(a_BTH.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
        h_BH = a_BTH[:, t] * h_BH + b_BTH[:, t]
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH


def mingru(
    x_BTD: Tensor, weight_GD: Tensor, bias_G: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t of a minGRU, and the last of them; rows ordered z, v. See `ops.mingru`."""
    z_BTH, v_BTH = (x_BTD @ weight_GD.T + bias_G).chunk(2, dim=-1)
    p_BTH = torch.where(v_BTH >= 0, v_BTH + 0.5, torch.sigmoid(v_BTH))
    return linear_scan(torch.sigmoid(-z_BTH), torch.sigmoid(z_BTH) * p_BTH, h_BH, reset_BT)


def minlstm(
    x_BTD: Tensor, weight_GD: Tensor, bias_G: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t of a minLSTM, and the last of them; rows ordered f, i, v. See `ops.minlstm`."""
    f_BTH, i_BTH, v_BTH = (x_BTD @ weight_GD.T + bias_G).chunk(3, dim=-1)
    p_BTH = torch.where(v_BTH >= 0, v_BTH + 0.5, torch.sigmoid(v_BTH))
    z_BTH = F.logsigmoid(i_BTH) - F.logsigmoid(f_BTH)
    return linear_scan(torch.sigmoid(-z_BTH), torch.sigmoid(z_BTH) * p_BTH, h_BH, reset_BT)


def parallel_scan(
    log_a_BTH: Tensor, b_BTH: Tensor, h_BH: Tensor, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Every h_t = exp(log a_t) * h_{t-1} + b_t, and the last of them. See `ops.parallel_scan`."""
    return linear_scan(log_a_BTH.exp(), b_BTH, h_BH, reset_BT)


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, *, reduction: str = "sum"
) -> Tensor:
    """Nats of each target under softmax(W h + b), reduced; all logits in memory at once."""
    return F.cross_entropy(F.linear(hidden_ND, weight_VD, bias_V), targets_N, reduction=reduction)


def sampled_softmax(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    negatives: tuple[Tensor, Tensor],
    *,
    reduction: str = "sum",
) -> Tensor:
    """Nats of each target beside weighted negatives, reduced; hits masked one by one. See `ops.sampled_softmax`."""
    ids_S, log_weights_S = negatives
    logits_NS = (
        F.linear(hidden_ND, weight_VD[ids_S], None if bias_V is None else bias_V[ids_S]) + log_weights_S
    )
    logits_NS = logits_NS.masked_fill(ids_S == targets_N[:, None], -torch.inf)
    target_N = (hidden_ND * weight_VD[targets_N]).sum(dim=1)
    if bias_V is not None:
        target_N = target_N + bias_V[targets_N]
    nats_N = torch.logsumexp(torch.cat([target_N[:, None], logits_NS], dim=1), dim=1) - target_N
    if reduction == "none":
        return nats_N
    return nats_N.sum() / max(1, len(nats_N)) if reduction == "mean" else nats_N.sum()


LOG_OF_NOTHING = -1e4
"""The logarithm of an sLSTM's normaliser before the first step: finite, and no share beside any real gate."""


def slstm(
    pre_BTG: Tensor,
    weight_GD: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    m_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every h_t, the last h, c and m of an sLSTM; rows ordered z, i, f, o. See `ops.slstm`."""
    outputs, width = [], weight_GD.shape[-1]
    weight_GNDD = weight_GD.unflatten(0, (4, -1, width))
    for t in range(pre_BTG.shape[1]):
        if reset_BT is not None:
            h_BH = h_BH.masked_fill(reset_BT[:, t, None], 0.0)
            c_BH = c_BH.masked_fill(reset_BT[:, t, None], 0.0)
            m_BH = m_BH.masked_fill(reset_BT[:, t, None], LOG_OF_NOTHING)
        product_BG = torch.einsum("gnij,bnj->bgni", weight_GNDD, h_BH.unflatten(-1, (-1, width))).flatten(1)
        z_BH, i_BH, f_BH, o_BH = (pre_BTG[:, t] + product_BG).chunk(4, dim=-1)
        kept_BH = F.logsigmoid(f_BH) + m_BH
        m_BH = torch.logaddexp(kept_BH, i_BH)
        c_BH = c_BH + torch.sigmoid(i_BH - kept_BH) * (z_BH.tanh() - c_BH)
        h_BH = o_BH.sigmoid() * c_BH
        outputs.append(h_BH)
    return torch.stack(outputs, dim=1), h_BH, c_BH, m_BH


LARGEST_STABILISER = 80.0
"""exp(-80) is the least number an mLSTM divides by; |n q| is smaller in float32 only where it is zero."""


def mlstm(
    q_BTND: Tensor,
    k_BTND: Tensor,
    v_BTND: Tensor,
    i_BTN: Tensor,
    f_BTN: Tensor,
    c_BNDD: Tensor,
    n_BND: Tensor,
    m_BN: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every C_t q_t / max(|n_t q_t|, 1), and the last C, n and m of an mLSTM. See `ops.mlstm`."""
    outputs = []
    for t in range(q_BTND.shape[1]):
        if reset_BT is not None:
            c_BNDD = c_BNDD.masked_fill(reset_BT[:, t, None, None, None], 0.0)
            n_BND = n_BND.masked_fill(reset_BT[:, t, None, None], 0.0)
            m_BN = m_BN.masked_fill(reset_BT[:, t, None], 0.0)
        q, k, v, i = q_BTND[:, t], k_BTND[:, t], v_BTND[:, t], i_BTN[:, t]
        kept = F.logsigmoid(f_BTN[:, t]) + m_BN
        m_BN = torch.maximum(kept, i).clamp(min=0.0)
        kept, added = torch.exp(kept - m_BN)[..., None], torch.exp(i - m_BN)[..., None]
        c_BNDD = kept[..., None] * c_BNDD + (added * v)[..., :, None] * k[..., None, :]
        n_BND = kept * n_BND + added * k
        found, normaliser = (c_BNDD @ q[..., None]).squeeze(-1), (n_BND * q).sum(dim=-1).abs()
        one = torch.exp(-m_BN.clamp(max=LARGEST_STABILISER))
        outputs.append(found / torch.maximum(normaliser, one)[..., None])
    return torch.stack(outputs, dim=1), c_BNDD, n_BND, m_BN
