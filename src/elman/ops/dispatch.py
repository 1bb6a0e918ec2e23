"""Who computes a recurrence over a whole sequence: its definition, a vendor's library, or our loop over the steps.

    one step of few streams, no gradient      the definition: to set up anything quicker costs more than the step
    where a library is known and quicker      `ops.vendor`
    everywhere else                           one autograd function over all steps, time first in memory

Matrices and inputs are given to the loop in the dtype of products, vectors in that of the state.

Axes: B batch, T time, D input width, H hidden width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from elman.ops import vendor
from elman.ops.precision import product_dtype, without_autocast
from elman.ops.sequence import dropped_rows, is_plain_step, time_first

Recurrence = Callable[..., tuple[Tensor, ...]]


def whole_sequence(
    definition: Recurrence,
    library: Recurrence | None,
    loop: type[torch.autograd.Function],
    x_BTD: Tensor,
    matrices: tuple[Tensor, ...],
    vectors: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    reset_BT: Tensor | None,
) -> tuple[Tensor, ...]:
    """Outputs [B, T, H], and the parts of the last state, [B, H] each, in the dtype of the state.

    Args:
        definition: In `ops.reference`; its name is that of the recurrence.
        library: In `ops.vendor`, or None where there is none.
        loop: The autograd function over all steps.
        x_BTD: [B, T, D], the inputs.
        matrices: Weights, in the order of the definition.
        vectors: Biases, likewise, after the matrices.
        state: What stands before the first step, likewise, after the vectors.
        reset_BT: Bool [B, T]; true drops the state before that step.
    """
    given, h_BH = (x_BTD, *matrices, *vectors, *state), state[0]
    if is_plain_step(x_BTD, matrices[0], h_BH):
        return definition(*given, reset_BT)
    dtype, dropped = product_dtype(h_BH), dropped_rows(reset_BT, x_BTD.shape[1])
    with without_autocast(h_BH):
        if library and vendor.resolve_backend(definition.__name__, h_BH, dtype, dropped) == "vendor":
            return library(*given, dropped)
        found: Any = loop.apply(
            time_first(x_BTD, dtype),
            *(matrix.to(dtype) for matrix in matrices),
            *(vector.to(h_BH.dtype) for vector in vectors),
            *state,
            dropped,
        )
    outputs_TBH, *after = found
    return outputs_TBH.transpose(0, 1), *after
