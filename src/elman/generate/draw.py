"""Drawing one token per row quickly: the distribution of `generate.sampling`, without ever writing it out.

A draw inverts the sum of the weights w_v = exp((x_v - max x) / t), in two steps. With W_j the mass of block j of
the vocabulary and u uniform in [0, 1):

    j  = the first block with W_1 + ... + W_j > u W
    v  = the first token of it with w_a + ... + w_v > u W - (W_1 + ... + W_{j-1})

so one pass makes the weights and one sums them. Masses are added in float64, over blocks and inside the chosen one,
where no rare token is lost; a block of 256 is summed in the model's own precision. What only a few tokens can
survive, top-k or a nucleus, is found by ranking, and everything after it works on those few.

The definition is `sampling.distribution`, with the first v at which its running sum exceeds u.

Axes: B batch, V vocabulary, J blocks, S tokens of a block, K tokens ranked.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from elman.errors import ConfigError
from elman.generate.sampling import (
    Sampling,
    apply_repetition_penalty,
    generator,
    require_choice,
    temperature_in,
)

BLOCK = 256
"""S, about the square root of a large vocabulary, so that both steps are short."""

GUESSES = (64, 1024)
"""Tokens ranked in search of a nucleus before all of them are: 64 take a fifth of the time of 1024, and those a sixth
of that of 32,000."""

AHEAD = 64
"""Uniform numbers drawn at once from each row's generator: the calls would cost more than the draws."""


class Uniforms:
    """A stream of uniform numbers for every row, each decided by the seed and the row's own index."""

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self._generators = [generator(seed, index) for index in indices]
        self._ahead = torch.empty(len(self._generators), 0, dtype=torch.float64)

    def __next__(self) -> Tensor:
        """Float64 [B], the next number of every stream."""
        if self._ahead.shape[1] == 0:
            drawn = [torch.rand(AHEAD, dtype=torch.float64, generator=rng) for rng in self._generators]
            self._ahead = torch.stack(drawn)
        number, self._ahead = self._ahead[:, 0], self._ahead[:, 1:]
        return number

    def keep(self, places: Sequence[int]) -> None:
        """Drop all streams but those at `places`."""
        self._generators = [self._generators[place] for place in places]
        self._ahead = self._ahead[list(places)]


