"""The sLSTM recurrence over a whole sequence, as one autograd function.

    z, i, f, o = split(pre_t + R h_{t-1})     pre_t = W x_t + b; rows ordered z, i, f, o; R block-diagonal
    k = log sigmoid(f) + m_{t-1}              the logarithm of what is kept of the normaliser
    a = sigmoid(i - k)                        the share of step t in the new normaliser
    m_t = log(exp(k) + exp(i))                the logarithm of the normaliser
    c_t = c_{t-1} + a (tanh(z) - c_{t-1})     the cell, already divided by the normaliser
    h_t = sigmoid(o) * c_t

This is sLSTM of Beck et al. (2024, xLSTM, equations 8 to 18) with the input gate exp(i), the forget gate
sigmoid(f) and the logarithm of the normaliser as its stabiliser; `docs/xlstm.md` derives it.

Backward through time, with g_t the gradient that reaches h_t, e_t the one that reaches c_t and u_t the one that
reaches m_t from later steps:

    e_t += g_t * sigmoid(o)                   s = e_t * (tanh(z) - c_{t-1}) a (1 - a)
    d^z = e_t * a (1 - tanh(z)^2)             d^o = g_t * c_t sigmoid(o) (1 - sigmoid(o))
    d^i = s + u_t * a                         d^f = u_{t-1} * (1 - sigmoid(f))
    u_{t-1} = u_t (1 - a) - s,  e_{t-1} = e_t (1 - a),  g_{t-1} += R^T [d^z, d^i, d^f, d^o]

The definition is `reference.slstm`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from elman.ops.precision import product_dtype, without_autocast
from elman.ops.reference import LOG_OF_NOTHING

# Axes: B batch, T time, H state width, N heads, D width of a head (N D = H), G the four gates side by side.
# Inside, time comes first and then the head, so that a step is one batched product.


def slstm(
    pre_BTG: Tensor,
    weight_GD: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    m_BH: Tensor,
    reset_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every output of an sLSTM, and the three parts of its last state.

    Args:
        pre_BTG: [B, T, 4 H], input products plus bias, gates z, i, f, o.
        weight_GD: [4 H, D], recurrent weights; row g H + n D + j reads the D outputs of head n. D divides H.
        h_BH: [B, H], the output before the first step.
        c_BH: [B, H], the cell before the first step, divided by its normaliser.
        m_BH: [B, H], the logarithm of that normaliser; `LOG_OF_NOTHING` where there is no past.
        reset_BT: Bool [B, T]; true drops all three before that step.

    Returns:
        [B, T, H], and three of [B, H], in the dtype of `h_BH`.
    """
    dtype, (batch, hidden), width = product_dtype(h_BH), h_BH.shape, weight_GD.shape[-1]

    def by_row(x_NBD: Tensor) -> Tensor:
        return x_NBD.transpose(-2, -3).reshape(*x_NBD.shape[:-3], batch, hidden)

    pre_TNBGD = pre_BTG.to(h_BH.dtype).unflatten(-1, (4, -1, width)).permute(1, 3, 0, 2, 4)
    weight_NGD = weight_GD.unflatten(0, (4, -1, width)).transpose(0, 1).flatten(1, 2)
    reset_TB1 = None if reset_BT is None else reset_BT.T.unsqueeze(-1)
    state = (x_BH.unflatten(-1, (-1, width)).transpose(0, 1).contiguous() for x_BH in (h_BH, c_BH, m_BH))
    with without_autocast(h_BH):
        h_TNBD, c_NBD, m_NBD = _SLSTM.apply(  # type: ignore[no-untyped-call]
            pre_TNBGD.flatten(-2).contiguous(), weight_NGD, *state, reset_TB1, dtype
        )
    # A clone, because a state must not keep the sequence alive.
    return by_row(h_TNBD).transpose(0, 1), by_row(h_TNBD[-1]).clone(), by_row(c_NBD), by_row(m_NBD)


