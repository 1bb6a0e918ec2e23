"""The first steps of a run, trained again, and compared with what was recorded of them.

The training is drawn again from its seed, with the settings it began with and, where time limited it, the share of the
budget at each step taken from the records. The steps come out to the bit where every start of the run was on a machine
like this one, and closely elsewhere.
"""

import math
from collections.abc import Mapping, Set
from typing import Any

import torch

from elman.config import ModelConfig, RunConfig
from elman.data.prepare import Prepared
from elman.errors import ConfigError, InputError
from elman.settings import amend
from elman.train.budget import Budget, is_marked
from elman.train.checkpoint import Checkpoints
from elman.train.choices import choices
from elman.train.fit import make_loader, make_training, settle
from elman.train.guard import Guard
from elman.train.loop import StepResult, train
from elman.train.machine import Machine, choose_machine, describe_environment, set_up
from elman.train.metrics import read_metrics
from elman.train.resume import Earlier, differences, recorded_dtype, with_precision
from elman.train.run_folder import CHECKPOINTS, EVENTS, METRICS
from elman.train.say import Say

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative difference that another machine, or another number of threads, may bring in the first steps, by the
arithmetic of the products: a sum in another order may round to the next bfloat16, 0.4 % away, and steps add that up."""

COMPARED = ("loss", "gradient_norm", "learning_rate", "used")
"""What is recorded of a step and comes out again."""

DRAWS_DEPEND_ON = ("ranks", "device")
"""Facts of an environment with which dropout draws other numbers, so that nothing comes out again."""


def replay(earlier: Earlier, data: Prepared, steps: int, say: Say) -> tuple[bool | None, str]:
    """Train the first steps again.

    Returns:
        Whether they came out as they were recorded, or None where they cannot be compared; and what was found.
    """
    config, unchanged = _at_the_start(earlier)
    metrics = read_metrics(earlier.folder / METRICS)
    of_steps = [record for record in metrics if "loss" in record]
    if damaged := [record for record in of_steps if not _is_whole(record)]:
        return False, f"no record of a step: {damaged[0]}"
    kept = [found.step for found in Checkpoints(earlier.folder / CHECKPOINTS).found()]
    reached = max([*kept, *(record["step"] for record in of_steps)], default=0)
    last = int(min(steps, unchanged, reached))
    records = {record["step"]: record for record in of_steps if record["step"] <= last}
    if missing := [step for step in range(1, last + 1) if is_marked(step) and step not in records]:
        return False, f"no record of step {missing[0]}"
    if not records:
        why = "no step was taken yet" if unchanged else "it was changed, or went back, before its first step"
        return None, why
    try:
        set_up(config.training)
        machine = choose_machine(config.training)
    except ConfigError as error:
        return None, str(error)
    here = describe_environment(machine) | {"choices": choices(config, data.tokenizer.vocab_size, machine)}
    drawn = differences(earlier, here, DRAWS_DEPEND_ON)
    if drawn and _has_dropout(config.model):
        return None, f"dropout draws other numbers: {drawn}"
    say(f"training {max(records)} steps again")
    validated = {record["step"] for record in metrics if "valid_perplexity" in record}
    again = _train(config, data, machine, records, validated)
    return _compare_steps(records, again, differences(earlier, here), CLOSE[machine.product_dtype])


def _train(
    config: RunConfig,
    data: Prepared,
    machine: Machine,
    records: Mapping[int, Mapping[str, Any]],
    validated: Set[int],
) -> dict[int, tuple[float, ...]]:
    """What is COMPARED, of each step up to the last record; weights are settled where the run was validated."""
    loader = make_loader(config, data)
    training, take_step = make_training(config, data, loader, machine)
    budget = Budget(config.training, loader.steps_per_epoch, clock=lambda: 0.0)
    schedule = RecordedSchedule(budget, records, of_time=config.training.max_time is not None)
    again: dict[int, tuple[float, ...]] = {}

    def observe(result: StepResult) -> bool:
        numbers = float(result.loss), float(result.gradient_norm), result.learning_rate, result.used
        again[result.step] = numbers
        if result.step in validated:
            settle(training)
        return False

    train(training, config.optimizer, take_step, schedule, Guard(training.model), observe)
    return again


class RecordedSchedule:
    """The share of the budget at each step: of a number of steps as it is, of a time as the run recorded it."""

    def __init__(self, budget: Budget, records: Mapping[int, Mapping[str, Any]], *, of_time: bool) -> None:
        self._budget, self._records, self._of_time, self._used = budget, records, of_time, 0.0

    def look(self, step: int) -> tuple[float, bool]:
        """See `Schedule`."""
        if self._of_time and step in self._records:
            self._used = self._records[step]["used"]
        share, _ = self._budget.look(step)
        return max(share, self._used), step >= max(self._records)


def _is_whole(record: Mapping[str, Any]) -> bool:
    step, used = record.get("step"), record.get("used")
    numbers = [record.get(name, "") for name in COMPARED]
    are_numbers = all(number is None or isinstance(number, int | float) for number in numbers)
    return isinstance(step, int) and step >= 1 and isinstance(used, int | float) and used >= 0 and are_numbers


def _at_the_start(earlier: Earlier) -> tuple[RunConfig, float]:
    """The settings with which the run began, and the step up to which nothing came between."""
    path, config, last = earlier.folder / EVENTS, earlier.config, math.inf
    for event in reversed(read_metrics(path) if path.exists() else []):
        try:
            if event["event"] == "resumed" and event["changes"]:
                config = amend(config, {name: old for name, (old, _) in event["changes"].items()})
                last = min(last, int(event["step"]))
            if event["event"] == "went back":
                last = min(last, int(event["to"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: no event: {event}; remove that line") from error
    return with_precision(config, recorded_dtype(earlier, config)), last


def _has_dropout(model: ModelConfig) -> bool:
    return max(model.dropout, model.embedding_dropout, model.weight_dropout) > 0


def _compare_steps(
    records: Mapping[int, Mapping[str, Any]],
    again: Mapping[int, tuple[float, ...]],
    differing: str,
    close: float,
) -> tuple[bool, str]:
    worst, at = 0.0, ""
    for step, record in records.items():
        for name, now in zip(COMPARED, again[step], strict=True):
            if (apart := _apart(record[name], now)) > worst:
                worst, at = apart, f"{name} at step {step}"
    last = max(records)
    if not worst:
        return True, f"{last} steps again: losses and gradients are equal to the bit"
    elsewhere = f", with {differing}" if differing else ""
    found = f"{last} steps again: apart by up to {worst:.1e} of the value, {at}{elsewhere}"
    return bool(differing) and worst <= close, found


def _apart(then: float | None, now: float) -> float:
    """Relative difference; a number that was not finite is recorded as None."""
    if then is None or not math.isfinite(now):
        return 0.0 if then is None and not math.isfinite(now) else math.inf
    return abs(then - now) / max(abs(then), abs(now), 1e-30)
