"""Clipping by the global norm, for sparse gradients as well as dense ones.

    norm = sqrt(sum over parameters and elements of g^2)
    g <- g * min(1, max_norm / (norm + 1e-6))

as torch.nn.utils.clip_grad_norm_ has it. A sparse gradient that holds a row twice means the sum of the two, and
the square of a sum is not the sum of the squares: so equal rows are added first.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients down, in place, to a global L2 norm of `max_norm` at most.

    Sparse gradients are coalesced, and stay so. Nothing waits for the device, but coalescing. An infinite
    `max_norm` only measures.

    Returns:
        The norm before; a scalar on the device of the first gradient.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())
        else:
            gradients.append(parameter.grad)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm < math.inf:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale.to(gradient.device))
    return norm
