"""A residual layer around any cell, normalised before it: what a deep stack of cells is made of.

    y_t = P x_t + cell(norm(x_t))                                     norm: RMSNorm, see `cells.norm`

The gradient reaches every layer of a stack through P, which is the identity where the widths agree and a
bias-free matrix where they do not, and every cell sees inputs of one size however deep it lies. He et al.
(2016) for the identity path, Xiong et al. (2020) for the norm before the layer.
"""

from typing import Any

from torch import Tensor, nn

from elman.cells.base import Cell
from elman.cells.norm import RMSNorm


class ResidualCell(nn.Module):
    """A cell with a way around it, itself a cell. Input [B, T, D], output [B, T, H].

    The state is that of the cell inside. An example: `ResidualCell(LSTMCell(256, 512), 256, 512)`.
    """

    def __init__(self, cell: Cell, input_size: int, hidden_size: int) -> None:
        """Wrap `cell`, weights and all; its input is D = `input_size` wide, its output H = `hidden_size`."""
        super().__init__()
        self.cell = cell
        self.norm = RMSNorm(input_size)
        self.skip = (
            nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size, bias=False)
        )
        self._reset_way_around()

    def reset_parameters(self) -> None:
        """A plain norm, a Xavier matrix on the way around, the cell by its own rule."""
        self._reset_way_around()
        self.cell.reset_parameters()

    def _reset_way_around(self) -> None:
        self.norm.reset_parameters()
        if isinstance(self.skip, nn.Linear):
            nn.init.xavier_uniform_(self.skip.weight)

    def initial_state(self, batch_size: int) -> Any:
        """That of the cell inside."""
        return self.cell.initial_state(batch_size)

    def forward(self, x: Tensor, state: Any, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """See `Cell`."""
        outputs, after = self.cell(self.norm(x), state, reset)
        return self.skip(x) + outputs, after
