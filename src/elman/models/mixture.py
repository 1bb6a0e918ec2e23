"""A linear mixture of language models: each has a say, by its weight.

    P(w | context) = sum_k weight_k P_k(w | context)

A mixture of distributions is a distribution; it is never worse than its best part by more than -log(weight) nats
a token, and better wherever the parts err in different places (Jelinek & Mercer 1980).

Axes: K models, B batch, T time, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from elman.errors import ConfigError
from elman.models.base import LanguageModel, State


class Mixture:
    """Models of one vocabulary under fixed weights. Meets `models.base.LanguageModel`."""

    def __init__(self, parts: Sequence[LanguageModel], weights: Sequence[float]) -> None:
        """
        Args:
            parts: K models.
            weights: K positive numbers of sum one.

        Raises:
            ConfigError: The weights are none, or the vocabularies differ.
        """
        positive = len(weights) > 0 and all(weight > 0 for weight in weights)  # which NaN is not
        if len(weights) != len(parts) or not positive or abs(sum(weights) - 1) > 1e-6:
            raise ConfigError(f"weights {list(weights)} must be {len(parts)} positive numbers of sum one")
        if len({part.vocab_size for part in parts}) > 1:
            sizes = ", ".join(f"{part.vocab_size:,}" for part in parts)
            raise ConfigError(f"a mixture needs one vocabulary, and these models have {sizes} entries")
        self.parts = tuple(parts)
        self.weights = tuple(weights)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.parts[0].vocab_size

    @property
    def device(self) -> torch.device:
        """That of the first part; the others get what they need."""
        return self.parts[0].device

    def initial_state(self, batch_size: int) -> State:
        """A state of each part."""
        return tuple(part.initial_state(batch_size) for part in self.parts)

    def log_probs(self, tokens: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """See `LanguageModel.log_probs`."""
        return self._mix(lambda part, own: part.log_probs(tokens, own, reset), state)

    def score(
        self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """See `LanguageModel.score`."""

        def log_probability(part: LanguageModel, own: State) -> tuple[Tensor, State]:
            nats, after = part.score(tokens, targets, own, reset)
            return -nats, after

        found, state = self._mix(log_probability, state)
        return -found, state

    def _mix(
        self, ask: Callable[[LanguageModel, State], tuple[Tensor, State]], state: State
    ) -> tuple[Tensor, State]:
        """The logarithm of sum_k weight_k exp(answer_k), summed in place so that two answers are held at most."""
        mixed, after = torch.tensor(-math.inf), []
        for part, own, weight in zip(self.parts, state, self.weights, strict=True):
            answer, new = ask(part, own)
            mixed = torch.logaddexp(mixed, answer + math.log(weight))
            after.append(new)
        return mixed, tuple(after)
