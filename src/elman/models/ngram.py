"""A count model: interpolated modified Kneser-Ney of orders 1 to 6, as a language model like any other.

    P(w | u) = P_k(w | u)        u: the last tokens of the document, at most order - 1 of them

For a context u the recursion of `models.kneser_ney` runs upwards from single words,

    P_k(w | u) = probs(u w)                     where u w was seen,
                 backoff(u) P_{k-1}(w | u')     where it was not,

over every suffix of u that was seen; one that was not leaves P as it is. So probabilities sum to one for every
context, and everything that can follow has some. The same recursion is that of an ARPA file (`models.arpa`).

Axes: B batch, T time, V vocabulary, C contexts, M n-grams of an order, K levels (orders).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elman.errors import ConfigError, InputError, ModelError
from elman.models.contexts import ContextState, initial_contexts, read_contexts
from elman.models.kneser_ney import Floats, Integers, Level, estimate_levels

MAX_ORDER = 6

ROUNDING = 1e-9
"""How far above 1 rounding may leave a probability."""

PARTS = ("keys", "probs", "backoffs", "discounts")
"""What a level is stored as, one array each."""


class NgramModel:
    """An interpolated n-gram model on the CPU. Meets `models.base.LanguageModel`; `estimate` makes one."""

    def __init__(self, levels: list[Level], vocab_size: int, excluded_ids: Iterable[int]) -> None:
        self.levels = levels
        self.excluded_ids = tuple(sorted(set(excluded_ids)))
        """Ids that never follow anything: their probability is exactly 0."""
        self._vocab_size = vocab_size
        self._unigram = self._single_words()
        self._first = [level.first_followers(vocab_size) for level in levels]

    @property
    def order(self) -> int:
        """Words of the longest n-gram, the predicted one included."""
        return len(self.levels)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._vocab_size

    @property
    def num_parameters(self) -> int:
        """Probabilities and back-offs."""
        return sum(level.probs.size + level.backoffs.size for level in self.levels)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def initial_state(self, batch_size: int) -> ContextState:
        """The state before the first token of a document: nothing seen."""
        return initial_contexts(batch_size, self.order - 1)

    def log_probs(
        self, tokens: Tensor, state: ContextState, reset: Tensor | None = None
    ) -> tuple[Tensor, ContextState]:
        """See `LanguageModel.log_probs`; minus infinity for the excluded ids."""
        contexts, state = read_contexts(tokens, state, reset)
        out = torch.empty(*tokens.shape, self.vocab_size)
        for row, own in zip(out, contexts.numpy(), strict=True):  # float64 for one stream at a time
            with np.errstate(divide="ignore"):
                row.copy_(torch.from_numpy(np.log(self.probabilities(own))))
        return out, state

    def score(
        self, tokens: Tensor, targets: Tensor, state: ContextState, reset: Tensor | None = None
    ) -> tuple[Tensor, ContextState]:
        """See `LanguageModel.score`; infinite for the excluded ids."""
        contexts, state = read_contexts(tokens, state, reset)
        wanted = targets.numpy().reshape(-1)
        found = self._unigram[wanted]
        for level, context in self._suffixes(contexts.numpy().reshape(len(wanted), self.order - 1)):
            place = level.find(context, wanted, self.vocab_size)
            known, seen = context >= 0, place >= 0
            found[known] *= level.backoffs[context[known]]
            found[seen] = level.probs[place[seen]]
        with np.errstate(divide="ignore"):
            nats = torch.from_numpy(-np.log(found))
        return nats.view(targets.shape).float(), state

    def probabilities(self, contexts: Integers) -> Floats:
        """Probabilities [C, V] of every next token, in float64.

        Args:
            contexts: [C, order - 1], the latest token last; -1 where a document has not so many.
        """
        out = np.tile(self._unigram, (len(contexts), 1))
        for (level, context), first in zip(self._suffixes(contexts), self._first[1:], strict=True):
            rows = np.flatnonzero(context >= 0)
            known = context[rows]
            out[rows] *= level.backoffs[known, None]
            followers = first[known + 1] - first[known]
            # The n-grams of each context lie side by side: first, first + 1, ...
            ends = followers.cumsum()
            places = np.arange(followers.sum()) + np.repeat(first[known] - (ends - followers), followers)
            out[np.repeat(rows, followers), level.keys[places] % self.vocab_size] = level.probs[places]
        return out

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that the model is, but for `settings`; `from_arrays` makes it again."""
        return {
            f"order_{k}.{part}": getattr(level, part)
            for k, level in enumerate(self.levels, start=1)
            for part in PARTS
        }

    def settings(self) -> dict[str, Any]:
        """The rest of the model, fit for JSON."""
        return {
            "order": self.order,
            "vocab_size": self.vocab_size,
            "excluded_ids": list(self.excluded_ids),
        }

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[Any] | Tensor],
        *,
        order: int,
        vocab_size: int,
        excluded_ids: list[int],
    ) -> "NgramModel":
        """The model whose `arrays` and `settings` these are.

        Raises:
            ConfigError: The order is not between 1 and MAX_ORDER.
            ModelError: An array is missing, or does not fit the others; or no id of the vocabulary is left.
        """
        _check_order(order)
        inside = all(0 <= index < vocab_size for index in excluded_ids)
        if not inside or len(set(excluded_ids)) >= vocab_size:
            raise ModelError(
                f"n-gram model: excluded_ids {excluded_ids} do not fit a vocabulary of {vocab_size};"
                " estimate it anew"
            )
        expected = {f"order_{k}.{part}" for k in range(1, order + 1) for part in PARTS}
        if foreign := sorted(set(arrays) - expected):
            raise ModelError(
                f"n-gram model: {foreign[0]} is not of a model of order {order}; estimate it anew"
            )
        levels: list[Level] = []
        for k in range(1, order + 1):
            try:
                level = Level(**{part: np.asarray(arrays[f"order_{k}.{part}"]) for part in PARTS})
            except KeyError as error:
                raise ModelError(f"n-gram model: {error.args[0]} is missing; estimate it anew") from error
            _check_level(level, k, len(levels[-1].keys) if levels else 1, vocab_size)
            levels.append(level)
        return cls(levels, vocab_size, excluded_ids)

    def _single_words(self) -> Floats:
        """P_1 [V]: what follows when nothing is known."""
        level = self.levels[0]
        uniform = np.ones(self.vocab_size)
        uniform[list(self.excluded_ids)] = 0
        out: Floats = uniform / uniform.sum() * level.backoffs[0]
        out[level.keys] = level.probs
        return out

    def _suffixes(self, contexts: Integers) -> Iterator[tuple[Level, Integers]]:
        """Orders 2 and up, each with the number [C] of its context, -1 where that was never seen."""
        for k in range(1, self.order):
            number = np.zeros(len(contexts), np.int64)
            for level, word in zip(self.levels[:k], contexts[:, self.order - 1 - k :].T, strict=True):
                number = level.find(number, word, self.vocab_size)
            yield self.levels[k], number


