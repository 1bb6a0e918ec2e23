"""The mLSTM recurrence over a whole sequence: a matrix for a memory, and no product with the last output.

    C_t = sigmoid(f_t) C_{t-1} + exp(i_t) v_t k_t^T           the memory: C k is about v
    n_t = sigmoid(f_t) n_{t-1} + exp(i_t) k_t                 the normaliser: a row of C for the value 1
    h_t = C_t q_t / max(|n_t . q_t|, 1)

A state holds C exp(-m) and n exp(-m) for the stabiliser m_t = max(log sigmoid(f_t) + m_{t-1}, i_t, 0), so that no
exponent is above zero; `docs/xlstm.md` derives it. Unrolled from step 0, with s running over the steps up to t,

    a_ts = log sigmoid(f_{s+1}) + ... + log sigmoid(f_t) + i_s        a_t0 the same, with m_0 for i_s
    m_t = max(a_t0, a_t1, ..., a_tt, 0)                               and -inf for a_ts across a reset
    C_t exp(-m_t) = exp(a_t0 - m_t) C_0 exp(-m_0) + sum_s exp(a_ts - m_t) v_s k_s^T

which is attention with a decay: three products of matrices for a whole sequence. The decays are sums of the steps
between, never differences of sums from the start, because those lose their digits where a gate is nearly shut.

Beck et al. (2024, xLSTM, equations 19 to 27). The definition is `reference.mlstm`.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from elman.errors import ConfigError
from elman.ops import reference
from elman.ops.precision import product_dtype, without_autocast

# Axes: B batch, T time, N heads, D width of a head, L steps of a piece, S those steps after the state (1 + L).

Form = Literal["recurrent", "parallel", "chunkwise"]

CHUNK = 64
"""Steps of a piece: T x 64 numbers for the decays instead of T x T, and products still large."""


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
    *,
    form: Form = "chunkwise",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every output of an mLSTM, and the three parts of its last state, the same in each form.

    Args:
        q_BTND: [B, T, N, D], what the memory is asked for.
        k_BTND: [B, T, N, D], under what a value is stored.
        v_BTND: [B, T, N, D], what is stored.
        i_BTN: [B, T, N], the logarithm of the input gate.
        f_BTN: [B, T, N], the forget gate before its sigmoid.
        c_BNDD: [B, N, D, D], the memory before the first step, times exp(-m); rows are values, columns keys.
        n_BND: [B, N, D], its normaliser times exp(-m).
        m_BN: [B, N], the stabiliser.
        reset_BT: Bool [B, T]; true drops all three before that step.
        form: `recurrent` step by step, `parallel` with T x T decays, `chunkwise` in pieces of `CHUNK` steps.

    Returns:
        [B, T, N, D], [B, N, D, D], [B, N, D] and [B, N], in the dtype of `c_BNDD`.

    Raises:
        ConfigError: There is no such form.
    """
    if form not in get_args(Form):
        raise ConfigError(f"form ({form!r}) must be one of {', '.join(get_args(Form))}")
    dtype = product_dtype(c_BNDD)
    q, k, v, i, f = (x.to(c_BNDD.dtype) for x in (q_BTND, k_BTND, v_BTND, i_BTN, f_BTN))
    with without_autocast(c_BNDD):
        if form == "recurrent":  # a vector at a time: nothing is gained by narrower products
            return reference.mlstm(q, k, v, i, f, c_BNDD, n_BND, m_BN, reset_BT)

        def product(left: Tensor, right: Tensor) -> Tensor:
            return (left.to(dtype) @ right.to(dtype)).to(c_BNDD.dtype)

        inputs, steps = [x.transpose(1, 2) for x in (q, k, v, i, f)], q.shape[1]
        state, pieces, size = (c_BNDD, n_BND, m_BN), [], CHUNK if form == "chunkwise" else steps
        for start in range(0, steps, size):
            piece = slice(start, start + size)
            reset = None if reset_BT is None else reset_BT[:, piece]
            q, k, v, i, f = (x[:, :, piece] for x in inputs)
            h_BNLD, state = _parallel(q, k, v, i, f, state, reset, product)
            pieces.append(h_BNLD)
    return torch.cat(pieces, dim=2).transpose(1, 2), *state


