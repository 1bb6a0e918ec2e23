"""Which text is held out: whole documents chosen by their hashes, or the end of a text of few documents.

The choice is fixed, does not depend on the order of the corpus, looks random, and never puts equal documents on
different sides.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elman.data.corpora import Piece, cut_point
from elman.data.survey import Survey

DOCUMENTS_TO_SPLIT_BY = 20
"""With fewer documents than this, the held-out part is the end of the text instead of whole documents."""

HELD_OUT_BLOCK = 32_768
"""Characters, about, of the documents that a held-out end of a text is cut into, to be scored side by side."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which text is held out: documents by number, or everything from a position on, or nothing."""

    held_out: NDArray[np.bool_]
    position: int | None = None


def split_corpus(survey: Survey, fraction: float | None, limit: int | None = None) -> Split:
    """Hold out `fraction` of the characters, at most `limit`; None holds out nothing, and knows no limit."""
    nothing = np.zeros(len(survey.hashes), dtype=np.bool_)
    if fraction is None:
        return Split(nothing)
    wanted = min(fraction * survey.characters, math.inf if limit is None else limit)
    if len(survey.hashes) < DOCUMENTS_TO_SPLIT_BY:
        return Split(nothing, position=round(survey.characters - wanted))
    return Split(survey.hashes <= _threshold(survey, wanted))


def _threshold(survey: Survey, wanted: float) -> np.uint64:
    """The least hash such that the documents up to it hold `wanted` characters.

    Sorting millions of hashes takes several times their memory, so only those are sorted that share their first
    16 bits with the one that is sought.
    """
    first_bits = (survey.hashes >> np.uint64(48)).astype(np.intp)
    sums = np.bincount(first_bits, weights=survey.lengths).cumsum()  # exact below 2**53
    bits = int(sums.searchsorted(wanted))
    near = np.flatnonzero(first_bits == bits)
    near = near[np.argsort(survey.hashes[near], kind="stable")]
    lengths = survey.lengths[near]
    before = sums[bits] - lengths.sum() + lengths.cumsum() - lengths
    threshold: np.uint64 = survey.hashes[near][before < wanted][-1]
    return threshold


def mark_held_out(pieces: Iterator[Piece], split: Split) -> Iterator[tuple[Piece, bool]]:
    """Every piece of the corpus that was split, and whether it is held out."""
    if split.position is not None:
        yield from _mark_end(pieces, split.position)
        return
    document = -1
    for piece in pieces:
        document += piece.begins
        yield piece, bool(split.held_out[document])


def _mark_end(pieces: Iterator[Piece], position: int) -> Iterator[tuple[Piece, bool]]:
    """Hold out everything from `position` on, in blocks; the piece across it is cut there."""
    seen, block = 0, HELD_OUT_BLOCK
    for piece in pieces:
        (text, begins), before = piece, position - seen
        seen += len(text)
        if before >= len(text):
            yield piece, False
            continue
        if before > 0:
            at = cut_point(text, before)
            yield Piece(text[:at], begins), False
            text = text[at:]
        if begins or block >= HELD_OUT_BLOCK:
            begins, block = True, 0
        yield Piece(text, begins), True
        block += len(text)
