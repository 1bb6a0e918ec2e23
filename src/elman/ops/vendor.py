"""Recurrences by the libraries behind torch.lstm, torch.gru and torch.rnn_tanh: cuDNN, and oneDNN for an LSTM.

The libraries know no resets, so a sequence is cut where there is one: the functions here have the signatures of
`ops.elman`, `ops.gru` and `ops.lstm`, with the rows that are dropped before each step as `dropped_rows` gives them.
Torch differentiates them. `resolve_backend` says where they run.

On a GPU one call for the whole sequence spares a launch for each operation of each step; that cuDNN is hard to
beat there is what others have published (Poppel et al. 2024, "FlashRNN"), and was not measured for this package.
On a processor torch has a library for the LSTM only, in float32. It takes three quarters of the time of the loop to
train (B 128, T 29, H 128, two threads), and a third to read one text of 32 tokens (H 320).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from elman.ops.sequence import drop

# Axes: B batch, T time, D input width, H hidden width, G the gates side by side.

Backend = Literal["loop", "vendor"]
"""A loop over the steps, in this package; or the vendor's library, called for each piece between resets."""

SHORTEST_PIECE = 8
"""Steps in a piece, on average, from which oneDNN is the faster: each call lays out all weights anew."""


def resolve_backend(name: str, h: Tensor, products: torch.dtype, dropped: list[Tensor | None]) -> Backend:
    """Who computes a recurrence.

    The libraries keep states in the dtype of their products; ours stay wide under autocast, so there the loop runs.
    On CUDA a library runs where there is one piece: to ask for the resets would wait for the device, so whoever
    knows that there are none gives None for them.

    Args:
        name: "elman", "gru" or "lstm".
        h: The state before the first step; the recurrence has its device and dtype.
        products: The dtype of products.
        dropped: The rows that are dropped before each step.
    """
    pieces = 1 + sum(rows is not None for rows in dropped[1:])
    if products != h.dtype:
        return "loop"
    if h.device.type == "cuda":
        return "vendor" if pieces == 1 else "loop"
    known = name == "lstm" and h.device.type == "cpu" and h.dtype == torch.float32
    known = known and torch.backends.mkldnn.is_available()
    return "vendor" if known and len(dropped) >= SHORTEST_PIECE * pieces else "loop"


def elman(
    x_BTD: Tensor,
    weight_HD: Tensor,
    weight_HH: Tensor,
    bias_H: Tensor,
    h_BH: Tensor,
    dropped: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """See `ops.elman`."""
    flat = _weights(h_BH.dtype, weight_HD, weight_HH, bias_H, torch.zeros_like(bias_H))

    def piece(x_BTD: Tensor, h_1BH: Tensor) -> tuple[Tensor, ...]:
        return torch.rnn_tanh(x_BTD, h_1BH, flat, True, 1, 0.0, torch.is_grad_enabled(), False, True)

    outputs, h_BH = _in_pieces(piece, x_BTD, dropped, h_BH)
    return outputs, h_BH


def gru(
    x_BTD: Tensor,
    weight_GD: Tensor,
    weight_GH: Tensor,
    bias_G: Tensor,
    bias_H: Tensor,
    h_BH: Tensor,
    dropped: list[Tensor | None],
) -> tuple[Tensor, Tensor]:
    """See `ops.gru`; the bias inside the reset is the last third of torch's second bias."""
    inside_G = torch.cat([torch.zeros_like(bias_G[len(bias_H) :]), bias_H])
    flat = _weights(h_BH.dtype, weight_GD, weight_GH, bias_G, inside_G)

    def piece(x_BTD: Tensor, h_1BH: Tensor) -> tuple[Tensor, ...]:
        return torch.gru(x_BTD, h_1BH, flat, True, 1, 0.0, torch.is_grad_enabled(), False, True)

    outputs, h_BH = _in_pieces(piece, x_BTD, dropped, h_BH)
    return outputs, h_BH


def lstm(
    x_BTD: Tensor,
    weight_GD: Tensor,
    weight_GH: Tensor,
    bias_G: Tensor,
    h_BH: Tensor,
    c_BH: Tensor,
    dropped: list[Tensor | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """See `ops.lstm`."""
    flat = _weights(h_BH.dtype, weight_GD, weight_GH, bias_G, torch.zeros_like(bias_G))

    def piece(x_BTD: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return torch.lstm(x_BTD, state, flat, True, 1, 0.0, torch.is_grad_enabled(), False, True)

    outputs, h_BH, c_BH = _in_pieces(piece, x_BTD, dropped, h_BH, c_BH)
    return outputs, h_BH, c_BH


def _weights(dtype: torch.dtype, *weights: Tensor) -> list[Tensor]:
    """What a library is given: oneDNN the weights as they are; cuDNN warns unless they lie side by side."""
    cast = [weight.to(dtype) for weight in weights]
    return _side_by_side(*cast) if cast[0].device.type == "cuda" else cast


def _side_by_side(*weights: Tensor) -> list[Tensor]:
    """The same weights as views of one block of memory, in the order in which cuDNN wants to find them there."""
    pieces = torch.cat([weight.flatten() for weight in weights]).split([weight.numel() for weight in weights])
    return [piece.view_as(weight) for piece, weight in zip(pieces, weights, strict=True)]


def _in_pieces(
    call: Callable[..., tuple[Tensor, ...]], x_BTD: Tensor, dropped: list[Tensor | None], *state: Tensor
) -> tuple[Tensor, ...]:
    """Outputs of all steps, and the state after the last; one `call` for every piece between resets."""
    cuts = [0, *(t for t, rows in enumerate(dropped) if t and rows is not None), len(dropped)]
    outputs = []
    for start, stop in pairwise(cuts):
        before = (drop(part_BH, dropped[start]).unsqueeze(0) for part_BH in state)
        output_BTH, *after = call(x_BTD[:, start:stop].to(state[0].dtype), *before)
        state = tuple(part_1BH.squeeze(0) for part_1BH in after)
        outputs.append(output_BTH)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), *state
