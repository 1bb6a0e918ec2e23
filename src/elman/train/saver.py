"""When a checkpoint is written, and what becomes of a training that cannot write one.

by the clock       every `seconds`, but so rarely that saving takes a hundredth of the time at most
a write fails      training goes on, and tries again after half the time; the third failure in a row ends it
the run is gone    the training is kept in a folder for temporary files, and ended
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elman.errors import ElmanError, InputError, ResourceError
from elman.files import disk_is_full
from elman.ranks import ALONE, Ranks
from elman.train.checkpoint import Checkpoints
from elman.train.run_folder import resume_command
from elman.train.say import Say

MOST_SHARE = 0.01
"""Of the time of a run that may go into checkpoints."""

MOST_OF_NAME = 60
"""Characters of the name of a run in that of the folder where it is rescued to; at 4 bytes each it is not too long."""

PATIENCE = 3
"""Failures in a row that end a training."""


class Saver:
    """Writes the checkpoints of a run. All ranks save together; the first one writes.

    Args:
        checkpoints: Where to.
        take: The step, and the files of a checkpoint; nothing in it is changed.
        facts: For the manifest.
        seconds: Between two checkpoints, at least.
        ours: Whether the folder of the run is still the one that was locked.
        describe: Writes what else a run needs to be resumed into a folder, for a run whose own folder is gone.
        warn: Told of failures, a line each.
        ranks: The processes of the job.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        take: Callable[[], tuple[int, dict[str, bytes]]],
        facts: Mapping[str, Any],
        seconds: float,
        *,
        ours: Callable[[], bool],
        describe: Callable[[Path], None],
        warn: Say,
        ranks: Ranks = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checkpoints, self._take, self._facts, self._describe = checkpoints, take, facts, describe
        self._ours = ours
        self._seconds, self._warn, self._ranks, self._clock = seconds, warn, ranks, clock
        self._interval, self._last, self._failures = seconds, clock(), 0

    @property
    def due(self) -> bool:
        """Whether it is time; asked of the first rank only."""
        return self._clock() - self._last >= self._interval

    def save(self, *, required: bool = False) -> None:
        """Write a checkpoint now.

        Args:
            required: It must succeed: nothing tries again, or something depends on it.

        Raises:
            ResourceError: It failed, and so did those before it; the last good one stays. If `required`, at once,
                like whatever else is the reason.
            InputError: The folder of the run is gone; the message says where the training is kept.
            DivergedError: A weight is not finite.
        """
        began = self._clock()
        step, files = self._take()
        failure = self._ranks.first_does(lambda: self._write(step, files, required))
        self._last = self._clock()
        if failure is None:
            self._failures = 0
            self._interval = max(self._seconds, (self._last - began) / MOST_SHARE)
            return
        self._failures += 1
        if self._failures == PATIENCE:
            raise ResourceError(
                f"{failure}; this was the third attempt, and the checkpoints of before are kept"
            )
        self._interval = self._seconds / 2
        self._warn(f"no checkpoint at step {step:,}: {failure}; training goes on and tries again")

    def _write(self, step: int, files: Mapping[str, bytes], required: bool) -> str | None:
        """Why it failed, or None."""
        if not self._ours():
            raise self._rescue(step, files)
        try:
            self._checkpoints.write(step, files, self._facts)
        except ElmanError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise self._rescue(step, files) from error
            if required:
                resume = resume_command(self._checkpoints.folder.parent)
                raise type(error)(f"{error}, and go on from the checkpoint before with: {resume}") from error
            return str(error)
        return None

    def _rescue(self, step: int, files: Mapping[str, bytes]) -> ElmanError:
        run = self._checkpoints.folder.parent
        kept = "a folder for temporary files"
        try:
            kept = tempfile.mkdtemp(prefix=f"elman-{run.name[:MOST_OF_NAME]}-")
            self._describe(Path(kept))
            checkpoints = Checkpoints(Path(kept, self._checkpoints.folder.name), warn=self._warn)
            checkpoints.write(step, files, self._facts)
        except OSError as error:
            full = "the disk is full" if disk_is_full(error) else error.strerror
            return ResourceError(
                f"{run}: is gone, and {kept} cannot be written: {full}; nothing could be kept"
            )
        except ElmanError as error:
            return error
        return InputError(
            f"{run}: was moved or removed under the training; what it learnt is kept:"
            f" {resume_command(Path(kept))}"
        )
