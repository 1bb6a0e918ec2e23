"""What the trained language models share: an embedding, a body that each family defines, a linear output layer.

    x_t = E[token_t]
    y_t, state = body(x_1 ... x_t)
    log P(next token) = log softmax(W y_t + b)

With tied embeddings W is E (Press & Wolf 2017), and where the widths differ a bias-free matrix brings y_t to the
width of E. In training, values are dropped after the embedding and after every layer (Zaremba et al. 2014), with
one mask for all steps of a window if `locked` (Gal & Ghahramani 2016), and whole words are dropped from E.

Axes: B batch, T time, V vocabulary, E embedding width, W width of the body's output.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elman import ops
from elman.models.base import State, tensors_in
from elman.ops.few_rows import linear_few_rows
from elman.ops.sampled_softmax import Negatives


class NeuralLanguageModel(nn.Module, ABC):
    """A language model with gradients. Meets `models.base.LanguageModel`; a family defines two methods.

    A subclass makes its modules after calling this constructor, and then calls `reset_parameters`.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        width: int,
        *,
        pad_index: int,
        tie_embeddings: bool = False,
        dropout: float = 0.0,
        locked_dropout: bool = False,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pad_index = pad_index
        self.dropout, self.locked_dropout, self.embedding_dropout = dropout, locked_dropout, embedding_dropout
        self.embedding = nn.Embedding(vocab_size, embedding_dim, padding_idx=pad_index)
        tied_through_matrix = tie_embeddings and width != embedding_dim
        self.to_embedding = nn.Linear(width, embedding_dim, bias=False) if tied_through_matrix else None
        self.head = nn.Linear(embedding_dim if tie_embeddings else width, vocab_size)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        self._watch_padding()

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first token of a document."""

    @abstractmethod
    def body(self, tokens: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """Everything between the embedding and the output layer: [B, T, W] and the state after the last token.

        Args:
            tokens: Int64 [B, T], to be looked up with `embed`.
            state: What `initial_state` or an earlier call returned.
            reset: Bool [B, T], or None; true drops the state before that token.
        """

    @abstractmethod
    def reset_body(self) -> None:
        """Initialise every parameter of the body by its role."""

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
        """Initialise by role: small embeddings, the body by its own rule, zero output bias, zero padding row."""
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
        self.reset_body()
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
        if self.embedding.weight.requires_grad:  # not in a copy of a network that is frozen or quantised
            self.embedding.weight.register_post_accumulate_grad_hook(self._keep_padding_zero)

    def _keep_padding_zero(self, weight: Tensor) -> None:
        if weight.grad is None:
            return
        if weight.grad.is_sparse:
            rows, values = weight.grad._indices()[0], weight.grad._values()
            values.masked_fill_((rows == self.pad_index)[:, None], 0.0)
        else:
            weight.grad[self.pad_index].zero_()

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors [..., E] of `tokens`; in training a word that is dropped is dropped wherever it stands."""
        x: Tensor = self.embedding(tokens)
        if self.training and self.embedding_dropout:
            kept = F.dropout(x.new_ones(self.vocab_size), self.embedding_dropout)
            x = x * kept[tokens].unsqueeze(-1)
        return x

    def drop(self, x: Tensor) -> Tensor:
        """In training, [B, T, W] without some of its values, the others scaled up."""
        if not (self.training and self.dropout):
            return x
        if not self.locked_dropout:
            return F.dropout(x, self.dropout)
        return x * F.dropout(torch.ones_like(x[:, :1]), self.dropout)

    def features(self, tokens: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """What the output layer sees: [B, T, E] if tied, else [B, T, W], and the state after the last token.

        All that reads tokens goes through here.

        Raises:
            ValueError: The state is not of as many streams as the tokens.
        """
        _require_same_streams(tokens, state)
        x, state = self.body(tokens, state, reset)
        return x if self.to_embedding is None else self.to_embedding(x), state

    def forward(
        self, tokens: Tensor, state: State | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Logits [B, T, V] and the state after the last token."""
        x, state = self.features(tokens, self.initial_state(len(tokens)) if state is None else state, reset)
        return self.head(x), state

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        state: State,
        reset: Tensor | None = None,
        counted: Tensor | None = None,
        negatives: Negatives | None = None,
    ) -> tuple[Tensor, State]:
        """Sum of the nats of the counted targets, differentiable, and the state after the last token.

        Args:
            tokens: Int64 [B, T].
            targets: Int64 [B, T].
            state: What `initial_state` or an earlier call returned.
            reset: Bool [B, T], or None.
            counted: Bool [B, T]; rows that are false never reach the output layer. None counts all.
            negatives: Words that stand for the vocabulary, for an estimate; None for the exact nats.
        """
        x, state = self.features(tokens, state, reset)
        rows, wanted = (
            (x.flatten(0, 1), targets.flatten()) if counted is None else (x[counted], targets[counted])
        )
        weight, bias = self.head.weight, self.head.bias
        if negatives is None:
            return ops.linear_cross_entropy(rows, weight, bias, wanted), state
        nats = ops.sampled_softmax(rows, weight, bias, wanted, negatives, sparse=self.embedding.sparse)
        return nats, state

    @torch.no_grad()
    def log_probs(self, tokens: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.log_probs`."""
        x, state = self.features(tokens, state, reset)
        logits = linear_few_rows(x, self.head.weight, self.head.bias)
        return logits.float().log_softmax(dim=-1), state

    @torch.no_grad()
    def score(
        self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See `LanguageModel.score`."""
        x, state = self.features(tokens, state, reset)
        nats = ops.linear_cross_entropy(
            x.flatten(0, 1), self.head.weight, self.head.bias, targets.flatten(), reduction="none"
        )
        return nats.view(targets.shape).float(), state


def _require_same_streams(tokens: Tensor, state: State) -> None:
    """Some kernels write a row of the state for each row of tokens, whether there is one or not."""
    for part in tensors_in(state):
        if part.shape[0] != tokens.shape[0]:
            raise ValueError(
                f"the state is of {part.shape[0]} streams, and the tokens are of {tokens.shape[0]}; give the state"
                " of the same streams"
            )
