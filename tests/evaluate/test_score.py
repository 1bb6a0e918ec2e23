"""A score is a sum over every target, whatever the batch, the window and the padding."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from elman import chapter
from elman.config import ModelConfig
from elman.data.store import TokenStore, store_from_ids
from elman.evaluate import score as scoring
from elman.evaluate.score import Score, document_nats, score_columns, score_store, token_nats
from elman.models.build import build
from elman.models.convert import to_chapter
from elman.models.recurrent import RecurrentLanguageModel

PAD, START, END, VOCAB = 0, 1, 2, 13

DOCUMENTS = st.lists(st.lists(st.integers(3, VOCAB - 1), max_size=12), min_size=1, max_size=9)


def store_of(documents: list[list[int]]) -> TokenStore:
    """Its counts of characters, bytes and words differ from its count of tokens."""
    store = store_from_ids(documents, start_id=START, end_id=END)
    return replace(store, characters=2 * store.characters, bytes=3 * store.bytes, words=store.words // 2)


def make(cell: str, dtype: torch.dtype = torch.float32) -> RecurrentLanguageModel:
    """A model whose predictions are far from uniform and depend on what came before."""
    torch.manual_seed(0)
    shape = ModelConfig(cell=cell, embedding_dim=6, hidden_size=6, num_layers=2)
    model = build(shape, VOCAB, PAD).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))
        model.zero_padding_row()
    return model


@pytest.fixture(scope="module")
def elman() -> RecurrentLanguageModel:
    return make("elman")


@pytest.fixture(scope="module")
def lstm() -> RecurrentLanguageModel:
    """In float64, so that only what it returns is rounded, and a slip cannot hide in the rounding."""
    return make("lstm", torch.float64)


class Uniform:
    """Every entry of the vocabulary is as likely as every other, always. Its state counts the tokens it saw."""

    vocab_size = VOCAB
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def initial_state(self, batch_size: int) -> tuple[Tensor]:
        return (torch.zeros(batch_size, dtype=torch.int64),)

    def score(self, tokens, targets, state, reset=None):
        self.shapes.append(tuple(tokens.shape))
        return torch.full(tokens.shape, math.log(VOCAB)), (state[0] + tokens.shape[1],)


@torch.no_grad()
def long_way(model: RecurrentLanguageModel, store: TokenStore) -> list[float]:
    """Nats of each document by the chapter's model and formula, in float64, a document at a time."""
    oracle = to_chapter(model).double()
    found = []
    for document in range(store.documents):
        targets = torch.from_numpy(store.document(document).astype(np.int64))
        inputs = torch.cat([torch.tensor([START]), targets[:-1]])
        probabilities = chapter.softmax(oracle(inputs[None])[0])
        found.append(chapter.average_cross_entropy(probabilities, targets).item() * len(targets))
    return found


# ---- nats -----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(documents=DOCUMENTS)
def test_every_batch_size_gives_the_chapters_nats(elman, documents):
    store = store_of(documents)
    expected = long_way(elman, store)
    for batch_size in (1, 7, 64):
        nats = document_nats(elman, store, pad_id=PAD, batch_size=batch_size)
        assert nats.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-5)
        score = score_store(elman, store, pad_id=PAD, batch_size=batch_size)
        assert score.nats == pytest.approx(sum(expected), rel=1e-6, abs=1e-5)


@settings(max_examples=25)
@given(documents=DOCUMENTS, batch_size=st.integers(1, 10))
def test_a_document_scores_as_if_it_were_alone(lstm, documents, batch_size):
    alone = [score_store(lstm, store_of([document]), pad_id=PAD).nats for document in documents]
    together = document_nats(lstm, store_of(documents), pad_id=PAD, batch_size=batch_size)
    assert together.tolist() == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("state", ["reset", "carry"])
@pytest.mark.parametrize("width", [1, 2, 5])
@settings(max_examples=10)
@given(documents=DOCUMENTS, batch_size=st.integers(1, 10))
def test_the_window_changes_nothing(lstm, state, width, documents, batch_size):
    store = store_of(documents)
    arguments = {"pad_id": PAD, "batch_size": batch_size, "state": state}
    whole = document_nats(lstm, store, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "WINDOW", width)
        assert document_nats(lstm, store, **arguments).tolist() == pytest.approx(whole.tolist(), rel=1e-6)


