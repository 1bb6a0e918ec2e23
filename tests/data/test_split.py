"""The held-out part is the least that is enough, never much more, and equal documents are on one side."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from elman.data.documents import PIECE_CHARACTERS
from elman.data.split import DOCUMENTS_TO_SPLIT_BY, Split, mark_held_out, split_corpus
from elman.data.survey import Survey, survey_corpus
from tests.data.in_memory import corpus_of

# Drawn from few hashes, so that some are equal, and from all, so that they differ in their first bits.
HASHES = st.one_of(st.integers(0, 60), st.integers(0, 2**64 - 1))

SHORT = st.integers(1, 50)
SHORT_OR_LONG = SHORT | st.integers(1000, 100_000)

NOTES = [f"note {number:02}: " + "words and more " * 26 for number in range(40)]
NOVEL = "It was a dark and stormy night. " * 19_000


def surveys(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[Survey]:
    """Enough documents to be split one by one; equal ones have equal lengths."""
    length_of = st.dictionaries(HASHES, lengths, min_size=2, max_size=60)
    documents = length_of.flatmap(
        lambda known: st.lists(
            st.sampled_from(sorted(known.items())), min_size=DOCUMENTS_TO_SPLIT_BY, max_size=90
        )
    )
    return documents.map(
        lambda pairs: Survey(
            "",
            sum(length for _, length in pairs),
            np.array([number for number, _ in pairs], dtype=np.uint64),
            np.array([length for _, length in pairs]),
        )
    )


def totals(survey: Survey) -> dict[int, int]:
    """Characters of all documents of each hash."""
    return {
        number: int(survey.lengths[survey.hashes == number].sum()) for number in set(survey.hashes.tolist())
    }


def candidates(survey: Survey, wanted: float) -> dict[int, int]:
    """Those that may be held out, in the order of their hashes."""
    return {number: total for number, total in sorted(totals(survey).items()) if total <= wanted}


@given(
    survey=surveys(SHORT_OR_LONG), fraction=st.floats(0.01, 0.89), limit=st.none() | st.integers(1, 10_000)
)
def test_never_twice_what_is_wanted_and_never_less_where_there_is_enough(survey, fraction, limit):
    split = split_corpus(survey, fraction, limit)
    wanted = min(fraction * survey.characters, limit or survey.characters)
    held_out = survey.hashes[split.held_out]
    assert set(held_out).isdisjoint(survey.hashes[~split.held_out])  # equal documents never part
    known = candidates(survey, wanted)
    if split.stretch is not None:
        assert not len(held_out)
        assert abs(len(split.stretch) - wanted) <= 0.5
    elif sum(known.values()) >= wanted:
        assert wanted <= survey.lengths[split.held_out].sum() < 2 * wanted
    else:  # the rest is equal documents, each too many
        assert set(held_out.tolist()) == set(known)
        assert all(
            length <= wanted or (survey.hashes == number).sum() > 1
            for number, length in zip(survey.hashes, survey.lengths, strict=True)
        )


@given(survey=surveys(SHORT_OR_LONG), fraction=st.floats(0.01, 0.89))
def test_documents_are_taken_by_their_hashes_where_short_ones_are_enough(survey, fraction):
    wanted = fraction * survey.characters
    known = candidates(survey, wanted)
    assume(sum(known.values()) >= wanted)
    expected, held = set(), 0
    for number, total in known.items():
        if held < wanted:
            expected.add(number)
            held += total
    split = split_corpus(survey, fraction)
    assert set(survey.hashes[split.held_out].tolist()) == expected


LONG_ONES = st.lists(
    st.tuples(st.integers(0, 89), HASHES, st.integers(100_000, 150_000)), min_size=1, max_size=4
)
"""Where each is to stand, its hash, and its length: a 20th of it is more than 90 short ones, and it is a 7th of all."""


@given(survey=surveys(SHORT), long_ones=LONG_ONES, fraction=st.floats(0.05, 0.12), repeated=st.booleans())
def test_where_they_are_not_it_is_the_end_of_a_long_one(survey, long_ones, fraction, repeated):
    length_of = {number: length for _, number, length in long_ones if number not in survey.hashes}
    assume(len(length_of) == len(long_ones))
    hashes, lengths = survey.hashes.tolist(), survey.lengths.tolist()
    places = sorted(place for place, _, _ in long_ones)
    for place, number in zip(places, length_of, strict=True):
        hashes.insert(place, number)
        lengths.insert(place, length_of[number])
    alone = [number for number in hashes if number in length_of]
    if repeated:
        hashes.append(alone[-1])
        lengths.append(length_of[alone.pop()])
    wanted = fraction * sum(lengths)
    found = split_corpus(Survey("", sum(lengths), np.array(hashes, np.uint64), np.array(lengths)), fraction)
    last = max((hashes.index(number) for number in alone), default=None)
    if last is None:
        assert found.stretch is None
        assert [number in length_of for number in hashes] == (~found.held_out).tolist()
    else:
        assert not found.held_out.any()
        assert found.stretch.stop == sum(lengths[: last + 1])
        assert abs(len(found.stretch) - wanted) <= 0.5


@given(survey=surveys(SHORT), fraction=st.floats(0.01, 0.89), order=st.randoms())
def test_the_order_of_the_documents_decides_nothing(survey, fraction, order):
    split = split_corpus(survey, fraction)
    assume(split.held_out.any())
    places = list(range(len(survey.hashes)))
    order.shuffle(places)
    shuffled = Survey("", survey.characters, survey.hashes[places], survey.lengths[places])
    assert split_corpus(shuffled, fraction).held_out.tolist() == split.held_out[places].tolist()


def divide(documents: list[str], split: Split) -> tuple[str, str]:
    """The text that is trained on, and the one that is held out."""
    sides: dict[bool, list[str]] = {False: [], True: []}
    for piece, held_out in mark_held_out(corpus_of(documents).pieces(), split):
        sides[held_out].append(piece.text)
    return "".join(sides[False]), "".join(sides[True])


@pytest.mark.parametrize("place", [0, 17, 40])
@pytest.mark.parametrize("repeated", [0, 30])
def test_a_novel_among_notes_is_not_held_out(place, repeated):
    documents = NOTES + NOTES[:repeated]
    documents.insert(place, NOVEL)
    split = split_corpus(survey_corpus(corpus_of(documents)), 0.05)
    wanted = 0.05 * sum(map(len, documents))
    train, valid = divide(documents, split)
    assert wanted <= len(valid) < wanted + PIECE_CHARACTERS
    assert NOVEL.endswith(valid)
    before, after = "".join(documents[:place]), "".join(documents[place + 1 :])
    assert train == before + NOVEL.removesuffix(valid) + after


def test_notes_that_are_enough_are_held_out_and_no_novel_is():
    documents = [*NOTES, NOVEL[:3000]]
    split = split_corpus(survey_corpus(corpus_of(documents)), 0.05)
    assert split.stretch is None
    assert not split.held_out[-1]
    assert 2 <= split.held_out.sum() <= 4


def test_of_nothing_but_equal_documents_none_is_held_out():
    split = split_corpus(survey_corpus(corpus_of([NOTES[0], NOTES[1]] * 20)), 0.05)
    assert split.stretch is None
    assert not split.held_out.any()
