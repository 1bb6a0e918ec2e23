"""metrics.jsonl: what a run records, a strict JSON object a line, in the order of training; NaN and infinity are null.

It may not end a training: a full disk is reported once.
"""

import contextlib
import errno
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from elman.errors import InputError
from elman.train.say import Say, once

NOWHERE = Path(os.devnull)
"""The file of those who have nothing to record."""


class MetricsLog:
    """Appends records to a metrics.jsonl; a record outlives the process as soon as `write` returns.

    Args:
        path: The file; its folder must exist. Half a line left by a killed process is dropped.
        warn: Told once, in one line, if records can no longer be written.

    Raises:
        InputError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path, warn: Say = warnings.warn) -> None:
        self._path = path
        self._warn = once(warn)
        try:
            # Unbuffered: a line that failed must not linger in a buffer and fail again at close.
            self._file: BinaryIO = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed in close()
            _drop_torn_line(self._file)
        except OSError as error:
            raise InputError(f"{path}: cannot write metrics: {error.strerror}") from error
        self._torn = False

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. Where the disk is full the record is lost, and the next one is tried again."""
        line = json.dumps(_strict(record), allow_nan=False).encode() + b"\n"
        try:
            if self._torn:
                _drop_torn_line(self._file)
            self._torn = True
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
        except OSError as error:
            self._warn(f"{self._path}: metrics are being lost, training goes on: {error.strerror}")

    def content(self) -> bytes:
        """All records, also where the file has been moved or removed since."""
        self._file.seek(0)
        return self._file.read()

    def state_dict(self) -> dict[str, int]:
        """How far the records go; all of them are on the medium."""
        with contextlib.suppress(OSError):  # what is lost was told when it was written
            os.fsync(self._file.fileno())
        return {"bytes": self._file.seek(0, os.SEEK_END)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Forget the records after that; a training that goes on from there writes them again."""
        if state["bytes"] < self._file.seek(0, os.SEEK_END):
            self._file.truncate(state["bytes"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Itself; leaving closes the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line without its newline is still being written, and left out.

    Raises:
        InputError: The file cannot be read, or a whole line of it is not a JSON object.
    """
    try:
        *lines, _torn = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot read metrics: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}, line {number}: not JSON ({error}); remove the line to go on"
            ) from error
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: not a JSON object; remove the line to go on")
        records.append(record)
    return records


def _drop_torn_line(file: BinaryIO) -> None:
    """Cut what follows the last newline."""
    end = start = file.seek(0, os.SEEK_END)
    while start > 0:
        start = max(0, start - 65536)
        file.seek(start)
        newline = file.read(min(65536, end - start)).rfind(b"\n")
        if newline >= 0:
            file.truncate(start + newline + 1)
            return
    if end:
        file.truncate(0)


def _strict(value: Any) -> Any:
    """`value` with null for the numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _strict(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
