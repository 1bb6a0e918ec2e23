"""The weights of a mixture that predicts a text best, by expectation maximisation (Dempster et al. 1977).

    share_k(t) = w_k p_k(t) / sum_j w_j p_j(t)          who accounts for token t
    w_k <- mean over t of share_k(t)

The likelihood is concave in w, so there is one optimum, and each step climbs towards it.

Axes: K models, N tokens.
"""

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError

STEPS = 1_000
CLOSE_ENOUGH = 1e-9
"""Change of a weight at which the search ends."""

LEAST_WEIGHT = 1e-6
"""Smaller weights are raised to it: a model of weight zero would not be part of the mixture."""


def fit_weights(nats: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [K] of sum one that minimise the nats of the mixture.

    Args:
        nats: [K, N], of each target under each model; infinite where a model rules it out.

    Raises:
        InputError: There is nothing to fit to, or some target is ruled out by every model.
    """
    if nats.shape[1] == 0:
        raise InputError("there is no target to find the weights on; give more held-out text")
    least = nats.min(axis=0)
    if not np.isfinite(least).all():
        raise InputError(
            "some target has probability zero under every model; mix in one that rules nothing out"
        )
    likelihoods = np.exp(least - nats)  # up to a factor for each token, which cancels
    weights = np.full(len(nats), 1 / len(nats))
    for _ in range(STEPS):
        shares = weights[:, None] * likelihoods
        shares /= shares.sum(axis=0)
        before, weights = weights, shares.mean(axis=1)
        if np.abs(weights - before).max() < CLOSE_ENOUGH:
            break
    weights = np.maximum(weights, LEAST_WEIGHT)
    found: NDArray[np.float64] = weights / weights.sum()
    return found
