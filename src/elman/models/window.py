"""A feed-forward model of the last n - 1 tokens: the neural probabilistic language model (Bengio et al. 2003).

    x_t = (E[token_{t-n+2}], ..., E[token_t])                     side by side, the earliest first
    y_t = b + U tanh(d + H x_t)                                   their equation 1
    log P(next token) = log softmax(y_t)

A place before the beginning of the document is the zero vector of the padding token. With L layers there are L of
tanh, one above the other; theirs is the case L = 1.

Their optional term W x_t, directly from the embeddings to the output, is left out: it has n - 1 times the weights
of the embedding and cannot be tied to it, and on Brown they reached a slightly lower perplexity without it, though
in twice the epochs (their section 4.2).

Axes: B batch, T time, C = n - 1 tokens of context, H hidden width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from elman.errors import ConfigError
from elman.models.contexts import BEFORE, ContextState, initial_contexts, read_contexts
from elman.models.neural import NeuralLanguageModel


class WindowLanguageModel(NeuralLanguageModel):
    """A neural n-gram: what a network without memory makes of the context of an n-gram model."""

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        order: int,
        **settings: Any,
    ) -> None:
        """A freshly initialised model.

        Args:
            vocab_size: V.
            embedding_dim: Width of a token's vector.
            hidden_size: H, the width of every layer.
            num_layers: L, layers of tanh.
            order: n, which counts the predicted token, as with n-grams: n - 1 tokens are seen.
            **settings: Those of `NeuralLanguageModel`.

        Raises:
            ConfigError: `order` is less than 2.
        """
        if order < 2:
            raise ConfigError(f"order ({order}) must be at least 2: it counts the predicted token")
        super().__init__(vocab_size, embedding_dim, hidden_size, **settings)
        self.order = order
        widths = [(order - 1) * embedding_dim] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(nn.Linear(width, hidden_size) for width in widths)
        self.reset_parameters()

    def reset_body(self) -> None:
        """Xavier matrices, which suit tanh (Glorot & Bengio 2010), and zero biases."""
        for name, parameter in self.layers.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def initial_state(self, batch_size: int) -> ContextState:
        """Nothing seen."""
        return initial_contexts(batch_size, self.order - 1, self.device)

    def body(self, tokens: Tensor, state: ContextState, reset: Tensor | None) -> tuple[Tensor, ContextState]:
        """See `NeuralLanguageModel.body`; the state is the last C tokens."""
        contexts, state = read_contexts(tokens, state, reset)
        # One long product, as C short ones of every token and a sum of their shifts take as many multiplications.
        x = self.drop(self.embed(contexts.masked_fill(contexts == BEFORE, self.pad_index)).flatten(2))
        for layer in self.layers:
            x = self.drop(torch.tanh(layer(x)))
        return x, state