@pytest.mark.parametrize("state", ["reset", "carry"])
@settings(max_examples=20)
@given(documents=DOCUMENTS, batch_size=st.integers(1, 10))
def test_the_nats_of_tokens_are_those_of_their_documents(lstm, state, documents, batch_size):
    store = store_of(documents)
    arguments = {"pad_id": PAD, "batch_size": batch_size, "state": state}
    tokens = token_nats(lstm, store, **arguments)
    assert (tokens.shape, tokens.dtype) == ((len(store),), np.float64)
    sums = np.add.reduceat(tokens, store.starts[:-1])  # no document is empty: each has its end token
    assert sums.tolist() == pytest.approx(document_nats(lstm, store, **arguments).tolist(), rel=1e-9)


@settings(max_examples=20)
@given(documents=DOCUMENTS, batch_size=st.integers(1, 10), width=st.integers(1, 6))
def test_the_nats_of_tokens_come_in_the_order_of_the_store(lstm, documents, batch_size, width):
    store = store_of(documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "WINDOW", width)
        found = token_nats(lstm, store, pad_id=PAD, batch_size=batch_size)
    expected = []
    for document in range(store.documents):
        targets = torch.from_numpy(store.document(document).astype(np.int64))[None]
        inputs = torch.cat([torch.tensor([[START]]), targets[:, :-1]], dim=1)
        expected += lstm.score(inputs, targets, lstm.initial_state(1))[0][0].tolist()
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def test_no_call_is_wider_than_the_window_or_higher_than_the_batch(monkeypatch):
    monkeypatch.setattr(scoring, "WINDOW", 5)
    model, store = Uniform(), store_of([[3] * n for n in (0, 1, 9, 2, 30, 4)])
    score_store(model, store, pad_id=PAD, batch_size=3)
    heights, widths = zip(*model.shapes, strict=True)
    assert heights[0] == 3
    assert max(heights) == 3
    assert max(widths) == 5
    assert sum(h * w for h, w in model.shapes) < len(store) + 3 * 5  # little is computed in vain


def test_sums_are_float64():
    store = store_of([[3] * 999] * 400)
    score = score_store(Uniform(), store, pad_id=PAD)
    nats_of_one = float(torch.tensor(math.log(VOCAB)))  # the model's own rounding
    assert score.nats == pytest.approx(400_000 * nats_of_one, rel=1e-12)


# ---- many that share ------------------------------------------------------------------------------------


class Beside:
    """One of several ranks, all in threads of this process; pack n goes to rank `owners[n]`, and round again."""

    def __init__(self, rank: int, size: int, owners: list[int], board: list, met: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._owners, self._board, self._met = owners, board, met

    def deal(self, count: int):
        return (n for n in range(count) if self._owners[n % len(self._owners)] % self.size == self.rank)

    def gather(self, value):
        self._board[self.rank] = value
        self._met.wait(10)
        found = list(self._board)
        self._met.wait(10)
        return found


def shared(size: int, owners: list[int], work) -> list:
    """What `work` returns on each of `size` ranks."""
    board, met = [None] * size, threading.Barrier(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, [Beside(rank, size, owners, board, met) for rank in range(size)]))


@pytest.mark.parametrize("state", ["reset", "carry"])
@settings(max_examples=30, deadline=None)
@given(
    documents=DOCUMENTS,
    batch_size=st.integers(1, 4),
    size=st.integers(1, 4),
    owners=st.lists(st.integers(0, 3), min_size=1, max_size=7),
)
def test_any_number_of_ranks_finds_the_same_to_the_last_bit(
    elman, state, documents, batch_size, size, owners
):
    store = store_of(documents)
    arguments = {"pad_id": PAD, "batch_size": batch_size, "state": state}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "WINDOW", 3)
        patch.setattr(scoring, "PACK_WINDOWS", 1)
        for measure in (document_nats, token_nats):
            alone = measure(elman, store, **arguments).tobytes()

            def nats(ranks: Beside, measure=measure) -> bytes:
                return measure(elman, store, **arguments, ranks=ranks).tobytes()

            assert shared(size, owners, nats) == [alone] * size
        score = score_store(elman, store, **arguments)
        assert (
            shared(size, owners, lambda ranks: score_store(elman, store, **arguments, ranks=ranks))
            == [score] * size
        )


