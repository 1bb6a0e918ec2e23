"""Disks that fail or kill: put one in the place of `elman.files.disk`.

    monkeypatch.setattr(elman.files, "disk", FailingDisk(errno.ENOSPC, call=7))

A call is one method of `Disk`, or one write to a file that it opened. A write stops half-way: the first half of its
bytes has been handed on when the trouble comes.
"""

import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

from elman.files import FILE_MODE, Disk

FAILURES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
"""What the n-th call of a sweep fails with."""

READS = {"read", "names", "free"}
"""The calls that change nothing."""


class WatchedDisk(Disk):
    """A real disk that tells `before` of each call; a subclass decides what comes of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path]] = []
        self.points: list[str] = []

    def before(self, call: str, path: Path) -> None:
        """Called before each call, and amid each write."""
        self.calls.append((call, path))

    def open(self, path, mode):
        self.before("open", path)
        return _WatchedFile(self, path, mode)

    def sync(self, file):
        self.before("sync", Path(file.name))
        super().sync(file)

    def sync_folder(self, path):
        self.before("sync_folder", path)
        super().sync_folder(path)

    def rename(self, old, new):
        self.before("rename", old)
        super().rename(old, new)

    def remove(self, path):
        self.before("remove", path)
        super().remove(path)

    def make_folder(self, path):
        self.before("make_folder", path)
        super().make_folder(path)

    def read(self, path):
        self.before("read", path)
        return super().read(path)

    def names(self, path):
        self.before("names", path)
        return super().names(path)

    def free(self, path):
        self.before("free", path)
        return super().free(path)

    def lock(self, file):
        self.before("lock", Path(file.name))
        super().lock(file)

    def reach(self, point):
        self.points.append(point)


class _WatchedFile(io.FileIO):
    """Unbuffered, so that what was handed on is in the file when the disk fails."""

    def __init__(self, disk: WatchedDisk, path: Path, mode: str) -> None:
        super().__init__(path, mode, opener=lambda name, flags: os.open(name, flags, FILE_MODE))
        self._disk, self._path = disk, path

    def write(self, content) -> int:
        content = bytes(content)
        middle = len(content) // 2
        super().write(content[:middle])
        self._disk.before("write", self._path)
        super().write(content[middle:])
        return len(content)


class FailingDisk(WatchedDisk):
    """Fails with `number`: the n-th of the calls that `where` picks.

    Args:
        number: An errno.
        call: Counted from 1.
        lasting: All calls after it fail too.
        where: Of name and path; the others neither count nor fail.
    """

    def __init__(
        self,
        number: int,
        *,
        call: int = 1,
        lasting: bool = False,
        where: Callable[[str, Path], bool] = lambda call, path: True,
    ) -> None:
        super().__init__()
        self._number, self._call, self._lasting, self._where = number, call, lasting, where
        self._counted = 0
        self.failed: list[tuple[str, Path]] = []

    def before(self, call, path):
        super().before(call, path)
        if self._where(call, path):
            self._counted += 1
            if self._counted == self._call or (self._lasting and self._counted > self._call):
                self.failed.append((call, path))
                raise OSError(self._number, os.strerror(self._number), str(path))


class KillingDisk(WatchedDisk):
    """Sends this process a signal at its n-th call, or when it reaches a point for the n-th time.

    Args:
        point: A fault point; None counts calls that change something.
        time: Counted from 1.
        number: The signal; SIGKILL leaves no time for anything.
    """

    def __init__(self, point: str | None = None, *, time: int = 1, number: int = signal.SIGKILL) -> None:
        super().__init__()
        self._point, self._left, self._number = point, time, number

    def before(self, call, path):
        super().before(call, path)
        if self._point is None and call not in READS:
            self._count()

    def reach(self, point):
        super().reach(point)
        if point == self._point:
            self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._number)
