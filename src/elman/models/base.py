"""The protocol that every language model here meets: recurrent networks, and whatever stands beside them.

Evaluation, generation and the doctor know a model only through these four names. A state is a value: it is
passed in and returned, never kept on the model, so it can be carried, saved, forked and served.

Axes: B batch, T time, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

State = Any
"""What crosses a token: a pytree of tensors whose leading axis is the batch, opaque to everyone but the model."""


@runtime_checkable
class LanguageModel(Protocol):
    """A distribution over the next token, given the tokens so far."""

    @property
    def vocab_size(self) -> int:
        """V, the number of entries of the vocabulary."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are, and where tokens and states are expected."""
        ...

    def initial_state(self, batch_size: int) -> State:
        """The state before the first token of a document, for `batch_size` streams."""
        ...

    def log_probs(self, tokens: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """Natural-log probabilities of every next token.

        Args:
            tokens: Int64 [B, T], the context tokens, each followed by a prediction.
            state: What `initial_state` or an earlier call returned, for the same B streams.
            reset: Bool [B, T]; true drops the state before that token, as a document begins there.

        Returns:
            Float32 [B, T, V], whose exponentials sum to one over V, and the state after the last token.
        """
        ...

    def score(
        self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Nats of each target: minus its log-probability, without ever holding all of [B, T, V].

        Args:
            tokens: Int64 [B, T], the context tokens.
            targets: Int64 [B, T], the token that follows each of them.
            state: As for `log_probs`.
            reset: As for `log_probs`.

        Returns:
            Float32 [B, T] in nats, and the state after the last token.
        """
        ...


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """`function` of the corresponding tensors of `states`; tuples, named tuples and lists keep their type."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = [map_state(function, *part) for part in zip(*states, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def tensors_in(state: State) -> list[Tensor]:
    """The tensors of a state, in an order that depends on its structure only."""
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in state for tensor in tensors_in(part)]


def detach(state: State) -> State:
    """The same values without their history: where a window of back-propagation through time ends."""
    return map_state(Tensor.detach, state)


def select_rows(state: State, rows: Tensor | slice) -> State:
    """The states of some of the streams."""
    return map_state(lambda tensor: tensor[rows], state)