@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=80),
    batch_size=st.integers(1, 9),
    windows=st.integers(1, 3),
)
def test_packs_are_every_document_once_and_fill_the_streams(lengths, batch_size, windows):
    store = store_of([[3] * length for length in lengths])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "WINDOW", 10)
        patch.setattr(scoring, "PACK_WINDOWS", windows)
        packs = scoring._packs(store, batch_size, "reset")
        assert [list(pack) for pack in scoring._packs(store, batch_size, "carry")] == [
            list(range(len(lengths)))
        ]
    assert sorted(np.concatenate(packs)) == list(range(len(lengths)))
    tokens = [sum(lengths[document] + 1 for document in pack) for pack in packs]
    enough = windows * 10 * batch_size
    for pack, size in zip(packs[:-1], tokens[:-1], strict=True):
        assert len(pack) % batch_size == 0
        assert size >= enough
        assert size - sum(lengths[document] + 1 for document in pack[-batch_size:]) < enough  # and no more
    flat = [lengths[document] for document in np.concatenate(packs)]
    assert flat == sorted(flat, reverse=True)


def test_a_rank_scores_only_what_it_is_dealt(monkeypatch):
    monkeypatch.setattr(scoring, "PACK_WINDOWS", 1)
    monkeypatch.setattr(scoring, "WINDOW", 10)
    store = store_of([[3] * 9] * 80)  # ten packs of batches of eight
    models = [Uniform() for _ in range(2)]

    def count(ranks: Beside) -> int:
        model = models[ranks.rank]
        score_store(model, store, pad_id=PAD, batch_size=8, ranks=ranks)
        return sum(height * width for height, width in model.shapes)

    assert shared(2, [0, 1, 1, 1, 1], count) == [160, 640]


# ---- counts ---------------------------------------------------------------------------------------------


@given(documents=DOCUMENTS, batch_size=st.integers(1, 10), state=st.sampled_from(["reset", "carry"]))
def test_targets_are_the_tokens_and_an_end_for_each_document(documents, batch_size, state):
    score = score_store(Uniform(), store_of(documents), pad_id=PAD, batch_size=batch_size, state=state)
    tokens = sum(map(len, documents))
    assert score.targets == tokens + len(documents)
    assert score.documents == len(documents)
    assert score.nats == pytest.approx(math.log(VOCAB) * score.targets)
    assert (score.characters, score.bytes) == (2 * tokens, 3 * tokens)
    assert score.words == sum(len(document) // 2 for document in documents)
    assert score.truncated == 0
    assert score.state == state


def test_the_unknown_class_is_counted_apart():
    store = store_of([[3, 4, 3], [3]])
    assert score_store(Uniform(), store, pad_id=PAD).unknown == 0
    assert score_store(Uniform(), store, pad_id=PAD, unknown_id=3).unknown == 3


@pytest.mark.parametrize("batch_size", [1, 4])
def test_padding_changes_nothing(lstm, batch_size):
    documents = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]
    plain = document_nats(lstm, store_of(documents), pad_id=PAD, batch_size=batch_size)
    # A far longer document beside them makes padding of the rest, and another token pads as well.
    beside = document_nats(lstm, store_of([*documents, [12] * 600]), pad_id=5, batch_size=batch_size)
    assert beside[:3].tolist() == pytest.approx(plain.tolist(), rel=1e-6)


