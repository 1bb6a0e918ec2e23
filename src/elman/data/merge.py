"""Shards, end to end, as one store: a file of tokens and index arrays, in the memory of one shard."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elman import files
from elman.data.shards import Record, read_rows, tokens_path
from elman.data.store import COUNTS, index_columns, npy_header
from elman.data.sums import BLOCK_BYTES, FileTable, SummedFile


def merge(
    folder: Path,
    records: Sequence[Record],
    name: str,
    dtype: np.dtype[Any],
    hashes: NDArray[np.uint64],
    destination: Path,
) -> tuple[dict[str, Any], FileTable]:
    """Write the store `name` into `destination`; it is on the medium on return.

    Args:
        folder: Of the shards, which are whole.
        records: Of all of them, in order.
        name: Of the store; not every shard has tokens of it.
        dtype: Of its ids.
        hashes: [D] of its documents; empty where documents were cut, and equal no other.
        destination: A folder.

    Returns:
        What `open_store` wants to know of it, and the table of its files.
    """
    shards = {n: record["stores"][name] for n, record in enumerate(records) if name in record["stores"]}
    documents = sum(part["rows"] - part["goes_on"] for part in shards.values())
    facts = {
        "dtype": dtype.newbyteorder("<").str,
        "documents": documents,
        "hashes": len(hashes),
        **{key: sum(part[key] for part in shards.values()) for key in ("targets", *COUNTS)},
        "largest_id": max((part["largest_id"] for part in shards.values()), default=-1),
    }
    with ExitStack() as stack:
        tokens = stack.enter_context(SummedFile(destination / f"{name}.tokens"))
        for number in shards:
            with files.disk.open(tokens_path(folder, number, name), "rb") as shard:
                while block := shard.read(BLOCK_BYTES):
                    tokens.write(block)

        columns = index_columns(documents, len(hashes))
        index = {key: stack.enter_context(SummedFile(destination / f"{name}.{key}.npy")) for key in columns}
        for key, (column_dtype, length) in columns.items():
            index[key].write(npy_header(column_dtype, length))
        for rows in _documents(folder, shards, name):
            for key, column in zip(("starts", *COUNTS), rows.T, strict=True):
                index[key].write(column.astype("<i8").tobytes())
        index["starts"].write(np.array([facts["targets"]], "<i8").tobytes())
        index["hashes"].write(hashes.astype("<u8", copy=False).data.cast("B"))

        table: FileTable = {}
        for file in (tokens, *index.values()):
            file.sync()
            table |= file.entry()
    return facts, table


def _documents(folder: Path, shards: dict[int, dict[str, Any]], name: str) -> Iterator[NDArray[np.int64]]:
    """A row for every document, [some, 4]: its first token in the store, and its counts.

    The last document of a shard may go on in the next ones, so it is held back.
    """
    held = np.empty((0, 1 + len(COUNTS)), np.int64)
    first = 0
    for number, part in shards.items():
        rows = read_rows(folder, number, name).copy()
        rows[:, 0] += first
        first += part["targets"]
        if part["goes_on"]:
            held[-1, 1:] += rows[0, 1:]
            rows = rows[1:]
        if len(rows):
            yield held
            yield rows[:-1]
            held = rows[-1:]
    yield held
