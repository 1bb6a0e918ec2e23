"""The count model is a distribution for every context, and says what the equations and lmplz say."""

import json
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.data.store import store_from_ids
from elman.errors import ConfigError, InputError, ModelError
from elman.evaluate.doctor import check_model
from elman.models.base import LanguageModel
from elman.models.contexts import ContextState
from elman.models.ngram import MAX_ORDER, NgramModel, estimate

START, PAD, END = 0, 3, 1
VOCAB_SIZE = 9
WORDS = [2, 4, 5, 6, 7]
"""What the corpora are made of: 8 is in the vocabulary and never seen."""

ORDERS = range(1, MAX_ORDER + 1)
corpora = st.lists(st.lists(st.sampled_from(WORDS), max_size=12), min_size=6, max_size=40)


prunings = st.lists(st.integers(0, 4), max_size=MAX_ORDER).map(sorted)


def fit(
    corpus: list[list[int]], order: int, vocab_size: int = VOCAB_SIZE, prune: Sequence[int] = ()
) -> NgramModel:
    store = store_from_ids(corpus, start_id=START, end_id=END)
    documents = (store.tokens, store.starts)
    return estimate(documents, vocab_size, order, start_id=START, excluded_ids=[PAD], prune=prune)


def random_corpus(documents: int = 60, seed: int = 0) -> list[list[int]]:
    """Documents in which some words are much more frequent than others."""
    rng = np.random.default_rng(seed)
    chances = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    return [rng.choice(WORDS, rng.integers(0, 12), p=chances).tolist() for _ in range(documents)]


# The definition


def raw_counts(corpus: list[list[int]], order: int) -> dict[int, Counter]:
    """How often the n-grams of every order, as tuples, are in the corpus."""
    raw: dict[int, Counter] = {k: Counter() for k in range(1, order + 1)}
    for document in corpus:
        words = (START, *document, END)
        for k in raw:
            raw[k].update(words[i : i + k] for i in range(len(words) - k + 1))
    return raw


def adjusted_counts(corpus: list[list[int]], order: int) -> dict[int, Counter]:
    """c of the n-grams of every order."""
    raw = raw_counts(corpus, order)
    counts = {order: raw[order]}
    for k in range(1, order):
        before = Counter(longer[1:] for longer in raw[k + 1])
        counts[k] = Counter({gram: n if gram[0] == START else before[gram] for gram, n in raw[k].items()})
    del counts[1][START,]
    return counts


def discounts(counts: Counter) -> tuple[list[float], bool]:
    n1, n2, n3, n4 = (sum(c == r for c in counts.values()) for r in (1, 2, 3, 4))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        found = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        if all(0 < d <= r for r, d in enumerate(found) if r):
            return found, False
    return [0, 0.5, 1.0, 1.5], True


def probabilities(
    context: tuple[int, ...], counts: dict[int, Counter], dropped: set[tuple[int, ...]]
) -> dict[int, float]:
    """P_k(w | context) of every word w that may follow, k one more than the words of the context."""
    k = len(context) + 1
    allowed = [v for v in range(VOCAB_SIZE) if v not in (START, PAD)]
    below = (
        probabilities(context[1:], counts, dropped) if context else dict.fromkeys(allowed, 1 / len(allowed))
    )
    followers = {gram[-1]: c for gram, c in counts[k].items() if gram[:-1] == context}
    total = sum(followers.values())
    if not total:
        return below
    d, _ = discounts(counts[k])
    removed = {w: c if (*context, w) in dropped else d[min(c, 3)] for w, c in followers.items()}
    backoff = sum(removed.values()) / total
    return {w: (followers.get(w, 0) - removed.get(w, 0)) / total + backoff * below[w] for w in allowed}


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=40)
@given(
    corpus=corpora,
    prune=st.just([]) | prunings,
    contexts=st.lists(st.lists(st.sampled_from([START, END, 8, *WORDS]), max_size=7), max_size=3),
)
def test_it_is_what_the_equations_say(order, corpus, prune, contexts):
    prune = prune[:order]
    model, counts = fit(corpus, order, prune=prune), adjusted_counts(corpus, order)
    thresholds = dict(zip(ORDERS, [*prune, *[prune[-1] if prune else 0] * order], strict=False))
    raw = raw_counts(corpus, order)
    dropped = {gram for k in raw for gram, n in raw[k].items() if n <= thresholds[k]}
    for k, level in enumerate(model.levels, start=1):
        assert len(level.keys) == len(set(raw[k]) - dropped)
    seen = [[START, *corpus[0]][i : i + order] for i in range(3)]  # whole n-grams, long contexts among them
    for context in [*contexts, *seen]:
        history = tuple(context[max(0, len(context) - order + 1) :])
        padded = np.array([[-1] * (order - 1 - len(history)) + list(history)], dtype=np.int64)
        found = model.probabilities(padded.reshape(1, order - 1))[0]
        wanted = probabilities(history, counts, dropped)
        np.testing.assert_allclose(found, [wanted.get(v, 0.0) for v in range(VOCAB_SIZE)], rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ORDERS)