def sample(
    logits: Tensor,
    sampling: Sampling,
    uniforms: Tensor | None,
    *,
    seen: Tensor | None = None,
    banned: Tensor | None = None,
) -> Tensor:
    """One token per row. Temperature 0 is argmax, the lowest id winning a tie, and needs no uniform number.

    Args:
        logits: Float [B, V], log-probabilities or logits.
        sampling: The filters.
        uniforms: Float64 [B], in [0, 1), on the CPU; None at temperature 0.
        seen: Bool [B, V], the tokens that the repetition penalty applies to; None is none of them.
        banned: Int64 ids that are never drawn; None bans none.

    Returns:
        Int64 [B], on the CPU.

    Raises:
        InputError: A row has no token left.
        ModelError: A row holds NaN or plus infinity.
        ConfigError: There are no uniform numbers, and the temperature wants them.
    """
    x = _padded(logits.cpu())
    if banned is not None:
        x.index_fill_(1, banned, -math.inf)
    if sampling.repetition_penalty is not None and seen is not None:
        real = x[:, : logits.shape[1]]
        real.copy_(apply_repetition_penalty(real, seen.cpu(), sampling.repetition_penalty))
    largest = x.amax(dim=1, keepdim=True)
    require_choice(largest)
    if sampling.temperature == 0:
        return _first_largest(x)
    if uniforms is None:
        raise ConfigError(f"temperature ({sampling.temperature}) draws at random and needs uniform numbers")
    x.sub_(largest)
    if sampling.temperature != 1:
        x.div_(temperature_in(x.dtype, sampling.temperature))
    ids: Tensor | None = None
    if sampling.top_k is not None and sampling.top_k < x.shape[1]:
        x, ids = _top_k(x, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        x, places = _nucleus(x, sampling.top_p)
        ids = places if ids is None else ids.gather(1, places)
    weights = x.exp_()
    if sampling.min_p is not None:
        weights.masked_fill_(weights < sampling.min_p, 0.0)  # the largest is exactly 1
    places = invert(weights, uniforms)[:, None]
    return (places if ids is None else ids.gather(1, places)).squeeze(1)


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Int64 [B], the first place of each row of `weights` [B, V] at which their running sum exceeds its share.

    Args:
        weights: Float [B, V], 0 or more, some more than 0; they need not sum to one.
        uniforms: Float64 [B], in [0, 1): the share of the sum.
    """
    blocks = (weights if weights.shape[1] % BLOCK == 0 else _padded(weights, 0.0)).unflatten(1, (-1, BLOCK))
    mass = blocks.sum(dim=2).double()
    until = mass.cumsum(dim=1)
    # u < 1, so u * total < total in float64 too; the first sum *above* it belongs to a block, or token, with mass.
    target = uniforms[:, None] * until[:, -1:]
    block = torch.searchsorted(until, target, right=True)
    share = (target - (until - mass).gather(1, block)) / mass.gather(1, block)
    inside = blocks[torch.arange(len(block)), block.squeeze(1)].double().cumsum(dim=1)
    within = share.clamp(0.0, 1 - 2**-53) * inside[:, -1:]
    return (block * BLOCK + torch.searchsorted(inside, within, right=True)).squeeze(1)


def _padded(x: Tensor, value: float = -math.inf) -> Tensor:
    """A copy of [B, V], as wide as the next multiple of BLOCK."""
    wide = x.new_empty(len(x), -(-x.shape[1] // BLOCK) * BLOCK)
    wide[:, : x.shape[1]] = x
    wide[:, x.shape[1] :] = value
    return wide


def _first_largest(x: Tensor) -> Tensor:
    """Int64 [B], `x.argmax(dim=1)` of [B, J * BLOCK]: first the block, then the place, as amax is ten times as fast."""
    blocks = x.unflatten(1, (-1, BLOCK))
    block = blocks.amax(dim=2).argmax(dim=1)
    place = blocks[torch.arange(len(x)), block].argmax(dim=1)
    first: Tensor = block * BLOCK + place
    return first


def _top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest of `x` [B, V], as `_largest` gives them."""
    return _largest(x, *x.topk(k), torch.full_like(x[:, :1], k, dtype=torch.int64))


def _nucleus(x: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The fewest largest of the logits `x` [B, V] that hold `p` of the mass, as `_largest` gives them."""
    total, size = x.exp().sum(dim=1, keepdim=True, dtype=torch.float64), x.shape[1]
    for guess in (*(guess for guess in GUESSES if guess < size), size):
        ranked, places = x.topk(guess) if guess < size else x.sort(dim=1, descending=True)
        mass = ranked.double().exp().cumsum(dim=1) / total
        if bool((mass[:, -1] >= p).all()):
            break
    short = (mass < p).sum(dim=1, keepdim=True)  # tokens with which the mass is still short of p
    return _largest(x, ranked, places, (short + 1).clamp(max=guess))


def _largest(x: Tensor, ranked: Tensor, places: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Exactly the `count` [B, 1] largest of `x` [B, V], the lowest place winning a tie: values and places, [B, K].

    They stand in the order of the places, so that what is drawn in a row does not depend on how many had to be ranked
    for another. Minus infinity stands for what was ranked and is not kept.

    Args:
        x: [B, V].
        ranked: [B, K], its K largest values in falling order.
        places: [B, K], where they are.
        count: How many to keep, at most K.
    """
    least = ranked.gather(1, count - 1)
    kept = torch.where(torch.arange(ranked.shape[1]) < count, ranked, -math.inf)
    # Ranking leaves the order of equals open. It matters where some of them are kept and others are not.
    for row in ((x >= least).sum(dim=1) > count.squeeze(1)).nonzero().flatten().tolist():
        above, size = int((ranked[row] > least[row]).sum()), int(count[row])
        places[row, above:size] = (x[row] == least[row]).nonzero().flatten()[: size - above]
    places, order = places.sort(dim=1)
    return kept.gather(1, order), places
