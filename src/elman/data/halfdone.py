"""What is half-done lies in the cache beside what is finished, so that a killed preparation goes on.

    prepared/NAME              finished
    prepared/.NAME.part/       half-done: the vocabulary, shards, and a lock for each piece of work

Any number of processes may prepare the same text: each takes pieces of work that no other one holds, by flock, which
the system releases however a process ends. A process that finds all of them taken waits. A folder that is no longer
needed is moved out of the way; a process that then misses it looks again for what is finished.

Where the system or the file system has no flock, a half-done folder belongs to one process and goes when that ends: the
result is the same, but the work is not shared, and a killed preparation begins afresh.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from elman import files
from elman.errors import InputError, ResourceError
from elman.files import disk_is_full

ABANDONED_SECONDS = 7 * 24 * 3600
"""What is half-done and was not touched for this long is removed."""

TRASH = ".trash-"
"""Begins the name of a folder that is being removed."""

PAUSE_SECONDS = 0.05
"""Between two looks at a lock that another process holds."""

LOOK_EVERY = 20
"""Pauses after which one looks at who may hold it."""


class HalfDone:
    """A half-done folder."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        self.path = path
        self.shared = shared

    @property
    def gone(self) -> bool:
        """Whether another process has finished with it."""
        return not self.path.is_dir()

    def take(self, work: str) -> IO[bytes] | None:
        """Hold a piece of work until the file that is returned is closed; None while another process holds it."""
        file = files.disk.open(self.path / f"{work}.lock", "ab")
        try:
            if self.shared:
                files.disk.lock(file)
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        return file

    @contextlib.contextmanager
    def wait_for(
        self, work: str, told: Callable[[], None], look: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Hold a piece of work as soon as no other process does.

        Args:
            work: Its name.
            told: Called if there is a wait.
            look: Called about once a second then; it raises an error if there is nothing to wait for.
        """
        file = self.take(work)
        if file is None:
            told()
        pauses = 0
        while file is None:
            time.sleep(PAUSE_SECONDS)
            file = self.take(work)
            pauses += 1
            if file is None and pauses % LOOK_EVERY == 0:
                look()
        with file:
            yield

    def holds_records(self) -> bool:
        """Whether anything in it is worth going on with."""
        return any(self.path.glob("*.record"))

    def discard(self) -> None:
        """Move it out of the way, for all who share it, and remove it."""
        remove_folder(self.path)


@contextlib.contextmanager
def half_done(folder: Path) -> Iterator[HalfDone]:
    """What is half-done of `folder`; on leaving, what is worth keeping stays.

    Raises:
        ResourceError: The disk is full, there or in the block.
        InputError: It cannot be written.
    """
    with _said_of(folder.parent):
        work = _open(folder)
        try:
            yield work
        finally:
            if not (work.shared and work.holds_records()):
                work.discard()


def _open(folder: Path) -> HalfDone:
    """What all processes share, or, without flock, a folder for this one."""
    work = HalfDone(_shared_path(folder), shared=True)
    while True:
        _make_folders(work.path)
        try:
            if (file := work.take("probe")) is not None:
                file.close()
            return work
        except FileNotFoundError:
            continue  # another process has just finished with it
        except OSError as error:
            if error.errno not in files.NO_LOCKS:
                raise
            work.discard()
            work = HalfDone(folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part"), shared=False)


def remove_half_done(folder: Path) -> None:
    """Remove what was half-done of `folder`, which is finished; a process still at work on it notices."""
    with contextlib.suppress(OSError):  # it can wait
        remove_folder(_shared_path(folder))


def remove_abandoned(parent: Path) -> None:
    """Remove what killed runs left in `parent` and nobody went on with."""
    for path in parent.glob(".*"):
        with contextlib.suppress(OSError):  # another process may be at it as well
            latest = max(entry.stat().st_mtime for entry in (path, *path.glob("**/*")))
            if latest < time.time() - ABANDONED_SECONDS:
                remove_folder(path)


def remove_folder(path: Path) -> None:
    """Remove a folder in one instant for all others, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        files.disk.rename(path, path.with_name(f"{TRASH}{uuid.uuid4().hex[:8]}"))
    empty_trash(path.parent)


def empty_trash(parent: Path) -> None:
    """Remove what was moved out of the way in `parent`, by this process or by one that was killed then."""
    for trash in parent.glob(f"{TRASH}*"):
        with contextlib.suppress(OSError):  # another process is at it as well, or it can wait
            files.disk.remove(trash)


def _shared_path(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.part")


def _make_folders(path: Path) -> None:
    for folder in (*reversed(path.parents), path):
        if not folder.is_dir():
            with contextlib.suppress(FileExistsError):  # another process was faster
                files.disk.make_folder(folder)


@contextlib.contextmanager
def _said_of(parent: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise ResourceError(
                f"{parent}: the disk is full; free some space, or set ELMAN_CACHE to another place"
            ) from error
        raise InputError(f"{parent}: cannot write there: {error.strerror}; set ELMAN_CACHE") from error
