"""What differs is seen, wherever it stands and of whatever kind."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.agreement import DisagreementError, difference, require_agreement

VALUES = [
    3.5,
    [1, 2, 3],
    torch.arange(6.0).view(2, 3),
    np.array([1.0, -2.0]),
    {"a": torch.ones(2), "b": [4]},
    [torch.ones(2), torch.zeros(3), 1.0],
    [],
    (),
    torch.zeros(0),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_everything_agrees_with_itself(value):
    assert difference(value, value) == 0


@pytest.mark.parametrize("a", range(len(VALUES) - 3))
@pytest.mark.parametrize("b", range(len(VALUES) - 3))
def test_different_structures_are_infinitely_apart(a, b):
    if a != b:
        assert difference(VALUES[a], VALUES[b]) == math.inf


@given(st.integers(0, 4), st.floats(0.01, 10), st.floats(0.1, 100))
def test_the_worst_element_counts_as_a_share_of_the_largest(index, apart, largest):
    expected = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, largest], dtype=torch.float64)
    found = expected.clone()
    found[index] += apart
    assert difference([torch.ones(2), found], [torch.ones(2), expected]) == pytest.approx(apart / largest)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([1, 2, 4], [1, 2, 3]),
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([1.0]), torch.tensor([math.nan])),
        (torch.tensor([1.0]), torch.tensor([0.0])),
        (torch.tensor([math.inf]), torch.tensor([1.0])),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
    ],
    ids=repr,
)
def test_what_cannot_be_compared_is_infinitely_apart(found, expected):
    assert difference(found, expected) == math.inf


def test_a_refusal_names_both_sides_and_the_difference():
    require_agreement("ours", 1.0 + 1e-9, "theirs", 1.0, 1e-6)
    with pytest.raises(DisagreementError, match=r"'ours' and 'theirs' differ by 0\.5 .* 1e-06"):
        require_agreement("ours", 1.5, "theirs", 1.0, 1e-6)


def test_nan_is_refused_whatever_the_tolerance():
    with pytest.raises(DisagreementError):
        require_agreement("ours", math.nan, "theirs", math.nan, 1e30)
