"""A mixture of distributions is the distribution it is said to be."""

import math

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from elman.config import ModelConfig
from elman.errors import ConfigError
from elman.evaluate.doctor import check_model
from elman.models.build import build, count_parameters
from elman.models.mixture import Mixture
from elman.models.neural import NeuralLanguageModel
from tests.contract.families import PAD, START, VOCAB_SIZE, make_counts

B, T = 3, 7


def make_network(seed: int = 0, vocab_size: int = VOCAB_SIZE, **settings: object) -> NeuralLanguageModel:
    torch.manual_seed(seed)
    config = ModelConfig(**{"cell": "lstm", "embedding_dim": 6, "hidden_size": 8, "num_layers": 1} | settings)
    return build(config, vocab_size, PAD).eval()


@pytest.fixture
def parts():
    return [make_counts(3), make_network(1), make_network(2, family="transformer", num_heads=2)]


@pytest.fixture
def tokens():
    return torch.randint(VOCAB_SIZE, (B, T), generator=torch.Generator().manual_seed(0))


def test_probabilities_are_the_weighted_sums(parts, tokens):
    weights, reset = [0.5, 0.3, 0.2], torch.rand(B, T) < 0.3
    mixture = Mixture(parts, weights)
    found, after = mixture.log_probs(tokens, mixture.initial_state(B), reset)
    expected = torch.zeros(B, T, VOCAB_SIZE, dtype=torch.float64)
    for part, weight, state in zip(parts, weights, after, strict=True):
        own, own_after = part.log_probs(tokens, part.initial_state(B), reset)
        expected += weight * own.double().exp()
        assert all(map(torch.equal, tree_leaves(state), tree_leaves(own_after)))
    torch.testing.assert_close(found.double().exp(), expected, rtol=1e-6, atol=1e-9)
    assert found.dtype == torch.float32
    # What the counts rule out has a probability from the others.
    assert parts[0].log_probs(tokens, parts[0].initial_state(B))[0][..., START].isinf().all()
    assert found.isfinite().all()


def test_what_every_part_rules_out_is_ruled_out(tokens):
    mixture = Mixture([make_counts(3), make_counts(2)], [0.5, 0.5])
    log_probs, _ = mixture.log_probs(tokens, mixture.initial_state(B))
    assert (log_probs[..., [START, PAD]] == -math.inf).all()
    nats, _ = mixture.score(tokens, torch.full_like(tokens, PAD), mixture.initial_state(B))
    assert (nats == math.inf).all()
    assert [check for check in check_model(mixture) if not check.passed] == []


def test_never_worse_than_a_part_by_more_than_its_weight_costs(parts, tokens):
    weights = [0.6, 0.3, 0.1]
    mixture = Mixture(parts, weights)
    nats, _ = mixture.score(tokens[:, :-1], tokens[:, 1:], mixture.initial_state(B))
    for part, weight in zip(parts, weights, strict=True):
        own, _ = part.score(tokens[:, :-1], tokens[:, 1:], part.initial_state(B))
        assert (nats <= own - math.log(weight) + 1e-5).all()


def test_of_equal_parts_it_is_that_part(tokens):
    part = make_network()
    mixture = Mixture([part, part], [0.25, 0.75])
    found, _ = mixture.log_probs(tokens, mixture.initial_state(B))
    expected, _ = part.log_probs(tokens, part.initial_state(B))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_mixture_may_be_a_part(parts, tokens):
    inner = Mixture(parts[:2], [0.25, 0.75])
    outer, flat = Mixture([inner, parts[2]], [0.5, 0.5]), Mixture(parts, [0.125, 0.375, 0.5])
    found, _ = outer.log_probs(tokens, outer.initial_state(B))
    expected, _ = flat.log_probs(tokens, flat.initial_state(B))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_one_model_of_weight_one_is_a_mixture(tokens):
    part = make_network()
    mixture = Mixture([part], [1.0])
    found, _ = mixture.score(tokens, tokens, mixture.initial_state(B))
    assert torch.equal(found, part.score(tokens, tokens, part.initial_state(B))[0])


def test_its_parameters_are_those_of_its_parts(parts):
    mixture = Mixture(parts, [0.5, 0.3, 0.2])
    assert count_parameters(mixture) == sum(count_parameters(part) for part in parts)


def test_the_doctor_finds_nothing(parts):
    for weights in ([1 / 3] * 3, [0.998, 0.001, 0.001]):
        assert [check for check in check_model(Mixture(parts, weights)) if not check.passed] == []


def test_the_doctor_finds_a_part_that_is_unsound(parts):
    counts = parts[0]
    for level in counts.levels[1:]:
        level.backoffs[:] = np.maximum(level.backoffs, 1)  # back-off without its weights
    failed = [check.name for check in check_model(Mixture(parts, [0.8, 0.1, 0.1])) if not check.passed]
    assert failed == ["sums to one"]


@pytest.mark.parametrize(
    "weights", [[0.5, 0.4], [1.0], [0.5, 0.3, 0.2], [1.5, -0.5], [1.0, 0.0], [0.5, math.nan]]
)
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="must be 2 positive numbers of sum one"):
        Mixture([make_network(1), make_network(2)], weights)


def test_nothing_is_no_mixture():
    with pytest.raises(ConfigError):
        Mixture([], [])


def test_different_vocabularies_are_refused():
    with pytest.raises(ConfigError, match="have 11, 12 entries"):
        Mixture([make_network(), make_network(vocab_size=12)], [0.5, 0.5])
