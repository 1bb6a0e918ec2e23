"""Text survives its ids, special tokens are never text, and a tokenizer is the same after its file."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as TokenizerFile

from elman.data import documents, tokenizer, tokenizer_file, units
from elman.data.documents import cut
from elman.data.tokenizer import (
    END,
    PAD,
    START,
    UNKNOWN,
    Tokenizer,
    load_tokenizer,
    suit_vocabulary,
    train_tokenizer,
)
from elman.data.tokenizer_file import parse_tokenizer_file
from elman.data.units import CUT_PROBE
from elman.errors import StoppedError, TokenizerError

KINDS = ("byte", "char", "word", "bpe")
SPECIAL = (PAD, START, END, UNKNOWN)

SAMPLE = [
    "The cat sat on the mat.\nThe dog's bone, 12 345 times; naïve 猫 猫 \U0001f600 \U0001f600\n\n" * 3,
    "Tags: </s> <s> <pad> <unk> </s> <s> <pad> <unk> [CLS] [SEP] <|endoftext|> <|endoftext|>\n" * 3,
    CUT_PROBE * 3,
]
"""Every word and every character stands in it twice or more, the names of special tokens among them."""

TRICKY = st.text() | st.lists(
    st.sampled_from([*SPECIAL, "\x00", "\U0001f600", "שלום", "\r\n", "\ufffd", " ", "cat", "é"])
).map("".join)
"""Any text that has a UTF-8 form, rich in what goes wrong."""


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(kind, SAMPLE, vocab_size=300 if kind == "bpe" else None) for kind in KINDS}


@pytest.fixture(scope="module")
def reloaded(trained, tmp_path_factory) -> dict[str, Tokenizer]:
    """The same, after a trip through their files."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        (folder / f"{kind}.json").write_text(trained[kind].to_json(), encoding="utf-8")
    return {kind: load_tokenizer(str(folder / f"{kind}.json")) for kind in KINDS}


# ---- there and back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=TRICKY)
def test_any_text_comes_back_from_its_bytes(trained, kind, text):
    assert trained[kind].decode(trained[kind].encode(text)) == text


@given(text=st.text(sorted(set("".join(SAMPLE)))))
def test_text_of_seen_characters_comes_back_from_them(trained, text):
    char = trained["char"]
    ids = char.encode(text)
    assert len(ids) == len(text)
    assert char.unknown_id not in ids
    assert char.decode(ids) == text


@given(text=TRICKY)
def test_an_unseen_character_is_one_unknown_token(trained, text):
    char = trained["char"]
    seen = set("".join(SAMPLE))
    assert [i == char.unknown_id for i in char.encode(text)] == [c not in seen for c in text]


@given(text=TRICKY)
def test_a_byte_is_a_token(trained, text):
    assert len(trained["byte"].encode(text)) == len(text.encode())


def test_words_are_runs_of_non_blanks_and_line_ends(trained):
    word = trained["word"]
    ids = word.encode("The  cat\n\nsat\tzebra ")
    assert [word.token(i) for i in ids] == ["The", "cat", "\n", "\n", "sat", UNKNOWN]
    assert word.unknown_id == ids[-1]
    assert word.decode(ids[:2]) == "The cat"


@given(text=st.text("ab \n\t\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u00a0\u2028\u3000"))
def test_the_words_that_are_counted_are_the_words_that_are_encoded(text):
    word = train_tokenizer("word", [text, text], vocab_size=None)
    assert word.unknown_id not in word.encode(text)


def test_a_word_seen_once_is_unknown():
    word = train_tokenizer("word", ["twice once twice"], vocab_size=None)
    assert [i == word.unknown_id for i in word.encode("twice once")] == [False, True]


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TRICKY, max_size=4))
def test_a_batch_is_its_texts(trained, kind, texts):
    batch = trained[kind].encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [trained[kind].encode(text).tolist() for text in texts]
    assert all(ids.dtype == trained[kind].dtype for ids in batch)


