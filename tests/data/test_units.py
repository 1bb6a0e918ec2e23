"""The ids of the units of a text are the ids of the text, for every kind of vocabulary that has units."""

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as TokenizerFile

from elman.data import units
from elman.data.tokenizer import train_tokenizer
from elman.data.units import CUT_PROBE, MARK, UnitEncoder, unit_rule

SPACE = normalizers.Replace(" ", MARK)
PREPEND = normalizers.Prepend(MARK)
DIGITS = normalizers.Replace(Regex("[0-9]"), "#")

MERGES = [
    *((MARK, MARK), (MARK * 2, MARK), (MARK * 2, MARK * 2), (MARK, "a"), (MARK, "ab"), (MARK * 2, "a")),
    *(("a", "b"), ("b", "a"), ("ab", "a"), ("a", "a"), ("#", "#"), ("1", "2"), (".", "."), ("<", "/")),
    *(("a", "\t"), ("\t", "\t"), ("\t", "a"), ("é", "猫"), (MARK, "猫"), (MARK, "<")),
]
"""Spaces among themselves and before words, words with tabs, and runs."""

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def marked(merges=(), *, normalizer=None, byte_fallback=True, special=("<s>", "</s>"), **options):
    """A vocabulary without a pre-tokenizer, in the manner of Llama's."""
    merges = [*MERGES, *merges]
    entries = ["<unk>", *(BYTES if byte_fallback else []), MARK, *"abé猫#12./<>s\t"]
    entries += [part for merge in merges for part in (*merge, "".join(merge))]
    model = models.BPE(
        {entry: i for i, entry in enumerate(dict.fromkeys(entries))},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=byte_fallback,
        **options,
    )
    file = TokenizerFile(model)
    file.normalizer = normalizer or normalizers.Sequence([PREPEND, SPACE])
    file.add_special_tokens(list(special))
    file.encode_special_tokens = True
    return file


def pre_tokenized(kind, added=(), special=()):
    """A vocabulary trained here, with tokens that are found before it divides a text."""
    trained = train_tokenizer(kind, [CUT_PROBE * 3], vocab_size=300 if kind == "bpe" else None)
    file = TokenizerFile.from_str(trained.to_json())
    file.add_tokens(list(added))
    file.add_special_tokens(list(special))
    file.encode_special_tokens = True
    return file


WITH_UNITS = {
    "marked": marked(),
    "line ends unknown": marked(byte_fallback=False),
    "line ends joined": marked([("a", "\n"), ("\n", "\n")]),
    "line ends joined as bytes": marked([("<0x0A>", "<0x0A>")]),
    "nothing prepended": marked(normalizer=SPACE),
    "masked": marked(normalizer=normalizers.Sequence([DIGITS, normalizers.Sequence([PREPEND, SPACE])])),
    "masked last": marked(normalizer=normalizers.Sequence([SPACE, PREPEND, DIGITS])),
    **{kind: pre_tokenized(kind) for kind in ("byte", "char", "word", "bpe")},
    "added inside words": pre_tokenized("bpe", ["ba", AddedToken("12", single_word=True)]),
    "added to words": pre_tokenized("word", ["ba"]),
    "added as special": pre_tokenized("bpe", special=["a b", AddedToken("aba", lstrip=True, rstrip=True)]),
}

WITHOUT_UNITS = {
    "an entry across a space": marked([("a", MARK)]),
    "a byte joined with a space": marked([("<0x0A>", MARK)]),
    "no space": TokenizerFile(models.BPE({"a": 0}, [])),
    "dropout": marked(dropout=0.5),
    "whole texts are looked up": marked(ignore_merges=True),
    "ends are marked": marked(end_of_word_suffix="</w>", merges=[]),
    "another step": marked(normalizer=normalizers.Sequence([PREPEND, SPACE, normalizers.NFC()])),
    "another mark": marked(normalizer=normalizers.Sequence([normalizers.Prepend("a"), SPACE])),
    "two marks": marked(normalizer=normalizers.Sequence([PREPEND, PREPEND, normalizers.Strip(), SPACE])),
    "spaces kept": marked(normalizer=PREPEND),
    "added with a space": pre_tokenized("bpe", ["a b"]),
    "added with a line end": pre_tokenized("word", ["\n"]),
    "added with a mark": pre_tokenized("bpe", [f"a{MARK}"]),
    "added with the space before": pre_tokenized("bpe", [AddedToken("ba", lstrip=True)]),
    "added with the space after": pre_tokenized("word", [AddedToken("ba", rstrip=True)]),
    "added and hidden across a space": pre_tokenized("bpe", ["ba"], special=["ba a"]),
}

