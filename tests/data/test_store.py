"""What is written in shards, however they are cut, comes back as one store; what is damaged is refused."""

import errno
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.data.chunks import Chunk
from elman.data.merge import merge
from elman.data.shards import ShardWriter, read_record
from elman.data.store import TokenStore, open_store, store_from_ids
from elman.errors import InputError
from tests.faults.damage import damages

END, START = 7, 6
UINT16, UINT32 = np.dtype(np.uint16), np.dtype(np.uint32)
VOCABULARY = 60_001

PIECES = st.lists(st.lists(st.lists(st.integers(0, 60_000), max_size=5), min_size=1, max_size=3), max_size=6)
"""Documents of pieces of ids."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def write_shards(folder, documents, dtype, cuts) -> list[dict]:
    """Each piece goes to the shard after as many of `cuts` as are not beyond its number; a word and an é for an id."""
    records = []
    pieces = [
        (Chunk("é " * len(ids), "text", 0, begins=n == 0, ends=n == len(document) - 1, in_word=False), ids)
        for document in documents
        for n, ids in enumerate(document)
    ]
    bounds = [0, *sorted(min(cut, len(pieces)) for cut in cuts), len(pieces)]
    for number, (begin, end) in enumerate(pairwise(bounds)):
        with ShardWriter(folder, number, {"made": "here"}, dtype, END) as writer:
            for chunk, ids in pieces[begin:end]:
                writer.add(chunk, np.array(ids, dtype=np.int64))
            writer.close()
            writer.keep()
        records.append(read_record(folder, number, {"made": "here"}))
    return records


def write(folder, documents, dtype=UINT32, cuts=()) -> dict:
    """The facts of a store `text` in `folder`."""
    records = write_shards(folder, documents, dtype, cuts)
    hashes = np.arange(len(documents), dtype=np.uint64) + np.uint64(2**63)
    return merge(folder, records, "text", dtype, hashes, folder)[0]


def reopen(folder, facts) -> TokenStore:
    return open_store(folder, "text", facts, start_id=START, vocab_size=VOCABULARY)


@pytest.mark.parametrize("dtype", [UINT16, UINT32])
@settings(max_examples=40)
@given(documents=PIECES, cuts=st.lists(st.integers(0, 18), max_size=5))
def test_what_is_written_comes_back(folder, dtype, documents, cuts):
    facts = write(folder, documents, dtype, cuts)
    store = reopen(folder, facts)
    texts = [[i for piece in pieces for i in piece] for pieces in documents]
    assert store.documents == len(documents)
    assert [store.document(d).tolist() for d in range(store.documents)] == [[*ids, END] for ids in texts]
    assert len(store) == sum(len(ids) + 1 for ids in texts)
    assert store.tokens.tolist() == [i for ids in texts for i in [*ids, END]]
    assert store.tokens.dtype == dtype
    assert store.characters.tolist() == [2 * len(ids) for ids in texts]
    assert store.bytes.tolist() == [3 * len(ids) for ids in texts]
    assert store.words.tolist() == [len(ids) for ids in texts]
    assert store.hashes.tolist() == [2**63 + d for d in range(len(documents))]
    assert store.start_id == START
    assert facts["largest_id"] == max((max([*ids, END]) for ids in texts), default=-1)
    for key in ("characters", "bytes", "words"):
        assert facts[key] == getattr(store, key).sum()


@settings(max_examples=30)
@given(documents=st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))
def test_a_store_in_memory_is_the_one_on_disk(folder, documents):
    memory = store_from_ids(documents, start_id=START, end_id=END)
    disk = reopen(folder, write(folder, [[ids] for ids in documents]))
    for field in fields(TokenStore):
        if field.name not in ("hashes", "characters", "bytes", "words"):
            assert np.array_equal(getattr(memory, field.name), getattr(disk, field.name)), field.name
    assert memory.bytes.tolist() == memory.words.tolist() == memory.characters.tolist()
    assert [a == b for a in documents for b in documents] == [
        a == b for a in memory.hashes for b in memory.hashes
    ]


@given(
    documents=st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=12),
    tokens=st.integers(1, 50),
)
def test_a_sample_holds_whole_documents_spread_over_the_store(documents, tokens):
    store = store_from_ids(documents, start_id=START, end_id=END)
    some = store.sample_documents(tokens)
    assert 1 <= some.documents <= store.documents
    assert (some is store) == (tokens >= len(store))
    if some is not store:
        chosen = [d * store.documents // some.documents for d in range(some.documents)]
        assert len(set(chosen)) == some.documents
        for d, original in enumerate(chosen):
            assert some.document(d).tolist() == store.document(original).tolist()
        for name in ("characters", "bytes", "words", "hashes"):
            assert getattr(some, name).tolist() == getattr(store, name)[chosen].tolist()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda content: content[:-1], "15 bytes, 16 expected"),
        (lambda content: content + b"\0", "17 bytes, 16 expected"),
        (lambda _: b"", "0 bytes, 16 expected"),
        (lambda content: content[:-1] + b"\1", "token 16,777,223 in a vocabulary of 60,001"),
        (lambda content: content[::-1], "token 117,440,512 in a vocabulary"),  # of the other byte order
        (None, "No such file"),
    ],
)
def test_tokens_that_the_facts_do_not_tell_are_refused(tmp_path, change, found):
    facts = write(tmp_path, [[[1, 2, 3]]])
    path = tmp_path / "text.tokens"
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with pytest.raises(InputError, match=rf"text\.tokens: {found}"):
        reopen(tmp_path, facts)


@pytest.mark.parametrize("dtype", [">u4", "<i4", "<f4", "<u8"])
def test_tokens_of_another_type_or_byte_order_are_refused(tmp_path, dtype):
    facts = write(tmp_path, [[[1, 2, 3]]])
    with pytest.raises(InputError, match=r"text\.tokens: ids of type '.*', not little-endian"):
        reopen(tmp_path, facts | {"dtype": dtype})


@pytest.mark.parametrize("name", ["starts", "characters", "bytes", "words", "hashes"])
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda _: b"", lambda _: b"not an array"])
def test_an_index_that_is_damaged_is_refused(tmp_path, name, change):
    facts = write(tmp_path, [[[1, 2, 3]]])
    path = tmp_path / f"text.{name}.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"text\.{name}\.npy: damaged"):
        reopen(tmp_path, facts)


@pytest.mark.parametrize("change", [{"documents": 2}, {"documents": 0}, {"targets": 3}])
def test_an_index_that_the_facts_do_not_tell_is_refused(tmp_path, change):
    facts = write(tmp_path, [[[1, 2, 3]]])
    with pytest.raises(InputError, match=r"expected|not of \d entries"):
        reopen(tmp_path, facts | change)


@pytest.mark.parametrize("name", ["000000.text.tokens", "000000.text.rows", "text.tokens", "text.hashes.npy"])
def test_a_full_disk_is_told_by_its_number(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path, [[[1, 2, 3]]])
    assert caught.value.errno == errno.ENOSPC


def test_a_shard_that_is_not_kept_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, 0, {}, UINT32, END) as writer:
        writer.add(Chunk("a", "text", 0, begins=True, ends=True, in_word=False), np.array([1]))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_is_damaged_or_of_another_make_is_not_there(tmp_path):
    write_shards(tmp_path, [[[1, 2], [3]], [[4]]], UINT16, [])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000000.record", "000000.text.rows", "000000.text.tokens"]
    assert read_record(tmp_path, 0, {"made": "here"}) is not None
    assert read_record(tmp_path, 0, {"made": "there"}) is None
    assert read_record(tmp_path, 1, {"made": "here"}) is None
    for damage in damages(tmp_path, flips=20):
        spoilt = tmp_path / damage.file
        content = spoilt.read_bytes()
        damage(tmp_path)
        assert read_record(tmp_path, 0, {"made": "here"}) is None, str(damage)
        spoilt.write_bytes(content)


@given(
    documents=st.lists(st.lists(st.integers(8, 99), max_size=5), min_size=1, max_size=6),
    chosen=st.data(),
)
def test_a_selection_is_whole_documents_in_the_order_given(documents, chosen):
    store = store_from_ids(documents, start_id=START, end_id=END)
    numbers = chosen.draw(st.lists(st.integers(0, len(documents) - 1), min_size=1, max_size=8))
    found = store.select(numbers)
    wanted = store_from_ids([documents[number] for number in numbers], start_id=START, end_id=END)
    assert found.start_id == START
    assert found.documents == len(numbers)
    for name in ("tokens", "starts", "characters", "bytes", "words", "hashes"):
        assert getattr(found, name).tolist() == getattr(wanted, name).tolist(), name
