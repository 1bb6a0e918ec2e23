"""The course of a training: steps, checkpoints, and what is done when one goes wrong or somebody stops it.

begin      from a checkpoint, or from the beginning, with a first checkpoint that finds out whether it can be written
steps      `loop.train`; after each one the watcher looks, and a checkpoint is written if it is time
diverged   back to the last checkpoint with half the learning rate, once; then it ends, with a diagnosis
stopped    a checkpoint is written, and the message says how to go on
end        validated, and a last checkpoint, from which the run can be extended
"""

import base64
import contextlib
import json
import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from elman.config import BUDGETS, OptimizerConfig
from elman.errors import DivergedError, StoppedError
from elman.files import write_atomically
from elman.models.build import tensors_of
from elman.ranks import Ranks
from elman.train.budget import Budget
from elman.train.checkpoint import Checkpoint, Checkpoints
from elman.train.guard import Guard
from elman.train.loop import StepResult, Training, train
from elman.train.metrics import MetricsLog
from elman.train.run_folder import DIAGNOSIS, EVENTS, METRICS, resume_command
from elman.train.saver import Saver
from elman.train.say import Say, warning
from elman.train.signals import Signals
from elman.train.snapshot import Part, fill, put_back, take
from elman.train.step import Step
from elman.train.watcher import Watcher

EASE = 0.5
"""Factor of the learning rate after a training has diverged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Where a training is kept, so that it cannot be lost."""

    checkpoints: Checkpoints
    facts: Mapping[str, Any]
    """For the manifests."""
    ours: Callable[[], bool]
    """Whether the folder of the run is still the one that was locked."""
    describe: Callable[[Path], None]
    """Writes what else a run needs to be resumed into a folder."""
    start: Checkpoint | None = None
    """To go on from."""
    changes: Mapping[str, Any] | None = None
    """Of the settings, where a run is taken up again; an event says so."""


