"""The last tokens before each prediction: all that a model without recurrence sees, and so its state.

    context_t = (token_{t-n+2}, ..., token_t)        n - 1 tokens, of the document that token_t is in

Axes: B batch, T time, C = n - 1 tokens of context.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

BEFORE = -1
"""Stands where a document has no token yet."""


class ContextState(NamedTuple):
    """What crosses a token."""

    tokens: Tensor
    """Int64 [B, C], the last tokens of the document, the latest last; BEFORE before its beginning."""


def initial_contexts(batch_size: int, width: int, device: torch.device | None = None) -> ContextState:
    """The state before the first token of a document: nothing seen."""
    return ContextState(torch.full((batch_size, width), BEFORE, device=device))


def read_contexts(tokens: Tensor, state: ContextState, reset: Tensor | None) -> tuple[Tensor, ContextState]:
    """The context [B, T, C] that each token ends, and the state after the last of them.

    Args:
        tokens: Int64 [B, T].
        state: The tokens before them.
        reset: Bool [B, T], or None; true hides all that stands before that token.
    """
    width, length = state.tokens.shape[1], tokens.shape[1]
    joined = torch.cat([state.tokens, tokens], dim=1)
    here = torch.arange(1, length + 1, device=tokens.device)
    places = here[:, None] + torch.arange(width, device=tokens.device)
    contexts = joined[:, places]
    if reset is not None:
        # Place of the token that the document of each context begins with; a state begins at place 0.
        begins = torch.where(reset, here - 1 + width, 0).cummax(dim=1).values
        contexts = contexts.masked_fill(places < begins[..., None], BEFORE)
    return contexts, pass_tokens(tokens, state, reset)


def pass_tokens(tokens: Tensor, state: ContextState, reset: Tensor | None) -> ContextState:
    """The state after some tokens, as `read_contexts` has it, without the contexts between."""
    width, length = state.tokens.shape[1], tokens.shape[1]
    last = torch.cat([state.tokens, tokens], dim=1)[:, length:]
    if reset is not None:
        here = torch.arange(length + width, device=tokens.device)
        begins = pad(torch.where(reset, here[width:], 0), (1, 0)).amax(dim=1, keepdim=True)
        last = last.masked_fill(here[length:] < begins, BEFORE)
    return ContextState(last.clone())
