"""Tokens of many documents, end to end, in memory or on disk.

    tokens   t_1 ... t_n </s>  t_1 ... t_m </s>  ...        one run of targets, every one scored exactly once
    starts   0                 n + 1             ...        where each document begins, and the total

The context of a target is the token before it, and of a document's first target the start token, so neither
start tokens nor contexts are stored. Counts of what the text itself held travel with each document.

Axes: N tokens, D documents.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from elman.errors import InputError

COUNTS = ("characters", "bytes", "words")


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


class StoreWriter:
    """Writes one token store into a folder, document by document, in memory that grows only with D.

    A context: left without `close`, by an error, it leaves a store that cannot be opened.
    """

    def __init__(
        self, folder: Path, name: str, dtype: np.dtype[np.uint16] | np.dtype[np.uint32], end_id: int
    ) -> None:
        self._folder, self._name, self._dtype = folder, name, dtype
        self._end: NDArray[np.unsignedinteger] = np.array([end_id]).astype(dtype)
        self._file = (folder / f"{name}.tokens").open("wb")
        self._written = 0
        self._index: dict[str, list[int]] = {key: [] for key in ("starts", *COUNTS)}

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def begin(self) -> None:
        """Begin a document, ending the one before it."""
        self._end_document()
        self._index["starts"].append(self._written)
        for key in COUNTS:
            self._index[key].append(0)

    def add(self, ids: NDArray[np.unsignedinteger], characters: int, size: int, words: int) -> None:
        """Add tokens to the current document, with the counts of their text."""
        self._write(ids)
        for key, count in zip(COUNTS, (characters, size, words), strict=True):
            self._index[key][-1] += count

    def close(self, hashes: NDArray[np.uint64]) -> None:
        """Finish the last document and write the index."""
        self._end_document()
        self._index["starts"].append(self._written)
        self._file.close()
        for key, values in self._index.items():
            self._save(key, np.array(values, dtype=np.int64))
        self._save("hashes", hashes)

    def _end_document(self) -> None:
        if self._index["starts"]:
            self._write(self._end)

    def _write(self, ids: NDArray[np.unsignedinteger]) -> None:
        # Not `tofile`, nor `np.save` to a path: their error does not say that the disk is full.
        self._file.write(ids.astype(self._dtype, copy=False).tobytes())
        self._written += len(ids)

    def _save(self, key: str, values: NDArray[Any]) -> None:
        content = io.BytesIO()
        np.save(content, values)
        (self._folder / f"{self._name}.{key}.npy").write_bytes(content.getbuffer())


def open_store(
    folder: Path, name: str, dtype: np.dtype[np.uint16] | np.dtype[np.uint32], start_id: int
) -> TokenStore:
    """A store that `StoreWriter` wrote, memory-mapped.

    Raises:
        InputError: A file is damaged, or the index and the tokens disagree in length.
    """

    def column(key: str) -> Any:
        index = folder / f"{name}.{key}.npy"
        try:
            return np.load(index, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise InputError(f"{index}: damaged; remove {folder}") from error

    path, starts = folder / f"{name}.tokens", column("starts")
    found, expected = path.stat().st_size, int(starts[-1]) * dtype.itemsize
    if found != expected:
        raise InputError(f"{path}: {found:,} bytes, {expected:,} expected; remove {folder}")
    return TokenStore(
        tokens=np.memmap(path, dtype=dtype, mode="r") if expected else np.empty(0, dtype),
        starts=starts,
        characters=column("characters"),
        bytes=column("bytes"),
        words=column("words"),
        hashes=column("hashes"),
        start_id=start_id,
    )


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
