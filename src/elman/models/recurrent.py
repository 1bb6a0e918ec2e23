"""A recurrent language model: embedding, cells one above the other, and a linear output layer.

    x_t = E[token_t]
    y^1_t = cell^1(x_t), y^2_t = cell^2(y^1_t), ...
    log P(next token) = log softmax(W y^L_t + b)

In training, DropConnect may thin the matrices from state to state, with one mask a window (Wan et al. 2013;
Merity et al. 2018); the other kinds of dropout are those of `models.neural`.

Axes: B batch, T time, H hidden width.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from elman.cells.base import Cell
from elman.cells.norm import RMSNorm
from elman.errors import ConfigError
from elman.models.neural import NeuralLanguageModel

RecurrentState = tuple[Any, ...]
"""One state of its cell for every layer."""

RECURRENT_MATRIX = "weight_hh"
"""What a cell calls the matrix from state to state, where it has one."""


class RecurrentLanguageModel(NeuralLanguageModel):
    """A language model around any cell."""

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        cells: Sequence[Cell],
        hidden_size: int,
        *,
        weight_dropout: float = 0.0,
        norm_last: bool = False,
        **settings: Any,
    ) -> None:
        """`norm_last` for cells whose outputs are sums; `settings` are those of `NeuralLanguageModel`."""
        super().__init__(vocab_size, embedding_dim, hidden_size, **settings)
        self.cells = nn.ModuleList(cells)  # type: ignore[arg-type]  # a Cell is a module; a Protocol cannot say so
        self.norm = RMSNorm(hidden_size) if norm_last else nn.Identity()
        self.weight_dropout = weight_dropout
        if weight_dropout and not any(self._recurrent_matrices(cell) for cell in self.cells):
            raise ConfigError(
                f"weight_dropout ({weight_dropout}) thins matrices from state to state, and these cells have none"
            )
        self.reset_parameters()

    def reset_body(self) -> None:
        """Each cell by its own rule."""
        for cell in self.cells:
            cell.reset_parameters()  # type: ignore[operator]
        if isinstance(self.norm, RMSNorm):
            self.norm.reset_parameters()

    def initial_state(self, batch_size: int) -> RecurrentState:
        """The state before the first token of a document."""
        return tuple(cell.initial_state(batch_size) for cell in self.cells)  # type: ignore[operator]

    def body(
        self, tokens: Tensor, state: RecurrentState, reset: Tensor | None
    ) -> tuple[Tensor, RecurrentState]:
        """See `NeuralLanguageModel.body`; the state is one cell state a layer."""
        x, after = self.drop(self.embed(tokens)), []
        for cell, before in zip(self.cells, state, strict=True):
            thinned = self._thinned(cell)
            given = (x, before, reset)
            x, cell_state = functional_call(cell, thinned, given) if thinned else cell(*given)
            x = self.drop(x)
            after.append(cell_state)
        return self.norm(x), tuple(after)

    def _thinned(self, cell: nn.Module) -> dict[str, Tensor]:
        """The recurrent matrices of a cell without some of their entries, in training."""
        if not (self.training and self.weight_dropout):
            return {}
        matrices = self._recurrent_matrices(cell)
        return {name: F.dropout(matrix, self.weight_dropout) for name, matrix in matrices.items()}

    @staticmethod
    def _recurrent_matrices(cell: nn.Module) -> dict[str, Tensor]:
        return {
            name: matrix
            for name, matrix in cell.named_parameters()
            if name.split(".")[-1] == RECURRENT_MATRIX
        }
