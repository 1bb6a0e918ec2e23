"""Whether a run is what it says: its files are sound, its text is the same, and its first steps come out again.

A training of networks is drawn again from its seed and trained for the first steps, with the settings it began with
and, where time limited it, the share of the budget at each step taken from the records. What was recorded of a step is
compared with what it does now: to the bit where every start of the run was on a machine like this one, and closely
elsewhere. An n-gram model is counted again. What cannot be compared is not checked, which is no fault of the run.
"""

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from elman.config import ModelConfig, RunConfig
from elman.data.finished import verify_store
from elman.data.prepare import Prepared, open_prepared, prepare
from elman.errors import ConfigError, ElmanError, InputError
from elman.models.build import tensors_of
from elman.settings import amend
from elman.text_model import TextModel, load
from elman.train.aloud import Say
from elman.train.budget import Budget, is_marked
from elman.train.checkpoint import Checkpoint, Checkpoints
from elman.train.choices import choices
from elman.train.fit import EVENTS, METRICS, fit_counts, make_loader, make_training, settle
from elman.train.guard import Guard
from elman.train.loop import StepResult, train
from elman.train.machine import choose_machine, describe_environment, set_up
from elman.train.metrics import read_metrics
from elman.train.result import read_result
from elman.train.resume import (
    SAME_DATA,
    Earlier,
    differences,
    open_run,
    reads_standard_input,
    recorded_dtype,
    shortened,
    with_precision,
)