@pytest.mark.parametrize("most", [0, 2, 500_000])
@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(TRICKY | st.lists(st.sampled_from(SAMPLE[0].split(" "))).map(" ".join), max_size=4))
def test_words_that_are_remembered_change_nothing(trained, kind, most, texts):
    file = TokenizerFile.from_str(trained[kind].to_json())
    file.encode_special_tokens = True
    whole = [file.encode(text, add_special_tokens=False).ids for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MOST_KNOWN_UNITS", most)
        for _ in range(2):
            assert [ids.tolist() for ids in trained[kind].encode_batch(texts)] == whole
    for text, ids in zip(texts, whole, strict=True):
        if trained[kind].unknown_id not in ids:
            assert trained[kind].encode_prompt(text)[1:] == ids


def test_no_more_words_are_remembered_than_the_most(monkeypatch):
    monkeypatch.setattr(units, "MOST_KNOWN_UNITS", 5)
    byte = train_tokenizer("byte", [], vocab_size=None)
    for i in range(20):
        byte.encode(f"a{i} b{i}")
        assert len(byte._units) <= 5


# ---- special tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(text=TRICKY)
def test_no_text_is_a_special_token(trained, reloaded, kind, text):
    for one in (trained[kind], reloaded[kind]):
        assert one.special_ids.isdisjoint(one.encode(text).tolist())
        assert one.special_ids.isdisjoint(one.encode_prompt(text)[1:] if kind in ("byte", "bpe") else [])


@pytest.mark.parametrize("kind", KINDS)
def test_the_framing_tokens_are_three_and_none_is_text(trained, kind):
    one = trained[kind]
    framing = {one.start_id, one.end_id, one.pad_id}
    assert len(framing) == 3
    assert framing <= one.special_ids
    assert [one.token(i) for i in (one.start_id, one.end_id, one.pad_id)] == [START, END, PAD]
    assert one.decode([one.start_id, one.end_id, one.pad_id]) == ""
    assert all(0 <= i < one.vocab_size for i in framing)
    assert one.unknown_id not in framing


def test_special_tokens_have_no_text_among_others(trained):
    byte = trained["byte"]
    assert (
        byte.decode([byte.start_id, *byte.encode("ab"), byte.pad_id, *byte.encode("c"), byte.end_id]) == "abc"
    )


# ---- sizes ----------------------------------------------------------------------------------------------


def test_bytes_have_a_vocabulary_of_their_own_size():
    assert train_tokenizer("byte", SAMPLE, vocab_size=None).vocab_size == 256 + 3


@pytest.mark.parametrize(("kind", "size"), [("char", 12), ("word", 9), ("bpe", 259), ("bpe", 290)])
def test_a_vocabulary_is_of_the_size_that_was_asked_for(kind, size):
    one = train_tokenizer(kind, SAMPLE, vocab_size=size)
    assert one.vocab_size == size
    assert max(one.encode("".join(SAMPLE))) < size


def test_what_is_left_out_is_rarest():
    word = train_tokenizer("word", ["a a a b b c c c c"], vocab_size=6)
    assert [i == word.unknown_id for i in word.encode("a b c")] == [False, True, False]


def test_bpe_cannot_be_smaller_than_its_bytes():
    with pytest.raises(TokenizerError, match=r"vocab_size \(258\) must be at least 259"):
        train_tokenizer("bpe", SAMPLE, vocab_size=258)


def test_bpe_without_a_size_has_no_merges():
    assert train_tokenizer("bpe", SAMPLE, vocab_size=None).vocab_size == 259


def test_merges_make_text_shorter(trained):
    assert len(trained["bpe"].encode(SAMPLE[0])) < 0.8 * len(trained["byte"].encode(SAMPLE[0]))


@pytest.mark.parametrize(
    ("size", "dtype"), [(259, np.uint16), (1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)]
)
def test_ids_take_the_smallest_type_that_holds_them(size, dtype):
    one = train_tokenizer("byte", [], vocab_size=None)
    one.vocab_size = size
    assert one.dtype == dtype
    assert one.encode("a").dtype == dtype


@pytest.mark.parametrize(
    ("characters", "suited"),
    [
        (0, ("byte", None)),
        (19_999, ("byte", None)),
        (20_000, ("bpe", 512)),
        (2_000_000, ("bpe", 2048)),
        (10**10, ("bpe", 8192)),
    ],
)
def test_the_vocabulary_suits_the_size_of_the_text(characters, suited):
    assert suit_vocabulary(characters) == suited


# ---- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(text=TRICKY)
def test_ids_are_the_same_after_the_file(trained, reloaded, kind, text):
    assert reloaded[kind].encode(text).tolist() == trained[kind].encode(text).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_everything_else_is_the_same_after_the_file(trained, reloaded, kind):
    before, after = trained[kind], reloaded[kind]
    names = (
        "vocab_size",
        "start_id",
        "end_id",
        "pad_id",
        "unknown_id",
        "special_ids",
        "sha256",
        "cuts_safely",
    )
    assert {name: getattr(after, name) for name in names} == {name: getattr(before, name) for name in names}
    assert after.to_json() == before.to_json()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_tokenizer_that_has_encoded_can_be_copied(trained, kind, how):
    before = trained[kind]
    expected = [before.encode(text).tolist() for text in SAMPLE]  # which names special tokens
    after = how(before)
    assert [after.encode(text).tolist() for text in SAMPLE] == expected
    assert (after.sha256, after.special_ids) == (before.sha256, before.special_ids)


def test_training_again_gives_the_same_file(trained):
    for kind in KINDS:
        again = train_tokenizer(kind, SAMPLE, vocab_size=300 if kind == "bpe" else None)
        assert again.sha256 == trained[kind].sha256
    assert len({one.sha256 for one in trained.values()}) == len(KINDS)


def test_a_folder_stands_for_the_file_in_it(trained, tmp_path):
    (tmp_path / "tokenizer.json").write_text(trained["bpe"].to_json(), encoding="utf-8")
    assert load_tokenizer(str(tmp_path)).sha256 == trained["bpe"].sha256


def test_a_run_folder_stands_for_the_file_of_its_model(trained, tmp_path):
    with pytest.raises(TokenizerError, match="this folder has no tokenizer.json"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text(trained["bpe"].to_json(), encoding="utf-8")
    assert load_tokenizer(str(tmp_path)).sha256 == trained["bpe"].sha256


def test_a_file_that_cuts_or_pads_is_told_not_to(trained, tmp_path):
    file = TokenizerFile.from_str(trained["byte"].to_json())
    file.enable_truncation(2)
    file.enable_padding(length=9)
    file.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(str(tmp_path)).encode("abcd")) == 4


# ---- masked digits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_masked_digits_are_part_of_the_file(kind, tmp_path):
    masked = train_tokenizer(
        kind, ["a1 b22 a1 b22"], vocab_size=260 if kind == "bpe" else None, mask_digits=True
    )
    (tmp_path / "tokenizer.json").write_text(masked.to_json())
    again = load_tokenizer(str(tmp_path))
    for one in (masked, again):
        assert one.encode("a3 b90").tolist() == one.encode("a# b##").tolist()
        assert one.unknown_id not in one.encode("a3 b90").tolist()
        assert one.encode_prompt("a3")[1:] == one.encode("a#").tolist()


def test_digits_stay_where_they_are_not_masked(trained):
    for kind in KINDS:
        assert trained[kind].encode("12").tolist() != trained[kind].encode("##").tolist()


def test_a_tokenizer_from_elsewhere_can_be_made_to_mask_digits(tmp_path):
    file = TokenizerFile.from_str(train_tokenizer("byte", [], vocab_size=None).to_json())
    file.normalizer = normalizers.Lowercase()
    file.save(str(tmp_path / "tokenizer.json"))
    masked = load_tokenizer(str(tmp_path), mask_digits=True)
    assert masked.decode(masked.encode("Route 66")) == "route ##"
    assert load_tokenizer(str(tmp_path)).sha256 != masked.sha256


# ---- cutting --------------------------------------------------------------------------------------------

WORDS = st.text("abEé1'.,…<#/>猫\U0001f600\u0301", min_size=1, max_size=4) | st.just("a\x1cb")
BLANKS = st.text(" \n\t\r\u00a0\u3000", min_size=1, max_size=3)


@pytest.mark.parametrize("kind", KINDS)
@given(pairs=st.lists(st.tuples(BLANKS, WORDS), min_size=1))
def test_the_tokens_of_the_pieces_are_the_tokens_of_the_document(trained, kind, pairs):
    text = "".join(blank + word for blank, word in pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_CHARACTERS", 8)
        pieces = [piece.text for piece in cut([(text, True)])]
    assert "".join(pieces) == text
    assert len(pieces) > 1 or len(text) <= 8
    assert np.concatenate(trained[kind].encode_batch(pieces)).tolist() == trained[kind].encode(text).tolist()


def test_what_is_trained_here_can_be_cut(trained):
    assert all(one.cuts_safely for one in trained.values())


def prepending(*special: str) -> Tokenizer:
    """A vocabulary in the manner of Llama's, which writes a text with a mark before it."""
    characters = ["<unk>", "▁", *sorted(set(CUT_PROBE) - {" "})]
    file = TokenizerFile(models.BPE({c: i for i, c in enumerate(characters)}, [], unk_token="<unk>"))
    file.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    file.add_special_tokens([AddedToken(name, special=True) for name in special])
    return Tokenizer(file)


def test_a_tokenizer_that_marks_the_beginning_cannot_be_cut():
    assert not prepending(START, END).cuts_safely


@pytest.mark.parametrize("text", [CUT_PROBE, "xq xq "])  # words of the probe, and words it does not hold
def test_a_tokenizer_whose_entries_reach_across_white_space_cannot_be_cut(text):
    pairs = TokenizerFile(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    pairs.train_from_iterator([text * 9], trainer)
    assert not Tokenizer(pairs).cuts_safely
    assert len(Tokenizer(pairs).encode(text * 9)) < 9  # one entry holds several words

    bare = TokenizerFile.from_str(pairs.to_str())
    bare.pre_tokenizer = None
    assert not Tokenizer(bare).cuts_safely


@pytest.mark.parametrize(
    ("present", "framing"),
    [
        ((), (START, END, PAD)),
        ((START, END), (START, END, PAD)),
        ((START, END, "<|endoftext|>"), (START, END, "<|endoftext|>")),
        ((START, END, "<|endoftext|>", PAD), (START, END, PAD)),
        (("<|endoftext|>",), (START, "<|endoftext|>", PAD)),
        (("[PAD]", "[CLS]", "[SEP]"), ("[CLS]", "[SEP]", "[PAD]")),
        (("<|begin_of_text|>", "<|end_of_text|>"), ("<|begin_of_text|>", "<|end_of_text|>", PAD)),
    ],
)
def test_framing_tokens_are_found_and_those_missing_are_added(present, framing):
    bare = prepending().vocab_size - 3
    one = prepending(*present)
    assert tuple(one.token(i) for i in (one.start_id, one.end_id, one.pad_id)) == framing
    assert one.vocab_size == bare + len({*present, *framing})
    assert one.special_ids >= {one.start_id, one.end_id, one.pad_id}
    assert one.special_ids.isdisjoint(one.encode("".join(present)).tolist())
    assert Tokenizer(TokenizerFile.from_str(one.to_json())).sha256 == one.sha256


# ---- prompts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_a_start_token_and_its_text(trained, kind):
    one = trained[kind]
    assert one.encode_prompt("The cat") == [one.start_id, *one.encode("The cat").tolist()]
    assert one.encode_prompt("") == [one.start_id]


@pytest.mark.parametrize(
    ("kind", "prompt", "message"),
    [
        ("char", "caЖt", r"'Ж' at character 2 is not in the vocabulary of [\d,]+"),
        ("word", "The zebra sat", r"'zebra' at character 4 .* leave it out, or write <unk> for it"),
        ("word", "<s>", "'<s>' at character 0"),
        ("byte", "ab\udcff", r"'\\udcff' at character 2 is no character"),
    ],
)
def test_a_prompt_that_the_vocabulary_cannot_say_is_refused(trained, kind, prompt, message):
    with pytest.raises(TokenizerError, match=message):
        trained[kind].encode_prompt(prompt)


def test_the_way_out_of_an_unknown_word_works(trained):
    word = trained["word"]
    assert word.encode_prompt("The <unk> sat")[2] == word.unknown_id
    with pytest.raises(TokenizerError, match="leave it out$"):  # "<unk>" would be five characters
        trained["char"].encode_prompt("Ж")


# ---- as it streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(text=TRICKY)
def test_text_that_streams_is_the_text(trained, kind, text):
    one = trained[kind]
    decoder, ids = one.decoder(), one.encode(text).tolist()
    streamed = "".join(decoder.step(i) for i in ids)
    # What ends in a replacement character may still become a character, so it waits.
    assert streamed.rstrip("\ufffd") == one.decode(ids).rstrip("\ufffd")
    assert one.decode(ids) in (streamed + decoder.rest(), streamed + decoder.rest() + "\ufffd")


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(ids=st.lists(st.integers(0, 258), max_size=40))
def test_any_ids_stream_as_they_decode(trained, kind, ids):
    one = trained[kind]
    decoder = one.decoder()
    streamed, whole = "".join(decoder.step(i) for i in ids), one.decode(ids)
    assert whole.startswith(streamed)
    assert streamed == whole or whole.endswith("\ufffd")  # which may still become a character, and waits
    assert whole in (streamed + decoder.rest(), streamed + decoder.rest() + "\ufffd")


@pytest.mark.parametrize("kind", KINDS)
@given(text=TRICKY, more=TRICKY)
def test_text_that_streams_behind_another_is_what_it_adds(trained, kind, text, more):
    one = trained[kind]
    before, ids = one.encode(text).tolist(), one.encode(more).tolist()
    decoder = one.decoder(before)
    streamed = one.decode(before) + "".join(decoder.step(i) for i in ids) + decoder.rest()
    assert one.decode([*before, *ids]) in (streamed, f"{streamed}\ufffd")


def test_a_character_appears_when_its_bytes_are_complete(trained):
    decoder = trained["byte"].decoder()
    assert [decoder.step(i) for i in trained["byte"].encode("a\U0001f600é")] == [
        *("a", "", "", "", "\U0001f600"),
        *("", "é"),
    ]


# ---- what cannot be loaded ------------------------------------------------------------------------------


class NoHub:
    """The hub of the library, out of reach."""

    from_str = TokenizerFile.from_str

    @staticmethod
    def from_pretrained(name):
        raise OSError("Connection refused\nand a long story")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "bpee",
            r"tokenizer 'bpee': no such file; did you mean 'bpe'\?; kinds .* byte, char, word, bpe, auto",
        ),
        ("missing.json", r"tokenizer 'missing\.json': no such file"),
        ("some/missing.json", r"tokenizer 'some/missing\.json': no such file"),
        ("some/where", r"hub did not give it \(Connection refused\); download its tokenizer\.json"),
    ],
)
def test_a_tokenizer_that_is_not_there(monkeypatch, name, message):
    monkeypatch.setattr(tokenizer, "TokenizerFile", NoHub)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


