"""Whether a run is what it says: its files are sound, its text is the same, and its first steps come out again.

A training of networks is drawn again from its seed and trained for the first steps, with the share of the budget at
each step taken from the records, so that it does not matter what limited it. Losses and gradients are compared with
those that were recorded: to the bit on the same machine, and closely on another. An n-gram model is counted again.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from elman.config import RunConfig
from elman.data.prepare import Prepared, open_prepared, prepare
from elman.errors import ElmanError, InputError
from elman.models.build import tensors_of
from elman.settings import amend
from elman.text_model import TextModel, load
from elman.train.budget import Budget
from elman.train.checkpoint import Checkpoints
from elman.train.fit import EVENTS, METRICS, fit_counts, make_loader, make_training, settle
from elman.train.guard import Guard
from elman.train.loop import StepResult, train
from elman.train.machine import choose_machine, describe_environment, set_up
from elman.train.metrics import read_metrics
from elman.train.resume import (
    Earlier,
    differences,
    open_run,
    reads_standard_input,
    recorded_dtype,
    with_precision,
)

CLOSE = 1e-3
"""Relative difference of a loss that another machine, or another number of threads, may bring in the first steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str
    sound: bool
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All of them."""

    run: Path
    checks: list[Check]

    @property
    def sound(self) -> bool:
        """Whether every one is."""
        return all(check.sound for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """As `elman verify --json` prints it."""
        checks = [asdict(check) for check in self.checks]
        return {"schema": "elman.verify/1", "run": str(self.run), "sound": self.sound, "checks": checks}


def verify_run(run: Path, steps: int = 20, say: Callable[[str], object] = lambda line: None) -> Verification:
    """Look at a run folder, and train its first `steps` steps again; nothing in it is changed.

    Raises:
        InputError: There is no run, or its text cannot be read.
        ElmanError: As for a training.
    """
    earlier = open_run(run)
    if earlier.environment is None:
        raise InputError(f"{run}: was ended before it began to train; go on with: elman train --resume {run}")
    checks = [_check("model", lambda: _describe(load(run)))]
    for path in sorted((run / "checkpoints").glob("step-*")):
        checks.append(_check(f"checkpoint {path.name}", lambda path=path: _read(path)))  # type: ignore[misc]
    config = with_precision(earlier.config, recorded_dtype(earlier, earlier.config))
    set_up(config.training)
    machine = choose_machine(config.training)
    data = (
        open_prepared(earlier.environment["data"]) if reads_standard_input(config) else prepare(config.data)
    )
    checks += _compare_text(earlier, data.manifest)
    if not all(check.sound for check in checks[-2:]):
        return Verification(run=run, checks=checks)  # another text gives other losses
    if config.model.family == "ngram":
        checks.append(_count_again(run, earlier, data))
        return Verification(run=run, checks=checks)
    differing = differences(earlier, describe_environment(machine))
    say(f"training {steps} steps again")
    config, unchanged = _at_the_start(run, config)
    metrics = read_metrics(run / METRICS)
    last = min(steps, unchanged)
    of_steps = [record for record in metrics if "loss" in record]
    if damaged := [record for record in of_steps if not _is_whole(record)]:
        checks.append(Check(what="first steps", sound=False, found=f"no record of a step: {damaged[0]}"))
        return Verification(run=run, checks=checks)
    records = {record["step"]: record for record in of_steps if record["step"] <= last}
    validated = {record["step"] for record in metrics if "valid_perplexity" in record}
    loader = make_loader(config, data)
    training, take_step = make_training(config, data, loader, machine)
    without_clock = replace(config.training, max_time=None, max_steps=config.training.max_steps or 2**62)
    schedule = _Recorded(Budget(without_clock, loader.steps_per_epoch), records)
    again: dict[int, tuple[float, float]] = {}

    def observe(result: StepResult) -> bool:
        again[result.step] = float(result.loss), float(result.gradient_norm)
        if result.step in validated:
            settle(training)
        return False

    train(training, config.optimizer, take_step, schedule, Guard(training.model), observe)
    checks.append(_compare_steps(records, again, differing))
    return Verification(run=run, checks=checks)


class _Recorded:
    """The share of the budget at each step: of a number of steps as it is, of a time as the run recorded it."""

    def __init__(self, budget: Budget, records: Mapping[int, Mapping[str, Any]]) -> None:
        self._budget, self._records, self._used = budget, records, 0.0

    def look(self, step: int) -> tuple[float, bool]:
        """See `Schedule`."""
        if step in self._records:
            self._used = self._records[step]["used"]
        share, _ = self._budget.look(step)
        return max(share, self._used), step >= max(self._records, default=0)


def _is_whole(record: Mapping[str, Any]) -> bool:
    step, used, *numbers = (record.get(name, "") for name in ("step", "used", "loss", "gradient_norm"))
    are_numbers = all(number is None or isinstance(number, int | float) for number in numbers)
    return isinstance(step, int) and step >= 1 and isinstance(used, int | float) and used >= 0 and are_numbers


def _at_the_start(run: Path, config: RunConfig) -> tuple[RunConfig, float]:
    """The settings with which the run began, and the step up to which nothing came between."""
    events = read_metrics(run / EVENTS) if (run / EVENTS).exists() else []
    last = math.inf
    for event in reversed(events):
        if event["event"] == "resumed" and event["changes"]:
            config = amend(config, {name: old for name, (old, _) in event["changes"].items()})
            last = min(last, event["step"])
        if event["event"] == "went back":
            last = min(last, event["to"])
    return config, last


def _compare_steps(
    records: Mapping[int, Mapping[str, Any]], again: Mapping[int, tuple[float, float]], differing: str
) -> Check:
    what = "first steps"
    if not records:
        return Check(what=what, sound=False, found="nothing was recorded of them")
    worst, at = 0.0, 0
    for step, record in records.items():
        then = (record["loss"], record["gradient_norm"])
        apart = max(map(_apart, then, again[step]))
        if apart > worst:
            worst, at = apart, step
    last = max(records)
    if not worst:
        return Check(
            what=what, sound=True, found=f"{last} steps again: losses and gradients are equal to the bit"
        )
    elsewhere = f", with {differing}" if differing else ""
    found = f"{last} steps again: apart by up to {worst:.1e} of the value, at step {at}{elsewhere}"
    return Check(what=what, sound=bool(differing) and worst <= CLOSE, found=found)


def _apart(then: float | None, now: float) -> float:
    """Relative difference; a number that was not finite is recorded as None."""
    if then is None or not math.isfinite(now):
        return 0.0 if then is None and not math.isfinite(now) else math.inf
    return abs(then - now) / max(abs(then), abs(now), 1e-30)


def _compare_text(earlier: Earlier, manifest: Mapping[str, Any]) -> Iterable[Check]:
    then = (earlier.environment or {}).get("data", {})
    for key, what in (("content_sha256", "text"), ("tokenizer_sha256", "tokenizer")):
        same = then.get(key) == manifest[key]
        found = f"SHA-256 {manifest[key][:16]}..."
        other = f"{found} here, {str(then.get(key))[:16]}... in the run"
        yield Check(what=what, sound=same, found=found if same else other)


def _count_again(run: Path, earlier: Earlier, data: Prepared) -> Check:
    kept, counted = tensors_of(load(run).model), tensors_of(fit_counts(earlier.config, data).model)
    same = kept.keys() == counted.keys() and all(torch.equal(kept[name], counted[name]) for name in kept)
    found = "equal to the bit" if same else "other counts than those of the run"
    return Check(what="counted again", sound=same, found=found)


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what=what, sound=True, found=look())
    except ElmanError as error:
        return Check(what=what, sound=False, found=str(error))


def _describe(text_model: TextModel) -> str:
    return f"{text_model.config.name}, {text_model.config.shape}"


def _read(path: Path) -> str:
    checkpoint = Checkpoints(path.parent).read(path)
    size = sum(map(len, checkpoint.files.values()))
    return f"{len(checkpoint.files)} files, {size:,} bytes, as the manifest says"
