"""RMSNorm (Zhang & Sennrich 2019): a vector brought to unit mean square, each component then scaled.

    norm(x) = x / sqrt(mean(x^2) + eps) * (1 + gain)

The scale is kept as its distance from one, so that what zeroes or shrinks vectors leaves a plain norm.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
"""Added to the mean square, so that a vector of zeros, such as that of padding, stays one."""


class RMSNorm(nn.Module):
    """Over the last axis, of `width` components."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A plain norm."""
        nn.init.zeros_(self.gain)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape and dtype; computed in the dtype of the gain."""
        return F.rms_norm(x.to(self.gain.dtype), x.shape[-1:], 1 + self.gain, EPSILON)
