"""Files whose size and checksum are known, taken as they are written and checked later.

A table of files is JSON: {name: {"size": bytes, "sha256": hex}}.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from elman import files
from elman.errors import InputError

BLOCK_BYTES = 1 << 20
"""What is read at a time."""

FileTable = dict[str, dict[str, Any]]


class SummedFile:
    """A file to write. A context, which closes it; after an error, what was written stays."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = files.disk.open(path, "wb")
        self._sum = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._file.close()

    def write(self, content: bytes | memoryview) -> None:
        """Append. OSError as the system raises it."""
        # Not `ndarray.tofile`, nor `np.save` to a path: their error does not say that the disk is full.
        self._file.write(content)
        self._sum.update(content)
        self._size += len(content)

    def sync(self) -> None:
        """Come back when all of it is on the medium."""
        files.disk.sync(self._file)

    def entry(self) -> FileTable:
        """Its line of a table."""
        return {self.name: {"size": self._size, "sha256": self._sum.hexdigest()}}


def check_sizes(folder: Path, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Look whether every file of `table` is there in its size.

    Raises:
        InputError: One is not; names it.
    """
    for name, entry in table.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        if size != entry["size"]:
            raise InputError(f"{path}: {size:,} bytes, {entry['size']:,} expected")


def check_sums(folder: Path, table: Mapping[str, Mapping[str, Any]]) -> None:
    """Read every file of `table` and compare its checksum.

    Raises:
        InputError: One is not as it was written; names it.
    """
    check_sizes(folder, table)
    for name, entry in table.items():
        content = hashlib.sha256()
        try:
            with files.disk.open(folder / name, "rb") as file:
                while block := file.read(BLOCK_BYTES):
                    content.update(block)
        except OSError as error:
            raise InputError(f"{folder / name}: {error.strerror}") from error
        if content.hexdigest() != entry["sha256"]:
            raise InputError(
                f"{folder / name}: damaged (SHA-256 {content.hexdigest()[:12]}, {entry['sha256'][:12]} expected)"
            )
