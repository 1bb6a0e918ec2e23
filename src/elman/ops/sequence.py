"""What the recurrences share: time first in memory, products under autocast, rows that are dropped, a quick tanh.

The arrays of a whole sequence are larger than a processor's cache. So each recurrence writes its results over
its input products, and does element-wise work step by step, on what the product of that step has just touched:
three small operations cost less than one pass over the sequence.

Axes: B batch, T time, D input width, G gates, H hidden width.
"""

import torch
from torch import Tensor

FEW_STREAMS = 16
"""Streams up to which a step is so short that what it costs is to set it up."""


def is_plain_step(x_BTD: Tensor, weight: Tensor, state_BH: Tensor) -> bool:
    """Whether the definition is the quickest: one step of few streams, on a processor, no gradient or cast wanted.

    So it is when text is generated. What makes a sequence quick must be set up, in several times the time of a step.
    """
    return (
        x_BTD.shape[1] == 1
        and len(x_BTD) <= FEW_STREAMS
        and not torch.is_grad_enabled()
        and state_BH.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and x_BTD.dtype == weight.dtype == state_BH.dtype
    )


def time_first(x_BTD: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers as [T, B, D] in `dtype`, so that a step is one block of memory."""
    return x_BTD.transpose(0, 1).to(dtype).contiguous()


def dropped_rows(reset_BT: Tensor | None, steps: int) -> list[Tensor | None]:
    """For every step a mask [B, 1] of the rows whose state is dropped before it, or None where there are none.

    On a processor few steps have any. To ask an accelerator which is to wait for it: there every step has a mask.
    """
    if reset_BT is None:
        return [None] * steps
    masks = reset_BT.T.unsqueeze(-1).clone().unbind(0)  # the caller may use its memory again
    if reset_BT.device.type != "cpu":
        return list(masks)
    return [mask if found else None for mask, found in zip(masks, reset_BT.any(dim=0).tolist(), strict=True)]


def drop(state_BH: Tensor, dropped_B1: Tensor | None) -> Tensor:
    """The state, or its gradient, with zeros in the rows that are dropped."""
    return state_BH if dropped_B1 is None else state_BH.masked_fill(dropped_B1, 0.0)


def add_product(added: Tensor, left: Tensor, right: Tensor, *, out: Tensor, times: int = 1) -> Tensor:
    """`out` = times * (added + left @ right), the product in the dtype of `right`, the sum in that of `out`."""
    if right.dtype == out.dtype:
        return torch.addmm(added, left, right, beta=times, alpha=times, out=out)
    torch.add(added, left.to(right.dtype) @ right, out=out)
    return out if times == 1 else out.mul_(times)


def symmetric_(share: Tensor) -> Tensor:
    """2 share - 1 in its place, which is tanh(x) where the share is sigmoid(2 x).

    On a processor torch's sigmoid takes a sixth of the time of its tanh. The error is that of numbers near one,
    1e-7 in float32, also where tanh is small.
    """
    return torch.add(share.new_full((), -1.0), share, alpha=2, out=share)


def states_with_first(first_BH: Tensor, steps: int) -> Tensor:
    """[T + 1, B, H] for the state before every step and after the last; only the first is filled."""
    states_TBH = first_BH.new_empty(steps + 1, *first_BH.shape)
    states_TBH[0] = first_BH
    return states_TBH


def previous_states(states_TBH: Tensor, dropped: list[Tensor | None]) -> Tensor:
    """[T, B, H]: what each step found as the state before it, of [T + 1, B, H]."""
    previous_TBH = states_TBH[:-1]
    if any(dropped_B1 is not None for dropped_B1 in dropped):
        previous_TBH = previous_TBH.clone()
        for previous_BH, dropped_B1 in zip(previous_TBH.unbind(0), dropped, strict=True):
            if dropped_B1 is not None:
                previous_BH.masked_fill_(dropped_B1, 0.0)
    return previous_TBH


def product_gradients(
    d_TBG: Tensor, inputs_TBD: Tensor, weight_GD: Tensor, *, wanted: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Gradients [T, B, D] and [G, D] of the input and of the weights of W x_t, each one product over all steps.

    That of the input is None where it is not `wanted`.
    """
    d_NG = d_TBG.flatten(0, 1).to(weight_GD.dtype)
    d_inputs = (d_NG @ weight_GD).view_as(inputs_TBD) if wanted else None
    return d_inputs, d_NG.T @ inputs_TBD.flatten(0, 1).to(weight_GD.dtype)