class _SLSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre_TNBG: Tensor,
        weight_NGD: Tensor,
        h_NBD: Tensor,
        c_NBD: Tensor,
        m_NBD: Tensor,
        reset_TB1: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.dtype = dtype
        weight_low = weight_NGD.to(dtype).mT
        steps, width = len(pre_TNBG), h_NBD.shape[-1]
        gates_TNBG = torch.empty_like(pre_TNBG)
        h_TNBD, c_TNBD = (pre_TNBG.new_empty(steps, *h_NBD.shape) for _ in range(2))
        previous_h, previous_c, previous_m = h_NBD, c_NBD, m_NBD
        for t in range(steps):
            if reset_TB1 is not None:
                previous_h = previous_h.masked_fill(reset_TB1[t], 0.0)
                previous_c = previous_c.masked_fill(reset_TB1[t], 0.0)
                previous_m = previous_m.masked_fill(reset_TB1[t], LOG_OF_NOTHING)
            product_NBG = torch.bmm(previous_h.to(dtype), weight_low)
            gates_NBG = torch.add(pre_TNBG[t], product_NBG, out=gates_TNBG[t])
            z, i, f, o = gates_NBG.split(width, dim=-1)
            z.tanh_()
            o.sigmoid_()
            f.copy_(F.logsigmoid(f))
            kept = f + previous_m
            previous_m = torch.logaddexp(kept, i)
            i.sub_(kept).sigmoid_()
            previous_c = torch.lerp(previous_c, z, i, out=c_TNBD[t])
            previous_h = torch.mul(o, previous_c, out=h_TNBD[t])
        # Left in the gates: tanh(z), the share a, log sigmoid(f), sigmoid(o).
        ctx.save_for_backward(weight_NGD, h_NBD, c_NBD, reset_TB1, gates_TNBG, h_TNBD, c_TNBD)
        return h_TNBD, previous_c.clone(), previous_m

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_TNBD: Tensor, grad_c_NBD: Tensor, grad_m_NBD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None, None]:
        weight_NGD, h_NBD, c_NBD, reset_TB1, gates_TNBG, h_TNBD, c_TNBD = ctx.saved_tensors
        dtype, weight_low, width = ctx.dtype, weight_NGD.to(ctx.dtype), h_NBD.shape[-1]
        previous_h = torch.cat([h_NBD[None], h_TNBD[:-1]])
        previous_c = torch.cat([c_NBD[None], c_TNBD[:-1]])
        if reset_TB1 is not None:
            previous_h.masked_fill_(reset_TB1[:, None], 0.0)
            previous_c.masked_fill_(reset_TB1[:, None], 0.0)

        z, a, log_f, o = gates_TNBG.split(width, dim=-1)
        old = 1 - a
        # What e_t, e_t, u_{t-1} and g_t are multiplied with to give the gradients of the gates, but for u_t a.
        d_TNBG = torch.cat(
            [a * (1 - z * z), (z - previous_c) * a * old, -log_f.expm1(), c_TNBD * o * (1 - o)], dim=-1
        )
        d_z, d_i, d_f, d_o = d_TNBG.split(width, dim=-1)

        g, e, u = torch.zeros_like(h_NBD), grad_c_NBD.clone(), grad_m_NBD.clone()
        for t in reversed(range(len(d_TNBG))):
            g.add_(grad_TNBD[t])
            e.addcmul_(g, o[t])
            d_z[t].mul_(e)
            d_o[t].mul_(g)
            share = d_i[t].mul_(e)
            later = u
            u = torch.addcmul(-share, later, old[t])
            share.addcmul_(later, a[t])
            d_f[t].mul_(u)
            e.mul_(old[t])
            g = torch.bmm(d_TNBG[t].to(dtype), weight_low).to(h_NBD.dtype)
            if reset_TB1 is not None:
                for carried in (g, e, u):
                    carried.masked_fill_(reset_TB1[t], 0.0)
        d_weight = torch.bmm(
            d_TNBG.transpose(0, 1).flatten(1, 2).to(dtype).mT,
            previous_h.transpose(0, 1).flatten(1, 2).to(dtype),
        )
        return d_TNBG, d_weight.to(weight_NGD.dtype), g, e, u, None, None
