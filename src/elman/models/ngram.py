"""A count model: interpolated modified Kneser-Ney of orders 1 to 6, as a language model like any other.

    P(w | u) = P_k(w | u)        u: the last tokens of the document, at most order - 1 of them

For a context u the recursion of `models.kneser_ney` runs upwards from single words,

    P_k(w | u) = probs(u w)                     where u w was seen,
                 backoff(u) P_{k-1}(w | u')     where it was not,

over every suffix of u that was seen; one that was not leaves P as it is. So probabilities sum to one for every
context, and everything that can follow has some. The same recursion is that of an ARPA file (`models.arpa`).

It is computed downwards and in logarithms: where the longest suffix that u w was seen with is known, log P is one
number of that level plus the back-offs of the suffixes above. So a whole distribution is that of single words, shifted
by one number, and written over for the few words that were seen.

Axes: B batch, T time, V vocabulary, C contexts, R rows (contexts, or places of a text), M n-grams of an order.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from elman.errors import ConfigError, InputError, ModelError
from elman.models.contexts import ContextState, initial_contexts, pass_tokens
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
        self._single_words = self._log_single_words()
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
        numbers, state = self._read(tokens, state, reset)
        out = torch.empty(*tokens.shape, self.vocab_size)
        self._spread(numbers, out.view(-1, self.vocab_size).numpy())
        return out, state

    @np.errstate(divide="ignore")  # log 0
    def score(
        self, tokens: Tensor, targets: Tensor, state: ContextState, reset: Tensor | None = None
    ) -> tuple[Tensor, ContextState]:
        """See `LanguageModel.score`; infinite for the excluded ids."""
        numbers, state = self._read(tokens, state, reset)
        wanted = targets.numpy().reshape(-1)
        found = np.zeros(len(wanted))
        left = np.arange(len(wanted))  # rows whose target was not found yet
        for level, number in zip(self.levels[:0:-1], numbers[::-1], strict=True):
            place = level.find(number[left], wanted[left], self.vocab_size)
            seen = place >= 0
            found[left[seen]] += np.log(level.probs[place[seen]])
            left = left[~seen]
            known = left[number[left] >= 0]
            found[known] += np.log(level.backoffs[number[known]])
        found[left] += self._single_words[wanted[left]]
        return -torch.from_numpy(found).view(targets.shape).float(), state

    def probabilities(self, contexts: Integers) -> Floats:
        """Probabilities [C, V] of every next token, in float64.

        Args:
            contexts: [C, order - 1], the latest token last; -1 where a document has not so many.
        """
        out = np.empty((len(contexts), self.vocab_size))
        self._spread([number[:, -1] for number in self._number(contexts)], out)
        return np.exp(out, out=out)

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

    @np.errstate(divide="ignore")
    def _log_single_words(self) -> Floats:
        """The logarithm of P_1 [V]: what follows when nothing is known."""
        level = self.levels[0]
        uniform = np.ones(self.vocab_size)
        uniform[list(self.excluded_ids)] = 0
        out: Floats = uniform / uniform.sum() * level.backoffs[0]
        out[level.keys] = level.probs
        return np.log(out, out=out)

    def _read(
        self, tokens: Tensor, state: ContextState, reset: Tensor | None
    ) -> tuple[list[Integers], ContextState]:
        """For orders 2 and up the number [B * T] of the context that each token ends; and the state after them."""
        width = self.order - 1
        joined = torch.cat([state.tokens, tokens], dim=1)
        begins = None if reset is None else pad(reset, (width, 0)).numpy()
        numbers = [number[:, width:].reshape(-1) for number in self._number(joined.numpy(), begins)]
        return numbers, pass_tokens(tokens, state, reset)

    def _number(self, tokens: Integers, begins: NDArray[np.bool_] | None = None) -> list[Integers]:
        """For orders 2 and up the number [B, T] of the context that each token ends, -1 where it was never seen.

        Args:
            tokens: [B, T], -1 for none.
            begins: [B, T], where a context can not reach back beyond that token.
        """
        numbers: list[Integers] = []
        before = np.zeros_like(tokens)  # the number of what stands before each token: for order 1 of nothing
        for level in self.levels[:-1]:
            numbers.append(level.find(before, tokens, self.vocab_size))
            before = np.full_like(tokens, -1)
            before[:, 1:] = numbers[-1][:, :-1]
            if begins is not None:
                before[begins] = -1
        return numbers

    @np.errstate(divide="ignore")
    def _spread(self, numbers: list[Integers], out: NDArray[Any]) -> None:
        """Write log P of every word into `out` [R, V], given the contexts' numbers [R] for orders 2 and up."""
        table = np.array(numbers, np.int64).reshape(self.order - 1, len(out))
        for row, own in zip(out, table.T.tolist(), strict=True):
            backed_off, seen = 0.0, []
            for level, first, number in zip(self.levels[:0:-1], self._first[:0:-1], own[::-1], strict=True):
                if number >= 0:
                    seen.append((level, number, slice(first[number], first[number + 1]), backed_off))
                    backed_off += np.log(level.backoffs[number])
            np.add(self._single_words, backed_off, out=row, casting="same_kind")
            for level, number, followers, above in reversed(seen):
                words = level.keys[followers] - number * self.vocab_size
                row[words] = np.log(level.probs[followers]) + above


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