def test_discounts_are_those_of_the_counts_of_counts(order):
    corpus = random_corpus()
    counts = adjusted_counts(corpus, order)
    for k, level in enumerate(fit(corpus, order).levels, start=1):
        expected, fallback = discounts(counts[k])
        assert level.fallback == fallback
        np.testing.assert_allclose(level.discounts, expected[1:], atol=1e-12)


def test_some_discounts_fall_back_and_some_do_not():
    levels = fit(random_corpus(), 4).levels
    assert {level.fallback for level in levels} == {True, False}
    assert levels[0].fallback  # five words cannot fill the counts of counts
    assert levels[0].discounts.tolist() == [0.5, 1.0, 1.5]


def test_a_discount_of_nothing_is_none():
    # n_1, n_2, n_3 = 4, 4, 8, so Y = 1/3, D_1 = 1/3 and D_2 = 0; one more word seen twice, and D_2 is above 0.
    once, twice, thrice = range(4, 8), range(8, 12), range(12, 20)
    corpus = [[*once, *2 * [*twice], *3 * [*thrice]], [], [], [], []]
    assert fit(corpus, 1, vocab_size=21).levels[0].fallback
    found = fit([*corpus, [20, 20]], 1, vocab_size=21).levels[0].discounts
    np.testing.assert_allclose(found, [1 - 2 * 2 / 7 * 5 / 4, 2 - 3 * 2 / 7 * 8 / 5, 3], atol=1e-12)


LETTERS = (
    "ce a dcba aebd d dag aac dhdc bcaaabb b facdb bddgbe abhcgb aaebacd dadaae caa eccdaa e fcbbe bbc "
    "aeefde eagcb accbb cebce aceeee aga aadaacb a cab bdcabb aafcace a adad behcdb dbcbc d hf aaf dba c"
)
LMPLZ = {
    (2, (), "abc"): [-0.431268, -1.042228, -0.773529, -0.774621],
    (2, (), "hgfzde"): [-1.660673, -1.72997, -1.552842, -2.145142, -0.904672, -1.288322, -0.366071],
    (3, (), "bada"): [-0.880592, -1.133336, -1.114381, -0.934518, -0.905435],
    (3, (), "hgfzde"): [-1.47822, -2.016635, -1.621462, -2.221849, -0.904672, -1.044415, -0.23717],
    (4, (), "abc"): [-0.441349, -0.986716, -1.113059, -0.840826],
    (4, (), "bada"): [-0.880592, -1.117129, -1.088577, -0.933846, -1.225397],
    (4, (), "zz"): [-2.144887, -1.610029, -0.904672],
    (4, (), ""): [-1.439531],
    (3, (0, 0, 1), "bada"): [-0.880592, -0.992804, -1.045327, -0.889808, -0.874332],
    (3, (0, 0, 1), "hgfzde"): [-1.47822, -1.801035, -1.621462, -2.221849, -0.904672, -1.044415, -0.510478],
    (3, (0, 1, 1), "bada"): [-0.875356, -0.980163, -1.045327, -0.83215, -0.874332],
    (3, (0, 1), "abc"): [-0.439159, -1.078738, -0.721311, -0.693335],
    (4, (0, 0, 1, 2), "aafcace"): [
        *[-0.441349, -0.584036, -1.036382, -0.479332, -0.820387, -0.732414, -0.945712, -0.510478]
    ],
    (2, (0, 2), "eccdaa"): [-1.152201, -1.236256, -1.31852, -0.848431, -0.556298, -0.580987, -0.724354],
}
"""log10 of every letter and the end, by `lmplz -o ORDER --discount_fallback --prune PRUNE` of KenLM; z is its
unknown word."""