class Course:
    """One training from where it is to its end.

    Args:
        training: All that the next step depends on; it is changed.
        config: The learning rate and its schedule.
        take_step: Learns from one batch.
        budget: Says when it is over.
        guard: Sees the outcome of every step.
        watcher: Records, validates and keeps the best.
        events: Where what happens beside is written.
        signals: Asks to stop.
        folder: Of the run; gets a diagnosis if the training diverges.
        keeping: What its checkpoints need; None for a training that writes none.
        checkpoint_seconds: Between two checkpoints, at least.
        ranks: The processes of the job.
        say: Told what happens.
    """

    def __init__(
        self,
        *,
        training: Training,
        config: OptimizerConfig,
        take_step: Step,
        budget: Budget,
        guard: Guard,
        watcher: Watcher,
        events: MetricsLog,
        signals: Signals,
        folder: Path,
        keeping: Keeping | None,
        checkpoint_seconds: float,
        ranks: Ranks,
        say: Say,
    ) -> None:
        self._training, self._config, self._take_step = training, config, take_step
        self._budget, self._guard, self._watcher, self._events = budget, guard, watcher, events
        self._signals, self._folder, self._keeping = signals, folder, keeping
        self._ranks, self._say, self._warn = ranks, say, warning(say)
        self._parts: dict[str, Part] = {
            "budget": budget,
            "guard": guard,
            "watcher": watcher,
            "metrics": watcher.log,
            "events": events,
            "step": take_step,
        }
        self._saver: Saver | None = None
        if keeping is not None:
            self._saver = Saver(
                keeping.checkpoints,
                lambda: (training.step, take(training, watcher.best_weights, self._parts, ranks)),
                keeping.facts,
                checkpoint_seconds,
                ours=keeping.ours,
                describe=self._describe,
                warn=self._warn,
                ranks=ranks,
            )

    def run(self) -> None:
        """Go through it; in the end the model has its best weights.

        Raises:
            StoppedError: A signal asked for it.
            DivergedError: As for `loop.train`, and again with half the learning rate.
            ResourceError: Checkpoints cannot be written, or memory ran out.
        """
        self._begin()
        self._train()
        if not self._asked():
            self._watcher.validate(self._training.step)
            if not math.isfinite(self._watcher.best):
                raise DivergedError(
                    f"the held-out text scores {self._watcher.best} nats; lower learning_rate"
                )
        self._save(required=True)
        if number := self._asked():  # perhaps only now, while that was written
            raise self._stopped(number)
        with torch.no_grad():
            fill(tensors_of(self._training.model), self._watcher.best_weights)

    def _begin(self) -> None:
        """Go to where the training starts from, and keep what was changed in the settings."""
        keeping = self._keeping
        if keeping is not None and keeping.start is not None:
            self._go_back(keeping.start.files)
        else:
            self._forget()
            self._save(required=True)
        if keeping is None or keeping.changes is None:
            return
        event = {"step": self._training.step, "event": "resumed", "changes": dict(keeping.changes)}
        self._events.write(event)
        budgets = {f"training.{name}" for name in BUDGETS}
        if budgets & set(keeping.changes) and self._budget.look(self._training.step)[1]:
            self._warn(f"the budget that is given was used up at step {self._training.step:,} already")
        if keeping.changes:
            # Else the event would be forgotten by a resume from the checkpoint before.
            self._save(required=True)
            if self._ranks.is_first:
                keeping.describe(self._folder)  # and only now, so that no change is without its event

    def _train(self) -> None:
        t = self._training
        try:
            train(t, self._config, self._take_step, self._budget, self._guard, self._observe, self._ranks)
        except DivergedError as error:
            kept = self._newest() if t.ease == 1 else None
            if kept is None:
                self._diagnose(error)
                raise
            event = {"step": t.step, "event": "went back", "reason": str(error)}
            self._go_back(kept.files, all_but="events")  # what happened has happened
            t.ease = EASE
            self._events.write(event | {"to": t.step})
            self._save()  # else a run that is resumed from before would not know of it
            self._warn(f"{error}; going back to step {t.step:,}, with {EASE:g} of the learning rate")
            self._train()

    def _observe(self, result: StepResult) -> bool:
        self._watcher(result)
        due = self._ranks.is_first and self._saver is not None and self._saver.due
        stop, save = self._ranks.most([int(self._signals.asked or 0), due])
        if save and not stop:
            self._save()
        return bool(stop)

    def _asked(self) -> int:
        """The signal that asked any of the ranks to stop; 0 if none did."""
        return self._ranks.most([int(self._signals.asked or 0)])[0]

    def _save(self, *, required: bool = False) -> None:
        if self._saver is not None:
            with self._budget.paused():
                self._guard.tell_revived()
                self._saver.save(required=required)

    def _go_back(self, files: Mapping[str, bytes], *, all_but: str = "") -> None:
        parts = {name: part for name, part in self._parts.items() if name != all_but}
        self._watcher.best_weights = put_back(self._training, parts, files, self._ranks)
        self._watcher.used, _ = self._budget.look(self._training.step)

    def _forget(self) -> None:
        """Begin empty logs: those of a run that was ended before its first checkpoint are of no use."""
        for log in (self._watcher.log, self._events):
            log.load_state_dict({"bytes": 0})

    def _newest(self) -> Checkpoint | None:
        return None if self._keeping is None else newest(self._keeping.checkpoints, self._ranks)

    def _describe(self, place: Path) -> None:
        """Write what a run has beside its checkpoints into another folder, the records so far among it."""
        assert self._keeping is not None
        self._keeping.describe(place)
        for log, name in ((self._watcher.log, METRICS), (self._events, EVENTS)):
            write_atomically(place / name, log.content())

    def _stopped(self, number: int) -> StoppedError:
        if not self._watcher.best_weights:
            self._watcher.settle()
            self._watcher.keep_model(self._training.step)
        name, step = signal.Signals(number).name, f"{self._training.step:,}"
        on = f"go on with: {resume_command(self._folder)}" if self._keeping else "it is to be done again"
        return StoppedError(f"stopped by {name} after step {step}; {on}", number)

    @torch.no_grad()
    def _diagnose(self, error: DivergedError) -> None:
        """Leave what helps to find out why."""
        if not self._ranks.is_first:
            return
        training = self._training
        with contextlib.suppress(DivergedError):  # an accelerator's last losses may say so once more
            self._guard.look()
        weights = {
            name: {
                "not_finite": int((~tensor.isfinite()).sum()),
                "largest": float(tensor.nan_to_num(0.0, 0.0, 0.0).abs().max()),
            }
            for name, tensor in tensors_of(training.model).items()
        }
        found = {
            "step": training.step,
            "error": str(error),
            "next_batch": training.loader.state_dict(),
            "weights": weights,
            **self._guard.state_dict(),
        }
        write_atomically(self._folder / DIAGNOSIS, json.dumps(found, indent=1) + "\n")


def newest(checkpoints: Checkpoints, ranks: Ranks) -> Checkpoint | None:
    """The newest checkpoint, which the first rank reads for all; None if there is none.

    Raises:
        InputError, ModelError: As for `Checkpoints.newest`.
    """
    if ranks.size == 1:
        return checkpoints.newest()

    def read() -> dict[str, Any] | None:
        found = checkpoints.newest()
        if found is None:
            return None
        files = {name: base64.b64encode(data).decode() for name, data in found.files.items()}
        return {"path": str(found.path), "step": found.step, "files": files, "facts": found.facts}

    sent = ranks.first_does(read)  # through the store of the job, as only the first may have the disk
    if sent is None:
        return None
    files = {name: base64.b64decode(data) for name, data in sent["files"].items()}
    return Checkpoint(Path(sent["path"]), sent["step"], files, sent["facts"])