def estimate(
    documents: tuple[NDArray[Any], NDArray[Any]],
    vocab_size: int,
    order: int,
    *,
    start_id: int,
    excluded_ids: Iterable[int] = (),
    prune: Sequence[int] = (),
) -> NgramModel:
    """The model of interpolated modified Kneser-Ney of some documents.

    Args:
        documents: Tokens [N] and starts [D + 1], as a token store holds them: each document ends in the end
            token, and its start token is not stored.
        vocab_size: V.
        order: 1 to MAX_ORDER, words of the longest n-gram, the predicted one included.
        start_id: The context of each document's first token; never predicted.
        excluded_ids: What else is never predicted, the padding.
        prune: For orders 1, 2, ..., the count up to which n-grams are dropped, not decreasing; the last holds
            for all higher orders, and () drops none. A single word that is dropped keeps its share of P_0.

    Raises:
        ConfigError: The order is not between 1 and MAX_ORDER, or the thresholds cannot be used.
        InputError: There are fewer tokens than `order`, or a token can not stand where it does.
    """
    _check_order(order)
    thresholds = _thresholds(prune, order)
    tokens, starts = documents
    excluded = {start_id, *excluded_ids}
    misplaced = tokens[np.isin(tokens, list(excluded))]
    if len(misplaced):
        raise InputError(
            f"token {misplaced[0]} is never predicted, yet stands inside a document; leave it out"
        )
    levels = estimate_levels(
        tokens,
        starts,
        vocab_size,
        order,
        start_id,
        candidates=vocab_size - len(excluded),
        thresholds=thresholds,
    )
    return NgramModel(levels, vocab_size, excluded)


def _check_order(order: int) -> None:
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(f"order is {order}; choose one from 1 to {MAX_ORDER}")


def _thresholds(prune: Sequence[int], order: int) -> list[int]:
    """A threshold for every order."""
    given = list(prune)
    if len(given) > order:
        raise ConfigError(f"prune has {len(given)} thresholds for orders 1 to {order}; leave some out")
    if given != sorted(given) or any(threshold < 0 for threshold in given):
        # else an n-gram would be left whose context is gone
        raise ConfigError(f"prune is {given}; give counts of 0 or more, none below the one before it")
    return given + (given[-1:] or [0]) * (order - len(given))


def _check_level(level: Level, k: int, contexts: int, vocab_size: int) -> None:
    """Raise ModelError unless every look-up stays inside this level and finds a probability."""
    keys = level.keys
    floats = (level.probs, level.backoffs, level.discounts)
    fits = (
        keys.dtype == np.int64
        and keys.ndim == 1
        and level.probs.shape == keys.shape
        and level.backoffs.shape == (contexts,)
        and level.discounts.shape == (3,)
        and all(each.dtype == np.float64 and bool((np.isfinite(each) & (each >= 0)).all()) for each in floats)
        and bool((level.probs <= 1 + ROUNDING).all())
        and bool((np.diff(keys) > 0).all())
        and (not len(keys) or bool(keys[0] >= 0 and keys[-1] < contexts * vocab_size))
    )
    if not fits:
        raise ModelError(f"n-gram model: the arrays of order {k} do not fit together; estimate it anew")
