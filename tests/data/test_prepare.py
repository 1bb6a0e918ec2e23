"""Every token lands once on one side, what is held out stays held out, and the cache never lies."""

import errno
import json
import os
import random
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as TokenizerFile
from tokenizers import normalizers

from elman.config import DataConfig
from elman.data import build, chunks, vocabulary
from elman.data import survey as surveying
from elman.data.documents import PIECE_CHARACTERS
from elman.data.prepare import open_prepared, prepare, prepare_text
from elman.data.shards import ShardWriter
from elman.data.split import DOCUMENTS_TO_SPLIT_BY, HELD_OUT_BLOCK
from elman.data.store import TokenStore
from elman.data.tokenizer import Tokenizer, train_tokenizer
from elman.errors import ConfigError, InputError, ResourceError, TokenizerError

RNG = random.Random(0)
LINES = [
    f"{i} " + " ".join(RNG.choices(["one", "two", "three", "äöü", "猫"], k=RNG.randint(1, 30)))
    for i in range(200)
]
"""Documents that all differ, enough of them to be split one by one."""

DOCUMENTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=20
).filter(str.strip)
"""Not blank, and without the carriage returns that reading makes newlines of."""


@pytest.fixture(scope="module")
def byte() -> Tokenizer:
    return train_tokenizer("byte", [], vocab_size=None)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Writes documents to a .jsonl file of its own and gives its path."""
    folder, number = tmp_path_factory.mktemp("corpora"), count()

    def write(documents) -> str:
        path = folder / f"{next(number)}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        return str(path)

    return write


def config(corpus: str, **given) -> DataConfig:
    return DataConfig(corpus=corpus, **({"tokenizer": "byte"} | given))


def texts(store: TokenStore, tokenizer: Tokenizer) -> list[str]:
    """The documents of a store, each of which ends in the end token and holds no other."""
    documents = [store.document(d).tolist() for d in range(store.documents)]
    assert all(ids.index(tokenizer.end_id) == len(ids) - 1 for ids in documents)
    return [tokenizer.decode(ids) for ids in documents]


def a_file(tokenizer: Tokenizer, folder) -> str:
    """The path of a tokenizer's file."""
    (folder / "given.json").write_text(tokenizer.to_json())
    return str(folder / "given.json")


def both(prepared) -> tuple[list[str], list[str]]:
    return texts(prepared.train, prepared.tokenizer), texts(prepared.valid, prepared.tokenizer)


# ---- the split ------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(documents=st.lists(DOCUMENTS, min_size=DOCUMENTS_TO_SPLIT_BY, max_size=40, unique=True))
def test_every_document_is_on_one_side_whole_and_once(record, documents):
    train, valid = both(prepare(config(record(documents), valid="0.3")))
    assert sorted(train + valid) == sorted(documents)
    held_out = set(valid)
    assert train == [text for text in documents if text not in held_out]  # in their order
    assert valid == [text for text in documents if text in held_out]


@settings(max_examples=30)
@given(
    documents=st.lists(DOCUMENTS, min_size=1, max_size=DOCUMENTS_TO_SPLIT_BY - 1), valid=st.floats(0.2, 0.6)
)
def test_of_few_documents_the_end_is_held_out(record, documents, valid):
    text = "".join(documents)
    try:
        train, held_out = both(prepare(config(record(documents), valid=str(valid))))
    except InputError as error:
        assert "text left after the split" in str(error)
        assert round(len(text) - valid * len(text)) in (0, len(text))
        return
    assert "".join(train) + "".join(held_out) == text
    # Every document is whole but the one that the cut goes through.
    parts = len(train) + len(held_out) - len(documents)
    assert parts in (0, 1)
    joined = train + held_out if not parts else [*train[:-1], train[-1] + held_out[0], *held_out[1:]]
    assert joined == documents
    assert len("".join(held_out)) >= len(text) - round(len(text) - valid * len(text))


