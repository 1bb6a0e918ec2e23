"""From a model's log-probabilities to what a token is drawn from: the filters, and their definition.

In the order of application, with x the log-probabilities (or logits) of one row:

    banned                x_v = -inf                                            ids that must never be drawn
    repetition penalty    x_v = x_v / r if x_v > 0 else x_v * r, for seen v     Keskar et al. 2019
    temperature           x_v = x_v / t; t = 0 stops here and takes the largest
    top-k                 keep the k largest                                    Fan et al. 2018
    top-p                 keep the fewest whose mass reaches p                  Holtzman et al. 2020
    min-p                 keep p_v >= m * max p                                 Nguyen et al. 2024
    draw                  the first v with p_1 + ... + p_v > u, u uniform in [0, 1)     `generate.draw`

Each filter sees the survivors of the one before it, renormalised. Equal values are ranked by id, the lowest
first, so a filter keeps the same tokens every time. The penalty looks at the sign, as the paper's plain
division would favour a seen token whose logit is negative. It is not invariant to a shift of the logits; on
log-probabilities, which are never positive, it has one meaning: p_v becomes p_v ** r before renormalising.

All of it happens on the CPU, and a draw takes one uniform: a parallel scan need not be monotone, and the same seed
should mean the same text whatever the device. Here it is plain and in float64; `generate.draw` is the quick way, and
agrees with this.

Axes: B batch, V vocabulary.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elman.errors import ConfigError, InputError, ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a token is chosen; the defaults draw from the model's own distribution."""

    temperature: float = 1.0
    """Divides the log-probabilities: below 1 sharpens, above 1 flattens, 0 takes the most likely token."""
    top_k: int | None = None
    """Keep this many of the most likely tokens."""
    top_p: float | None = None
    """Keep the fewest most likely tokens that hold this share of the mass; 1 keeps all."""
    min_p: float | None = None
    """Keep the tokens at least this share as likely as the most likely one; 0 keeps all."""
    repetition_penalty: float | None = None
    """Raise the probability of tokens already seen to this power: above 1 makes them rarer, 1 is off."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature ({self.temperature}) must be a finite number, 0 or more")
        if self.top_k is not None and not (isinstance(self.top_k, int) and self.top_k >= 1):
            raise ConfigError(
                f"top_k ({self.top_k}) must be a whole number, at least 1; leave it out to keep all"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p ({self.top_p}) must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p ({self.min_p}) must be between 0 and 1")
        if self.repetition_penalty is not None and not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition_penalty ({self.repetition_penalty}) must be finite and above 0")


def distribution(
    logits: Tensor, sampling: Sampling, *, seen: Tensor | None = None, banned: Sequence[int] = ()
) -> Tensor:
    """What is drawn from, by definition: float64 [B, V] probabilities on the CPU.

    Args:
        logits: Float [B, V], log-probabilities or logits.
        sampling: The filters; temperature 0 gives everything to the largest, the lowest id winning a tie.
        seen: Bool [B, V], the tokens that the repetition penalty applies to; None is none of them.
        banned: Ids that are never drawn.

    Raises:
        InputError: A row has no token left.
        ModelError: A row holds NaN or plus infinity.
    """
    logits = ban(logits.cpu().double(), banned)
    if sampling.repetition_penalty is not None and seen is not None:
        logits = apply_repetition_penalty(logits, seen.cpu(), sampling.repetition_penalty)
    require_choice(logits.amax(dim=-1))
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = apply_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = apply_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = apply_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = apply_min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def ban(logits: Tensor, ids: Sequence[int]) -> Tensor:
    """`logits` [B, V] with minus infinity at `ids`."""
    return logits.index_fill(-1, torch.tensor(ids, dtype=torch.int64, device=logits.device), -math.inf)


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """`logits` [B, V] with those that `seen` [B, V] marks made less likely by `penalty` above 1."""
    penalised = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalised, logits)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """`logits` [B, V] below their maximum, divided by a positive `temperature`; any such float is safe."""
    # The largest is exactly 0 before the division, so a tiny temperature sends the others to -inf and nothing
    # to +inf.
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature_in(logits.dtype, temperature)


def temperature_in(dtype: torch.dtype, temperature: float) -> float:
    """A positive `temperature` within the limits that keep 0 / t and -inf / t from becoming NaN in `dtype`."""
    tiny = torch.finfo(dtype).tiny
    return min(max(temperature, tiny), 1 / tiny)


def apply_top_k(logits: Tensor, k: int) -> Tensor:
    """`logits` [B, V] with all but the `k` largest at minus infinity; a `k` beyond V keeps all."""
    k = min(k, logits.shape[-1])
    count = torch.full_like(logits[:, :1], k, dtype=torch.int64)
    return _keep_largest(logits, logits.topk(k).values[:, -1:], count)


def apply_top_p(logits: Tensor, p: float) -> Tensor:
    """`logits` [B, V] with all but the nucleus at minus infinity.

    The nucleus is the smallest set of most likely tokens whose mass reaches `p`, the token that crosses it
    included, so it is never empty; a `p` of 1 keeps all.
    """
    if p >= 1:
        return logits  # a rounded sum may reach 1 before the last token does
    ranked = logits.sort(dim=-1, descending=True).values
    mass = ranked.softmax(dim=-1).cumsum(dim=-1)
    short = (mass < p).sum(dim=-1, keepdim=True)  # tokens with which the mass is still short of p
    count = (short + 1).clamp(max=logits.shape[-1])
    return _keep_largest(logits, ranked.gather(-1, count - 1), count)


def apply_min_p(logits: Tensor, min_p: float) -> Tensor:
    """`logits` [B, V] with tokens less likely than `min_p` times the most likely one at minus infinity."""
    probabilities = logits.softmax(dim=-1)
    unlikely = probabilities < min_p * probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill(unlikely, -math.inf)


def generator(seed: int, index: int) -> torch.Generator:
    """The CPU generator of sample `index` under `seed`, whatever other samples there are.

    torch's CPU generator reads 32 bits of its seed. They are h(seed) + index * c modulo 2 ** 32, with h four
    bytes of SHA-256 and c odd (2 ** 32 over the golden ratio): samples of one seed never share a stream, and
    seeds 1 and 2 have nothing in common.
    """
    start = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
    return torch.Generator().manual_seed((start + index * 0x9E3779B9) % 2**32)


def _keep_largest(x: Tensor, least: Tensor, count: Tensor) -> Tensor:
    """`x` [B, V] with minus infinity for all but its `count` [B, 1] largest, the least of which is `least` [B, 1]."""
    above, tied = x > least, x == least
    room = count - above.sum(dim=-1, keepdim=True)
    return x.masked_fill(~(above | (tied & (tied.cumsum(dim=-1) <= room))), -math.inf)


def require_choice(largest: Tensor) -> None:
    """Raise unless the largest value of each row, [B, ...] as `amax` gives it with NaN passed on, is finite."""
    for value in largest.flatten().tolist():  # unnumbered, as a row of these may be another one to the caller
        if value == -math.inf:
            raise InputError("no token is left to draw, all are banned or impossible; ban fewer ids")
        if not math.isfinite(value):
            raise ModelError(f"the model's distribution holds {value}; its weights may be damaged")
