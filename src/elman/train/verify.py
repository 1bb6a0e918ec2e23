"""Whether a run is what it says: its files are sound, its text is the same, and its first steps come out again.

A network is trained again for the first steps (`replay`); an n-gram model is counted again. What cannot be compared is
not checked, which is no fault of the run.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from elman.data.finished import verify_store
from elman.data.prepare import Prepared, open_prepared, prepare
from elman.errors import ElmanError, InputError
from elman.models.build import tensors_of
from elman.settings import from_dict
from elman.text_model import TextModel, load
from elman.train.checkpoint import Checkpoint, Checkpoints
from elman.train.fit import fit_counts
from elman.train.replay import replay
from elman.train.result import read_result
from elman.train.resume import (
    SAME_DATA,
    Earlier,
    compare,
    open_run,
    reads_standard_input,
    short_checksum,
)
from elman.train.run_folder import CHECKPOINTS, MODEL, resume_command
from elman.train.say import Say

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
        InputError: There is no run, or its folder cannot be read.
        ElmanError: As for a training.
    """
    earlier = open_run(run)
    if earlier.environment is None or "data" not in earlier.environment:
        raise InputError(
            f"{run}: there is no record of where it began to train; go on with: {resume_command(run)}"
        )
    model, of_model = _read_model(earlier)
    newest, of_checkpoints = _read_checkpoints(earlier)
    checks = [of_model, *of_checkpoints, *_compare_settings(earlier, newest)]
    then = earlier.environment["data"]
    of_tokens = _check_tokens(Path(then["folder"]))  # before they are prepared again
    data, of_data = _open_data(earlier, then, of_tokens.sound is True)
    checks += [of_tokens, *of_data]
    if data is not None and all(
        check.sound is not False for check in of_data
    ):  # another text gives other losses
        checks += _compare_result(earlier, data, model, newest)
        if earlier.config.model.family == "ngram":
            checks.append(_count_again(earlier, data, model, say))
        else:
            as_recorded, found = replay(earlier, data, steps, say)
            checks.append(Check(what="first steps", sound=as_recorded, found=found))
    return Verification(run=run, checks=checks)


def _read_model(earlier: Earlier) -> tuple[TextModel | None, Check]:
    """The model of the run, unless there is none or it is damaged."""
    if not (earlier.folder / MODEL).is_dir() and not earlier.finished:
        return None, Check(what="model", sound=None, found="none was kept yet")
    try:
        model = load(earlier.folder)
    except ElmanError as error:
        return None, Check(what="model", sound=False, found=str(error))
    return model, Check(what="model", sound=True, found=f"{model.config.name}, {model.config.shape}")


def _read_checkpoints(earlier: Earlier) -> tuple[Checkpoint | None, list[Check]]:
    """The newest checkpoint, unless there is none or it is damaged; and what is found of each, oldest first."""
    newest, checks = None, []
    for kept in reversed(Checkpoints(earlier.folder / CHECKPOINTS).found()):
        what = f"checkpoint {kept.path.name}"
        try:
            newest = Checkpoints.read(kept.path)
        except ElmanError as error:
            newest = None
            checks.append(Check(what=what, sound=False, found=str(error)))
        else:
            size = sum(map(len, newest.files.values()))
            found = f"{len(newest.files)} files, {size:,} bytes, as the manifest says"
            checks.append(Check(what=what, sound=True, found=found))
    return newest, checks


def _compare_settings(earlier: Earlier, newest: Checkpoint | None) -> Iterator[Check]:
    """Whether what may not be changed in a run is as it was at its newest checkpoint."""
    if newest is None:
        return
    try:
        changes = compare(earlier.folder, from_dict(newest.facts["settings"]), earlier.config)
    except ElmanError as error:
        yield Check(what="settings", sound=False, found=str(error))
    else:
        edited = f"changed since {newest.path.name}: {', '.join(changes)}"
        yield Check(what="settings", sound=True, found=edited if changes else f"those of {newest.path.name}")


def _open_data(earlier: Earlier, then: Mapping[str, Any], kept: bool) -> tuple[Prepared | None, list[Check]]:
    """The text as tokens, and how it compares; where it is away, the tokens that are kept, if they are sound."""
    if not reads_standard_input(earlier.config):
        try:
            data = prepare(earlier.config.data)
        except InputError as error:
            return open_prepared(then) if kept else None, [Check(what="text", sound=None, found=str(error))]
        return data, list(_compare_data(then, data.manifest))
    data = open_prepared(then)
    return data, list(_compare_data(then, data.manifest))


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


def _compare_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[Check]:
    for key, what in SAME_DATA.items():
        there, here = then.get(key), now.get(key)
        if there is None and here is None:
            continue  # no text of its own is held out
        found = f"SHA-256 {short_checksum(here)}"
        other = f"{found} here, {short_checksum(there)} in the run"
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