def _parallel(
    q_BNLD: Tensor,
    k_BNLD: Tensor,
    v_BNLD: Tensor,
    i_BNL: Tensor,
    f_BNL: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    reset_BL: Tensor | None,
    product: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """One piece at once, from any state."""
    c_BNDD, n_BND, m_BN = state
    if reset_BL is not None:  # nothing of a dropped state, not even NaN, may reach a product
        fresh_B1 = reset_BL[:, :1]
        c_BNDD = c_BNDD.masked_fill(fresh_B1[..., None, None], 0.0)
        n_BND, m_BN = n_BND.masked_fill(fresh_B1[..., None], 0.0), m_BN.masked_fill(fresh_B1, 0.0)

    a_BNLS = _decays(F.logsigmoid(f_BNL), torch.cat([m_BN[..., None], i_BNL], dim=-1), reset_BL)
    # An output does not depend on its stabiliser, so no gradient goes through it there; a state does.
    m_BNL1 = a_BNLS.detach().amax(dim=-1, keepdim=True).clamp(min=0.0)
    weight_BNLS = torch.exp(a_BNLS - m_BNL1)
    from_state, from_steps = weight_BNLS[..., :1], weight_BNLS[..., 1:] * product(q_BNLD, k_BNLD.mT)
    found = product(from_steps, v_BNLD) + _share(from_state, product(q_BNLD, c_BNDD.mT))
    normaliser = from_steps.sum(-1, keepdim=True) + _share(from_state, product(q_BNLD, n_BND[..., None]))
    one = torch.exp(-m_BNL1.clamp(max=reference.LARGEST_STABILISER))
    h_BNLD = found / torch.maximum(normaliser.abs(), one)

    last_BNS = a_BNLS[..., -1, :]
    m_BN = last_BNS.amax(dim=-1).clamp(min=0.0)
    kept, added = torch.exp(last_BNS - m_BN[..., None]).split([1, i_BNL.shape[-1]], dim=-1)
    c_BNDD = product((v_BNLD * added[..., None]).mT, k_BNLD) + _share(kept[..., None], c_BNDD)
    n_BND = product(added[..., None, :], k_BNLD).squeeze(-2) + _share(kept, n_BND)
    return h_BNLD, (c_BNDD, n_BND, m_BN)


def _share(weight: Tensor, x: Tensor) -> Tensor:
    """The product, but zero where the weight is zero, whatever x is: a reset drops even NaN."""
    return (weight * x).masked_fill(weight == 0, 0.0)


def _decays(log_f_BNL: Tensor, i_BNS: Tensor, reset_BL: Tensor | None) -> Tensor:
    """a_ts: the exponent of what step t still has of step s, the state being step 0; -inf for none of it."""
    steps = log_f_BNL.shape[-1]
    seen_LS = torch.ones(steps, steps + 1, dtype=torch.bool, device=log_f_BNL.device).tril(1)
    after_BNLS = log_f_BNL[..., None].masked_fill(~seen_LS.tril(0), 0.0)
    # A product with ones, because cumsum has no deterministic form on a GPU.
    between_BNLS = torch.ones_like(log_f_BNL[0, 0]).expand(steps, steps).tril() @ after_BNLS
    if reset_BL is None:
        visible = seen_LS
    else:
        document_BS = F.pad(reset_BL.cumsum(dim=-1), (1, 0))
        visible = (seen_LS & (document_BS[:, 1:, None] == document_BS[:, None, :]))[:, None]
    return (between_BNLS + i_BNS[..., None, :]).masked_fill(~visible, -torch.inf)
