"""The weights found are the best there are."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.errors import InputError
from elman.evaluate.mix import LEAST_WEIGHT, fit_weights


def nats_of(weights, nats: np.ndarray) -> float:
    """Mean nats of the mixture: the definition."""
    with np.errstate(divide="ignore"):
        return float(-np.log(np.asarray(weights) @ np.exp(-nats)).mean())


def random_nats(models: int, tokens: int = 300, seed: int = 0) -> np.ndarray:
    """Nats of models that are good at different tokens."""
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, 1.5, (models, tokens)) + rng.random((models, 1))


@pytest.mark.parametrize("seed", range(5))
def test_two_models_get_the_weights_of_a_fine_grid(seed):
    nats = random_nats(2, seed=seed)
    found = fit_weights(nats)
    grid = np.linspace(0.0005, 0.9995, 2000)
    best = min(grid, key=lambda weight: nats_of([weight, 1 - weight], nats))
    assert found[0] == pytest.approx(best, abs=0.001)
    assert nats_of(found, nats) <= nats_of([best, 1 - best], nats) + 1e-12


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), models=st.integers(1, 5))
def test_no_weight_could_be_moved_with_profit(seed, models):
    """Karush, Kuhn and Tucker: mean(p_k / p) is 1 where a weight is positive, and at most 1 where it is zero."""
    nats = random_nats(models, seed=seed)
    found = fit_weights(nats)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (found > 0).all()
    likelihoods = np.exp(-nats)
    gain = (likelihoods / (found @ likelihoods)).mean(axis=1)
    used = found > 0.01
    assert gain[used] == pytest.approx(1, abs=1e-4)
    assert (gain[~used] <= 1 + 1e-2).all()


def test_a_mixture_is_better_than_its_best_part():
    nats = random_nats(3)
    assert nats_of(fit_weights(nats), nats) < nats.mean(axis=1).min() - 0.1


def test_equal_models_get_equal_weights():
    nats = np.tile(random_nats(1), (3, 1))
    assert fit_weights(nats).tolist() == pytest.approx([1 / 3] * 3)


def test_a_model_that_is_worse_at_every_token_gets_almost_nothing():
    nats = random_nats(1)
    found = fit_weights(np.concatenate([nats, nats + 3]))
    assert found[0] == pytest.approx(1, abs=1e-5)
    assert LEAST_WEIGHT / 2 < found[1] < 1e-5  # but still something, as a weight of zero is none


def test_one_model_gets_all():
    assert fit_weights(random_nats(1)).tolist() == [1.0]


def test_a_model_that_rules_tokens_out_has_its_say_at_the_others():
    nats = random_nats(2)
    nats[0, ::2] = math.inf
    nats[0, 1::2] = 0.0  # certain, and right
    found = fit_weights(nats)
    grid = np.linspace(0.0005, 0.9995, 2000)
    best = min(grid, key=lambda weight: nats_of([weight, 1 - weight], nats))
    assert found[0] == pytest.approx(best, abs=0.001)
    assert 0.1 < found[0] < 0.5  # at most the share of the tokens it allows


def test_nats_of_any_size_overflow_nothing():
    nats = random_nats(2)
    assert fit_weights(nats + 1e5).tolist() == pytest.approx(fit_weights(nats).tolist(), abs=1e-6)
    assert fit_weights(np.array([[0.0, 5000.0], [5000.0, 0.0]])).tolist() == [0.5, 0.5]


def test_order_of_tokens_and_of_models_decides_nothing():
    nats = random_nats(3)
    found = fit_weights(nats)
    assert fit_weights(nats[:, ::-1]).tolist() == pytest.approx(found.tolist(), abs=1e-9)
    assert fit_weights(nats[::-1])[::-1].tolist() == pytest.approx(found.tolist(), abs=1e-9)


def test_nothing_to_fit_to_is_refused():
    with pytest.raises(InputError, match="no target to find the weights on"):
        fit_weights(np.empty((2, 0)))


def test_a_target_that_every_model_rules_out_is_refused():
    nats = random_nats(2)
    nats[:, 5] = math.inf
    with pytest.raises(InputError, match="probability zero under every model"):
        fit_weights(nats)
