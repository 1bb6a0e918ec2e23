"""Texts cut for tokenizing: chunks that know their store, their shard, and where documents begin and end.

Which shard a chunk is in depends on its place in its text alone, never on who tokenizes it or what was done before:

    shard = characters before the chunk // SHARD_CHARACTERS        counted on from text to text

So any process can do any shard, and the shards, end to end, are what one process would have made of all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from elman.data import survey as surveying
from elman.data.corpora import Corpus
from elman.data.documents import Piece
from elman.data.survey import Survey, read_again

BATCH_CHARACTERS = 4_000_000
"""Characters tokenized at a time: enough for all cores, little memory."""

WHOLE_CHARACTERS = 4_000_000
"""A tokenizer that cannot be cut safely is given documents whole, up to this."""

Marked = tuple[Piece, str]
"""A piece, and the name of the store that it goes to."""


@dataclass(frozen=True, slots=True)
class Text:
    """A corpus to tokenize."""

    corpus: Corpus
    survey: Survey
    mark: Callable[[Iterator[Piece]], Iterator[Marked]]
    """Gives every piece its store; a document changes stores only where another one begins."""


class Chunk(NamedTuple):
    """A stretch of a document to tokenize at once."""

    text: str
    store: str
    shard: int
    begins: bool
    """A document begins with it."""
    ends: bool
    """A document ends with it."""
    in_word: bool
    """Its first word began in the chunk before, and was counted there."""


def cut_chunks(texts: Sequence[Text], *, whole: bool) -> Iterator[Chunk]:
    """All of `texts`, in order.

    Args:
        texts: One after the other.
        whole: Give documents whole, up to WHOLE_CHARACTERS.

    Raises:
        ChangedTextError: A text is no longer the one that was surveyed.
    """
    in_word = False
    placed = _place(texts, whole)
    following = next(placed, None)
    while following is not None:
        (piece, store, shard), following = following, next(placed, None)
        yield Chunk(
            text=piece.text,
            store=store,
            shard=shard,
            begins=piece.begins,
            ends=following is None or following[0].begins,
            in_word=in_word and not piece.begins and not piece.text[0].isspace(),
        )
        in_word = not piece.text[-1].isspace()


def by_shard(chunks: Iterator[Chunk], shards: int) -> Iterator[tuple[int, Iterator[Chunk]]]:
    """The chunks of every shard in turn; a shard has none where a chunk reaches across it."""
    groups = groupby(chunks, key=lambda chunk: chunk.shard)
    following = next(groups, None)
    for number in range(shards):
        if following is None or following[0] != number:
            yield number, iter(())
            continue
        yield following
        following = next(groups, None)


def in_batches(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks of BATCH_CHARACTERS, about, together."""
    batch: list[Chunk] = []
    waiting = 0
    for chunk in chunks:
        batch.append(chunk)
        waiting += len(chunk.text)
        if waiting >= BATCH_CHARACTERS:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _place(texts: Sequence[Text], whole: bool) -> Iterator[tuple[Piece, str, int]]:
    """Every piece with its store and its shard."""
    first_shard = 0
    for text in texts:
        marked = text.mark(read_again(text.corpus, text.survey))
        position = 0
        for piece, store in _joined(marked) if whole else marked:
            yield piece, store, first_shard + position // surveying.SHARD_CHARACTERS
            position += len(piece.text)
        first_shard += text.survey.shards


def _joined(marked: Iterator[Marked]) -> Iterator[Marked]:
    """Pieces of a document put together again, up to WHOLE_CHARACTERS."""
    texts: list[str] = []
    begins, held, length = False, "", 0
    for piece, store in marked:
        if texts and (piece.begins or length + len(piece.text) > WHOLE_CHARACTERS):
            yield Piece("".join(texts), begins), held
            texts, length = [], 0
        if not texts:
            begins, held = piece.begins, store
        texts.append(piece.text)
        length += len(piece.text)
    if texts:
        yield Piece("".join(texts), begins), held