@pytest.mark.parametrize(("order", "prune", "text"), LMPLZ)
def test_it_agrees_with_lmplz(order, prune, text):
    ids = {letter: 4 + i for i, letter in enumerate("abcdefgh")} | {"z": 2}
    model = fit([[ids[letter] for letter in word] for word in LETTERS.split()], order, 12, prune)
    words = [ids[letter] for letter in text]
    nats, _ = model.score(
        torch.tensor([[START, *words]]), torch.tensor([[*words, END]]), model.initial_state(1)
    )
    found = -nats[0].double() / np.log(10)
    np.testing.assert_allclose(found, LMPLZ[order, prune, text], rtol=0, atol=2e-6)


# A distribution


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("documents", [6, 60, 600])
@pytest.mark.parametrize("prune", [[], [0, 0, 1, 2], [0, 3], [2, 4, 8], [10**9]])
def test_probabilities_sum_to_one_for_every_context(order, documents, prune):
    model = fit(random_corpus(documents), order, prune=prune[:order])
    contexts = np.random.default_rng(1).integers(-1, VOCAB_SIZE, (500, order - 1))
    found = model.probabilities(contexts)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-9)
    allowed = np.setdiff1d(np.arange(VOCAB_SIZE), [START, PAD])
    assert (found[:, [START, PAD]] == 0).all()
    assert (found[:, allowed] > 0).all()


def test_more_context_helps_where_there_is_something_to_learn():
    corpus = [[2, 4, 5, 6, 7, 2, 5, 7]] * 20 + random_corpus(20)
    tokens = torch.tensor([[START, *corpus[0], END]])
    nats = [
        float(model.score(tokens[:, :-1], tokens[:, 1:], model.initial_state(1))[0].sum())
        for model in (fit(corpus, 1), fit(corpus, 2), fit(corpus, 3))
    ]
    assert nats[0] > 1.5 * nats[1] > 1.5 * nats[2]


@pytest.mark.parametrize("order", ORDERS)
def test_ids_beyond_16_bits_count_as_others_do(order):
    far = np.array([0, 1, 2, 3, 70_000, 70_001, 135_536, 200_000, 200_001])  # 4 and 6 are alike in 16 bits
    corpus = random_corpus(200)
    near, wide = fit(corpus, order), fit([far[words].tolist() for words in corpus], order, vocab_size=200_002)
    for one, other in zip(near.levels, wide.levels, strict=True):
        context, word = np.divmod(one.keys, VOCAB_SIZE)
        assert (context * 200_002 + far[word]).tolist() == other.keys.tolist()
        if one is not near.levels[0]:  # whose back-off is shared by the whole vocabulary
            assert one.backoffs.tolist() == pytest.approx(other.backoffs.tolist(), abs=1e-12)


def test_pruning_makes_a_model_smaller_and_leaves_its_discounts():
    corpus = random_corpus(600)
    sizes = [fit(corpus, 4, prune=prune).num_parameters for prune in ([], [0, 0, 1], [0, 1], [0, 0, 10**9])]
    assert sizes == sorted(sizes, reverse=True)
    bare = fit(corpus, 4, prune=[0, 0, 10**9])
    assert [len(level.keys) for level in bare.levels][2:] == [0, 0]
    assert (bare.levels[2].backoffs == 1).all()
    for level, whole in zip(bare.levels, fit(corpus, 4).levels, strict=True):
        assert level.discounts.tolist() == whole.discounts.tolist()


@pytest.mark.parametrize("prune", [[1, 0], [0, 2, 1], [-1], [-1, 0], [0, 0, 0, 0]])
def test_thresholds_that_cannot_be_used_are_refused(prune):
    with pytest.raises(ConfigError, match="prune"):
        fit(random_corpus(), 3, prune=prune)