def test_a_name_on_the_hub_is_asked_for(monkeypatch, trained):
    class Hub(NoHub):
        @staticmethod
        def from_pretrained(name):
            assert name == "some/where"
            return TokenizerFile.from_str(trained["bpe"].to_json())

    monkeypatch.setattr(tokenizer, "TokenizerFile", Hub)
    assert load_tokenizer("some/where").sha256 == trained["bpe"].sha256


@pytest.mark.parametrize(
    "error", [StoppedError("stopped by SIGTERM; start again", 15), MemoryError()], ids=repr
)
def test_what_is_no_fault_of_the_tokenizer_is_not_said_of_it(monkeypatch, error):
    """A signal arrives amid whatever runs: reading a file, asking the hub, tokenizing, decoding."""

    def interrupted(*arguments):
        raise error

    class Hub(NoHub):
        from_pretrained = staticmethod(interrupted)

    one = train_tokenizer("byte", [], vocab_size=None)
    monkeypatch.setattr(tokenizer, "TokenizerFile", Hub)
    monkeypatch.setattr(units.UnitEncoder, "encode", interrupted)
    monkeypatch.setattr(tokenizer_file, "require_harmless", interrupted)
    for call in (
        lambda: one.encode("text"),
        lambda: one.decode(map(interrupted, [1])),
        lambda: parse_tokenizer_file(one.to_json().encode(), "here"),
        lambda: load_tokenizer("some/where"),
    ):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error


@pytest.mark.parametrize(
    "content", [b"", b"not json", b"{}", b"[1]", b"\xff\xfe", json.dumps({"model": 1}).encode()]
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match="not a tokenizer.json") as caught:
        load_tokenizer(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
