"""One pass over a corpus: a checksum of its content, a hash and a length for every document.

The text is read again to learn a vocabulary from it and to tokenize it, and must be the same then. So the checksum
is remembered at every SHARD_CHARACTERS on the way: a change is found before tokens of it are kept, not only at the
end of the text.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elman.data.corpora import Corpus
from elman.data.documents import Piece
from elman.errors import InputError

SHARD_CHARACTERS = 1 << 25
"""Characters, about, that are tokenized as one shard: some seconds of work, the most that a kill can cost."""

OnProgress = Callable[[str, float], None]
"""Told what is being done, and the share of it that is done, from 0 to 1."""


class ChangedTextError(InputError):
    """A text is no longer what it was when it was surveyed."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over a corpus finds."""

    sha256: str
    characters: int
    hashes: NDArray[np.uint64]
    """[D], of each document's text."""
    lengths: NDArray[np.int64]
    """[D], characters of each document."""
    stages: tuple[str, ...] = ()
    """The checksum at every SHARD_CHARACTERS, of all pieces up to the one that reaches that far."""

    @property
    def shards(self) -> int:
        """Shards that the text is tokenized in."""
        return -(-self.characters // SHARD_CHARACTERS)


def survey_corpus(corpus: Corpus, report: OnProgress = lambda what, share: None) -> Survey:
    """Checksum, document hashes and lengths, in one pass and 16 bytes of memory a document."""
    content, document = _ContentSum(), hashlib.blake2b(digest_size=8)
    hashes, lengths = array("Q"), array("q")
    for piece in corpus.pieces():
        encoded = content.add(piece)
        if piece.begins:
            if lengths:
                hashes.append(int.from_bytes(document.digest(), "little"))
            document = hashlib.blake2b(digest_size=8)
            lengths.append(0)
        document.update(encoded)
        lengths[-1] += len(piece.text)
    hashes.append(int.from_bytes(document.digest(), "little"))
    return Survey(
        content.sha256,
        content.characters,
        np.frombuffer(hashes, dtype=np.uint64),
        np.frombuffer(lengths, dtype=np.int64),
        tuple(content.stages),
    )


def read_again(corpus: Corpus, survey: Survey) -> Iterator[Piece]:
    """The surveyed pieces again; each is yielded only after everything before its shard is known to be unchanged.

    Raises:
        ChangedTextError: The text is no longer the one that was surveyed.
    """
    content = _ContentSum()
    seen = documents = 0
    for piece in corpus.pieces():
        content.add(piece)
        documents += piece.begins
        known = list(survey.stages[seen : len(content.stages)])
        if content.stages[seen:] != known or documents > len(survey.hashes):
            raise _changed(corpus)
        seen = len(content.stages)
        yield piece
    if (content.characters, content.sha256) != (survey.characters, survey.sha256):
        raise _changed(corpus)


class _ContentSum:
    """A checksum of text and of where its documents begin."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self.characters = 0
        self.stages: list[str] = []

    def add(self, piece: Piece) -> bytes:
        """Take in a piece; its bytes."""
        while self.characters >= SHARD_CHARACTERS * (len(self.stages) + 1):
            self.stages.append(self.sha256)
        if piece.begins:
            self._sum.update(b"\x00\xff")  # no UTF-8 text holds this
        encoded = piece.text.encode("utf-8", "surrogatepass")
        self._sum.update(encoded)
        self.characters += len(piece.text)
        return encoded

    @property
    def sha256(self) -> str:
        return self._sum.hexdigest()


def _changed(corpus: Corpus) -> ChangedTextError:
    return ChangedTextError(
        f"{corpus.name}: the text changed while it was being prepared; wait until it is complete, and run it again"
    )