# The protocol


@pytest.fixture(params=[*((order, ()) for order in ORDERS), (4, (0, 1, 2))])
def model(request):
    order, prune = request.param
    return fit(random_corpus(), order, prune=prune)


@pytest.fixture
def tokens():
    return torch.randint(VOCAB_SIZE, (3, 8))


def test_the_model_meets_the_protocol(model, tokens):
    assert isinstance(model, LanguageModel)
    assert (model.vocab_size, model.device) == (VOCAB_SIZE, torch.device("cpu"))
    state = model.initial_state(3)
    assert isinstance(state, ContextState)
    assert state.tokens.shape == (3, model.order - 1)
    log_probs, after = model.log_probs(tokens, state)
    nats, after_score = model.score(tokens, tokens.flip(1), state)
    assert (log_probs.shape, log_probs.dtype) == ((3, 8, VOCAB_SIZE), torch.float32)
    assert (nats.shape, nats.dtype) == ((3, 8), torch.float32)
    assert torch.equal(nats, -log_probs.gather(2, tokens.flip(1)[..., None]).squeeze(2))
    assert torch.equal(after.tokens, tokens[:, 8 - model.order + 1 :])
    assert torch.equal(after_score.tokens, after.tokens)
    assert (state.tokens == -1).all()


def test_the_doctor_finds_nothing(model):
    for seed in range(3):
        assert not [check for check in check_model(model, seed=seed) if not check.passed]


def test_the_doctor_finds_a_back_off_without_weights():
    model = fit(random_corpus(), 3)
    for level in model.levels[1:]:
        level.backoffs[:] = 1
    assert [check.name for check in check_model(model) if not check.passed] == ["sums to one"]


@pytest.mark.parametrize("cut", range(9))
def test_cutting_changes_nothing(model, tokens, cut):
    reset = torch.rand(3, 8) < 0.3
    whole, last = model.log_probs(tokens, model.initial_state(3), reset)
    head, middle = model.log_probs(tokens[:, :cut], model.initial_state(3), reset[:, :cut])
    tail, end = model.log_probs(tokens[:, cut:], middle, reset[:, cut:])
    assert torch.equal(torch.cat([head, tail], dim=1), whole)
    assert torch.equal(end.tokens, last.tokens)


def test_one_token_at_a_time_changes_nothing(model, tokens):
    reset = torch.rand(3, 8) < 0.3
    whole, last = model.log_probs(tokens, model.initial_state(3), reset)
    state, steps = model.initial_state(3), []
    for t in range(8):
        step, state = model.log_probs(tokens[:, t : t + 1], state, reset[:, t : t + 1])
        steps.append(step)
    assert torch.equal(torch.cat(steps, dim=1), whole)
    assert torch.equal(state.tokens, last.tokens)


def test_a_reset_forgets_what_came_before_its_token(model, tokens):
    reset = torch.zeros(3, 8, dtype=torch.bool)
    reset[0, 0] = reset[1, 3] = reset[1, 5] = reset[2, 7] = True
    carried = model.log_probs(torch.randint(2, VOCAB_SIZE, (3, 5)), model.initial_state(3))[1]
    joined, after = model.log_probs(tokens, carried, reset)
    for row, begin in [(0, 0), (1, 5), (2, 7)]:
        alone, end = model.log_probs(tokens[row : row + 1, begin:], model.initial_state(1))
        assert torch.equal(joined[row : row + 1, begin:], alone)
        assert torch.equal(after.tokens[row : row + 1], end.tokens)
    without, _ = model.log_probs(tokens, carried)
    assert torch.equal(joined[2, :7], without[2, :7])


def test_rows_do_not_touch_one_another(model, tokens):
    together, _ = model.log_probs(tokens, model.initial_state(3))
    alone = [model.log_probs(tokens[row : row + 1], model.initial_state(1))[0] for row in range(3)]
    assert torch.equal(torch.cat(alone), together)


# Storing, and what is refused


