"""Filters keep what their definitions say, and streams of random numbers are decided by seed and index."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from elman.errors import ConfigError
from elman.generate.sampling import (
    Sampling,
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    distribution,
    generator,
)

# Quarters, so that ties are common; one value is finite at least.
scores = st.lists(
    st.one_of(st.integers(-40, 40).map(lambda n: n / 4), st.just(-math.inf)), min_size=1, max_size=12
).filter(lambda values: max(values) > -math.inf)


def for_all(*strategies):
    """`given` without a limit on the time of one example, as the first call of an operator can be slow."""
    return lambda test: settings(deadline=None)(given(*strategies)(test))


def row(values: list[float]) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def kept(logits: Tensor) -> list[int]:
    """The ids of a single row that a draw can still give."""
    return (logits[0] > -math.inf).nonzero().flatten().tolist()


def ranking(values: list[float]) -> list[int]:
    """Possible ids, the most likely first, the lowest id first among equals."""
    return sorted((i for i, x in enumerate(values) if x > -math.inf), key=lambda i: (-values[i], i))


def masses(values: list[float]) -> list[float]:
    total = math.fsum(math.exp(x) for x in values)
    return [math.exp(x) / total for x in values]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.5),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_k", -3),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.25),
        ("top_p", math.nan),
        ("min_p", -0.25),
        ("min_p", 1.5),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.5),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
    ],
)
def test_impossible_settings_are_refused_with_their_numbers(field, value):
    with pytest.raises(ConfigError) as error:
        Sampling(**{field: value})
    assert field in str(error.value)
    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    "choices",
    [
        {"temperature": 0.0, "top_k": 1, "top_p": 1e-9, "min_p": 0.0, "repetition_penalty": 0.5},
        {"temperature": 100.0, "top_k": 10**9, "top_p": 1.0, "min_p": 1.0, "repetition_penalty": 2.0},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(choices):
    Sampling(**choices)


@for_all(scores, st.integers(1, 15))
def test_top_k_keeps_exactly_the_k_largest_and_the_lowest_ids_among_ties(values, k):
    filtered = apply_top_k(row(values), k)
    assert kept(filtered) == sorted(ranking(values)[:k])
    assert all(filtered[0, i] == values[i] for i in kept(filtered))


def test_top_k_beyond_the_vocabulary_keeps_everything():
    assert kept(apply_top_k(row([0.0, 1.0, 2.0]), 4)) == [0, 1, 2]


@for_all(scores, st.floats(0.01, 0.999))
def test_top_p_keeps_the_smallest_set_of_most_likely_tokens_that_reaches_p(values, p):
    probabilities, ranked = masses(values), ranking(values)
    reached = [math.fsum(probabilities[i] for i in ranked[: n + 1]) for n in range(len(ranked))]
    assume(all(abs(mass - p) > 1e-9 for mass in reached))
    size = 1 + sum(mass < p for mass in reached)
    assert kept(apply_top_p(row(values), p)) == sorted(ranked[:size])


def test_top_p_of_one_keeps_every_token_however_rare():
    logits = row([0.0, -50.0, -60.0, -700.0])  # the first alone rounds to a mass of 1
    assert logits.softmax(-1)[0, 0] == 1
    assert torch.equal(apply_top_p(logits, 1.0), logits)


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9])
def test_top_p_keeps_the_most_likely_token_of_a_peaked_distribution(p):
    assert kept(apply_top_p(row([0.0, 1.0, 30.0, 2.0]), p)) == [2]


@for_all(scores, st.floats(0, 1))
def test_min_p_keeps_tokens_by_their_share_of_the_largest(values, min_p):
    probabilities = masses(values)
    ratios = [p / max(probabilities) for p in probabilities]
    assume(all(abs(ratio - min_p) > 1e-9 for ratio in ratios))
    expected = [i for i, ratio in enumerate(ratios) if ratio > min_p]
    assert kept(apply_min_p(row(values), min_p)) == expected


def test_the_ends_of_min_p():
    logits = row([1.0, 3.0, -2.0, 3.0])
    assert kept(apply_min_p(logits, 0.0)) == [0, 1, 2, 3]
    assert kept(apply_min_p(logits, 1.0)) == [1, 3]


def test_repetition_penalty_makes_seen_tokens_rarer_whatever_the_sign():
    logits = row([2.0, -2.0, 2.0, -2.0, -math.inf])
    seen = torch.tensor([[True, True, False, False, True]])
    assert apply_repetition_penalty(logits, seen, 4.0).tolist() == [[0.5, -8.0, 2.0, -2.0, -math.inf]]


@for_all(scores, st.floats(0.5, 3.0), st.integers(0, 2**12 - 1))
def test_repetition_penalty_is_a_power_of_the_probability(values, penalty, bits):
    seen = [bool(bits >> i & 1) for i in range(len(values))]
    powered = [p**penalty if s else p for p, s in zip(masses(values), seen, strict=True)]
    expected = row([p / math.fsum(powered) for p in powered])
    got = distribution(
        row(values).log_softmax(-1), Sampling(repetition_penalty=penalty), seen=torch.tensor([seen])
    )
    torch.testing.assert_close(got, expected)


@for_all(
    scores,
    st.sampled_from([5e-324, 1e-310, 1e-30, 0.1, 1.0, 7.0, 1e30, 1.7e308]),
    st.none() | st.integers(1, 15),
    st.none() | st.floats(1e-6, 1),
    st.none() | st.floats(0, 1),
)
def test_any_filters_leave_a_distribution_with_the_most_likely_token_in_it(values, temperature, k, p, min_p):
    chosen = Sampling(temperature=temperature, top_k=k, top_p=p, min_p=min_p)
    probabilities = distribution(row(values), chosen)[0]
    assert probabilities.isfinite().all()
    assert probabilities.min() >= 0
    assert abs(probabilities.sum() - 1) < 1e-12
    assert probabilities[ranking(values)[0]] == probabilities.max() > 0
    assert all(probabilities[i] == 0 for i, x in enumerate(values) if x == -math.inf)
    assert all(probabilities[a] >= probabilities[b] for a, b in pairwise(ranking(values)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_temperatures_are_argmax_and_uniform(dtype):
    logits = torch.tensor([[-1.0, -0.5, -700.0, -math.inf]], dtype=dtype)
    cold, hot = apply_temperature(logits, 5e-324), apply_temperature(logits, 1.7e308)
    assert cold.softmax(-1).tolist() == [[0, 1, 0, 0]]
    torch.testing.assert_close(hot.softmax(-1), torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0]], dtype=dtype))


@for_all(scores, st.sets(st.integers(0, 11)))
def test_banned_ids_get_no_mass_and_the_rest_share_it(values, ids):
    banned = sorted(i for i in ids if i < len(values))
    left = [-math.inf if i in banned else x for i, x in enumerate(values)]
    assume(max(left) > -math.inf)
    got = distribution(row(values), Sampling(), banned=banned)
    torch.testing.assert_close(got, row(masses(left)))
    assert all(got[0, i] == 0 for i in banned)


def test_streams_differ_between_samples_and_seeds_and_repeat_for_the_same():
    def first(seed: int, index: int) -> float:
        return torch.rand(1, dtype=torch.float64, generator=generator(seed, index)).item()

    keys = [(seed, index) for seed in (-1, 0, 1, 2, 2**40, 2**40 + 2**32) for index in range(200)]
    values = [first(*key) for key in keys]
    assert len(set(values)) == len(keys)
    assert values == [first(*key) for key in keys]
