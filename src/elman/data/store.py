"""Tokens of many documents, end to end, in memory or on disk.

    tokens   t_1 ... t_n </s>  t_1 ... t_m </s>  ...        one run of targets, every one scored exactly once
    starts   0                 n + 1             ...        where each document begins, and the total

The context of a target is the token before it, and of a document's first target the start token, so neither
start tokens nor contexts are stored. Counts of what the text itself held travel with each document.

Axes: N tokens, D documents.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from elman.errors import InputError

COUNTS = ("characters", "bytes", "words")
"""Of what the text of a document held."""

_LOOKED_AT = 1 << 22
"""Bytes of tokens read at a time."""


@dataclass(frozen=True, slots=True)
class TokenStore:
    """Framed tokens of D documents; the arrays may be memory-mapped."""

    tokens: NDArray[np.unsignedinteger]
    """[N], each document's tokens and then the end token."""
    starts: NDArray[np.int64]
    """[D + 1], offsets into `tokens`."""
    characters: NDArray[np.int64]
    """[D], characters of the text (after decoding, before any normalising)."""
    bytes: NDArray[np.int64]
    """[D], bytes of the same in UTF-8."""
    words: NDArray[np.int64]
    """[D], its runs of non-blank characters."""
    hashes: NDArray[np.uint64]
    """[D], a hash of the text, for finding equal documents; empty where documents were cut."""
    start_id: int
    """The context of each document's first token."""

    def __len__(self) -> int:
        """N, end tokens included."""
        return len(self.tokens)

    @property
    def documents(self) -> int:
        """D."""
        return len(self.starts) - 1

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Targets of one document, the end token last."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    def sample_documents(self, tokens: int) -> "TokenStore":
        """Whole documents, evenly spread over the store, that hold about `tokens` targets; in memory."""
        if tokens >= len(self):
            return self
        count = max(1, self.documents * tokens // len(self))
        return self.select(np.arange(count) * self.documents // count)

    def select(self, documents: Sequence[int] | NDArray[np.int64]) -> "TokenStore":
        """Some documents, in the order given; in memory."""
        lengths = np.diff(self.starts)[documents]
        return TokenStore(
            tokens=np.concatenate([self.document(int(index)) for index in documents]),
            starts=np.concatenate([[0], lengths.cumsum()]),
            characters=self.characters[documents],
            bytes=self.bytes[documents],
            words=self.words[documents],
            hashes=self.hashes[documents] if len(self.hashes) else self.hashes,
            start_id=self.start_id,
        )


def open_store(
    folder: Path, name: str, facts: Mapping[str, Any], *, start_id: int, vocab_size: int
) -> TokenStore:
    """A store that `merge` wrote, memory-mapped.

    Every token is looked at, a block at a time: one beyond the vocabulary would end a training in a CUDA assert.

    Args:
        folder: Where it is.
        name: Of the store.
        facts: What the manifest of the folder says of it.
        start_id: The context of each document's first token.
        vocab_size: Above every id.

    Raises:
        InputError: A file is missing or damaged, or it disagrees with `facts`; names it.
    """
    path, documents = folder / f"{name}.tokens", facts["documents"]
    try:
        dtype = np.dtype(facts["dtype"])
        if dtype.str not in ("<u2", "<u4"):
            raise InputError(f"{path}: ids of type {facts['dtype']!r}, not little-endian <u2 or <u4")
        _check_tokens(path, dtype, facts["targets"], vocab_size)
        columns = {
            key: _column(folder / f"{name}.{key}.npy", dtype_of_column, length)
            for key, (dtype_of_column, length) in index_columns(documents, facts["hashes"]).items()
        }
        tokens = np.memmap(path, dtype=dtype, mode="r") if facts["targets"] else np.empty(0, dtype)
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from error
    if columns["starts"][0] != 0 or columns["starts"][-1] != facts["targets"]:
        raise InputError(f"{folder / name}.starts.npy: does not cover the {facts['targets']:,} tokens")
    return TokenStore(tokens=tokens, **columns, start_id=start_id)


def _check_tokens(path: Path, dtype: np.dtype[Any], targets: int, vocab_size: int) -> None:
    found, expected = path.stat().st_size, targets * dtype.itemsize
    if found != expected:
        raise InputError(f"{path}: {found:,} bytes, {expected:,} expected")
    # Not through the memory map, whose pages would count as memory of this process.
    with path.open("rb") as file:
        while len(ids := np.frombuffer(file.read(_LOOKED_AT), dtype)):
            if (largest := int(ids.max())) >= vocab_size:
                raise InputError(f"{path}: token {largest:,} in a vocabulary of {vocab_size:,}")


def _column(path: Path, dtype: str, length: int) -> Any:
    # Not `numpy.load`, which takes a damaged header for a program and ends in whatever error it has for one.
    header = npy_header(dtype, length)
    with path.open("rb") as file:
        found = file.read(len(header))
        size = file.seek(0, io.SEEK_END)
    if found != header or size != len(header) + length * np.dtype(dtype).itemsize:
        raise InputError(f"{path}: damaged, or not of {length:,} entries")
    return np.memmap(path, dtype, mode="r", offset=len(header), shape=(length,))


def index_columns(documents: int, hashes: int) -> dict[str, tuple[str, int]]:
    """Type and length of each array beside the tokens."""
    counts = dict.fromkeys(COUNTS, ("<i8", documents))
    return {"starts": ("<i8", documents + 1), **counts, "hashes": ("<u8", hashes)}


def npy_header(dtype: str, length: int) -> bytes:
    """What stands before the numbers of an array in a file of `numpy.save`."""
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": (length,)})
    return header.getvalue()


def store_from_ids(
    documents: Iterator[list[int]] | list[list[int]], *, start_id: int, end_id: int
) -> TokenStore:
    """A store in memory from token ids, one list a document; each token counts as one character and byte."""
    framed = [[*ids, end_id] for ids in documents]
    lengths = np.array([len(ids) for ids in framed], dtype=np.int64)
    return TokenStore(
        tokens=np.array([i for ids in framed for i in ids], dtype=np.uint32),
        starts=np.concatenate([[0], lengths.cumsum()]).astype(np.int64),
        characters=lengths - 1,
        bytes=lengths - 1,
        words=lengths - 1,
        hashes=np.array([hash(tuple(ids)) & (2**64 - 1) for ids in framed], dtype=np.uint64),
        start_id=start_id,
    )
