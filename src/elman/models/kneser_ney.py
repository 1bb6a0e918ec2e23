"""Interpolated modified Kneser-Ney (Chen & Goodman 1998) by sorting: what counting alone can say of the next word.

    P_k(w | u) = max(c(u w) - D_k(c(u w)), 0) / c(u .) + g(u) P_{k-1}(w | u')    u' is u without its first word
    g(u)       = (D_k1 N_1(u .) + D_k2 N_2(u .) + D_k3 N_3+(u .)) / c(u .)
    P_0(w)     = 1 / (number of words that can follow)

For the highest order c is the count. Below it c is the number of different words seen before u w, the adjusted
count; an n-gram that begins a document has nothing before it and keeps its count. N_r(u .) is the number of
words w with c(u w) = r. The discounts D_k of an order come from n_1 ... n_4, its numbers of n-grams whose c is
1 ... 4:

    Y = n_1 / (n_1 + 2 n_2)     D_k1 = 1 - 2 Y n_2 / n_1     D_k2 = 2 - 3 Y n_3 / n_2     D_k3 = 3 - 4 Y n_4 / n_3

The conventions are those of KenLM's lmplz (Heafield et al. 2013): one start token, which is a context and is
never predicted; the end token is; every word that can follow has its share of P_0, seen or not.

An n-gram of order k is numbered by its place in the order of (number of its first k - 1 words, last word). So
the words that follow a context lie side by side, and a look-up is one binary search. Nothing is ever larger
than a few arrays of the length of the text.

Axes: N tokens of text, D documents, M n-grams of an order, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D_1, D_2 and D_3 where the counts of counts give none, as lmplz --discount_fallback has them."""


@dataclass(frozen=True, slots=True)
class Level:
    """The n-grams of one order, and what they say: P(w | u) = weight(u w) + backoff(u) P(w | u')."""

    keys: Integers
    """[M], number of the first words times V, plus the last word; ascending."""
    weights: Floats
    """[M], the discounted count of the n-gram over the total of its context."""
    backoffs: Floats
    """[M of the order below, 1 for order 1], the share of the order below; 1 where a context has no follower."""
    discounts: Floats
    """[3], D_1, D_2 and D_3."""
    fallback: bool
    """Whether those are FALLBACK_DISCOUNTS."""

    def find(self, context: Integers, word: Integers, vocab_size: int) -> Integers:
        """Number of the n-gram (context, word), or -1 where there is none; -1 stands for no context, no word."""
        if not len(self.keys):
            return np.full(len(context), -1)
        wanted = np.where((context < 0) | (word < 0), -1, context * vocab_size + word)
        place = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)


def estimate_levels(
    tokens: NDArray[Any], starts: NDArray[Any], vocab_size: int, order: int, start_id: int
) -> list[Level]:
    """The levels of orders 1 to `order`.

    Args:
        tokens: Integers [N], documents end to end; each ends in the end token and holds no start token.
        starts: Integers [D + 1], where each document begins, and N.
        vocab_size: V.
        order: Words of the longest n-gram, the predicted one included.
        start_id: The context of each document's first token.

    Raises:
        InputError: A token is the start token or lies outside the vocabulary, or there are fewer than `order`.
    """
    if len(tokens) < order:
        raise InputError(
            f"a corpus of {len(tokens)} tokens has no n-grams of order {order}; give more text or a lower order"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"token {low if low < 0 else high} is outside the vocabulary of {vocab_size}; "
            "use the tokenizer that made the tokens"
        )
    if (tokens == start_id).any():
        raise InputError(
            f"the start token ({start_id}) stands inside a document; leave it out, it is added to each"
        )
    numbered = _number(tokens, starts, vocab_size, order, start_id)
    _, counts = numbered[-1]
    levels: list[Level] = []
    for k in range(order, 0, -1):
        keys, _ = numbered[k - 1]
        contexts = len(numbered[k - 2][0]) if k > 1 else 1
        levels.insert(0, _level(keys, counts, contexts, vocab_size))
    return levels
