"""A shard: the tokens of a stretch of text, on disk with a record that is written last.

    NUMBER.STORE.tokens    ids, little-endian, end tokens included
    NUMBER.STORE.rows      int64 [rows, 4]: first token, characters, bytes, words of a document, or of the part of it
                           that is here; the first row goes on with a document of an earlier shard if no document
                           begins with it
    NUMBER.record          of what the shard was made, its sizes, the checksums of its files and its own

Its files are not synced: a shard that a power cut tore is known by its checksums, and is made again.
"""

from array import array
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from elman import files
from elman.data.chunks import Chunk
from elman.data.store import COUNTS
from elman.data.sums import SummedFile, check_sums
from elman.errors import InputError
from elman.files import write_atomically
from elman.sealed import seal, unseal

Record = dict[str, Any]

ROW = 1 + len(COUNTS)
"""Numbers of a row."""


class ShardWriter:
    """Writes a shard, chunk by chunk. A context: a shard that was not kept by its end leaves nothing behind."""

    def __init__(
        self, folder: Path, number: int, made_of: Mapping[str, Any], dtype: np.dtype[Any], end_id: int
    ) -> None:
        """Begin.

        Args:
            folder: Of the shards.
            number: Of this one.
            made_of: What has to be the same for the shard to be of use, in JSON.
            dtype: Of the ids.
            end_id: Follows every document.
        """
        self._folder, self._number, self._made_of = folder, number, dict(made_of)
        self._dtype = dtype.newbyteorder("<")
        self._end: NDArray[Any] = np.array([end_id])
        self._open = ExitStack()
        self._parts: dict[str, _Part] = {}
        self._kept = False

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files, and remove them if they were not kept."""
        self._open.close()
        if not self._kept:
            remove_shard(self._folder, self._number)

    def add(self, chunk: Chunk, ids: NDArray[np.unsignedinteger]) -> None:
        """Append the tokens of a chunk."""
        part = self._parts.get(chunk.store)
        if part is None:
            path = self._folder / f"{_stem(self._number)}.{chunk.store}.tokens"
            part = self._parts[chunk.store] = _Part(self._open.enter_context(SummedFile(path)), chunk)
        elif chunk.begins:
            part.begin_row()
        part.count(chunk)
        part.write(ids.astype(self._dtype, copy=False))
        if chunk.ends:
            part.write(self._end.astype(self._dtype))

    def close(self) -> None:
        """Finish its files. Memory is given back."""
        self._record: Record = {"number": self._number, "made_of": self._made_of, "stores": {}}
        for name, part in self._parts.items():
            rows = np.frombuffer(part.rows, dtype=np.int64).reshape(-1, ROW)
            with SummedFile(self._folder / f"{_stem(self._number)}.{name}.rows") as file:
                file.write(rows.astype("<i8", copy=False).tobytes())
            self._record["stores"][name] = {
                "targets": part.written,
                "rows": len(rows),
                "goes_on": part.goes_on,
                "largest_id": part.largest,
                **dict(zip(COUNTS, rows[:, 1:].sum(axis=0).tolist(), strict=True)),
                "files": part.tokens.entry() | file.entry(),
            }
            del rows
        self._open.close()
        self._parts.clear()

    def keep(self) -> None:
        """Write the record: from now on the shard is there."""
        files.disk.reach("prepare.shard_before_record")
        write_atomically(_record_path(self._folder, self._number), seal(self._record))
        self._kept = True
        files.disk.reach("prepare.shard_after_record")


class _Part:
    """What a shard has of one store."""

    def __init__(self, tokens: SummedFile, first: Chunk) -> None:
        self.tokens = tokens
        self.goes_on = not first.begins
        self.rows = array("q")
        self.written, self.largest = 0, -1
        self.begin_row()

    def begin_row(self) -> None:
        self.rows.extend((self.written, 0, 0, 0))

    def count(self, chunk: Chunk) -> None:
        text = chunk.text
        self.rows[-3] += len(text)
        self.rows[-2] += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        self.rows[-1] += len(text.split()) - chunk.in_word

    def write(self, ids: NDArray[Any]) -> None:
        if len(ids):
            self.tokens.write(ids.tobytes())
            self.written += len(ids)
            self.largest = max(self.largest, int(ids.max()))


def read_record(folder: Path, number: int, made_of: Mapping[str, Any]) -> Record | None:
    """The record of a shard that is whole and of the right make; None of any other, or of none.

    Every byte of the shard is read.
    """
    try:
        record = unseal(files.disk.read(_record_path(folder, number)))
        if (record["number"], record["made_of"]) != (number, dict(made_of)):
            return None
        for store in record["stores"].values():
            check_sums(folder, store["files"])
    except (OSError, ValueError, KeyError, InputError):
        return None  # never kept, torn, or damaged since
    return record


def remove_shard(folder: Path, number: int) -> None:
    """Remove what there is of a shard, its record first."""
    for pattern in (_record_path(folder, number).name, f"{_stem(number)}.*.*"):
        for path in folder.glob(pattern):
            with suppress(FileNotFoundError):  # the whole folder may be going
                files.disk.remove(path)


def tokens_path(folder: Path, number: int, store: str) -> Path:
    """Where a shard has its tokens for a store."""
    return folder / f"{_stem(number)}.{store}.tokens"


def read_rows(folder: Path, number: int, store: str) -> NDArray[np.int64]:
    """The rows of a shard that is whole, [rows, 4]."""
    content = files.disk.read(folder / f"{_stem(number)}.{store}.rows")
    return np.frombuffer(content, dtype="<i8").reshape(-1, ROW)


def _stem(number: int) -> str:
    return f"{number:06d}"


def _record_path(folder: Path, number: int) -> Path:
    return folder / f"{_stem(number)}.record"
