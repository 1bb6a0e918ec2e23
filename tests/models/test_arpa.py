"""ARPA files say what the model says, to this reader, to a plain one, and to KenLM."""

import gzip
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elman.data.store import store_from_ids
from elman.data.tokenizer import vocabulary_tokenizer
from elman.errors import InputError, TokenizerError
from elman.models import arpa
from elman.models.arpa import read_arpa, write_arpa
from elman.models.arpa_text import escape, unescape
from elman.models.ngram import MAX_ORDER, NgramModel, estimate

WORDS = ["<unk>", "the", "cat", "sat", "on", "mat", "never", "<pad>", "<s>", "</s>"]
"""In the order in which they are read; "never" is in no corpus."""
UNKNOWN, PAD, START, END = (WORDS.index(word) for word in ("<unk>", "<pad>", "<s>", "</s>"))
IDS = {"start_id": START, "end_id": END, "unknown_id": UNKNOWN}

ORDERS = range(1, MAX_ORDER + 1)
PRUNINGS = [(), (0, 1), (0, 0, 1, 2), (1,), (10**6,)]


def fit(order: int, prune: tuple[int, ...] = (), documents: int = 80) -> NgramModel:
    rng = np.random.default_rng(0)
    chances = np.array([0.35, 0.3, 0.2, 0.1, 0.05])
    corpus = [rng.choice(np.arange(1, 6), rng.integers(0, 12), p=chances).tolist() for _ in range(documents)]
    store = store_from_ids(corpus, start_id=START, end_id=END)
    return estimate(
        (store.tokens, store.starts),
        len(WORDS),
        order,
        start_id=START,
        excluded_ids=[PAD],
        prune=prune[:order],
    )


def random_sentences(seed: int = 1) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 7, rng.integers(0, 15)).tolist() for _ in range(40)]


def log10_of(model: NgramModel, sentence: list[int], start: int = START, end: int = END) -> np.ndarray:
    """log10 of each word and of the end."""
    state = model.initial_state(1)
    nats, _ = model.score(torch.tensor([[start, *sentence]]), torch.tensor([[*sentence, end]]), state)
    return -nats[0].double().numpy() / math.log(10)


class PlainArpa:
    """The textbook's reader: dictionaries, and the recursion over shorter and shorter contexts."""

    def __init__(self, text: str) -> None:
        self.probs, self.backoffs = {}, {}
        order = 0
        for line in text.splitlines():
            if section := re.fullmatch(r"\\(\d)-grams:", line):
                order = int(section[1])
            elif order and line and not line.startswith("\\"):
                prob, *words = line.split()
                gram, rest = tuple(words[:order]), words[order:]
                self.probs[gram] = float(prob)
                self.backoffs[gram] = float(rest[0]) if rest else 0.0

    def log10(self, word: str, context: tuple[str, ...]) -> float:
        if (*context, word) in self.probs:
            return self.probs[*context, word]
        if not context:
            return self.probs["<unk>",]
        return self.backoffs.get(context, 0.0) + self.log10(word, context[1:])

    def sentence(self, words: list[str], order: int) -> list[float]:
        words = ["<s>", *words, "</s>"]
        return [self.log10(words[i], tuple(words[max(0, i - order + 1) : i])) for i in range(1, len(words))]