# ---- the state ------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(documents=DOCUMENTS)
def test_a_carried_state_makes_one_stream_of_the_documents(lstm, documents):
    store = store_of(documents)
    framed = [i for document in documents for i in (START, *document, END)]
    steps = [(context, target) for context, target in pairwise(framed) if context != END]
    inputs, targets = torch.tensor(steps).T
    nats, _ = lstm.score(inputs[None], targets[None], lstm.initial_state(1))
    expected = float(nats.double().sum())
    for batch_size in (1, 7, 64):
        score = score_store(lstm, store, pad_id=PAD, batch_size=batch_size, state="carry")
        assert score.nats == pytest.approx(expected, rel=1e-6)


def test_a_carried_state_is_not_a_fresh_one(lstm):
    store = store_of([[3, 4, 5], [6, 7], [8, 9]])
    fresh = document_nats(lstm, store, pad_id=PAD)
    carried = document_nats(lstm, store, pad_id=PAD, state="carry")
    assert carried[0] == pytest.approx(fresh[0], rel=1e-6)
    assert (np.abs(carried[1:] - fresh[1:]) > 1e-3).all()


def test_scoring_leaves_no_gradient_and_no_trace(lstm):
    store = store_of([[3, 4, 5]])
    before = score_store(lstm, store, pad_id=PAD)
    assert score_store(lstm, store, pad_id=PAD) == before
    assert all(parameter.grad is None for parameter in lstm.parameters())


# ---- ratios ---------------------------------------------------------------------------------------------

SUMS = {"nats": 100.0, "targets": 50, "characters": 40, "bytes": 60, "words": 20, "documents": 2}


def test_ratios_are_of_the_sums():
    score = Score(**SUMS)
    assert score.perplexity == pytest.approx(math.exp(2))
    assert score.word_perplexity == pytest.approx(math.exp(5))
    assert score.bits_per_character == pytest.approx(2.5 / math.log(2))
    assert score.bits_per_byte == pytest.approx(100 / 60 / math.log(2))
    ratios = ("perplexity", "word_perplexity", "bits_per_character", "bits_per_byte")
    assert score.as_dict() == asdict(score) | {name: getattr(score, name) for name in ratios}


@pytest.mark.parametrize(("words", "shown"), [(2, "148.4"), (1, "-"), (0, "-")])
def test_a_text_without_spaces_has_no_perplexity_of_words_in_a_table(words, shown):
    score = Score(**SUMS | {"nats": 10.0, "characters": 60, "words": words})
    assert score_columns(score)["word perpl."] == shown
    assert words == 0 or score.as_dict()["word_perplexity"] == pytest.approx(math.exp(10 / words))


@given(documents=DOCUMENTS.filter(any))
def test_a_uniform_model_needs_log_v_bits_a_target(documents):
    score = score_store(Uniform(), store_of(documents), pad_id=PAD)
    assert score.perplexity == pytest.approx(VOCAB)
    assert score.bits_per_byte == pytest.approx(math.log2(VOCAB) * score.targets / score.bytes)
    assert score.bits_per_character == pytest.approx(math.log2(VOCAB) * score.targets / score.characters)


@settings(max_examples=25)
@given(documents=DOCUMENTS, others=DOCUMENTS)
def test_scores_add(lstm, documents, others):
    parts = [score_store(lstm, store_of(part), pad_id=PAD, unknown_id=3) for part in (documents, others)]
    whole = score_store(lstm, store_of(documents + others), pad_id=PAD, unknown_id=3)
    total = parts[0] + parts[1]
    assert total.nats == pytest.approx(whole.nats, rel=1e-6)
    assert replace(total, nats=0) == replace(whole, nats=0)


def test_scores_of_different_protocols_do_not_add():
    with pytest.raises(ValueError, match="'reset' to one with 'carry'"):
        Score(**SUMS) + Score(**SUMS, state="carry")


def test_what_overflows_is_infinite_and_what_has_no_count_is_not_a_number():
    score = Score(**SUMS | {"nats": 1e6})
    assert score.perplexity == score.word_perplexity == math.inf
    assert math.isfinite(score.bits_per_byte)
    empty = Score(**SUMS | {"words": 0, "bytes": 0, "characters": 0})
    for name in ("word_perplexity", "bits_per_character", "bits_per_byte"):
        assert math.isnan(getattr(empty, name))
