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

Pruning drops the n-grams that were counted (not adjusted) at most as often as the threshold of their order. The
discounts and the totals c(u .) are those of before; what u loses goes to the order below,

    g(u) = (the discounts of the n-grams of u that are left + c of those that were dropped) / c(u .)

An n-gram of order k is numbered by its place in the order of (number of its first k - 1 words, last word), which
is that of a dictionary. So the words that follow a context lie side by side, and a look-up is one binary search.

To count is to sort once: let the places of the text be in the order of the words that stand from each on. Then
equal n-grams are neighbours, whatever their order; the first of each run of them has the next number, the length
of the run is the count, and the number of the context is that of the same place one order below. Nothing is ever
larger than a few arrays of the length of the text.

Axes: N tokens of text, D documents, P = N + D places (a start token stands before each document), M n-grams of an
order, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elman.errors import InputError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D_1, D_2 and D_3 where the counts of counts give none: those of lmplz --discount_fallback."""


@dataclass(frozen=True, slots=True)
class Level:
    """The n-grams of one order, and what they say of P(w | u).

    It is probs(u w) where u w is listed, and backoff(u) P(w | u') where it is not. This is how an ARPA file says
    it, too. Whole probabilities are kept, rather than what u w has beyond its back-off: to subtract that from a
    probability that is smaller, as other tools have them, would lose its digits.
    """

    keys: Integers
    """[M], number of the first words times V, plus the last word; ascending."""
    probs: Floats
    """[M], the probability of the last word after the others."""
    backoffs: Floats
    """[M of the order below, 1 for order 1], the share of the order below; 1 where a context has no follower."""
    discounts: Floats
    """[3], D_1, D_2 and D_3; 0 where they are not known."""

    @property
    def fallback(self) -> bool:
        """Whether the discounts are FALLBACK_DISCOUNTS, for want of others."""
        return bool((self.discounts == FALLBACK_DISCOUNTS).all())

    def find(self, context: Integers, word: Integers, vocab_size: int) -> Integers:
        """Number of the n-gram (context, word), or -1 where there is none; -1 stands for no context, no word."""
        if not len(self.keys):
            return np.full_like(context, -1)
        wanted = np.where((context < 0) | (word < 0), -1, context * vocab_size + word)
        # torch's search uses all cores, numpy's one.
        found = torch.searchsorted(torch.from_numpy(self.keys), torch.from_numpy(wanted)).numpy()
        place = np.minimum(found, len(self.keys) - 1)
        return np.where(self.keys[place] == wanted, place, -1)

    def first_followers(self, vocab_size: int) -> Integers:
        """[M of the order below + 1], where the n-grams of each context begin, and M."""
        followers = np.bincount(self.keys // vocab_size + 1, minlength=len(self.backoffs) + 1)
        return followers.cumsum()


class Counted(NamedTuple):
    """What was counted of the n-grams of one order, in the order of their numbers."""

    contexts: Integers
    """[M], number of the n-gram without its last word, in the order below, ascending; 0 for order 1."""
    suffixes: Integers
    """[M], number of the n-gram without its first word, in the order below; 0 for order 1."""
    words: NDArray[np.int32]
    """[M], the last word."""
    seen: Integers
    """[M], how often each stands in the text."""
    adjusted: Integers
    """[M], c of the equations."""


def estimate_levels(
    tokens: NDArray[Any],
    starts: NDArray[Any],
    vocab_size: int,
    order: int,
    start_id: int,
    *,
    candidates: int,
    thresholds: Sequence[int],
) -> list[Level]:
    """The levels of orders 1 to `order`.

    Args:
        tokens: Integers [N], documents end to end; each ends in the end token and holds no start token.
        starts: Integers [D + 1], where each document begins, and N.
        vocab_size: V.
        order: Words of the longest n-gram, the predicted one included.
        start_id: The context of each document's first token.
        candidates: How many words can follow, seen or not.
        thresholds: [order], counts up to which n-grams are dropped, not decreasing; 0 drops none.

    Raises:
        InputError: There are fewer than `order` tokens, or one lies outside the vocabulary.
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
    levels: list[Level] = []
    below, left = np.full(1, 1 / candidates), np.ones(1, bool)  # the order below: P, and which n-grams stay
    for counted, threshold in zip(_count(tokens, starts, order, start_id), thresholds, strict=True):
        level, below, left = _level(counted, below, left, vocab_size, threshold)
        levels.append(level)
    return levels


def _count(tokens: NDArray[Any], starts: NDArray[Any], order: int, start_id: int) -> Iterator[Counted]:
    """What is counted of every order from 1."""
    text = np.insert(tokens.astype(np.int32), starts[:-1], start_id)
    text = np.append(text, np.full(order, start_id, np.int32))
    ranked = _sorted_places(text, order)
    rank = np.zeros(len(ranked) + 1, np.int64)
    rank[ranked] = np.arange(len(ranked))
    after = rank[ranked + 1]  # rank of the next place of the text, for the place at each rank

    number = np.zeros(len(ranked), np.int64)
    differs = np.arange(len(ranked)) == 0  # from the n-gram of the rank before
    inside = np.ones(len(ranked), bool)  # one document
    below: Counted | None = None
    for k in range(1, order + 1):
        words = text[ranked + (k - 1)]
        differs[1:] |= words[1:] != words[:-1]
        if k > 1:  # an n-gram that goes on into another document holds a start token, as do all its equals
            inside &= words != start_id
        begins = differs & inside
        (first,) = begins.nonzero()
        contexts, suffixes = number[first], number[after[first]]
        number = begins.cumsum() - 1
        seen = np.bincount(number.compress(inside))
        words = words[first]
        if below is None:
            adjusted = np.where(words == start_id, 0, seen)
        else:
            # Each different n-gram is one more word before the n-gram without its first word.
            preceded = np.bincount(suffixes, minlength=len(below.seen))
            yield below._replace(adjusted=np.where(preceded > 0, preceded, below.adjusted))
            adjusted = seen
        below = Counted(contexts, suffixes, words, seen, adjusted)
    if below is not None:
        yield below


def _sorted_places(text: NDArray[np.int32], width: int) -> Integers:
    """The places [P] of a text [P + width], in the order of the `width` words from each on."""
    # In halves of 16 bits, the last word's lower half first: numpy sorts those by radix, in linear time.
    halves = [text.astype(np.uint16), (text >> 16).astype(np.uint16)]
    if not halves[1].any():
        del halves[1]
    places = len(text) - width
    return np.lexsort([half[k : k + places] for k in reversed(range(width)) for half in halves])


def _level(
    counted: Counted, below: Floats, left: NDArray[np.bool_], vocab_size: int, threshold: int
) -> tuple[Level, Floats, NDArray[np.bool_]]:
    """The level of one order; P of all its n-grams, and which of them are in the level.

    Args:
        counted: Its counts.
        below: P of all n-grams of the order below.
        left: Which of those are left.
        vocab_size: V.
        threshold: Count up to which n-grams are dropped.
    """
    contexts, counts = counted.contexts, counted.adjusted
    discounts = _discounts(counts)
    stay = counted.seen > threshold
    removed = np.where(stay, np.concatenate([[0.0], discounts])[np.minimum(counts, 3)], counts)
    totals = np.bincount(contexts, weights=counts, minlength=len(below))
    spared = np.bincount(contexts, weights=removed, minlength=len(below))
    backoffs = np.divide(spared, totals, out=np.ones(len(below)), where=totals > 0)
    probs = (counts - removed) / totals[contexts] + backoffs[contexts] * below[counted.suffixes]
    probs[counts == 0] = 0  # the start token: a context, and never predicted
    number = left.cumsum() - 1  # of a context among those left; an n-gram that stays has its context there
    level = Level(
        keys=(number[contexts] * vocab_size + counted.words).compress(stay),
        probs=probs.compress(stay),
        backoffs=backoffs.compress(left),
        discounts=discounts,
    )
    return level, probs, stay


def _discounts(counts: Integers) -> Floats:
    """D_1, D_2 and D_3 from adjusted counts.

    The fallback, where n_1, n_2 or n_3 is zero, or some D_r is not above 0 and at most r. lmplz lets a D_r be 0,
    by which a context whose n-grams all have that count would leave nothing for any other word.
    """
    r = np.arange(1, 4)
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(np.float64)
    if n[:3].all():
        y = n[0] / (n[0] + 2 * n[1])
        discounts: Floats = r - (r + 1) * y * n[1:] / n[:3]
        if ((discounts > 0) & (discounts <= r)).all():
            return discounts
    return np.array(FALLBACK_DISCOUNTS)