@pytest.mark.parametrize("share", [0.25, 0.28, 0.33, 0.4])
def test_a_long_text_is_cut_between_words_near_the_share(tmp_path, share):
    text = " ".join(LINES * 20)
    (tmp_path / "long.txt").write_text(text)
    prepared = prepare(config(str(tmp_path / "long.txt"), valid=str(share)))
    (train,), blocks = both(prepared)
    assert len(blocks) > 1
    assert all(HELD_OUT_BLOCK <= len(block) < HELD_OUT_BLOCK + PIECE_CHARACTERS for block in blocks[:-1])
    valid = "".join(blocks)
    assert train + valid == text
    assert all(block[0].isspace() for block in blocks)
    assert not train[-1].isspace()
    assert share <= len(valid) / len(text) < share + PIECE_CHARACTERS / len(text)
    assert prepared.manifest["valid_documents_also_in_train"] == 0


def test_no_more_is_held_out_than_the_limit(record):
    for documents in (["word " * 4000], LINES):  # by position, and by document
        path = record(documents)
        held_out = both(prepare(config(path, valid="0.5", valid_limit=900)))[1]
        assert 900 <= len("".join(held_out)) < 1300


def test_the_split_looks_at_the_text_and_not_at_its_place(record):
    _, valid = both(prepare(config(record(LINES), valid="0.2")))
    _, again = both(prepare(config(record(reversed(LINES)), valid="0.2")))
    assert sorted(valid) == sorted(again)
    assert 0.2 <= sum(map(len, valid)) / sum(map(len, LINES)) < 0.25
    assert valid not in (LINES[: len(valid)], LINES[-len(valid) :])


def test_equal_documents_stay_together(record):
    documents = [f"document {i}" for i in range(30)] * 3
    prepared = prepare(config(record(documents), valid="0.3"))
    train, valid = both(prepared)
    assert set(train).isdisjoint(valid)
    assert len(train) + len(valid) == 90
    assert prepared.manifest["valid_documents_also_in_train"] == 0


@pytest.mark.parametrize(
    ("documents", "valid", "message"),
    [
        (["a"], "0.05", "no held-out text left after the split; give --valid FILE, or more text"),
        (["a"], "0.8", "no training text left"),
        (["all the same"] * 30, "0.05", "no held-out text left .*, of documents that differ"),
    ],
)
def test_a_text_that_leaves_one_side_empty_is_refused(record, documents, valid, message):
    with pytest.raises(InputError, match=message):
        prepare(config(record(documents), valid=valid))


def test_held_out_text_can_be_a_corpus_of_its_own(record):
    prepared = prepare(config(record(LINES), valid=record([LINES[3], "something else", LINES[5]])))
    train, valid = both(prepared)
    assert train == LINES
    assert valid == [LINES[3], "something else", LINES[5]]
    assert prepared.manifest["valid_documents_also_in_train"] == 2


# ---- the vocabulary -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["char", "word"])
def test_the_vocabulary_knows_the_training_part_alone(tmp_path, kind):
    (tmp_path / "text.txt").write_text("a b c\n" * 100 + "Ж Ж Ж\n" * 10)
    prepared = prepare(config(str(tmp_path / "text.txt"), tokenizer=kind, valid="0.2"))
    unknown = prepared.tokenizer.unknown_id
    assert unknown not in prepared.train.tokens
    assert np.count_nonzero(prepared.valid.tokens == unknown) == 30


def test_the_vocabulary_knows_nothing_of_held_out_documents(record):
    documents = [f"{chr(0x4E00 + i)}{chr(0x4E00 + i)}" for i in range(100)]
    prepared = prepare(config(record(documents), tokenizer="char", valid="0.3"))
    assert prepared.manifest["vocab_size"] == 4 + prepared.train.documents
    held_out_text = prepared.valid.tokens != prepared.tokenizer.end_id
    assert set(prepared.valid.tokens[held_out_text]) == {prepared.tokenizer.unknown_id}


@pytest.mark.parametrize(
    ("given", "characters", "size"),
    [
        ({"tokenizer": "auto"}, 1000, 259),
        ({"tokenizer": "auto"}, 60_000, 512),
        ({"tokenizer": "auto", "vocab_size": 300}, 1000, 300),
        ({"tokenizer": "bpe"}, 60_000, 512),
        ({"tokenizer": "bpe", "vocab_size": 270}, 60_000, 270),
        ({"tokenizer": "char", "vocab_size": 6}, 1000, 6),
    ],
)
def test_the_vocabulary_is_of_the_kind_and_size_asked_for(tmp_path, given, characters, size):
    rng = random.Random(0)
    text = " ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(characters // 4))
    (tmp_path / "text.txt").write_text(text[:characters])
    assert prepare(config(str(tmp_path / "text.txt"), **given)).tokenizer.vocab_size == size


