"""Documents and pieces: nothing is lost, the way text arrives changes nothing, cuts stand where they may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.data import documents
from elman.data.documents import PIECE_CHARACTERS, Fragment, Piece, by_line, by_paragraph, cut, cut_point

SMALL = 8
"""A piece in the property tests, so that short texts meet every case."""

ALPHABET = "ab \n\t\u00a0\x1c\x00é"
TEXTS = st.text(ALPHABET, max_size=60)


@pytest.fixture(autouse=True, scope="module")
def small_pieces():
    patch = pytest.MonkeyPatch()
    patch.setattr(documents, "PIECE_CHARACTERS", SMALL)
    yield
    patch.undo()


@st.composite
def fragmented(draw) -> tuple[list[str], list[Fragment]]:
    """Some documents, and the same as fragments of random lengths, some of them empty."""
    texts = draw(st.lists(TEXTS, max_size=5))
    fragments: list[Fragment] = []
    for text in texts:
        ends = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        starts = [0, *ends]
        parts = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
        fragments += [(part, index == 0) for index, part in enumerate(parts)]
    return texts, fragments


def joined(pieces) -> list[str]:
    """The documents that pieces make up."""
    found: list[str] = []
    for text, begins in pieces:
        if begins:
            found.append("")
        found[-1] += text
    return found


@given(fragmented())
def test_pieces_join_to_the_documents_that_are_not_blank(case):
    texts, fragments = case
    assert joined(cut(fragments)) == [text for text in texts if text.strip()]


@given(fragmented())
def test_pieces_are_small_and_never_empty(case):
    _, fragments = case
    assert all(0 < len(piece.text) <= SMALL for piece in cut(fragments))


@given(fragmented())
def test_a_cut_stands_at_the_last_and_best_place_in_reach(case):
    texts, _ = case
    for text in texts:
        start = 0
        for piece in list(cut([(text, True)]))[:-1]:
            end = start + len(piece.text)
            reach = range(start + 1, start + SMALL + 1)
            places = [
                at for at in reach if text[at].isspace() and text[at] != "\x1c" and not text[at - 1].isspace()
            ]
            newlines = [at for at in places if text[at] == "\n"]
            assert end == max(newlines or places or [start + SMALL])
            start = end


@given(fragmented())
def test_the_lengths_of_fragments_change_nothing(case):
    texts, fragments = case
    whole = [(text, True) for text in texts]
    for divide in (iter, by_line, by_paragraph):
        assert list(cut(divide(iter(fragments)))) == list(cut(divide(iter(whole))))


@given(fragmented())
def test_lines_are_the_lines_that_are_not_blank(case):
    texts, fragments = case
    expected = [line for text in texts for line in text.split("\n") if line.strip()]
    assert joined(cut(by_line(fragments))) == expected


@given(fragmented())
def test_paragraphs_are_the_runs_of_lines_that_are_not_blank(case):
    texts, fragments = case
    expected = []
    for text in texts:
        lines: list[str] = []
        for line in [*text.split("\n"), ""]:
            if line.strip():
                lines.append(line)
            elif lines:
                expected.append("\n".join(lines).rstrip())
                lines = []
    assert joined(cut(by_paragraph(fragments))) == expected


@given(st.text(ALPHABET, min_size=2, max_size=40), st.data())
def test_a_cut_point_leaves_text_on_both_sides(text, data):
    limit = data.draw(st.integers(1, len(text) - 1))
    assert 1 <= cut_point(text, limit) <= limit


def test_words_between_cuts_stay_whole():
    text = "carry the state over " * 50
    assert [word for piece in cut([(text, True)]) for word in piece.text.split()] == text.split()


def test_a_long_line_begins_one_document():
    pieces = list(cut(by_line([("abc " * 10 + "\nnext", True)])))
    assert [piece.begins for piece in pieces].count(True) == 2
    assert len(pieces) > 2


def test_leading_white_space_of_a_document_is_kept():
    text = "\n" * (3 * SMALL) + "word"
    pieces = list(cut([(" " * 20, True), (text, True)]))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.begins for piece in pieces] == [True] + [False] * (len(pieces) - 1)


def test_the_size_of_a_real_piece_is_what_others_plan_with():
    assert PIECE_CHARACTERS == 8192
    assert Piece("a", True) == ("a", True)
