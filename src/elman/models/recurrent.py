"""A recurrent language model: embedding, cells one above the other, and a linear output layer.

    x_t = E[token_t]
    y^1_t = cell^1(x_t), y^2_t = cell^2(y^1_t), ...
    log P(next token) = log softmax(W y^L_t + b)

With tied embeddings W is E (Press & Wolf 2017), and where the widths differ a bias-free matrix brings y^L_t
to the width of E. In training, dropout acts after the embedding and after every cell (Zaremba et al. 2014).

Axes: B batch, T time, V vocabulary, H hidden width, E embedding width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman import ops
from elman.cells.base import Cell

RecurrentState = tuple[Any, ...]
"""One state of its cell for every layer."""


class RecurrentLanguageModel(nn.Module):
    """A language model around any cell. Meets `models.base.LanguageModel`."""

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        cells: Sequence[Cell],
        hidden_size: int,
        *,
        pad_index: int,
        dropout: float = 0.0,
        tie_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.pad_index = pad_index
        self.dropout = dropout
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=pad_index)
        self.cells = nn.ModuleList(cells)  # type: ignore[arg-type]  # a Cell is a module; a Protocol cannot say so
        tied_through_matrix = tie_embeddings and hidden_size != embedding_dim
        self.to_embedding = nn.Linear(hidden_size, embedding_dim, bias=False) if tied_through_matrix else None
        width = embedding_dim if tie_embeddings else hidden_size
        self.head = nn.Linear(width, vocab_size)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        self._watch_padding()
        self.reset_parameters()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Watch the padding of a copy too: a copied parameter comes without its hooks."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._watch_padding()

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.embedding.num_embeddings

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.embedding.weight.device

    def reset_parameters(self) -> None:
        """Initialise by role: small embeddings, cells by their own rule, zero output bias, zero padding row."""
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
        for cell in self.cells:
            cell.reset_parameters()  # type: ignore[operator]
        if self.to_embedding is not None:
            nn.init.xavier_uniform_(self.to_embedding.weight)
        if self.head.weight is not self.embedding.weight:
            nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.zero_padding_row()

    def zero_padding_row(self) -> None:
        """Make the vector of the padding token zero; training keeps it so."""
        with torch.no_grad():
            self.embedding.weight[self.pad_index].zero_()

    def _watch_padding(self) -> None:
        # A tied matrix also gets gradients through the softmax, where padding is a class like any other.
        self.embedding.weight.register_post_accumulate_grad_hook(self._keep_padding_zero)

    def _keep_padding_zero(self, weight: Tensor) -> None:
        if weight.grad is not None:
            weight.grad[self.pad_index].zero_()

    def initial_state(self, batch_size: int) -> RecurrentState:
        """The state before the first token of a document."""
        return tuple(cell.initial_state(batch_size) for cell in self.cells)  # type: ignore[operator]

    def features(
        self, tokens: Tensor, state: RecurrentState, reset: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """What the output layer sees: [B, T, E] if tied, else [B, T, H], and the state after the last token.

        Args:
            tokens: Int64 [B, T].
            state: One cell state a layer.
            reset: Bool [B, T]; true drops the state before that token.
        """
        x = F.dropout(self.embedding(tokens), self.dropout, self.training)
        after = []
        for cell, before in zip(self.cells, state, strict=True):
            x, cell_state = cell(x, before, reset)
            x = F.dropout(x, self.dropout, self.training)
            after.append(cell_state)
        return x if self.to_embedding is None else self.to_embedding(x), tuple(after)

    def forward(
        self, tokens: Tensor, state: RecurrentState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """Logits [B, T, V] and the state after the last token."""
        x, state = self.features(tokens, self.initial_state(len(tokens)) if state is None else state, reset)
        return self.head(x), state

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: RecurrentState,
        reset: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> tuple[Tensor, RecurrentState]:
        """Sum of the nats of the counted targets, differentiable, and the state after the last token.

        Args:
            tokens: Int64 [B, T].
            targets: Int64 [B, T].
            state: One cell state a layer.
            reset: Bool [B, T], or None.
            counted: Bool [B, T]; rows that are false never reach the output layer. None counts all.
        """
        x, state = self.features(tokens, state, reset)
        rows, wanted = (
            (x.flatten(0, 1), targets.flatten()) if counted is None else (x[counted], targets[counted])
        )
        nats = ops.linear_cross_entropy(rows, self.head.weight, self.head.bias, wanted)
        return nats, state

    @torch.no_grad()
    def log_probs(
        self, tokens: Tensor, state: RecurrentState, reset: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """See `LanguageModel.log_probs`."""
        logits, state = self(tokens, state, reset)
        return logits.float().log_softmax(dim=-1), state

    @torch.no_grad()
    def score(
        self, tokens: Tensor, targets: Tensor, state: RecurrentState, reset: Tensor | None = None
    ) -> tuple[Tensor, RecurrentState]:
        """See `LanguageModel.score`."""
        x, state = self.features(tokens, state, reset)
        nats = ops.linear_cross_entropy(
            x.flatten(0, 1), self.head.weight, self.head.bias, targets.flatten(), reduction="none"
        )
        return nats.view(targets.shape).float(), state
