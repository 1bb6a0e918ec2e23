"""One writer for a run folder: who holds RUN/run.lock writes there, and a second run is refused at once.

The lock is the kernel's (`flock`), so it ends with its holder, however that ends: a file left by a killed process
locks nothing. What stands in the file is for the message only. Where the file system has no `flock`, as on some
network mounts, a file that must not be there is made, and is the lock; it is stale if its process died on this host.
"""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import elman.files
from elman.errors import InputError, ResourceError
from elman.files import NO_LOCKS, disk_is_full
from elman.train.say import Say

LOCK, MADE = "run.lock", "run.lock.made"
"""The file that is locked, and the one that is made where none can be."""


@contextlib.contextmanager
def run_lock(folder: Path, *, warn: Say = warnings.warn) -> Iterator[Callable[[], bool]]:
    """Hold the lock of the run in `folder`, which exists; it is given back, and the file removed, on the way out.

    What it yields says whether `folder` is still the one that was locked, and not another that took its place.

    A process forked while it is held shares it: workers of a loader must be spawned, or end with their parent.

    Args:
        folder: Of the run.
        warn: Told if the file system has no `flock`.

    Raises:
        InputError: Another process holds it, or the folder cannot be written.
        ResourceError: The disk is full.
    """
    try:
        file = _acquire(folder / LOCK, warn)
    except OSError as error:
        if disk_is_full(error):
            raise ResourceError(f"{folder}: the disk is full; free some space") from error
        raise InputError(f"{folder}: cannot lock it: {error.strerror}; make it writable") from error
    try:
        yield lambda: _is_at(file, Path(file.name))
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone
            _remove_if_it_is(file)
        file.close()


def _acquire(path: Path, warn: Say) -> IO[bytes]:
    """The open lock file; it is held by this process and says so."""
    if path.is_symlink():
        raise InputError(f"{path}: a link, where a run keeps its lock; remove it")
    while True:
        file = elman.files.disk.open(path, "ab")
        try:
            elman.files.disk.lock(file)
            # Its holder may have removed it between the two lines above: what is locked then is no file any more.
            if _is_at(file, path):
                file.truncate(0)
                try:
                    return _sign(file)
                except OSError:
                    file.truncate(0)  # ours, and no lock: it goes below
                    raise
        except BlockingIOError:
            file.close()
            raise _held(path, "wait for it, or train in another folder") from None
        except OSError as error:
            with contextlib.suppress(OSError):  # the disk has failed already, and may again
                if os.fstat(file.fileno()).st_size == 0:
                    _remove_if_it_is(file)
            with contextlib.suppress(OSError):
                file.close()
            if error.errno not in NO_LOCKS:
                raise
            warn(f"{path.parent}: no flock here ({error.strerror}); the file {MADE} is the lock")
            return _acquire_by_making(path)
        file.close()


def _acquire_by_making(path: Path) -> IO[bytes]:
    """Two that find the same stale file at the same instant could both take it: no more can be had without flock."""
    made = path.with_name(MADE)
    # The first may be held by flock, where it is only short of locks at this moment.
    for found in (path, made):
        holder = _holder(found)
        dead = holder.get("host") == socket.gethostname() and not _is_alive(holder.get("pid"))
        if dead:
            elman.files.disk.remove(found)
        elif holder:
            raise _held(found, f"if no run is going there, remove {found}")
    try:
        file = elman.files.disk.open(made, "xb")
    except FileExistsError:
        raise _held(made, f"if no run is going there, remove {made}") from None
    try:
        return _sign(file)
    except OSError:
        with contextlib.suppress(OSError):
            elman.files.disk.remove(made)
        file.close()
        raise


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _remove_if_it_is(file: IO[bytes]) -> None:
    """Remove an open file, unless another has taken its place."""
    path = Path(file.name)
    if _is_at(file, path):
        elman.files.disk.remove(path)


def _sign(file: IO[bytes]) -> IO[bytes]:
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    file.write(json.dumps(me).encode() + b"\n")
    file.flush()
    return file


def _holder(path: Path) -> dict[str, Any]:
    """What the file says of its holder: nothing, if it is being written at this moment."""
    with contextlib.suppress(OSError, ValueError, RecursionError):  # torn, or another's file
        said = json.loads(elman.files.disk.read(path))
        if isinstance(said, dict):
            return said
    return {}


def _held(path: Path, way_out: str) -> InputError:
    holder = {"pid": "unknown", "host": "unknown", "started": "unknown"} | _holder(path)
    return InputError(
        f"{path.parent}: another run writes here: process {holder['pid']} on {holder['host']}, "
        f"since {holder['started']}; {way_out}"
    )


def _is_alive(pid: object) -> bool:
    """Whether a process of this host is there; True if that cannot be known."""
    if os.name != "posix" or type(pid) is not int or pid <= 0:
        return True
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # of another user, or no number that a process has
    return True
