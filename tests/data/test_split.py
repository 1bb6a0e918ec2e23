"""The held-out part is the least that is enough, and equal documents are on one side."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from elman.data.split import DOCUMENTS_TO_SPLIT_BY, split_corpus
from elman.data.survey import Survey

# Drawn from few hashes, so that some are equal, and from all, so that they differ in their first bits.
HASHES = st.one_of(st.integers(0, 60), st.integers(0, 2**64 - 1))


@given(
    documents=st.lists(st.tuples(HASHES, st.integers(1, 50)), min_size=DOCUMENTS_TO_SPLIT_BY, max_size=60),
    fraction=st.floats(0.01, 0.89),
)
def test_the_share_that_is_held_out_is_the_least_that_is_enough(documents, fraction):
    hashes = np.array([number for number, _ in documents], dtype=np.uint64)
    lengths = np.array([length for _, length in documents])
    characters = int(lengths.sum())
    held_out = split_corpus(Survey("", characters, hashes, lengths), fraction).held_out

    assert lengths[held_out].sum() >= fraction * characters
    last = hashes == hashes[held_out].max()
    assert lengths[held_out & ~last].sum() < fraction * characters
    assert set(hashes[held_out]).isdisjoint(hashes[~held_out])  # equal documents never part
