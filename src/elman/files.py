"""Files that are whole or not there."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from elman.errors import InputError, ResourceError


def disk_is_full(error: OSError) -> bool:
    """Whether there was no room left, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when all went well; a reader never sees half of it.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as file:
            yield file
        os.replace(scratch, path)
    except OSError as error:
        if disk_is_full(error):
            raise ResourceError(f"{path}: the disk is full; free some space and run it again") from error
        raise InputError(f"{path}: cannot write: {error.strerror}; choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # it has moved, or the folder may be what is missing
            scratch.unlink()


def write_atomically(path: Path, payload: bytes | str) -> None:
    """Replace `path` as a whole. Raises what `replacing` raises."""
    with replacing(path) as file:
        file.write(payload.encode() if isinstance(payload, str) else payload)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `path` when all went well; if not, nothing is left of it.

    Raises:
        InputError: `path` exists, or cannot be made.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; give another name, or remove it")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    make_folder(scratch)
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make `path`, which must not exist, and its parents.

    Raises:
        InputError: It exists, or cannot be made.
    """
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{path}: exists already; give another --out, or remove it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot make this folder: {error.strerror}; give another --out") from error
