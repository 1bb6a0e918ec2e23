"""Checkpoints of a run: each is whole and verified, or it is not there. What is in them is not known here.

RUN/checkpoints/
    step-00001000/          the files it was given, and MANIFEST.json with the size and SHA-256 of each
    step-00002000/
    step-00002000-2/        written again by a run that went back: it takes the place of the one above
    .tmp-3000-4711-9f2c/    being written, or left by a process that was killed: `clean` removes it
    .trash-step-00000500/   being removed, likewise
    .corrupt-step-.../      found damaged by `newest`, which took the next older one
    .later-step-.../        of a future that the run left when it went back to an older checkpoint

A checkpoint is written into `.tmp-*`: every file, synced; then the manifest, synced; then the names in the folder,
synced. One rename makes it `step-*`, and the parent is synced. Only when it has been read back and agrees with its
manifest are older ones removed, by a rename to `.trash-*` first. So a kill or a power cut at any instant leaves the
checkpoints of before, or the new one too, and nothing with the name `step-*` is ever half there.

No pointer to the latest is kept and no time is looked at: `newest` goes by the steps in the names, and takes the
first whose every byte is what its manifest says.
"""

import contextlib
import errno
import itertools
import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import elman.files
from elman.errors import ElmanError, InputError, ResourceError
from elman.files import disk_is_full
from elman.train.manifest import FILE_NAME, FOLDER_NAME, MANIFEST, Damaged, describe, read_file, read_manifest
from elman.train.say import Say

POINTS = (
    "checkpoint.start",
    "checkpoint.room",
    "checkpoint.scratch-made",
    "checkpoint.file-opened",
    "checkpoint.file-written",
    "checkpoint.file-synced",
    "checkpoint.file-closed",
    "checkpoint.manifest-opened",
    "checkpoint.manifest-written",
    "checkpoint.manifest-synced",
    "checkpoint.manifest-closed",
    "checkpoint.scratch-synced",
    "checkpoint.renamed",
    "checkpoint.published",
    "checkpoint.verified",
    "checkpoint.trashed",
    "checkpoint.trash-synced",
    "checkpoint.trash-removed",
    "checkpoint.done",
)
"""Where a test may stop a `write`, in order; those of a file are reached for each, those of the trash if any."""