TEXTS = (
    st.lists(
        st.sampled_from(
            [
                *"ab  \n\n\t12.#é猫",
                MARK,
                "\U0001f600",
                "ñ",
                "</s>",
                "<s>",
                "aba",
                "   ",
                "\x1c",
                "\u3000",
                "\r",
            ]
        )
    ).map("".join)
    | st.text()
)


def whole(file, texts):
    return [file.encode(text, add_special_tokens=False).ids for text in texts]


def encoder(file):
    return UnitEncoder(unit_rule(file), "uint16")


@pytest.mark.parametrize("name", WITH_UNITS)
@pytest.mark.parametrize(("stretch", "most", "at_once"), [(5, 3, 2), (1 << 18, 500_000, 256), (30, 0, 1)])
@settings(max_examples=30)
@given(texts=st.lists(TEXTS, max_size=5))
def test_ids_of_units_are_ids_of_texts(name, stretch, most, at_once, texts):
    file = WITH_UNITS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "STRETCH", stretch)
        patch.setattr(units, "MOST_KNOWN_UNITS", most)
        patch.setattr(units, "UNITS_AT_ONCE", at_once)
        one = encoder(file)
        for _ in range(2):  # the second time from memory
            assert [ids.tolist() for ids in one.encode(texts)] == whole(file, texts)
            assert len(one) <= most


@pytest.mark.parametrize("name", WITH_UNITS)
@given(text=TEXTS)
def test_units_joined_are_the_text(name, text):
    assert "".join(unit_rule(WITH_UNITS[name]).pattern.findall(text)) == text


@pytest.mark.parametrize("name", WITH_UNITS)
def test_a_word_that_is_said_twice_is_one_unit(name):
    one = encoder(WITH_UNITS[name])
    one.encode([" ab" * 1000, " ab ab"])
    assert len(one) <= 2


@pytest.mark.parametrize("name", WITHOUT_UNITS)
def test_a_vocabulary_that_may_reach_across_has_no_units(name):
    assert unit_rule(WITHOUT_UNITS[name]) is None


def test_text_that_an_added_token_divides_has_no_units():
    file = marked()
    file.add_tokens(["aa"])
    assert unit_rule(file) is None


def test_a_pre_tokenizer_that_joins_words_has_no_units():
    file = pre_tokenized("bpe")
    file.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert unit_rule(file) is None


def test_line_ends_are_units_where_they_are_in_no_longer_entry():
    text = "ab\nab\nab"
    assert unit_rule(marked()).pattern.findall(text) == ["ab", "\nab", "\nab"]
    for other in ("line ends unknown", "line ends joined", "line ends joined as bytes"):
        assert unit_rule(WITH_UNITS[other]).pattern.findall(text) == [text]


def test_no_more_characters_are_remembered_than_the_most(monkeypatch):
    monkeypatch.setattr(units, "MOST_KNOWN_CHARACTERS", 20)
    file = WITH_UNITS["bpe"]
    one = encoder(file)
    for text, known in ((" ab 猫猫猫", 2), (" ab ab 3.14", 3), (" " + "ab" * 30 + " ab", 0), (" ab", 1)):
        assert one.encode([text])[0].tolist() == whole(file, [text])[0]
        assert len(one) == known


def test_a_process_that_was_forked_while_a_thread_encoded_begins_afresh(monkeypatch):
    file = WITH_UNITS["bpe"]
    one = encoder(file)
    one.encode(["ab"])
    process, found = os.getpid(), []
    with one._locks[process]:  # by a thread that the other process does not have
        one._known.number([[" 12"]])  # and that has no ids yet
        monkeypatch.setattr(units.os, "getpid", lambda: process + 1)
        thread = threading.Thread(target=lambda: found.extend(one.encode(["ab 12"])), daemon=True)
        thread.start()
        thread.join(timeout=20)
    assert [ids.tolist() for ids in found] == whole(file, ["ab 12"])


def test_after_an_error_nothing_wrong_is_remembered():
    file = WITH_UNITS["marked"]
    one = encoder(file)
    with pytest.raises((UnicodeEncodeError, TypeError)):
        one.encode(["ab 12", "a \udcff b"])
    assert len(one) == 0
    assert [ids.tolist() for ids in one.encode(["ab 12 b"])] == whole(file, ["ab 12 b"])


def test_threads_may_share_an_encoder(monkeypatch):
    monkeypatch.setattr(units, "STRETCH", 64)
    file = WITH_UNITS["bpe"]
    one = encoder(file)
    texts = [[f"word{i * 7 % 501} x{i * k}" for i in range(300)] for k in range(4)]
    found = [None] * 4

    def work(k):
        found[k] = [ids.tolist() for ids in one.encode(texts[k])]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [whole(file, of_thread) for of_thread in texts]