def test_a_model_comes_back_from_its_arrays(model, tokens):
    tensors = {name: torch.from_numpy(array.copy()) for name, array in model.arrays().items()}
    again = NgramModel.from_arrays(tensors, **json.loads(json.dumps(model.settings())))
    expected, _ = model.log_probs(tokens, model.initial_state(3))
    assert torch.equal(again.log_probs(tokens, again.initial_state(3))[0], expected)
    assert again.settings() == model.settings()
    assert [level.fallback for level in again.levels] == [level.fallback for level in model.levels]


def test_arrays_of_a_higher_order_are_refused():
    model = fit(random_corpus(), 3)
    with pytest.raises(ModelError, match=r"order_3\.\w+ is not of a model of order 2"):
        NgramModel.from_arrays(model.arrays(), **model.settings() | {"order": 2})


@pytest.mark.parametrize("name", fit(random_corpus(), 3).arrays())
def test_arrays_that_are_missing_or_do_not_fit_are_refused(name):
    model = fit(random_corpus(), 3)
    arrays = model.arrays()
    whole = arrays.pop(name)
    with pytest.raises(ModelError, match=f"{name} is missing"):
        NgramModel.from_arrays(arrays, **model.settings())
    with pytest.raises(ModelError, match="do not fit together"):
        NgramModel.from_arrays(arrays | {name: np.stack([whole, whole])}, **model.settings())
    if name.endswith("keys"):
        with pytest.raises(ModelError, match="do not fit together"):
            NgramModel.from_arrays(arrays | {name: whole + 10**6}, **model.settings())


@pytest.mark.parametrize("part", ["probs", "backoffs", "discounts"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_numbers_that_are_none_are_refused(part, value):
    model = fit(random_corpus(), 3)
    damaged = model.arrays()[f"order_2.{part}"].copy()
    damaged[1] = value
    with pytest.raises(ModelError, match="arrays of order 2 do not fit together"):
        NgramModel.from_arrays(model.arrays() | {f"order_2.{part}": damaged}, **model.settings())


@pytest.mark.parametrize("value", [1.5, 2])
def test_probabilities_above_one_are_refused(value):
    model = fit(random_corpus(), 2)
    damaged = np.full_like(model.levels[1].probs, value)
    with pytest.raises(ModelError, match="arrays of order 2 do not fit together"):
        NgramModel.from_arrays(model.arrays() | {"order_2.probs": damaged}, **model.settings())


@pytest.mark.parametrize("excluded_ids", [[-1], [VOCAB_SIZE], list(range(VOCAB_SIZE))])
def test_ids_outside_the_vocabulary_or_all_of_it_are_refused(excluded_ids):
    model = fit(random_corpus(), 2)
    with pytest.raises(ModelError, match="excluded_ids"):
        NgramModel.from_arrays(model.arrays(), **model.settings() | {"excluded_ids": excluded_ids})


@pytest.mark.parametrize("order", [-1, 0, 7])
def test_an_order_out_of_range_is_refused(order):
    with pytest.raises(ConfigError, match=f"order is {order}; choose one from 1 to 6"):
        fit(random_corpus(), order)
    with pytest.raises(ConfigError, match="order"):
        NgramModel.from_arrays({}, order=order, vocab_size=VOCAB_SIZE, excluded_ids=[])


def test_a_corpus_that_is_too_short_is_refused():
    assert fit([[2, 4]], 3).order == 3
    with pytest.raises(InputError, match="3 tokens has no n-grams of order 4"):
        fit([[2, 4]], 4)
    with pytest.raises(InputError, match="0 tokens"):
        fit([], 1)


@pytest.mark.parametrize("token", [START, PAD, VOCAB_SIZE])
def test_a_token_that_cannot_be_predicted_is_refused(token):
    with pytest.raises(InputError, match=f"token {token} is"):
        fit([[2, token, 4]], 2)


def test_documents_shorter_than_the_order_are_enough():
    model = fit([[], [2], [4]] * 3, 6)
    assert [len(level.keys) for level in model.levels][3:] == [0, 0, 0]
    np.testing.assert_allclose(model.probabilities(np.full((1, 5), 2)).sum(), 1, atol=1e-9)
