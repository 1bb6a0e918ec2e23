"""How sure a difference between two models is: an interval over both their text and their seeds.

With n and m the nats of two models, for S seeds and D documents, and b the bytes of the documents,

    x_s = sum over d of (n_sd - m_sd) / (log 2 sum over d of b_d)          one seed's difference, bits per byte
    x   = mean over s of x_s                                               the difference

a ratio of sums: a mean of the documents' own ratios would weigh a line of ten bytes like a page. Both models
read the same documents, so what makes a document hard for both drops out (Koehn 2004). The difference would
have come out otherwise on other documents and with other seeds. Resample r is one way it could have:

    x_r = x + (y_r - x) sqrt((D - 1) / u_r) + sum over s of z_rs (y_rs - y_r) / sqrt(S v_r)

    y_rs, y_r                 x_s and x on D - 1 documents, drawn with replacement
    z_rs                      standard normal
    u_r, v_r                  chi-squared with D - 1 and S - 1 degrees of freedom

and the interval runs between percentiles of x_r (Efron & Tibshirani 1993, chapter 13). One draw fewer than there
are documents makes the spread of y_r unbiased (Rao & Wu 1988), and the division by u, its own uncertainty, gives
it the tails of Student's t, without which percentiles are too narrow where documents are few (Hesterberg 2015).
The last term is the error of a mean of S seeds, Student's t likewise. Seeds are not themselves resampled: three
have no extremes beyond their own, and the percentiles of their means miss the truth in one of four cases.

Percentiles rather than BCa: x is linear in the nats, so there is little skewness to correct, and BCa estimates
its correction by leaving out documents in turn, the less reliably the fewer there are.

Axes: S seeds, D documents, R resamples, U units that are drawn.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_UNITS = 2000
"""Units drawn of a text. Of more documents, neighbours are joined; the width of the interval stays within some
2 %, and covers what neighbours have in common."""

DRAWS_AT_ONCE = 1 << 20
"""Units drawn in one go; bounds memory, changes no result."""


class Difference(NamedTuple):
    """Bits per byte of a model above those of the reference: negative where the model is better."""

    value: float
    low: float
    """The lower end of the interval; NaN where there is one document, which cannot show how documents vary."""
    high: float


def paired_difference(
    nats: NDArray[Any],
    reference: NDArray[Any],
    bytes: NDArray[Any],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """The difference of two models on the same documents, and an interval that holds the true one.

    The unit is the document. Of a text that is one document, blocks are held out, and each stands here for a
    document: the interval is then over other blocks of that text.

    Args:
        nats: [S, D], nats of each document for each seed; or [D], a model without seeds.
        reference: Likewise. Row s of both is a pair, trained with the same seed on the same batches in the
            same order; a model without seeds is the partner of every one.
        bytes: [D], bytes of each document.
        resamples: R.
        seed: Of the resampling.
        level: The share of such intervals that hold the true difference.

    Raises:
        ValueError: The shapes do not fit together, or there are no bytes.
    """
    pairs = np.atleast_2d(np.asarray(nats, np.float64)) - np.atleast_2d(np.asarray(reference, np.float64))
    if pairs.shape[1:] != bytes.shape or bytes.sum() == 0:
        raise ValueError(
            f"nats of {pairs.shape[1:]} documents do not fit bytes of {bytes.shape}, or none have any"
        )
    sums_UK = _units(np.vstack([pairs, math.log(2) * bytes]).T)
    value = _ratios(sums_UK.sum(axis=0)).mean()
    units, seeds = len(sums_UK), len(pairs)
    if units == 1 or not math.isfinite(value):
        return Difference(float(value), math.nan, math.nan)

    rng = np.random.default_rng(seed)
    y_RS = _ratios(_resampled(sums_UK, resamples, rng))
    y_R = y_RS.mean(axis=1)
    x_R = value + (y_R - value) * np.sqrt((units - 1) / rng.chisquare(units - 1, resamples))
    if seeds > 1:
        z_RS = rng.standard_normal(y_RS.shape)
        v_R = rng.chisquare(seeds - 1, resamples)
        x_R += (z_RS * (y_RS - y_R[:, None])).sum(axis=1) / np.sqrt(seeds * v_R)
    # A resample of empty documents alone has no bytes, and says nothing.
    low, high = np.nanquantile(x_R, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(value), float(low), float(high))


def _units(columns_DK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums [U, K] of runs of neighbouring documents, as equal in number as can be; each its own if they are few."""
    documents = len(columns_DK)
    units = min(documents, MOST_UNITS)
    joined: NDArray[np.float64] = np.add.reduceat(columns_DK, np.arange(units) * documents // units)
    return joined


def _resampled(sums_UK: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Sums [R, K] over U - 1 units drawn with replacement."""
    units, columns = sums_UK.shape
    rows = max(1, DRAWS_AT_ONCE // units)
    out = np.empty((resamples, columns))
    for start in range(0, resamples, rows):
        part = out[start : start + rows]
        drawn = rng.integers(units, size=(len(part), units - 1)) + units * np.arange(len(part))[:, None]
        times = np.bincount(drawn.ravel(), minlength=len(part) * units).reshape(len(part), units)
        part[:] = times @ sums_UK
    return out


def _ratios(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """All columns but the last [..., S], over the last; NaN over nothing."""
    whole = sums[..., -1:]
    return np.divide(sums[..., :-1], whole, out=np.full_like(sums[..., :-1], np.nan), where=whole > 0)
