"""What is written into a store comes back from it, and a full disk says so."""

import errno
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elman.data.store import StoreWriter, TokenStore, open_store, store_from_ids
from elman.errors import InputError

END, START = 7, 6
UINT16, UINT32 = np.dtype(np.uint16), np.dtype(np.uint32)

PIECES = st.lists(st.lists(st.lists(st.integers(0, 60_000), max_size=5), min_size=1, max_size=3), max_size=6)
"""Documents of pieces of ids."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def write(folder, documents, dtype=UINT32) -> TokenStore:
    """Counts are chosen to tell characters, bytes and words apart."""
    with StoreWriter(folder, "text", dtype, END) as writer:
        for pieces in documents:
            writer.begin()
            for ids in pieces:
                writer.add(np.array(ids, dtype=np.int64), len(ids), 2 * len(ids), 1)
        writer.close(np.arange(len(documents), dtype=np.uint64) + 2**63)
    return open_store(folder, "text", dtype, START)


@pytest.mark.parametrize("dtype", [UINT16, UINT32])
@settings(max_examples=30)
@given(documents=PIECES)
def test_what_is_written_comes_back(folder, dtype, documents):
    store = write(folder, documents, dtype)
    texts = [[i for piece in pieces for i in piece] for pieces in documents]
    assert store.documents == len(documents)
    assert [store.document(d).tolist() for d in range(store.documents)] == [[*ids, END] for ids in texts]
    assert len(store) == sum(len(ids) + 1 for ids in texts)
    assert store.tokens.tolist() == [i for ids in texts for i in [*ids, END]]
    assert store.tokens.dtype == dtype
    assert store.characters.tolist() == [len(ids) for ids in texts]
    assert store.bytes.tolist() == [2 * len(ids) for ids in texts]
    assert store.words.tolist() == [len(pieces) for pieces in documents]
    assert store.hashes.tolist() == [2**63 + d for d in range(len(documents))]
    assert store.start_id == START


@settings(max_examples=30)
@given(documents=st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))
def test_a_store_in_memory_is_the_one_on_disk(folder, documents):
    memory = store_from_ids(documents, start_id=START, end_id=END)
    disk = write(folder, [[ids] for ids in documents])
    for field in fields(TokenStore):
        if field.name not in ("hashes", "bytes", "words"):
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
    "change", [lambda content: content[:-1], lambda content: content + b"\0", lambda _: b""]
)
def test_tokens_and_index_that_disagree_are_refused(tmp_path, change):
    write(tmp_path, [[[1, 2, 3]]])
    path = tmp_path / "text.tokens"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=r"text\.tokens: \d+ bytes, 16 expected; remove "):
        open_store(tmp_path, "text", UINT32, START)


@pytest.mark.parametrize("name", ["starts", "characters", "bytes", "words", "hashes"])
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda _: b"", lambda _: b"not an array"])
def test_an_index_that_is_damaged_is_refused(tmp_path, name, change):
    write(tmp_path, [[[1, 2, 3]]])
    path = tmp_path / f"text.{name}.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"text\.{name}\.npy: damaged; remove "):
        open_store(tmp_path, "text", UINT32, START)


@pytest.mark.parametrize("name", ["text.tokens", "text.starts.npy", "text.hashes.npy"])
def test_a_full_disk_is_told_by_its_number(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path, [[[1, 2, 3]]])
    assert caught.value.errno == errno.ENOSPC


def test_what_is_left_unfinished_cannot_be_opened(tmp_path):
    with pytest.raises(RuntimeError), StoreWriter(tmp_path, "text", UINT32, END) as writer:
        writer.begin()
        raise RuntimeError
    with pytest.raises(FileNotFoundError):
        open_store(tmp_path, "text", UINT32, START)


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
