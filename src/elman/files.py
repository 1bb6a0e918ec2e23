"""Files that are whole or not there, also after a kill or a power cut; and the one place where the disk is touched.

Every call that changes or reads what must outlive the process goes through `disk`, so that a test can put another
in its place and let any one of them fail. Other modules write `files.disk.rename(...)`, never `from elman.files
import disk`: it is looked up when it is called.
"""

import contextlib
import errno
import itertools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from elman.errors import InputError, ResourceError

FILE_MODE, FOLDER_MODE = 0o664, 0o775
"""Less the user's umask; never writable for the whole world, whatever it is."""


class Disk:
    """What is asked of the operating system. Methods raise OSError, and nothing else."""

    def open(self, path: Path, mode: Literal["rb", "wb", "ab", "xb"]) -> IO[bytes]:
        """As the built-in `open`; writes go through the file that it returns."""
        return open(path, mode, opener=lambda name, flags: os.open(name, flags, FILE_MODE))

    def sync(self, file: IO[bytes]) -> None:
        """Come back when what was written to `file` is on the medium."""
        file.flush()
        os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Come back when the names in `path` are on the medium, where the system can say so."""
        if os.name != "posix":
            return  # a folder cannot be opened
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems
                raise
        finally:
            os.close(handle)

    def rename(self, old: Path, new: Path) -> None:
        """In one instant; a file at `new` is replaced, a folder there only if it is empty."""
        os.replace(old, new)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that is in it; a link goes itself, not what it points to."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    def make_folder(self, path: Path) -> None:
        """Make one folder; its parent exists."""
        path.mkdir(FOLDER_MODE)

    def read(self, path: Path) -> bytes:
        """The whole file."""
        return path.read_bytes()

    def names(self, path: Path) -> list[str]:
        """What is in a folder, in no order."""
        return os.listdir(path)

    def free(self, path: Path) -> int:
        """Bytes that this user may still write where `path` is."""
        return shutil.disk_usage(path).free

    def lock(self, file: IO[bytes]) -> None:
        """Hold `file` for this process alone until it is closed. BlockingIOError: another one does."""
        try:
            import fcntl
        except ImportError:
            raise OSError(errno.EOPNOTSUPP, "no flock on this system") from None
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def reach(self, point: str) -> None:
        """Nothing happens here: it marks an instant between two calls at which a test may stop the process."""


disk = Disk()
"""The one in use."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What `Disk.lock` fails with where the file system has no locks."""


_SCRATCH = re.compile(r"\..+\.[0-9]+")


def disk_is_full(error: OSError) -> bool:
    """Whether there was no room left, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def read_at_most(path: Path, size: int) -> bytes:
    """The content of a file, of which no more than `size` bytes are held; a pipe or a device is not waited for.

    Raises:
        InputError: It is larger, not a regular file, or cannot be read.
    """
    patient = getattr(os, "O_NONBLOCK", 0)  # opening a pipe would wait for its writer
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | patient)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise InputError(f"{path}: not a regular file; give one")
            if found.st_size > size:
                raise InputError(
                    f"{path}: {found.st_size:,} bytes, and it may have {size:,} at most; give the original file"
                )
            return file.read(found.st_size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give another file") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when all went well; a reader never sees half of it.

    On return it is on the medium: a power cut leaves the old file or the new one.

    Raises:
        ResourceError: The disk is full.
        InputError: The folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")  # as _SCRATCH has it
    try:
        with disk.open(scratch, "wb") as file:
            yield file
            disk.sync(file)
        disk.rename(scratch, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        if disk_is_full(error):
            raise ResourceError(f"{path}: the disk is full; free some space and run it again") from error
        raise InputError(f"{path}: cannot write: {error.strerror}; choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # it has moved, or the folder may be what is missing
            disk.remove(scratch)


def remove_scratch(folder: Path) -> None:
    """Remove what `replacing` left in `folder` where it was killed; nobody else may be writing there."""
    for name in os.listdir(folder) if folder.is_dir() else ():
        if _SCRATCH.fullmatch(name):
            with contextlib.suppress(OSError):  # it is in nobody's way
                disk.remove(folder / name)


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
        disk.sync_folder(scratch)
        disk.rename(scratch, path)
        disk.sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # it has moved
            disk.remove(scratch)


def make_folder(path: Path) -> None:
    """Make `path`, which must not exist, and its parents.

    Raises:
        InputError: It exists, or cannot be made.
    """
    try:
        missing = list(itertools.takewhile(lambda parent: not parent.exists(), path.parents))
        for parent in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process may have made it by now
                disk.make_folder(parent)
                disk.sync_folder(parent.parent)
        disk.make_folder(path)
        try:
            disk.sync_folder(path.parent)
        except OSError:
            with contextlib.suppress(OSError):  # or the next attempt would find it there
                path.rmdir()
            raise
    except FileExistsError:
        raise InputError(f"{path}: exists already; give another --out, or remove it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot make this folder: {error.strerror}; give another --out") from error
