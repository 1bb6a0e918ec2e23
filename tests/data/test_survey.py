"""A survey tells documents and texts apart, and a text that is read again is the one that was surveyed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elman.data import survey as surveying
from elman.data.survey import ChangedTextError, read_again, survey_corpus
from tests.data.in_memory import corpus_of

TEXTS = st.lists(st.text("ab \n", min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=8)


def test_a_survey_tells_documents_apart():
    def look(documents):
        return survey_corpus(corpus_of(documents))

    assert look(["ab", "c"]).sha256 != look(["a", "bc"]).sha256
    assert look(["ab", "c"]).sha256 == look(["ab", "c"]).sha256
    found = look(["same", "other", "same", "word " * 5000])
    assert found.lengths.tolist() == [4, 5, 4, 25_000]
    assert found.characters == 25_013
    assert found.hashes[0] == found.hashes[2]
    assert len(set(found.hashes.tolist())) == 3


@given(documents=TEXTS, others=TEXTS, every=st.integers(1, 50))
def test_what_is_read_again_is_what_was_surveyed(documents, others, every):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveying, "SHARD_CHARACTERS", every)
        corpus = corpus_of(documents)
        survey = survey_corpus(corpus)
        assert survey.shards == -(-survey.characters // every)
        assert list(read_again(corpus, survey)) == list(corpus.pieces())
        if others != documents:
            with pytest.raises(ChangedTextError, match="here: the text changed while it was being prepared"):
                list(read_again(corpus_of(others), survey))


@pytest.mark.parametrize("change", range(10))
def test_a_change_is_found_before_the_shard_after_it_is_read(monkeypatch, change):
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", 20)
    documents = [f"text number {number}" for number in range(10)]  # 13 characters each
    survey = survey_corpus(corpus_of(documents))
    documents[change] = "text numbeR 0"
    seen = 0
    with pytest.raises(ChangedTextError):
        for piece in read_again(corpus_of(documents), survey):
            first_shard_after = -(-13 * (change + 1) // 20) * 20
            assert seen < first_shard_after
            seen += len(piece.text)
    assert seen >= 13 * change
