"""Negatives: distinct, as many as asked for, each with exactly its probability, whatever the counts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman.errors import ConfigError, InputError
from elman.ops import reference
from elman.ops.linear_cross_entropy import linear_cross_entropy
from elman.ops.proposal import Proposal
from tests.compare import assert_equal_to

# Axes: V vocabulary, S negatives, N rows, D width.

CASES = [
    ([5, 1, 3], 1, 0.75),
    ([9, 4, 3, 2, 1, 1, 0], 3, 0.75),  # the most frequent word is nearly certain
    ([100, 4, 3, 2, 1, 1, 0], 3, 1.0),  # and here quite
    ([1, 2, 3, 4, 5, 6], 4, 0.5),
    ([7, 7, 7, 7, 7, 7], 3, 1.0),  # words end where intervals do
    ([0, 0, 0, 0, 0], 3, 0.75),  # and here rounding decides whether they do
    ([3, 0, 8], 3, 0.75),
]

every_case = pytest.mark.parametrize(("counts", "size", "exponent"), CASES, ids=str)


def make(counts, size, exponent=0.75):
    return Proposal(torch.tensor(counts), size, exponent)


def every_set(proposal):
    """Every set that can be drawn, with its probability: the pick of an interval is a step function of its number.

    Intervals are settled one after the other, because a pick depends on the numbers up to its own only.
    """

    def pick(uniforms):
        rest = [0.5] * (proposal.num_negatives - len(uniforms))
        return int(proposal.at(torch.tensor([*uniforms, *rest], dtype=torch.float64)).ids[len(uniforms) - 1])

    def steps(before, low, high):
        """The steps between two numbers, as (number inside, width): halved until both ends pick alike."""
        if pick([*before, low]) == pick([*before, high]):
            return [(low, high - low)]
        middle = (low + high) / 2
        if high - low < 1e-15:
            return [(low, high - low)]
        return [*steps(before, low, middle), *steps(before, middle, high)]

    found = [([], 1.0)]
    for _ in range(proposal.num_negatives):
        found = [
            ([*before, inside], probability * width)
            for before, probability in found
            for inside, width in merged(before, steps(before, 0.0, 1 - 2**-53), pick)
        ]
    return [
        (proposal.at(torch.tensor(uniforms, dtype=torch.float64)), probability)
        for uniforms, probability in found
    ]


def merged(before, pieces, pick):
    """Neighbouring pieces with one pick, as one."""
    whole = []
    for inside, width in pieces:
        if whole and pick([*before, whole[-1][0]]) == pick([*before, inside]):
            whole[-1] = (whole[-1][0], whole[-1][1] + width)
        else:
            whole.append((inside, width))
    return whole


@every_case
def test_the_probability_of_every_id_is_exactly_as_stated(counts, size, exponent):
    proposal = make(counts, size, exponent)
    drawn = torch.zeros(len(counts), dtype=torch.float64)
    total = 0.0
    for negatives, probability in every_set(proposal):
        assert len(set(negatives.ids.tolist())) == size
        drawn[negatives.ids] += probability
        total += probability
    assert total == pytest.approx(1, abs=1e-12)
    assert_equal_to(drawn, proposal.inclusion_V)


@every_case
def test_the_mean_of_the_estimated_partition_sum_is_the_whole_sum(counts, size, exponent):
    proposal = make(counts, size, exponent)
    hidden = torch.randn(4, 3, dtype=torch.float64)
    weight, bias = torch.randn(len(counts), 3, dtype=torch.float64), torch.randn(len(counts)).double()
    targets = torch.tensor([0, len(counts) - 1, 1, 0])
    target_logits = torch.gather(hidden @ weight.T + bias, 1, targets[:, None])[:, 0]

    mean = torch.zeros(4, dtype=torch.float64)
    sets = every_set(proposal)
    for negatives, probability in sets:
        nats = reference.sampled_softmax(hidden, weight, bias, targets, negatives, reduction="none")
        mean += probability * (nats + target_logits).exp()
    exact = linear_cross_entropy(hidden, weight, bias, targets, reduction="none")
    assert_equal_to(mean, (exact + target_logits).exp())
    assert size == len(counts) or len({tuple(negatives.ids.tolist()) for negatives, _ in sets}) > 1


@given(
    counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=30),
    share=st.floats(0, 1),
    exponent=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_sets_are_distinct_and_probabilities_sum_to_their_size(counts, share, exponent, seed):
    size = max(1, round(share * len(counts)))
    proposal = make(counts, size, exponent)
    assert proposal.inclusion_V.sum() == pytest.approx(size, abs=1e-9)
    assert (proposal.inclusion_V > 0).all()
    assert (proposal.inclusion_V <= 1).all()
    generator = torch.Generator().manual_seed(seed)
    always = set(torch.nonzero(proposal.inclusion_V == 1)[:, 0].tolist())
    for _ in range(5):
        ids, log_weights = proposal.draw(generator)
        assert ids.shape == log_weights.shape == (size,)
        assert ids.dtype == torch.int64
        assert len(set(ids.tolist())) == size
        assert always <= set(ids.tolist())
        assert_equal_to(log_weights, -proposal.inclusion_V[ids].log())


@given(
    counts=st.lists(st.integers(0, 100), min_size=2, max_size=12),
    corners=st.lists(st.sampled_from([0.0, 2**-53, 0.5, 1 - 2**-53]), min_size=12, max_size=12),
    size=st.integers(1, 12),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_sets_are_distinct_at_the_extremes_of_the_uniform_numbers(counts, corners, size, exponent):
    size = min(size, len(counts))
    ids = make(counts, size, exponent).at(torch.tensor(corners[:size], dtype=torch.float64)).ids
    assert len(set(ids.tolist())) == size


def test_probabilities_go_with_the_counts_to_the_exponent_until_they_are_certain():
    proposal = make([0, 1, 16, 81, 10**9], 2, 0.75)
    expected = torch.tensor([1, 1, 8, 27], dtype=torch.float64) / 37
    assert_equal_to(proposal.inclusion_V, torch.cat([expected, torch.ones(1, dtype=torch.float64)]))


def test_exponents_reach_from_uniform_to_unigram():
    assert_equal_to(make([0, 1, 5, 10], 2, 0.0).inclusion_V, torch.full((4,), 0.5, dtype=torch.float64))
    unigram = make([1, 2, 3, 4], 1, 1.0).inclusion_V
    assert_equal_to(unigram, torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("size", [5, 6, 1000])
def test_a_set_is_at_most_the_vocabulary_and_then_weighs_nothing(size):
    proposal = make([0, 10**6, 3, 3, 1], size)
    ids, log_weights = proposal.draw(torch.Generator())
    assert proposal.num_negatives == 5
    assert sorted(ids.tolist()) == [0, 1, 2, 3, 4]
    assert not log_weights.any()


def test_the_generator_decides_and_nothing_else():
    proposal = make(list(range(500)), 40)

    def draws(seed):
        generator = torch.Generator().manual_seed(seed)
        return [proposal.draw(generator) for _ in range(3)]

    first, again, other = draws(1), draws(1), draws(2)
    assert_equal_to(first, again, tolerance=0)
    assert not torch.equal(first[0].ids, first[1].ids)
    assert not torch.equal(first[0].ids, other[0].ids)
    before = torch.get_rng_state()
    draws(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_words_of_different_intervals_are_drawn_together_as_if_independent():
    """No word has a fixed company: where no word lies across an edge, joint probabilities are products."""
    proposal = make([1] * 6, 2)
    joint = torch.zeros(6, 6, dtype=torch.float64)
    for (ids, _), probability in every_set(proposal):
        joint[ids[0], ids[1]] += probability
    assert_equal_to(joint[:3, 3:], torch.full((3, 3), 1 / 9, dtype=torch.float64))


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        (torch.tensor([1, -2, 3]), r"count of id 1 is negative \(-2\)"),
        (torch.ones(2, 3, dtype=torch.int64), r"shape \(2, 3\)"),
        (torch.ones((), dtype=torch.int64), r"shape \(\)"),
        (torch.ones(0, dtype=torch.int64), r"shape \(0,\)"),
        (torch.tensor([0.25, 0.75]), "whole numbers"),
    ],
)
def test_counts_that_are_none_are_refused(counts, says):
    with pytest.raises(InputError, match=says):
        Proposal(counts, 1)


@pytest.mark.parametrize("size", [0, -1])
def test_a_set_of_nothing_is_refused(size):
    with pytest.raises(ConfigError, match=rf"num_negatives \({size}\)"):
        make([1, 2, 3], size)


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan")])
def test_an_exponent_out_of_range_is_refused(exponent):
    with pytest.raises(ConfigError, match="exponent"):
        make([1, 2, 3], 2, exponent)