def test_a_size_too_small_for_bytes_is_refused(record):
    with pytest.raises(TokenizerError, match="at least 259"):
        prepare(config(record(LINES), tokenizer="auto", vocab_size=100))


def test_the_vocabulary_is_trained_on_the_front_of_the_text(record, monkeypatch):
    monkeypatch.setattr(vocabulary, "TOKENIZER_SAMPLE", 10)
    prepared = prepare(config(record(["aabb" * 3, "ccdd" * 3]), tokenizer="char", valid="0.1"))
    known = [prepared.tokenizer.unknown_id not in prepared.tokenizer.encode(c) for c in "abcd"]
    assert known == [True, True, False, False]


def test_a_tokenizer_from_elsewhere_is_used_as_it_is(record, tmp_path, byte):
    (tmp_path / "tokenizer.json").write_text(byte.to_json())
    plain = prepare(config(record(LINES), tokenizer=str(tmp_path)))
    masked = prepare(config(record(LINES), tokenizer=str(tmp_path), mask_digits=True))
    assert plain.tokenizer.sha256 == plain.manifest["tokenizer_sha256"] == byte.sha256
    assert sorted(sum(both(plain), [])) == sorted(LINES)
    assert all(text.startswith("#") for text in sum(both(masked), []))


# ---- tokens and counts ----------------------------------------------------------------------------------

LONG = [
    "word " * 5000,
    "x" * (3 * PIECE_CHARACTERS),
    "ab " + "y" * (2 * PIECE_CHARACTERS) + " 猫 end\n",
    " " * (2 * PIECE_CHARACTERS) + "z",
    "naïve 猫\u00a0\U0001f600\x1cx\n\n",
]
"""Documents longer than a piece, with words and gaps longer than a piece."""


def assert_counts(store: TokenStore, documents: list[str]) -> None:
    assert store.characters.tolist() == [len(text) for text in documents]
    assert store.bytes.tolist() == [len(text.encode()) for text in documents]
    assert store.words.tolist() == [len(text.split()) for text in documents]


@settings(max_examples=30)
@given(documents=st.lists(DOCUMENTS, min_size=1, max_size=5))
def test_a_text_to_score_is_all_there_and_counted(record, byte, documents):
    store = prepare_text(config(record(documents), valid="0.5"), byte)
    assert texts(store, byte) == documents
    assert_counts(store, documents)


def test_long_documents_are_all_there_and_counted(record, byte):
    store = prepare_text(config(record(LONG)), byte)
    assert texts(store, byte) == LONG
    assert_counts(store, LONG)


def test_sizes_are_those_of_the_text(record):
    manifest = prepare(config(record(LINES), valid="0.3")).manifest
    for name, total in {
        "documents": len(LINES),
        "characters": sum(map(len, LINES)),
        "bytes": sum(len(text.encode()) for text in LINES),
        "words": sum(len(text.split()) for text in LINES),
        "targets": sum(len(text.encode()) + 1 for text in LINES),
    }.items():
        assert manifest["train"][name] + manifest["valid"][name] == total


def test_counts_are_of_the_text_before_it_is_masked(record):
    documents = [f"{i}é" for i in range(100)]
    prepared = prepare(config(record(documents), mask_digits=True))
    total = sum(prepared.manifest[part]["bytes"] for part in ("train", "valid"))
    assert total == sum(len(text.encode()) for text in documents)


def test_what_is_remarkable_about_a_text_is_told_every_time(tmp_path, byte):
    path = tmp_path / "text.txt"
    path.write_bytes(b"caf\xe9 " * 30)
    given = config(str(path), encoding_errors="replace", valid="0.3")
    for _ in range(2):  # the second time from the cache
        remarks: list[str] = []
        prepare_text(given, byte, note=remarks.append)
        assert any("30 invalid bytes" in remark for remark in remarks)
        assert prepare(given).manifest["notes"] == remarks