class Found(NamedTuple):
    """A checkpoint by its name."""

    step: int
    number: int
    """Among those of its step; the highest was written last."""
    path: Path


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that was read: every byte in it is what its manifest says."""

    path: Path
    step: int
    files: dict[str, bytes]
    """Content by name: the very bytes whose SHA-256 was compared, not what the disk holds a moment later."""
    facts: dict[str, Any]
    """What the writer said of it beside the files."""


class Checkpoints:
    """The checkpoints of one run. Only the holder of the run's lock may write or clean.

    Args:
        folder: RUN/checkpoints; made by the first `write`. RUN itself is not: if it is gone, it was moved.
        keep: How many stay, at least 1. With 1, damage to the newest loses the run.
        warn: Told, a line at a time, of damage and of what could not be tidied.
    """

    def __init__(self, folder: Path, *, keep: int = 2, warn: Say = warnings.warn) -> None:
        if keep < 1:
            raise ValueError(f"keep ({keep}) must be at least 1")
        self.folder = folder
        self._keep = keep
        self._warn = warn

    def write(self, step: int, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> Path:
        """Write a checkpoint, and remove those that it makes needless.

        One of the same step is replaced; those of later steps, which the run left by going back, are set aside.

        Args:
            step: At least 0.
            files: Content by name: letters, digits, and `._-` after the first.
            facts: Anything that JSON can hold exactly.

        Returns:
            The folder of the checkpoint.

        Raises:
            ResourceError: The disk is full, or failing; the checkpoints of before are still there.
            InputError: The folder cannot be written, or was moved: then `__cause__` is a FileNotFoundError.
        """
        elman.files.disk.reach("checkpoint.start")
        for name in files:
            if not FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a file in a checkpoint")
        try:
            path = self._publish(step, files, facts)
        except OSError as error:
            raise self._explain(step, error) from error
        self._verify(path)
        self._tidy(step)
        elman.files.disk.reach("checkpoint.done")
        return path

    def newest(self) -> Checkpoint | None:
        """The checkpoint of the highest step that is sound; damaged ones are set aside with a warning.

        Raises:
            ModelError: The newest was written by a newer version.
            InputError: The folder cannot be read.
        """
        for found in self.found():
            try:
                return self.read(found.path)
            except Damaged as error:
                self._quarantine(found.path, error.why)
        return None

    @staticmethod
    def read(path: Path) -> Checkpoint:
        """The checkpoint at `path`, under whatever name.

        Raises:
            ModelError: It is damaged, is no checkpoint, or was written by a newer version.
            InputError: It cannot be read, for want of permission for example.
        """
        manifest = read_manifest(path)
        contents = {name: read_file(path / name, entry) for name, entry in manifest["files"].items()}
        return Checkpoint(path, manifest["step"], contents, manifest["facts"])

    def clean(self) -> None:
        """Remove what killed processes left: unfinished checkpoints, and those whose removal was cut short.

        All of them: who holds the run's lock is its only writer, and a process id in a name says nothing where
        every container counts from 1.
        """
        for name in self._names():
            if name.startswith((".tmp-", ".trash-")):
                try:
                    elman.files.disk.remove(self.folder / name)
                except OSError as error:
                    self._warn(f"{self.folder / name}: a left-over that cannot be removed: {error.strerror}")

    def _publish(self, step: int, contents: Mapping[str, bytes], facts: Mapping[str, Any]) -> Path:
        disk = elman.files.disk
        if not self.folder.is_dir():
            disk.make_folder(self.folder)
            disk.sync_folder(self.folder.parent)
        self._require_room(step, sum(len(content) for content in contents.values()))
        disk.reach("checkpoint.room")
        path = self._free_place(step)
        scratch = self.folder / f".tmp-{step}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            disk.make_folder(scratch)
            disk.reach("checkpoint.scratch-made")
            for name, content in contents.items():
                _write_file(scratch / name, content, "checkpoint.file")
            _write_file(scratch / MANIFEST, describe(step, contents, facts), "checkpoint.manifest")
            disk.sync_folder(scratch)
            disk.reach("checkpoint.scratch-synced")
            disk.rename(scratch, path)
        except BaseException:
            with contextlib.suppress(OSError):  # `clean` will try again
                disk.remove(scratch)
            raise
        disk.reach("checkpoint.renamed")
        disk.sync_folder(self.folder)
        disk.reach("checkpoint.published")
        return path

    def _require_room(self, step: int, size: int) -> None:
        """For the checkpoint twice, and a little: what else writes to this disk must not be starved by it."""
        needed, free = int(2 * size * 1.05), elman.files.disk.free(self.folder)
        if free < needed:
            raise ResourceError(
                f"{self.folder}: the disk is too full for the checkpoint of step {step}: {free:,} bytes are free, "
                f"and it wants {needed:,}; free some space"
            )

    def _explain(self, step: int, error: OSError) -> ElmanError:
        what = f"{self.folder}: cannot write the checkpoint of step {step}: {error.strerror or error}"
        if error.errno == errno.EFBIG:
            return ResourceError(f"{what}; raise the limit on the size of files (ulimit -f)")
        if disk_is_full(error):
            return ResourceError(f"{what}; free some space (the checkpoints of before are still there)")
        if error.errno == errno.EIO:
            return ResourceError(f"{what}; the disk may be failing: copy the run folder to another")
        if isinstance(error, FileNotFoundError):
            return InputError(f"{what}; the run folder was moved or removed while it was in use: put it back")
        return InputError(f"{what}; make it writable, or train in another folder")

    def _verify(self, path: Path) -> None:
        """Read back all of it: nothing older is removed on the word of a write that did not fail."""
        try:
            for name, entry in read_manifest(path)["files"].items():
                read_file(path / name, entry)
        except Damaged as error:
            self._quarantine(path, error.why)
            raise ResourceError(
                f"{path}: not what was written a moment ago: {error.why}; the disk or the memory may be failing"
            ) from error
        elman.files.disk.reach("checkpoint.verified")

    def _tidy(self, step: int) -> None:
        """Set later checkpoints aside and remove needless ones. The new one is safe: a failure is a warning."""
        disk = elman.files.disk
        try:
            found = self.found()
            for later in [each.path for each in found if each.step > step]:
                aside = self._set_aside(later, "later")
                self._warn(
                    f"{later}: of a later step than the run, which went back; set aside as {aside.name}"
                )
            newest_of: dict[int, Path] = {}
            for each in found:
                if each.step <= step:
                    newest_of.setdefault(each.step, each.path)
            kept = set(list(newest_of.values())[: self._keep])
            trash = []
            for needless in [each.path for each in found if each.step <= step and each.path not in kept]:
                trash.append(self._set_aside(needless, "trash"))
                disk.reach("checkpoint.trashed")
            if trash:
                # Else a power cut could bring back a name, and not all that was behind it.
                disk.sync_folder(self.folder)
                disk.reach("checkpoint.trash-synced")
            for path in trash:
                disk.remove(path)
                disk.reach("checkpoint.trash-removed")
        except (OSError, InputError) as error:
            self._warn(f"{self.folder}: cannot remove old checkpoints: {error}; they take up space")

    def _quarantine(self, path: Path, why: str) -> None:
        try:
            done = f"set aside as {self._set_aside(path, 'corrupt').name}"
        except FileNotFoundError:
            return  # another process, which holds the lock, has just removed it
        except OSError as error:
            done = f"cannot be set aside: {error.strerror}"
        self._warn(f"{path}: damaged checkpoint: {why}; {done}; the next older one is used, if there is one")

    def _set_aside(self, path: Path, mark: str) -> Path:
        """Rename to `.mark-<name>`, with a number if that exists."""
        wanted = f".{mark}-{path.name}"
        names = itertools.chain([wanted], (f"{wanted}-{number}" for number in itertools.count(2)))
        aside = next(self.folder / name for name in names if not os.path.lexists(self.folder / name))
        elman.files.disk.rename(path, aside)
        return aside

    def _free_place(self, step: int) -> Path:
        taken = [found.number for found in self.found() if found.step == step]
        name = f"step-{step:08d}"
        return self.folder / (f"{name}-{max(taken) + 1}" if taken else name)

    def found(self) -> list[Found]:
        """All that are there, newest first. Nothing is looked at but names.

        Raises:
            InputError: The folder cannot be read.
        """
        matches = [match for name in self._names() if (match := FOLDER_NAME.fullmatch(name))]
        steps = [Found(int(match[1]), int(match[2] or 1), self.folder / match[0]) for match in matches]
        return sorted(steps, reverse=True)

    def _names(self) -> list[str]:
        try:
            return elman.files.disk.names(self.folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(
                f"{self.folder}: cannot read: {error.strerror}; check the folder and its permissions"
            ) from error


def _write_file(path: Path, content: bytes, point: str) -> None:
    disk = elman.files.disk
    with disk.open(path, "xb") as file:
        disk.reach(f"{point}-opened")
        file.write(content)
        disk.reach(f"{point}-written")
        disk.sync(file)
        disk.reach(f"{point}-synced")
    disk.reach(f"{point}-closed")
