"""In which arithmetic an op multiplies matrices: torch's autocast decides, and only products follow it.

    with torch.autocast("cpu", torch.bfloat16):
        ops.lstm(...)           products in bfloat16; states, sums, exponentials and results as without

Processors and GPUs multiply bfloat16 two to eight times as fast, at three significant digits. What is summed
over time or over the vocabulary keeps the wider type, so long runs do not drift.
"""

import torch
from torch import Tensor


def product_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that autocast asks for on the device of `tensor`, or the tensor's own."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


def without_autocast(tensor: Tensor) -> torch.autocast:
    """A context for the inside of an op that does its own casting."""
    return torch.autocast(tensor.device.type, enabled=False)