@pytest.mark.parametrize("characters", [1, 50, 20_000])
def test_the_size_of_the_batches_that_are_tokenized_changes_nothing(record, byte, monkeypatch, characters):
    monkeypatch.setattr(chunks, "BATCH_CHARACTERS", characters)
    shares = []
    store = prepare_text(config(record(LONG)), byte, lambda what, share: shares.append((what, share)))
    assert texts(store, byte) == LONG
    assert_counts(store, LONG)
    assert shares == sorted(shares)
    assert shares[-1] == ("tokenizing", 1.0)


def test_a_tokenizer_that_cannot_be_cut_gets_documents_whole(record, byte, tmp_path, monkeypatch):
    file = TokenizerFile.from_str(byte.to_json())
    file.normalizer = normalizers.Prepend("^")
    whole = Tokenizer(file)
    assert not whole.cuts_safely
    documents = ["word " * 4000, "short", "word " * 3000]
    store = prepare_text(config(record(documents)), whole)
    assert texts(store, whole) == [f"^{text}" for text in documents]
    assert_counts(store, documents)

    monkeypatch.setattr(chunks, "WHOLE_CHARACTERS", 2 * PIECE_CHARACTERS)  # up to a limit
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path))
    store = prepare_text(config(record(documents)), whole)
    assert [text.count("^") for text in texts(store, whole)] == [2, 1, 1]
    assert_counts(store, documents)


@pytest.mark.parametrize("characters", [2000, 9000, 20_000])
@pytest.mark.parametrize("whole", [False, True])
def test_the_size_of_the_shards_changes_nothing(record, byte, tmp_path, monkeypatch, characters, whole):
    file = TokenizerFile.from_str(byte.to_json())
    file.normalizer = normalizers.Prepend("^") if whole else None
    tokenizer = Tokenizer(file)
    path, valid = record(LONG), record(["é" * 30, *LINES[:20]])
    given = config(path, valid=valid, tokenizer=a_file(tokenizer, tmp_path))
    expected, text = prepare(given), prepare_text(given, tokenizer)

    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "another"))
    monkeypatch.setattr(surveying, "SHARD_CHARACTERS", characters)
    found, found_text = prepare(given), prepare_text(given, tokenizer)
    for store, other in ((found.train, expected.train), (found.valid, expected.valid), (found_text, text)):
        for name in ("tokens", "starts", "characters", "bytes", "words", "hashes"):
            assert getattr(store, name).tolist() == getattr(other, name).tolist(), name
    different = ("folder",)
    assert {k: v for k, v in found.manifest.items() if k not in different} == {
        k: v for k, v in expected.manifest.items() if k not in different
    }


# ---- the cache ------------------------------------------------------------------------------------------


def folders(cache) -> list[str]:
    """All that there is under `prepared`, hidden or not."""
    return (
        sorted(path.name for path in (cache / "prepared").iterdir()) if (cache / "prepared").exists() else []
    )


def test_a_second_call_tokenizes_nothing(record, byte, own_cache, monkeypatch):
    path = record(LINES)
    first, first_text = prepare(config(path)), prepare_text(config(path), byte)
    assert len(folders(own_cache)) == 2
    monkeypatch.setattr(build, "ShardWriter", None)
    monkeypatch.setattr(vocabulary, "train_tokenizer", None)
    second, second_text = prepare(config(path)), prepare_text(config(path), byte)
    assert second.manifest == first.manifest
    assert both(second) == both(first)
    assert second.tokenizer.sha256 == first.tokenizer.sha256
    assert second_text.tokens.tolist() == first_text.tokens.tolist()


def test_what_was_prepared_is_opened_without_its_text(record, monkeypatch):
    path = record(LINES)
    first = prepare(config(path))
    os.remove(path)
    again = open_prepared(first.manifest)
    assert again.manifest == first.manifest
    assert both(again) == both(first)
    assert again.tokenizer.sha256 == first.tokenizer.sha256


