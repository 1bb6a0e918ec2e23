"""Files that are whole or not there."""

import contextlib
import errno
import os
from pathlib import Path

from elman.errors import InputError, ResourceError


def disk_is_full(error: OSError) -> bool:
    """Whether there was no room left, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, payload: bytes | str) -> None:
    """Replace `path`; a reader sees the old file or the new one, never half of it.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(payload.encode() if isinstance(payload, str) else payload)
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the folder may be what is missing
            scratch.unlink()
        if disk_is_full(error):
            raise ResourceError(f"{path}: the disk is full; free some space and run it again") from error
        raise InputError(f"{path}: cannot write: {error.strerror}; choose another folder") from error


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
