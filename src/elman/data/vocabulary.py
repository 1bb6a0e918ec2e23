"""The vocabulary that a corpus is prepared with: one that is given, or one trained on its training part alone.

Training holds the distinct words of its sample, and needs up to a hundred bytes for each byte of them. Natural text has
few; but a text without white space is all distinct words, so their bytes are bounded as well as its characters.
"""

from collections.abc import Iterable, Iterator

from elman.config import DataConfig
from elman.data import survey as surveying
from elman.data.documents import Piece
from elman.data.tokenizer import Kind, Tokenizer, load_tokenizer, suit_vocabulary, train_tokenizer

TOKENIZER_SAMPLE = 50_000_000
"""Characters that a vocabulary is trained on, from the front of the training text."""

DISTINCT_BYTES = 3_000_000
"""Bytes of distinct words in the sample, at most; fifty million characters of English have about two million."""


def load_if_given(config: DataConfig) -> Tokenizer | None:
    """The tokenizer that `config` names; None where one is to be trained.

    Raises:
        TokenizerError: It cannot be loaded.
    """
    if config.tokenizer in ("auto", "byte", "char", "word", "bpe"):
        return None
    return load_tokenizer(config.tokenizer, mask_digits=config.mask_digits)


def train_vocabulary(config: DataConfig, characters: int, marked: Iterator[tuple[Piece, bool]]) -> Tokenizer:
    """A vocabulary of the kind and size asked for.

    Args:
        config: Whose `tokenizer`, `vocab_size` and `mask_digits` are used.
        characters: Of the corpus, by which a size is chosen where none is given.
        marked: The pieces of the corpus, and whether each is held out.

    Raises:
        TokenizerError: The size is too small.
    """
    suited_kind, suited_size = suit_vocabulary(characters)
    size = config.vocab_size
    if size is not None:
        suited_kind = "bpe"  # the vocabulary of bytes has a size of its own
    kind: Kind = suited_kind if config.tokenizer == "auto" else config.tokenizer  # type: ignore[assignment]
    if size is None and kind == "bpe":
        size = suited_size or 512
    texts: Iterable[str] = () if kind == "byte" else sample(marked)
    return train_tokenizer(kind, texts, vocab_size=size, mask_digits=config.mask_digits)


def sample(marked: Iterator[tuple[Piece, bool]]) -> Iterator[str]:
    """The text that a vocabulary is trained on.

    Once there is enough, reading goes on to the next point at which the text is known to be the surveyed one.
    """
    taken = distinct = position = 0
    words: set[str] = set()
    for piece, held_out in marked:
        if not held_out:
            yield piece.text
            taken += len(piece.text)
            new = set(piece.text.split()) - words
            words |= new
            distinct += len("".join(new).encode("utf-8", "surrogatepass"))
        position += len(piece.text)
        if taken >= TOKENIZER_SAMPLE or distinct >= DISTINCT_BYTES:
            break
    del words
    stage = -(-position // surveying.SHARD_CHARACTERS) * surveying.SHARD_CHARACTERS
    for piece, _ in marked:
        if position >= stage:
            break
        position += len(piece.text)