def test_the_same_text_elsewhere_is_the_same_preparation(record, own_cache):
    assert both(prepare(config(record(LINES)))) == both(prepare(config(record(LINES))))
    assert len(folders(own_cache)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"valid": "0.06"},
        {"mask_digits": True},
        {"tokenizer": "char"},
        {"tokenizer": "bpe", "vocab_size": 300},
        {"documents": "line"},
    ],
    ids=str,
)
def test_other_settings_are_another_preparation(record, own_cache, change):
    path = record([f"{text}\nmore" for text in LINES])
    before = prepare(config(path))
    after = prepare(config(path, **change))
    assert len(folders(own_cache)) == 2
    assert before.manifest["folder"] != after.manifest["folder"]
    assert both(before) != both(after) or before.tokenizer.sha256 != after.tokenizer.sha256


def test_a_changed_text_is_another_preparation(tmp_path, byte):
    path = tmp_path / "text.txt"
    for content in ("first " * 20, "other " * 20):  # of the same length
        path.write_text(content)
        assert "".join(sum(both(prepare(config(str(path), valid="0.3"))), [])) == content
        assert texts(prepare_text(config(str(path)), byte), byte) == [content]


def test_a_changed_held_out_text_is_another_preparation(record, tmp_path):
    path, valid = record(LINES), tmp_path / "valid.txt"
    for content in ("first", "other"):
        valid.write_text(content)
        assert both(prepare(config(path, valid=str(valid))))[1] == [content]


@pytest.mark.parametrize("calls", [0, 1, 7])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_crash_leaves_nothing_that_a_later_call_would_take(record, byte, own_cache, calls, error):
    path = record(LINES)
    real, made = ShardWriter.add, count()

    def add(self, *arguments):
        if next(made) == calls:
            raise error
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShardWriter, "add", add)
        with pytest.raises(error):
            prepare(config(path, tokenizer="char"))
        with pytest.raises(error):
            made = count()
            prepare_text(config(path), byte)
    (left,) = folders(own_cache)  # a vocabulary was trained, and is kept; a given one leaves nothing
    assert sorted(p.name for p in (own_cache / "prepared" / left).iterdir() if p.suffix != ".lock") == [
        "tokenizer.json",
        "vocabulary.record",
    ]
    assert sorted(sum(both(prepare(config(path, tokenizer="char"))), [])) == sorted(LINES)
    assert len(folders(own_cache)) == 1


def test_a_folder_without_a_manifest_is_made_anew(record, own_cache):
    path = record(LINES)
    first = both(prepare(config(path)))
    (folder,) = (own_cache / "prepared").iterdir()
    (folder / "manifest.json").unlink()
    (folder / "train.tokens").write_bytes(b"")
    assert both(prepare(config(path))) == first


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (errno.ENOSPC, ResourceError, "the disk is full; free some space, or set ELMAN_CACHE"),
        (errno.EDQUOT, ResourceError, "the disk is full"),
        (errno.EACCES, InputError, "cannot write there: Permission denied; set ELMAN_CACHE"),
    ],
)
def test_a_disk_that_cannot_be_written_is_told(
    record, byte, tmp_path, own_cache, monkeypatch, number, error, message
):
    def add(self, *arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ShardWriter, "add", add)
    with pytest.raises(error, match=message) as caught:
        prepare(config(record(LINES), tokenizer=a_file(byte, tmp_path)))
    assert caught.type is error
    assert str(own_cache) in str(caught.value)
    assert folders(own_cache) == []


def test_a_cache_that_is_a_file_is_told(record, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ELMAN_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="cannot write there: Not a directory; set ELMAN_CACHE"):
        prepare(config(record(LINES)))


# ---- what cannot be prepared ----------------------------------------------------------------------------


def test_a_missing_or_empty_text_is_told(tmp_path, record):
    with pytest.raises(InputError, match="no such file"):
        prepare(config(str(tmp_path / "missing.txt")))
    with pytest.raises(InputError, match="no such file"):
        prepare(config(record(LINES), valid=str(tmp_path / "missing.txt")))
    with pytest.raises(InputError, match="no text in it"):
        prepare(config(record([" ", "\n"])))


def test_a_division_that_the_source_has_not_is_told(record):
    with pytest.raises(ConfigError, match="documents cannot be 'file'"):
        prepare(config(record(LINES), documents="file"))