def unpacked(path: Path) -> str:
    return (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()


# There and back


@pytest.mark.parametrize("name", ["m.arpa", "m.arpa.gz"])
@pytest.mark.parametrize("prune", PRUNINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_plain_reader_finds_the_model_in_its_file(tmp_path, order, prune, name):
    model = fit(order, prune)
    write_arpa(model, WORDS, tmp_path / name, **IDS)
    plain = PlainArpa(unpacked(tmp_path / name))
    for sentence in random_sentences():
        wanted = plain.sentence([WORDS[i] for i in sentence], order)
        np.testing.assert_allclose(log10_of(model, sentence), wanted, rtol=0, atol=1e-6)
    assert plain.probs["<s>",] == -99
    assert ("<pad>",) not in plain.probs
    assert ("never",) in plain.probs


@pytest.mark.parametrize("name", ["m.arpa", "m.arpa.gz"])
@pytest.mark.parametrize("prune", PRUNINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_model_comes_back_from_its_file(tmp_path, order, prune, name):
    model = fit(order, prune)
    write_arpa(model, WORDS, tmp_path / name, **IDS)
    again, words = read_arpa(tmp_path / name)
    assert words == WORDS
    assert (again.order, again.excluded_ids) == (order, (PAD, START))
    contexts = np.random.default_rng(1).integers(-1, len(WORDS), (200, order - 1))
    wanted, found = model.probabilities(contexts), again.probabilities(contexts)
    np.testing.assert_array_equal(found[:, [PAD, START]], 0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6 * math.log(10), atol=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=0, atol=1e-5)
    if name.endswith(".gz"):
        assert not any((tmp_path / name).read_bytes()[4:8])  # the time of writing
    # A second trip changes not a byte, and the file depends on nothing else.
    (tmp_path / "more").mkdir()
    write_arpa(again, words, tmp_path / "more" / name, **IDS)
    assert (tmp_path / "more" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.parametrize("prune", PRUNINGS)
def test_kenlm_reads_what_was_written(tmp_path, order, prune):
    kenlm = pytest.importorskip("kenlm")
    model = fit(order, prune)
    write_arpa(model, WORDS, tmp_path / "m.arpa", **IDS)
    theirs = kenlm.Model(str(tmp_path / "m.arpa"))
    assert theirs.order == order
    for sentence in random_sentences():
        scores = theirs.full_scores(" ".join(WORDS[i] for i in sentence))
        wanted = [score for score, *_ in scores]
        np.testing.assert_allclose(log10_of(model, sentence), wanted, rtol=0, atol=1e-5)


def test_orders_without_ngrams_are_written_and_read(tmp_path):
    store = store_from_ids([[], [1], [2]] * 3, start_id=START, end_id=END)
    model = estimate((store.tokens, store.starts), len(WORDS), 5, start_id=START, excluded_ids=[PAD])
    assert len(model.levels[3].keys) == 0
    write_arpa(model, WORDS, tmp_path / "m.arpa", **IDS)
    again, _ = read_arpa(tmp_path / "m.arpa")
    for sentence in random_sentences():
        np.testing.assert_allclose(log10_of(again, sentence), log10_of(model, sentence), rtol=0, atol=1e-6)


def test_chunks_do_not_show(tmp_path, monkeypatch):
    write_arpa(fit(4), WORDS, tmp_path / "a", **IDS)
    monkeypatch.setattr(arpa, "CHUNK", 3)
    write_arpa(fit(4), WORDS, tmp_path / "b", **IDS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_that_was_read_comes_back_from_its_arrays(tmp_path):
    write_arpa(fit(3, (0, 0, 1)), WORDS, tmp_path / "m.arpa", **IDS)
    model, _ = read_arpa(tmp_path / "m.arpa")
    again = NgramModel.from_arrays(model.arrays(), **model.settings())
    contexts = np.random.default_rng(1).integers(-1, len(WORDS), (50, 2))
    np.testing.assert_array_equal(again.probabilities(contexts), model.probabilities(contexts))
    assert not any(level.fallback for level in again.levels)


# Files of other tools

FOREIGN = r"""made by hand; white space of every kind

\data\
ngram 1=6
ngram  2 = 4
ngram 3=2

\1-grams:
-1.5 <s> -0.25
-0.6	</s>
-1.25	<unk>
-0.5	a	-0.125
-0.75   b  0.5
-40	c
\2-grams:
-0.3	<s> a	-0.0625
-30	a c
-0.4	b a	-0.2
-0.2	b c	0.3

\3-grams:
-20	<s> a b
-0.1	b a c

\end\

"""
"""Not normalised; `a b` is missing under `<s> a b`; some log10 are far below what backing off would give."""


def foreign(path: Path, text: str | bytes = FOREIGN) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text", [FOREIGN, FOREIGN.replace("\n", "\r\n"), "\ufeff" + FOREIGN[FOREIGN.index("\\d") :]]
)
def test_a_file_of_others_says_what_it_lists(tmp_path, text):
    model, words = read_arpa(foreign(tmp_path / "f.arpa", text))
    assert words == ["<unk>", "a", "b", "c", "<pad>", "<s>", "</s>"]
    plain = PlainArpa(FOREIGN)
    rng = np.random.default_rng(0)
    for _ in range(200):
        sentence = rng.integers(0, 4, rng.integers(0, 8)).tolist()
        wanted = plain.sentence([words[i] for i in sentence], 3)
        np.testing.assert_allclose(log10_of(model, sentence, start=5, end=6), wanted, rtol=1e-6, atol=1e-6)
    found = model.probabilities(np.array([[5, 1]]))[0]  # after <s> a
    np.testing.assert_allclose(found[2], 1e-20, rtol=1e-12)
    assert found[[4, 5]].tolist() == [0, 0]


def test_kenlm_says_the_same_of_a_file_whose_suffixes_are_missing(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    strict = FOREIGN[FOREIGN.index("\\data") :].replace("ngram  2 = 4", "ngram 2=4")
    strict = strict.replace("-1.5 <s> -0.25", "-1.5\t<s>\t-0.25").replace("-0.75   b  0.5", "-0.75\tb\t0.5")
    path = foreign(tmp_path / "f.arpa", strict)
    model, words = read_arpa(path)
    theirs = kenlm.Model(str(path))
    rng = np.random.default_rng(0)
    for _ in range(200):
        sentence = rng.integers(0, 4, rng.integers(0, 8)).tolist()
        wanted = [score for score, *_ in theirs.full_scores(" ".join(words[i] for i in sentence))]
        np.testing.assert_allclose(log10_of(model, sentence, start=5, end=6), wanted, rtol=1e-6, atol=1e-5)


def test_without_an_unknown_word_the_vocabulary_is_closed(tmp_path):
    text = FOREIGN.replace("-1.25	<unk>\n", "").replace("1=6", "1=5")
    model, words = read_arpa(foreign(tmp_path / "f.arpa", text))
    assert 0 in model.excluded_ids
    assert (model.probabilities(np.array([[5, 1], [-1, -1]]))[:, 0] == 0).all()
    write_arpa(model, words, tmp_path / "again.arpa", start_id=5, end_id=6)
    assert "<unk>" not in (tmp_path / "again.arpa").read_text()
    again, _ = read_arpa(tmp_path / "again.arpa")
    assert again.excluded_ids == model.excluded_ids


def test_the_unknown_word_may_be_in_capitals(tmp_path):
    model, words = read_arpa(foreign(tmp_path / "f.arpa", FOREIGN.replace("<unk>", "<UNK>")))
    assert words[0] == "<unk>"
    np.testing.assert_allclose(log10_of(model, [0], start=5, end=6)[0], -1.5, atol=1e-6)


def test_no_probability_is_written_as_99_and_less_as_it_is(tmp_path):
    text = FOREIGN.replace("-40	c", "-120.5	c").replace("-1.25	<unk>", "-inf	<unk>")
    model, words = read_arpa(foreign(tmp_path / "f.arpa", text))
    write_arpa(model, words, tmp_path / "again.arpa", start_id=5, end_id=6, unknown_id=0)
    assert "\n-120.5000000\tc" in (tmp_path / "again.arpa").read_text()
    assert PlainArpa((tmp_path / "again.arpa").read_text()).probs["<s>",] == -99


BROKEN = {
    "no data": (r"\data\ ".strip(), "data", None, r"without a line \\data"),
    "empty": (FOREIGN, "", 0, r"without a line \\data"),
    "no counts": ("ngram 1=6\nngram  2 = 4\nngram 3=2\n", "", 5, "no line ngram 1=COUNT"),
    "orders that skip": ("ngram  2 =", "ngram 4 =", 5, r"ngram 2=COUNT should be"),
    "a count of words": ("1=6", "1=six", 4, "ngram 1=COUNT should be"),
    "too few": ("-0.2	b c	0.3\n", "", 19, r"the 2-grams end here and are 3, and \\data\\ says 4"),
    "too many": ("3=2", "3=1", 24, "the 3-grams end here and are 2"),
    "a missing section": ("\\2-grams:\n", "", 15, "is not a log10 probability, 1 words"),
    "another section": ("\\2-grams:", "\\3-grams:", 15, r"stands where \\2-grams: should be"),
    "no end": ("\\end\\\n\n", "", 24, r"ends where \\end\\ should be"),
    "cut in a section": (FOREIGN[FOREIGN.index("-0.1	b a c") :], "", 22, "the 3-grams end here and are 1"),
    "cut in a line": (FOREIGN[FOREIGN.index("b a c") :], "", 23, "is not a log10 probability, 3 words"),
    "text after the end": ("\\end\\\n\n", "\\end\\\nmore\n", 26, "'more' stands after the end"),
    "a positive probability": ("-0.75   b", "0.75   b", 13, "probability is 0.75"),
    "not a number": ("-0.75   b", "nan b", 13, "probability is nan"),
    "no number": ("-0.75   b", "rubbish b", 13, "'rubbish b  0.5' is not a log10"),
    "a back-off that is not finite": ("c	0.3", "c	-inf", 19, "back-off is -inf"),
    "a back-off that is nan": ("c	0.3", "c	nan", 19, "back-off is nan"),
    "a back-off beyond all": ("c	0.3", "c	400", 19, "back-off is 400.0"),
    "one word too many": ("b a	-0.2", "b a a	-0.2", 18, "is not a log10"),
    "a word twice": ("-40	c", "-40	b", 14, "'b' is among the 1-grams already"),
    "an n-gram twice": ("b c	0.3", "b a	0.3", 19, "this n-gram is among the 2-grams already"),
    "a word of no 1-gram": ("-30	a c", "-30	a d", 17, "'d' is not among the 1-grams"),
    "no prefix": ("<s> a b", "c a b", 22, "'c a', with which this n-gram begins, is not among the 2-grams"),
    "no start": ("<s>", "x", None, "<s> is not among the 1-grams"),
    "no end word": ("</s>", "x", None, "</s> is not among the 1-grams"),
    "two unknown words": ("-40	c", "-40	<UNK>", None, "<unk> and <UNK> are both"),
    "a word for the padding": ("-40	c", "-40	<pad>", 14, "a second '<pad>'"),
    "a word that means another": ("-40	c", "-40	\\u{61}", 14, "a second 'a'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_its_line(tmp_path, case):
    old, new, line, message = BROKEN[case]
    assert old in FOREIGN
    text = FOREIGN.replace(old, new)
    with pytest.raises(InputError, match=message) as caught:
        read_arpa(foreign(tmp_path / "f.arpa", text))
    assert "\n" not in str(caught.value)
    where = f"{tmp_path / 'f.arpa'}, line "
    assert str(caught.value).startswith(where if line is None else f"{where}{line}: ")


def test_the_first_of_two_faults_of_an_order_is_named(tmp_path):
    text = FOREIGN.replace("<s> a b", "c a b").replace("-0.1	b a c", "-0.1	c c c")
    with pytest.raises(InputError, match="line 22: 'c a'"):
        read_arpa(foreign(tmp_path / "f.arpa", text))


def test_an_order_beyond_the_largest_is_refused(tmp_path):
    counts = "".join(f"ngram {k}=1\n" for k in range(1, 8))
    with pytest.raises(InputError, match="order 7 is above 6"):
        read_arpa(foreign(tmp_path / "f.arpa", f"\\data\\\n{counts}\n\\1-grams:\n"))


@pytest.mark.parametrize("word", [b"caf\xe9", b"\xff", rb"\u{d800}"])
def test_what_is_not_utf8_is_refused(tmp_path, word):
    with pytest.raises(InputError, match="line 14: .* is not UTF-8"):
        read_arpa(foreign(tmp_path / "f.arpa", FOREIGN.encode().replace(b"-40\tc", b"-40\t" + word)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_compressed_data_that_are_cut_off_are_refused(tmp_path, share):
    write_arpa(fit(3), WORDS, tmp_path / "m.arpa.gz", **IDS)
    whole = (tmp_path / "m.arpa.gz").read_bytes()
    with pytest.raises(InputError, match="f.arpa.gz, line"):
        read_arpa(foreign(tmp_path / "f.arpa.gz", whole[: int(share * len(whole))]))
    with pytest.raises(InputError, match="the gzip data end or break here"):
        read_arpa(foreign(tmp_path / "f.arpa.gz", whole[:-4]))


def test_what_is_no_gzip_or_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="the gzip data end or break here"):
        read_arpa(foreign(tmp_path / "f.arpa.gz"))
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            read_arpa(path)


# Words


@given(st.text() | st.text(alphabet="\\u{}5c20 <s>/unkUNK\n\x00\ud800"))
def test_any_token_comes_back_from_its_word(token):
    word = escape(token)
    assert unescape(word) == token
    assert word.split() == [word]  # no white space, and not empty
    assert word.isprintable() or not word.isascii()
    assert word not in ("<s>", "</s>", "<unk>", "<UNK>")
    word.encode()


@given(st.text(), st.text())
def test_two_tokens_have_two_words(one, other):
    assert (escape(one) == escape(other)) == (one == other)


@pytest.mark.parametrize(
    "token", ["cat", "\\", "a\\u", "\\n", "\\u0020", "猫", "C:\\x{20}", "%20", "Ġthe", "<pad>"]
)
def test_most_tokens_are_written_as_they_are(token):
    assert escape(token) == unescape(token) == token


def test_tokens_of_any_text_go_through_a_file(tmp_path):
    tokens = ["<unk>", " ", "\n", "", "\u3000", "\\u{20}", "\\", "<pad>", "<s>", "</s>"]
    model = fit(3)
    write_arpa(model, tokens, tmp_path / "m.arpa", **IDS)
    again, words = read_arpa(tmp_path / "m.arpa")
    assert words == tokens
    contexts = np.random.default_rng(1).integers(-1, len(WORDS), (50, 2))
    np.testing.assert_allclose(
        again.probabilities(contexts), model.probabilities(contexts), rtol=1e-6 * math.log(10)
    )


def test_names_that_are_taken_go_to_those_that_the_ids_say(tmp_path):
    """The end token has its own name here, and "</s>" is text."""
    words = ["<unk>", "the", "</s>", "<s>", "on", "mat", "never", "<pad>", "[CLS]", "<|endoftext|>"]
    write_arpa(fit(2), words, tmp_path / "m.arpa", **IDS)
    plain = PlainArpa((tmp_path / "m.arpa").read_text())
    write_arpa(fit(2), WORDS, tmp_path / "n.arpa", **IDS)
    wanted = PlainArpa((tmp_path / "n.arpa").read_text())
    assert plain.probs["</s>",] == wanted.probs["</s>",]
    assert plain.probs["\\u{3c}/s>",] == wanted.probs["cat",]
    assert plain.probs["<s>",] == -99


def test_words_that_do_not_fit_the_model_are_refused(tmp_path):
    with pytest.raises(InputError, match="9 words for a vocabulary of 10"):
        write_arpa(fit(2), WORDS[:-1], tmp_path / "m.arpa", **IDS)
    with pytest.raises(InputError, match="tokens 1 and 3 are both called 'the'"):
        write_arpa(fit(2), [*WORDS[:3], "the", *WORDS[4:]], tmp_path / "m.arpa", **IDS)
    assert not list(tmp_path.iterdir())


# A file is whole or not there


@pytest.mark.parametrize("name", ["m.arpa", "m.arpa.gz"])
def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("before")

    def fail(values: object) -> list[float]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(arpa, "log10", fail)
    with pytest.raises(Exception, match="the disk is full") as caught:
        write_arpa(fit(2), WORDS, tmp_path / name, **IDS)
    assert type(caught.value).__name__ == "ResourceError"
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "before"


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_arpa(fit(2), WORDS, tmp_path / "none" / "m.arpa", **IDS)


# The tokenizer of a vocabulary


def test_the_tokenizer_has_the_ids_of_the_model(tmp_path):
    for order in (1, 3):
        write_arpa(fit(order), WORDS, tmp_path / "m.arpa", **IDS)
        _, words = read_arpa(tmp_path / "m.arpa")
        tokenizer = vocabulary_tokenizer(words)
        assert [tokenizer.token(i) for i in range(tokenizer.vocab_size)] == words
        ids = (tokenizer.unknown_id, tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
        assert ids == (UNKNOWN, PAD, START, END)
        assert tokenizer.encode("the  cat\tbarked </s> on\nthe").tolist() == [1, 2, 0, 0, 4, 1]
        assert tokenizer.decode([1, 2, END]) == "the cat"


def test_the_vocabulary_of_a_file_may_stand_in_any_order():
    tokenizer = vocabulary_tokenizer(["b", "</s>", "<UNK>", "a", "<s>"], unknown="<UNK>")
    assert [tokenizer.token(i) for i in range(6)] == ["<unk>", "b", "a", "<pad>", "<s>", "</s>"]


def test_a_line_end_is_a_token_where_it_is_a_word():
    assert vocabulary_tokenizer(["a", "\n"]).encode("a\na").tolist() == [1, 2, 1]
    assert vocabulary_tokenizer(["a"]).encode("a\na").tolist() == [1, 1]


@pytest.mark.parametrize("word", ["", " ", "of course", "\t", "a\n", "\r"])
def test_a_word_that_no_text_has_is_refused(word):
    with pytest.raises(TokenizerError, match="is no word between white space"):
        vocabulary_tokenizer(["a", word])


@pytest.mark.parametrize("words", [["a", "b", "a"], ["a", "<unk>"]])
def test_a_word_twice_is_refused(words):
    with pytest.raises(TokenizerError, match="is twice in the vocabulary"):
        vocabulary_tokenizer(words, unknown="<UNK>")


def test_the_page_about_it_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "ngram.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(compile(block, "docs/ngram.md", "exec"), {})
    assert (tmp_path / "cats.arpa.gz").exists()
