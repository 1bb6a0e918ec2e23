"""An interval holds the truth as often as it says, whatever the documents, the seeds, and how few there are."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.compare.bootstrap import MOST_UNITS, Difference, paired_difference


def texts(seed, documents, seeds=None):
    """Bytes [D], and nats of two models [S, D] or [D]."""
    rng = np.random.default_rng(seed)
    shape = documents if seeds is None else (seeds, documents)
    sizes = rng.integers(1, 1000, documents)
    return sizes, *(rng.gamma(2, 0.5, shape) * sizes for _ in range(2))


SHAPES = st.tuples(st.integers(0, 2**32), st.integers(2, 12), st.none() | st.integers(1, 4))


@given(SHAPES)
def test_a_model_does_not_differ_from_itself(shape):
    sizes, nats, _ = texts(*shape)
    assert paired_difference(nats, nats, sizes, resamples=50) == Difference(0, 0, 0)


@given(SHAPES)
def test_turned_around_it_changes_its_sign(shape):
    sizes, one, other = texts(*shape)
    there, back = (paired_difference(*pair, sizes, resamples=99) for pair in ((one, other), (other, one)))
    assert there == pytest.approx((-back.value, -back.high, -back.low), rel=1e-9, abs=1e-9)
    assert there.low < there.high


@given(SHAPES, st.floats(0.1, 10))
def test_it_scales_with_the_nats_and_with_the_bytes(shape, factor):
    sizes, one, other = texts(*shape)
    plain = paired_difference(one, other, sizes, resamples=50)
    larger = paired_difference(factor * one, factor * other, sizes, resamples=50)
    longer = paired_difference(one, other, factor * sizes, resamples=50)
    assert larger == pytest.approx([factor * end for end in plain], rel=1e-6, abs=1e-9)
    assert longer == pytest.approx([end / factor for end in plain], rel=1e-6, abs=1e-9)


@given(SHAPES)
def test_the_value_is_a_ratio_of_sums(shape):
    sizes, one, other = texts(*shape)
    bits = (np.atleast_2d(one).mean(axis=0).sum() - np.atleast_2d(other).mean(axis=0).sum()) / math.log(2)
    assert paired_difference(one, other, sizes, resamples=1).value == pytest.approx(bits / sizes.sum())


def test_what_both_models_find_hard_drops_out():
    sizes, nats, _ = texts(0, 50)
    found = paired_difference(nats + 0.1 * math.log(2) * sizes, nats, sizes)
    assert found == pytest.approx((0.1, 0.1, 0.1), abs=1e-9)


def test_a_model_without_seeds_is_the_partner_of_every_seed():
    sizes, nats, other = texts(0, 20, 3)
    once = paired_difference(nats, other[0], sizes)
    assert once == paired_difference(nats, other[[0, 0, 0]], sizes)


@pytest.mark.parametrize(
    ("seeds", "documents", "seed_sd", "document_sd"),
    [
        (1, 200, 0.0, 0.1),
        (1, 5, 0.0, 0.1),  # plain percentiles hold the truth 0.83 of the time
        (3, 40, 0.02, 0.01),  # and 0.75 where seeds are resampled
        (3, 40, 0.005, 0.04),
        (2, 40, 0.02, 0.0),
    ],
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, documents, seed_sd, document_sd):
    rng, trials, held = np.random.default_rng(5), 500, 0
    for trial in range(trials):
        sizes = rng.integers(50, 150, documents)
        hard = rng.gamma(4, 0.3, documents) * sizes
        differences = (
            0.05
            + rng.normal(0, document_sd, documents)
            + rng.normal(0, seed_sd, (seeds, 1))
            + rng.normal(0, 0.002, (seeds, documents))
        )
        found = paired_difference(
            hard + differences * sizes, hard, sizes, resamples=600, seed=trial, level=0.9
        )
        held += found.low <= 0.05 / math.log(2) <= found.high
    assert 0.865 <= held / trials <= 0.945  # 0.9, and two and a half standard errors of 500 trials


def test_more_documents_than_units_have_the_same_interval():
    rng = np.random.default_rng(0)
    documents = 3 * MOST_UNITS + 7
    sizes, difference = np.full(documents, 100), rng.normal(1, 30, documents)
    found = paired_difference(difference, np.zeros(documents), sizes, resamples=2000)
    value = difference.mean() / (100 * math.log(2))
    reach = 1.96 * difference.std() / math.sqrt(documents) / (100 * math.log(2))
    assert found.value == pytest.approx(value)
    assert (found.low, found.high) == pytest.approx((value - reach, value + reach), abs=0.1 * reach)


def test_the_level_and_the_seed_matter_and_nothing_else_does():
    sizes, one, other = texts(0, 30, 3)
    wide, narrow = (paired_difference(one, other, sizes, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    assert paired_difference(one, other, sizes) == paired_difference(one, other, sizes)
    assert paired_difference(one, other, sizes) != paired_difference(one, other, sizes, seed=1)


def test_one_document_has_a_difference_and_no_interval():
    found = paired_difference(np.array([10.0]), np.array([7.0]), np.array([3]))
    assert found.value == pytest.approx(1 / math.log(2))
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_model_that_thinks_a_text_impossible_has_no_interval():
    found = paired_difference(np.array([1.0, math.inf]), np.array([1.0, 1.0]), np.array([3, 3]))
    assert found.value == math.inf
    assert math.isnan(found.low)


def test_empty_documents_count_with_their_ends():
    sizes, nats, _ = texts(0, 40)
    sizes[::2], nats[::2] = 0, 1.0
    found = paired_difference(nats, np.zeros(40), sizes)
    assert found.value == pytest.approx(nats.sum() / (math.log(2) * sizes.sum()))
    assert found.low < found.value < found.high


def test_resamples_of_empty_documents_alone_are_left_out():
    found = paired_difference(np.array([1.0, 2.0]), np.zeros(2), np.array([0, 10]))
    assert math.isfinite(found.low)
    assert found.low < found.high


@pytest.mark.parametrize(
    ("nats", "reference", "sizes"),
    [((3,), (3,), (4,)), ((3,), (4,), (3,)), ((2, 3), (3, 3), (3,)), ((0,), (0,), (0,))],
)
def test_what_does_not_fit_together_is_refused(nats, reference, sizes):
    with pytest.raises(ValueError, match=r"fit|broadcast"):
        paired_difference(np.ones(nats), np.ones(reference), np.ones(sizes))
