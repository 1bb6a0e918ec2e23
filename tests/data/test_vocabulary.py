"""The sample of a vocabulary is bounded in every way, and what is drawn is text that was surveyed."""

import pytest

from elman.data import survey as surveying
from elman.data import vocabulary
from elman.data.documents import Piece
from elman.data.vocabulary import sample


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(vocabulary, "TOKENIZER_SAMPLE", 100)
    monkeypatch.setattr(vocabulary, "DISTINCT_BYTES", 30)
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", 40)


def marked(*texts):
    """Pieces, those in capitals held out; a list of those that were read grows with them."""
    read: list[str] = []

    def pieces():
        for text in texts:
            read.append(text)
            yield Piece(text, True), text.isupper()

    return pieces(), read


def test_held_out_text_is_not_in_it():
    pieces, read = marked("a b", "C D", "e f")
    assert list(sample(pieces)) == ["a b", "e f"]
    assert len(read) == 3


def test_so_many_characters_are_enough():
    pieces, read = marked(*["a b c d e "] * 30)
    assert "".join(sample(pieces)) == "a b c d e " * 10
    assert len(read) == 13  # 120 characters is where a shard begins, and its first piece is looked at


def test_so_many_distinct_words_are_enough():
    pieces, _ = marked(*[f"word{number:02} " for number in range(30)])
    assert len(list(sample(pieces))) == 5  # of six bytes each


def test_words_that_were_seen_cost_nothing():
    pieces, _ = marked(*["naïve word "] * 9)
    assert len(list(sample(pieces))) == 9