CLOSE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Relative difference that another machine, or another number of threads, may bring in the first steps, by the
arithmetic of the products: a sum in another order may round to the next bfloat16, 0.4 % away, and steps add that up."""

COMPARED = ("loss", "gradient_norm", "learning_rate", "used")
"""What is recorded of a step and comes out again."""

DRAWS_DEPEND_ON = ("ranks", "device")
"""Facts of an environment with which dropout draws other numbers, so that nothing comes out again."""


SAME_SCORE = 1e-5
"""Relative difference of nats that another machine may bring in scoring, which is float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str
    sound: bool | None
    """None where it was not checked, as there is nothing to compare."""
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All of them."""

    run: Path
    checks: list[Check]

    @property
    def sound(self) -> bool:
        """Whether nothing was found wrong."""
        return all(check.sound is not False for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """As `elman verify --json` prints it."""
        checks = [asdict(check) for check in self.checks]
        return {"schema": "elman.verify/1", "run": str(self.run), "sound": self.sound, "checks": checks}


def verify_run(run: Path, steps: int = 20, say: Say = lambda line: None) -> Verification:
    """Look at a run folder, and train its first `steps` steps again; nothing in it is changed.

    Raises:
        InputError: There is no run, or its text cannot be read.
        ElmanError: As for a training.
    """
    earlier = open_run(run)
    if earlier.environment is None or "data" not in earlier.environment:
        way_out = f"go on with: elman train --resume {shlex.quote(str(run))}"
        raise InputError(f"{run}: there is no record of where it began to train; {way_out}")
    model, of_model = _read_model(earlier)
    newest, of_checkpoints = _read_checkpoints(earlier)
    checks = [of_model, *of_checkpoints]
    then, config = earlier.environment["data"], earlier.config
    checks.append(_check_tokens(Path(then["folder"])))  # before they are prepared again
    data = open_prepared(then) if reads_standard_input(config) else prepare(config.data)
    of_data = list(_compare_data(then, data.manifest))
    checks += of_data
    if all(check.sound for check in of_data):  # another text gives other losses
        checks += _compare_result(earlier, data, model, newest)
        counted = config.model.family == "ngram"
        checks.append(
            _count_again(earlier, data, model, say) if counted else _train_again(earlier, data, steps, say)
        )
    return Verification(run=run, checks=checks)


def _read_model(earlier: Earlier) -> tuple[TextModel | None, Check]:
    """The model of the run, unless there is none or it is damaged."""
    if not (earlier.folder / "model").is_dir() and not earlier.finished:
        return None, Check(what="model", sound=None, found="none was kept yet")
    try:
        model = load(earlier.folder)
    except ElmanError as error:
        return None, Check(what="model", sound=False, found=str(error))
    return model, Check(what="model", sound=True, found=f"{model.config.name}, {model.config.shape}")


def _read_checkpoints(earlier: Earlier) -> tuple[Checkpoint | None, list[Check]]:
    """The newest checkpoint, unless there is none or it is damaged; and what is found of each, oldest first."""
    newest, checks = None, []
    for _, _, path in reversed(_kept(earlier)):
        what = f"checkpoint {path.name}"
        try:
            newest = Checkpoints.read(path)
        except ElmanError as error:
            newest = None
            checks.append(Check(what=what, sound=False, found=str(error)))
        else:
            size = sum(map(len, newest.files.values()))
            found = f"{len(newest.files)} files, {size:,} bytes, as the manifest says"
            checks.append(Check(what=what, sound=True, found=found))
    return newest, checks


def _kept(earlier: Earlier) -> list[tuple[int, int, Path]]:
    """See `Checkpoints.found`."""
    return Checkpoints(earlier.folder / "checkpoints").found()


def _compare_result(
    earlier: Earlier, data: Prepared, model: TextModel | None, newest: Checkpoint | None
) -> Iterator[Check]:
    """Whether the model of a finished run is the one that was trained, and scores what is said of it."""
    if not earlier.finished:
        yield Check(what="result", sound=None, found="the run is not finished")
    elif model is not None:
        yield _compare_score(earlier, data, model)
        if newest is not None:
            yield _compare_weights(model, newest)


def _compare_score(earlier: Earlier, data: Prepared, model: TextModel) -> Check:
    try:
        said, found = read_result(earlier.folder).valid, model.score_store(data.valid)
    except ElmanError as error:
        return Check(what="result", sound=False, found=str(error))
    if abs(said.nats - found.nats) > SAME_SCORE * abs(said.nats) or said.targets != found.targets:
        other = f"{found.nats:.6g} nats on the held-out text, and the result says {said.nats:.6g}"
        return Check(what="result", sound=False, found=other)
    same = f"{found.bits_per_byte:.4f} bits per byte on the held-out text, as it says"
    return Check(what="result", sound=True, found=same)


def _compare_weights(model: TextModel, newest: Checkpoint) -> Check:
    trained = safetensors.torch.load(newest.files["best.safetensors"])
    same = _are_equal(tensors_of(model.model), trained)
    found = f"{'' if same else 'not '}the best weights of {newest.path.name}"
    return Check(what="weights", sound=same, found=found)


def _are_equal(these: Mapping[str, Tensor], those: Mapping[str, Tensor]) -> bool:
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


def _train_again(earlier: Earlier, data: Prepared, steps: int, say: Say) -> Check:
    def outcome(sound: bool | None, found: str) -> Check:
        return Check(what="first steps", sound=sound, found=found)

    config, unchanged = _at_the_start(earlier)
    metrics = read_metrics(earlier.folder / METRICS)
    of_steps = [record for record in metrics if "loss" in record]
    if damaged := [record for record in of_steps if not _is_whole(record)]:
        return outcome(False, f"no record of a step: {damaged[0]}")
    kept = [step for step, _, _ in _kept(earlier)]
    reached = max([*kept, *(record["step"] for record in of_steps)], default=0)
    last = int(min(steps, unchanged, reached))
    records = {record["step"]: record for record in of_steps if record["step"] <= last}
    if missing := [step for step in range(1, last + 1) if is_marked(step) and step not in records]:
        return outcome(False, f"no record of step {missing[0]}")
    if not records:
        why = "no step was taken yet" if unchanged else "it was changed, or went back, before its first step"
        return outcome(None, why)
    try:
        set_up(config.training)
        machine = choose_machine(config.training)
    except ConfigError as error:
        return outcome(None, str(error))
    here = describe_environment(machine) | {"choices": choices(config, data.tokenizer.vocab_size, machine)}
    drawn = differences(earlier, here, DRAWS_DEPEND_ON)
    if drawn and _has_dropout(config.model):
        return outcome(None, f"dropout draws other numbers: {drawn}")
    say(f"training {max(records)} steps again")
    validated = {record["step"] for record in metrics if "valid_perplexity" in record}
    loader = make_loader(config, data)
    training, take_step = make_training(config, data, loader, machine)
    budget = Budget(config.training, loader.steps_per_epoch, clock=lambda: 0.0)
    schedule = _Recorded(budget, records, of_time=config.training.max_time is not None)
    again: dict[int, tuple[float, ...]] = {}

    def observe(result: StepResult) -> bool:
        numbers = float(result.loss), float(result.gradient_norm), result.learning_rate, result.used
        again[result.step] = numbers
        if result.step in validated:
            settle(training)
        return False

    train(training, config.optimizer, take_step, schedule, Guard(training.model), observe)
    return outcome(*_compare_steps(records, again, differences(earlier, here), CLOSE[machine.product_dtype]))


class _Recorded:
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
    step, used, *numbers = (record.get(name, "") for name in ("step", "used", *COMPARED))
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


def _compare_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[Check]:
    for key, what in SAME_DATA.items():
        there, here = then.get(key), now.get(key)
        if there is None and here is None:
            continue  # no text of its own is held out
        found = f"SHA-256 {shortened(here)}"
        other = f"{found} here, {shortened(there)} in the run"
        yield Check(what=what, sound=there == here, found=found if there == here else other)


def _check_tokens(folder: Path) -> Check:
    what = "prepared tokens"
    if not folder.is_dir():
        return Check(what=what, sound=None, found=f"{folder} is no longer there")
    try:
        files = verify_store(folder)["files"]
    except ElmanError as error:
        return Check(what=what, sound=False, found=str(error))
    return Check(what=what, sound=True, found=f"{len(files)} files, as the manifest says")


def _count_again(earlier: Earlier, data: Prepared, model: TextModel | None, say: Say) -> Check:
    what = "counted again"
    if model is None:
        return Check(what=what, sound=None, found="there is no model to compare with")
    say("counting again")
    same = _are_equal(tensors_of(model.model), tensors_of(fit_counts(earlier.config, data).model))
    found = "equal to the bit" if same else "other counts than those of the run"
    return Check(what=what, sound=same, found=found)
