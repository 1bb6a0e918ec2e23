"""Which words are the negatives of a batch: S distinct ones, each in the set with a chosen probability.

    pi_v = min(1, c * max(count_v, 1)^exponent)          c such that sum_v pi_v = S

The words lie side by side on a line in order of pi, each as long as its pi. The line is S long; one point is
drawn in each of its S unit intervals, and a word is in the set if a point falls on it. Were the points
independent, a word that lies across an edge, `before` of it below and `after` above, could be drawn from
both sides; so where it was drawn from below, the point above falls beyond it, and where it was not, it has
the chance after / (1 - before) there. Then it is drawn with probability

    before + (1 - before) * after / (1 - before) = pi

and so is every other (Deville 1998, the ordered pivotal method of Deville & Tillé 1998 in another guise:
Chauvet 2012). Systematic sampling (Madow 1949) draws one point for all intervals, so that a word always has
the same company; here words of different intervals are drawn together with a probability near pi_v pi_w and
only neighbours of one interval, alike in frequency, never are. A set is thus spread evenly over frequent and
rare words. It costs S searches, whatever the size of the vocabulary, and no branch depends on the draw.

The chance of a word to be a negative follows Bengio & Senecal (2008) and, for the exponent, Mikolov et al.
(2013). The weights 1 / pi_v that make a sum over the set unbiased are those of Horvitz & Thompson (1952).
"""

import torch
from torch import Tensor

from elman.errors import ConfigError, InputError
from elman.ops.sampled_softmax import Negatives

# Axes: V vocabulary, S negatives, E edges of the unit intervals (S + 1).

NEARLY_CERTAIN = 1 - 1e-9
"""Words whose pi comes out at this or more are always in the set: rounding must not decide about them."""


class Proposal:
    """Draws negatives from unigram counts.

    Every word has a chance, those that never occurred and padding too: nothing else would push their logits
    down. Tensors are float64 and lie on the device of the counts.

    Args:
        counts_V: Whole numbers [V], how often each id occurs; below one counts as one.
        num_negatives: Distinct words of a set. From V on, a set is the whole vocabulary.
        exponent: From 0, all words alike, to 1, as often as they occur.

    Raises:
        InputError: The counts are not a non-empty vector of whole numbers, or one is negative.
        ConfigError: `num_negatives` or `exponent` is out of range.

    Example:
        proposal = Proposal(torch.bincount(tokens, minlength=vocab_size), 512)
        negatives = proposal.draw(torch.Generator().manual_seed(0))
        loss = sampled_softmax(hidden, weight, bias, targets, negatives)
    """

    def __init__(self, counts_V: Tensor, num_negatives: int, exponent: float = 0.75) -> None:
        if counts_V.dim() != 1 or not len(counts_V):
            raise InputError(f"counts have shape {tuple(counts_V.shape)}; give one number for each id")
        if counts_V.is_floating_point() or counts_V.is_complex():
            raise InputError(f"counts are {counts_V.dtype}; give whole numbers, not frequencies")
        if int(counts_V.min()) < 0:
            raise InputError(f"the count of id {int(counts_V.argmin())} is negative ({int(counts_V.min())})")
        if num_negatives < 1:
            raise ConfigError(f"num_negatives ({num_negatives}) must be at least 1")
        if not 0 <= exponent <= 1:
            raise ConfigError(f"exponent ({exponent}) must be from 0 to 1")

        self.num_negatives = min(num_negatives, len(counts_V))
        # The line, from the most frequent word to the rarest; word k of it ends at ends_V[k].
        weight_V, self._ids_V = (
            counts_V.clamp(min=1).double().pow(exponent).sort(descending=True, stable=True)
        )
        lengths_V = _lengths(weight_V, self.num_negatives)
        self.inclusion_V = torch.empty_like(lengths_V).index_copy_(0, self._ids_V, lengths_V)
        """[V], the probability of each id to be in a set; they sum to `num_negatives`."""

        self._log_weights_V = -lengths_V.log()
        self._ends_V = lengths_V.cumsum(dim=0)
        edges_E = torch.arange(self.num_negatives + 1, dtype=torch.float64, device=counts_V.device)
        self._upper_S = edges_E[1:]
        # The word that lies across each edge, or begins there: the first of its interval.
        across_E = torch.searchsorted(self._ends_V, edges_E, right=True).clamp(max=len(counts_V) - 1)
        first_S, self._last_S = across_E[:-1], across_E[1:]
        self._first_2S = torch.stack([first_S, first_S + 1])
        # How far below its upper edge the point of an interval may fall, whether its first word is free to
        # be drawn or was drawn below. If free, too far is that word, so that its chance is after / (1 - before).
        length_S = lengths_V[first_S]
        after_S = self._ends_V[first_S] - edges_E[:-1]
        before_S = (length_S - after_S).clamp(min=0)
        taken_S = 1 - after_S
        free_S = torch.where(length_S < 1, taken_S * ((1 - before_S) / (1 - length_S)), torch.inf)
        self._reach_2S = torch.stack([free_S, taken_S])

    def draw(self, generator: torch.Generator) -> Negatives:
        """A fresh set of `num_negatives` ids; the generator is of the device of the counts."""
        return self.at(
            torch.rand(
                self.num_negatives,
                dtype=torch.float64,
                generator=generator,
                device=self._ends_V.device,
            )
        )

    def at(self, uniform_S: Tensor) -> Negatives:
        """The set that belongs to S independent uniform numbers in [0, 1), one for each interval.

        The ids come in order of the intervals, and so from frequent to rare.
        """
        points_2S = self._upper_S - (1 - uniform_S) * self._reach_2S
        rank_2S = torch.searchsorted(self._ends_V, points_2S).clamp(self._first_2S, self._last_S)
        # Is the word across the upper edge drawn? Where the answer depends on the lower edge it is the same as
        # there, so it is that of the last interval below where it does not depend. Interval 0 begins free.
        crosses_2S = rank_2S == self._last_S
        position_S = torch.arange(self.num_negatives, device=rank_2S.device)
        settled_S = (position_S * (crosses_2S[0] == crosses_2S[1])).cummax(dim=0).values
        taken_S = crosses_2S[0][settled_S].roll(1)
        taken_S[0] = False
        rank_S = torch.where(taken_S, rank_2S[1], rank_2S[0])
        return Negatives(self._ids_V[rank_S], self._log_weights_V[rank_S])


def _lengths(weight_V: Tensor, size: int) -> Tensor:
    """[V] min(1, c * weight) for weights in descending order, with c such that they sum to `size`, V at most."""
    rest_V = weight_V.flip(0).cumsum(dim=0).flip(0)
    # A word is certain if, those before it being so, its share of what is left of the set reaches 1. If it is
    # not, none after it is.
    rank_V = torch.arange(len(weight_V), device=weight_V.device)
    num_certain = int((weight_V * (size - rank_V) >= NEARLY_CERTAIN * rest_V).sum())
    lengths_V = torch.ones_like(weight_V)
    if num_certain < len(weight_V):
        lengths_V[num_certain:] = weight_V[num_certain:] * ((size - num_certain) / rest_V[num_certain])
    return lengths_V
