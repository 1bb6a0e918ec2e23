"""What a document is, and how documents become pieces small enough to hold.

Text arrives as fragments: (text, begins), of any length, where `begins` says that a document begins with it.
A fragment of another kind is made of it by

    by_line        each line a document, without its newline
    by_paragraph   blank lines stand between documents; inner newlines stay
    cut            pieces of at most PIECE_CHARACTERS, blank documents left out

each of which streams: no document, however long, is held whole, and the lengths of fragments change nothing.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PIECE_CHARACTERS = 8192
"""The longest piece."""

Fragment = tuple[str, bool]
"""Some text, and whether a document begins with it."""


class Piece(NamedTuple):
    """A stretch of a document; the pieces of a document, joined, are exactly the document."""

    text: str
    """Never empty; at most PIECE_CHARACTERS characters."""
    begins: bool
    """A document begins with this piece."""


def cut(fragments: Iterable[Fragment]) -> Iterator[Piece]:
    """The documents as pieces, without those that are empty or white space only.

    A long document is cut just before a white space character that follows a character of another kind, where
    no tokenizer of this project joins two tokens: so the tokens of the pieces are the tokens of the document.
    The last such newline that fits is preferred, then the last such other white space; a word longer than a
    piece is cut through.
    """
    return _without_blank_documents(_cut_all(fragments))


def cut_point(text: str, limit: int, start: int = 0) -> int:
    """Where to cut so that at most `limit` characters, and at least one, stand between `start` and the cut.

    Args:
        text: Longer than `start + limit`: where a cut may stand depends on the character after it.
        limit: At least 1.
        start: Where the stretch begins.
    """
    window = start + limit + 1
    newline = text.rfind("\n", start, window)  # most text has one near the end, and some has none at all
    if newline >= 0 and (found := _BEFORE_NEWLINE.match(text, start, newline + 1)):
        return found.end()
    if found := _BEFORE_WHITE_SPACE.match(text, start, window):
        return found.end()
    return start + limit


def by_line(fragments: Iterable[Fragment]) -> Iterator[Fragment]:
    """Each line a document of its own, without its newline; the end of a document ends its last line."""
    for text, begins in fragments:
        head, *rest = text.split("\n")
        yield head, begins  # goes on with the line that the fragment before left unfinished
        for line in rest:
            yield line, True


def by_paragraph(fragments: Iterable[Fragment]) -> Iterator[Fragment]:
    """Each run of lines that are not blank a document, without the white space after its last word.

    What is held is the white space since the last word, no more.
    """
    begins, held = True, ""
    for text, first in fragments:
        if first:
            begins, held = True, "\n\n"  # as if blank lines stood before, so that leading ones are no text
        text = held + text
        solid = text.rstrip()
        # White space is kept back until it is known to stand inside a paragraph, many blank lines as one.
        held = _BLANK_LINES.sub("\n\n", text[len(solid) :])
        for index, paragraph in enumerate(_BLANK_LINES.split(solid)):
            begins = begins or index > 0
            # rstrip, because a line before a gap may end in blanks; the last one has been stripped already
            if paragraph := paragraph.rstrip():
                yield paragraph, begins
                begins = False


# Possessive: a million blank lines are no million places to come back to.
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*+\n)++")

# Greedy, so each finds the last place of its kind before the end of the window. Python counts the separators
# \x1c-\x1f as white space and Unicode does not; a cut stands where both agree.
_BEFORE_NEWLINE = re.compile(r".*\S(?=\n)", re.DOTALL)
_BEFORE_WHITE_SPACE = re.compile(r".*\S(?=[^\S\x1c-\x1f])", re.DOTALL)


def _cut_all(fragments: Iterable[Fragment]) -> Iterator[Piece]:
    held, begins = "", True
    for text, first in fragments:
        if first:
            if held:
                yield Piece(held, begins)
            held, begins = text, True
        else:
            held += text
        start = 0
        # Strictly more than a piece: where a full one may end depends on the character after it.
        while len(held) - start > PIECE_CHARACTERS:
            end = cut_point(held, PIECE_CHARACTERS, start)
            yield Piece(held[start:end], begins)
            start, begins = end, False
        if start:
            held = held[start:]
    if held:
        yield Piece(held, begins)


def _without_blank_documents(pieces: Iterable[Piece]) -> Iterator[Piece]:
    leading: list[Piece] = []  # the document so far, while it is blank
    for piece in pieces:
        if piece.begins:
            leading.clear()
        if (piece.begins or leading) and piece.text.isspace():
            # A file may be a gigabyte of spaces: equal pieces are kept once.
            leading.append(Piece(sys.intern(piece.text), piece.begins))
            continue
        if leading:
            yield from leading
            leading.clear()
        yield piece
