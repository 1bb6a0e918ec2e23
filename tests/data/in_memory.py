"""Corpora of the strings that a test holds."""

from collections.abc import Sequence

from elman.data.corpora import Corpus


def corpus_of(documents: Sequence[str], name: str = "here") -> Corpus:
    """Each string a document; a list that changes later is a text that changes."""
    return Corpus(name, [], lambda: ((text, True) for text in documents))
