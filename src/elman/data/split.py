"""Which text is held out: whole documents chosen by their hashes, or a stretch where documents are few or long.

    20 documents or more    those of the least hashes, until there is enough; a document that is longer than all that
                            is wanted is passed over, and so are equal ones that together are
    where these are not
    enough                  the end of the last long document that equals no other; if there is none, all of these
    fewer documents         the end of the text

The choice of documents is fixed, does not depend on the order of the corpus, looks random, and never puts equal
documents on different sides. They hold less than twice what is wanted, and at least as much where there is enough.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elman.data.documents import Piece, cut_point
from elman.data.survey import Survey

DOCUMENTS_TO_SPLIT_BY = 20
"""With fewer documents than this, the held-out part is the end of the text instead of whole documents."""

HELD_OUT_BLOCK = 32_768
"""Characters, about, of the documents that a held-out end of a text is cut into, to be scored side by side."""


RANGE_BITS = 6
"""Hashes that share so many first bits are looked at together: a 64th of the documents, where few are equal."""


@dataclass(frozen=True, slots=True)
class Split:
    """Which text is held out: documents by number, or a stretch of the text, or nothing."""

    held_out: NDArray[np.bool_]
    stretch: range | None = None
    """Positions of characters; it ends where a document ends."""


def split_corpus(survey: Survey, fraction: float | None, limit: int | None = None) -> Split:
    """Hold out `fraction` of the characters, at most `limit`. With None, nothing is held out and `limit` is ignored."""
    nothing = np.zeros(len(survey.hashes), dtype=np.bool_)
    if fraction is None:
        return Split(nothing)
    wanted = min(fraction * survey.characters, math.inf if limit is None else limit)
    if len(survey.hashes) < DOCUMENTS_TO_SPLIT_BY:
        return Split(nothing, _end(survey.characters, wanted))
    chosen, enough = _choose(survey, wanted)
    stretch = None if enough else _end_of_a_long_one(survey, wanted)
    return Split(chosen) if stretch is None else Split(nothing, stretch)


def _end(position: int, wanted: float) -> range:
    """About `wanted` characters before `position`."""
    return range(round(position - wanted), position)


def _choose(survey: Survey, wanted: float) -> tuple[NDArray[np.bool_], bool]:
    """The documents of the least hashes that hold `wanted` characters together, and none of which does so alone.

    Equal documents are one here. If all such documents are not enough, it is all of them, and False. Sorting millions
    of hashes takes several times their memory, so they are sorted range by range.
    """
    ranges = (survey.hashes >> np.uint64(64 - RANGE_BITS)).astype(np.uint8)
    chosen = np.zeros(len(ranges), dtype=np.bool_)
    held = 0.0  # exact below 2**53
    for number in range(1 << RANGE_BITS):
        near = np.flatnonzero(ranges == number)
        _, group = np.unique(survey.hashes[near], return_inverse=True)  # numbered in the order of the hashes
        lengths = np.bincount(group, weights=survey.lengths[near])
        fits = lengths <= wanted
        counted = np.where(fits, lengths, 0.0)
        taken = fits & (held + counted.cumsum() - counted < wanted)
        chosen[near] = taken[group]
        held += lengths[taken].sum()
        if held >= wanted:
            return chosen, True
    return chosen, False


def _end_of_a_long_one(survey: Survey, wanted: float) -> range | None:
    """The end of the last document that holds more than is wanted and equals no other, if there is one."""
    long = np.flatnonzero(survey.lengths > wanted)
    _, first, copies = np.unique(survey.hashes[long], return_index=True, return_counts=True)
    alone = long[first[copies == 1]]
    return _end(int(survey.lengths[: alone.max() + 1].sum()), wanted) if len(alone) else None


def mark_held_out(pieces: Iterator[Piece], split: Split) -> Iterator[tuple[Piece, bool]]:
    """Every piece of the corpus that was split, and whether it is held out."""
    if split.stretch is not None:
        yield from _mark_stretch(pieces, split.stretch)
        return
    document = -1
    for piece in pieces:
        document += piece.begins
        yield piece, bool(split.held_out[document])


def _mark_stretch(pieces: Iterator[Piece], stretch: range) -> Iterator[tuple[Piece, bool]]:
    """Hold out a stretch, in blocks; the piece across its beginning is cut there."""
    seen, block = 0, HELD_OUT_BLOCK
    for piece in pieces:
        (text, begins), before = piece, stretch.start - seen
        seen += len(text)
        if before >= len(text) or seen > stretch.stop:
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
