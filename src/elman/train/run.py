"""One training with its folder, from settings to report, begun or taken up again."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from elman.config import BUDGETS, ModelConfig, RunConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.prepare import Prepared, open_prepared
from elman.errors import ConfigError, InputError
from elman.evaluate.score import Score, score_store
from elman.files import make_folder, remove_scratch, write_atomically
from elman.models.build import count_parameters, require_memory
from elman.ranks import ALONE, Ranks
from elman.settings import from_dict, to_dict, to_toml
from elman.text_model import TextModel
from elman.train.aloud import prepare_aloud
from elman.train.card import model_card
from elman.train.checkpoint import Checkpoint, Checkpoints
from elman.train.choices import batch_tokens, choices
from elman.train.course import Keeping, newest
from elman.train.fit import Fit, fit_counts, fit_network, make_loader
from elman.train.lock import run_lock
from elman.train.machine import (
    Machine,
    choose_device,
    choose_machine,
    describe_environment,
    memory_bytes,
    set_up,
)
from elman.train.metrics import read_metrics
from elman.train.report import Report, render_report
from elman.train.result import (
    SAMPLE_TEMPERATURE,
    SAMPLE_TOKENS,
    SAMPLES,
    RunResult,
    read_result,
    result_from,
    score_rows,
)
from elman.train.resume import (
    SAME_DATA,
    Earlier,
    change,
    compare,
    differences,
    find_unfinished,
    machines,
    open_run,
    reads_standard_input,
    recorded_dtype,
    require_place,
    require_same_data,
    require_same_machine,
    with_precision,
)
from elman.train.run_folder import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    MODEL,
    REPORT,
    RESULT,
    resume_command,
)
from elman.train.say import Say, warning
from elman.train.signals import stopping_at_once
from elman.train.tensorboard import require_tensorboard
from elman.version import __version__

YARDSTICK_TOKENS = 20_000_000
"""The n-gram yardstick is left out of texts with more tokens: its counts would outgrow a laptop's patience."""


def run_training(
    config: RunConfig,
    out: Path | None = None,
    *,
    command: str = "",
    say: Say = lambda line: None,
    quiet: bool = False,
    ranks: Ranks = ALONE,
) -> RunResult:
    """Train, validate, keep the best model, and write the run folder.

    Args:
        config: Every setting.
        out: The run folder, which must not exist; None takes the first free `runs/<corpus>-<model>-<n>`.
        command: What the user typed, for the report.
        say: Told, a line at a time, what was chosen and what happens.
        quiet: No progress line.
        ranks: The processes of the job; the first one writes, and gives all the same result.

    Raises:
        StoppedError: A signal ended it; it can be resumed.
        ElmanError: As the tree in `errors` says; a model that was kept before the error stays in the folder.
    """
    check(config, ranks)
    if ranks.attempt:
        raise ConfigError(
            "torchrun has started this job again, and a training that is new cannot go on; start one that can:"
            " elman train --resume RUN"
        )
    folder = Path(ranks.first_does(lambda: str(_make_run_folder(out, config))))
    with locked(folder, say, ranks) as ours:
        if ranks.is_first:
            write_atomically(folder / CONFIG, to_toml(config))
        try:
            with stopping_at_once("what was prepared is kept: give the same command again"):
                material = _prepare(config, say, ranks)
        except BaseException:
            if ranks.is_first:
                (folder / CONFIG).unlink(missing_ok=True)
            raise
        run = _Run(
            folder=folder,
            config=config,
            material=material,
            start=None,
            changes=None,
            ours=ours,
            command=command,
            say=say,
            quiet=quiet,
            ranks=ranks,
        )
        return run.carry_out()


def resume_training(
    run: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    *,
    strict: bool = False,
    command: str = "",
    say: Say = lambda line: None,
    quiet: bool = False,
    ranks: Ranks = ALONE,
) -> RunResult:
    """Go on with a run from its newest checkpoint, or extend a finished one.

    Args:
        run: Its folder; None takes the only unfinished one under `runs/`.
        overrides: Settings to change, by name; see `resume.CHANGEABLE`. A budget replaces that of the run.
        strict: Refuse a machine on which the last bits may differ.
        command: As for `run_training`, like the others.

    Raises:
        InputError: There is no such run, another process trains it, or its text has changed.
        ConfigError: A setting cannot be changed.
        ElmanError: As for `run_training`.
    """
    earlier = _open_run(run, ranks)
    config, changes = change(earlier, overrides or {})
    if earlier.finished:
        result = result_from(ranks.first_does(lambda: read_result(earlier.folder).as_dict()))
        if not _leaves_more(config, changes, result):
            say(
                f"{earlier.folder} is finished, after {result.steps:,} steps: nothing to do; more of it:"
                f" {resume_command(earlier.folder)} --max-steps {max(1, 2 * result.steps)}"
            )
            return result
    check(config, ranks)
    with locked(earlier.folder, say, ranks) as ours:
        start = None
        if config.model.family != "ngram":
            checkpoints = _checkpoints(earlier.folder, config, say)
            if ranks.is_first:
                checkpoints.clean()
            start = newest(checkpoints, ranks)
            ranks.first_does(lambda: require_place(earlier, start))
        if start is not None:  # by whose settings: config.toml may have been edited since
            changes = compare(earlier.folder, from_dict(start.facts["settings"]), config)
        with stopping_at_once("what was prepared is kept: give the same command again"):
            material = _prepare(config, say, ranks, earlier)
        require_same_data(earlier, start, material.data.manifest)
        if strict:
            require_same_machine(earlier, material.environment)
        elif differing := differences(earlier, material.environment):
            warning(say)(f"the run may not go on to the bit: {differing}")
        for name, (old, new) in changes.items():
            say(f"{name}: {new} (was {old})")
        resumed = _Run(
            folder=earlier.folder,
            config=config,
            material=material,
            start=start,
            changes=changes,
            ours=ours,
            command=command,
            say=say,
            quiet=quiet,
            ranks=ranks,
        )
        return resumed.carry_out()


def _open_run(run: Path | None, ranks: Ranks) -> Earlier:
    """What the first rank finds, as only it may have the folder."""

    def read() -> dict[str, Any]:
        found = open_run(find_unfinished() if run is None else run)
        facts = {"environment": found.environment, "finished": found.finished}
        return {"folder": str(found.folder), "config": to_dict(found.config), **facts}

    found = ranks.first_does(read)
    return Earlier(Path(found["folder"]), from_dict(found["config"]), found["environment"], found["finished"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a training is made of: found before a network is trained; an n-gram model is counted here already."""

    data: Prepared
    machine: Machine
    environment: dict[str, Any]
    loader: StreamLoader | DocumentLoader | None
    """None for a model that is counted."""
    counted: Fit | None
    """None for one that is trained."""


def check(config: RunConfig, ranks: Ranks) -> None:
    """What can be known before any text is read.

    Raises:
        ConfigError: The device is missing, or a setting is for one process.
        MissingExtraError: TensorBoard is.
    """
    choose_device(config.training)
    if config.optimizer.row_sparse and ranks.size > 1:
        raise ConfigError(f"row_sparse is for one process, and these are {ranks.size}; leave it out")
    if ranks.size > 1 and ":" in (device := config.training.device):
        kind = device.partition(":")[0]
        raise ConfigError(f"device {device} is one, and these are {ranks.size} ranks; give --device {kind}")
    if config.training.tensorboard:
        require_tensorboard()


@contextlib.contextmanager
def locked(folder: Path, say: Say, ranks: Ranks) -> Iterator[Callable[[], bool]]:
    """The run as ours alone, and whether it still is; a folder in which nothing came to be is removed."""
    ours: list[Callable[[], bool]] = []
    with contextlib.ExitStack() as stack:
        if ranks.is_first:
            stack.callback(_remove_if_empty, folder)
        ranks.first_does(lambda: ours.append(stack.enter_context(run_lock(folder, warn=warning(say)))))
        yield lambda: all(still() for still in ours)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it is not empty, or is gone
        folder.rmdir()


def _prepare(config: RunConfig, say: Say, ranks: Ranks, earlier: Earlier | None = None) -> Material:
    """Read the text and choose the machine; `earlier` decides what was chosen before."""
    set_up(config.training)
    kept = None if earlier is None else recorded_dtype(earlier, config)
    machine = choose_machine(with_precision(config, kept).training)
    # Found by trying, and perhaps otherwise in another process.
    dtype = ranks.agree(str(machine.product_dtype).removeprefix("torch."))
    machine = replace(machine, product_dtype=getattr(torch, dtype))
    if earlier is not None and earlier.environment is not None and reads_standard_input(config):
        data = open_prepared(earlier.environment["data"])  # what was piped in then is not piped in again
    else:
        try:
            data = prepare_aloud(config.data, say, ranks)
        except InputError as error:
            if earlier is None or type(error) is not InputError:
                raise
            elsewhere = resume_command(earlier.folder, "NEWPLACE")
            raise InputError(f"{error}; where it lies elsewhere by now: {elsewhere}") from error
    vocab_size = data.tokenizer.vocab_size
    say(f"{config.model.name}, {config.model.shape}, on {machine.describe()}{_beside(ranks)}")
    loader, counted, chosen = None, None, {}
    if config.model.family != "ngram":
        parameters = require_memory(
            config.model, vocab_size, memory_bytes(), batch_tokens=batch_tokens(config)
        )
        say(f"{parameters:,} parameters")
        chosen = choices(config, vocab_size, machine)
        for name, how in chosen.items():
            say(f"{name}: {how}")
        loader = make_loader(config, data, ranks)
    else:
        counted = fit_counts(config, data)
    environment = describe_environment(machine, ranks) | {
        "seed": config.training.seed,
        "choices": chosen,
        "data": data.manifest,
    }
    environment["machines"] = machines(earlier, environment)
    return Material(data=data, machine=machine, environment=environment, loader=loader, counted=counted)


def _beside(ranks: Ranks) -> str:
    return f", {ranks.size} ranks" if ranks.size > 1 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run that is about to be trained."""

    folder: Path
    config: RunConfig
    material: Material
    start: Checkpoint | None
    """To go on from."""
    changes: Mapping[str, Any] | None
    """Of the settings, perhaps none, where it is resumed; None for a new run."""
    ours: Callable[[], bool]
    command: str
    say: Say
    quiet: bool
    ranks: Ranks

    def carry_out(self) -> RunResult:
        """Train, from the newest checkpoint if it is resumed, and finish."""
        self.ranks.handshake(
            {
                "elman": __version__,
                "torch": torch.__version__,
                "settings": sha256(to_toml(self.config).encode()).hexdigest(),
                "text": self.material.data.manifest["content_sha256"],
                "device": self.material.machine.device.type,
            }
        )
        if self.ranks.is_first:
            for place in (self.folder, self.folder / MODEL):
                remove_scratch(place)
            (self.folder / RESULT).unlink(missing_ok=True)
            if not self.changes or self.material.counted is not None:
                self._describe(self.folder)
        fit = self.material.counted or self._fit()
        with stopping_at_once(f"finish it with: {resume_command(self.folder)}"):
            return self._finish(fit)

    def _describe(self, place: Path) -> None:
        """Write what a run needs to be resumed, beside its checkpoints."""
        environment = json.dumps(self.material.environment | {"command": self.command}, indent=2)
        write_atomically(place / CONFIG, to_toml(self.config))
        write_atomically(place / ENVIRONMENT, environment + "\n")

    def _fit(self) -> Fit:
        """Train a network, and keep it."""
        changes = None
        if self.changes is not None:
            changes = {name: list(pair) for name, pair in self.changes.items()}
            place = (
                "the beginning: there is no checkpoint yet"
                if self.start is None
                else f"step {self.start.step:,}"
            )
            self.say(f"going on from {place}")
        keeping = Keeping(
            checkpoints=_checkpoints(self.folder, self.config, self.say),
            facts=_facts(self.material, self.config),
            ours=self.ours,
            describe=self._describe,
            start=self.start,
            changes=changes,
        )
        assert self.material.loader is not None, "a model is trained or counted"
        return fit_network(
            self.config,
            self.material.data,
            self.material.loader,
            self.material.machine,
            self.folder,
            say=self.say,
            quiet=self.quiet,
            keeping=keeping,
            ranks=self.ranks,
        )

    def _finish(self, fit: Fit) -> RunResult:
        """Score, sample, and write what a finished run has."""
        config, data, folder = self.config, self.material.data, self.folder
        text_model = TextModel(fit.model, data.tokenizer, config.model)
        self.say("scoring the held-out text")
        valid = text_model.score_store(data.valid, ranks=self.ranks)

        def write() -> dict[str, Any]:
            samples = text_model.generate(
                samples=SAMPLES,
                max_tokens=SAMPLE_TOKENS,
                temperature=SAMPLE_TEMPERATURE,
                seed=config.training.seed,
            )
            result = RunResult(
                run=folder,
                model=folder / MODEL,
                preset=config.preset,
                steps=fit.steps,
                tokens=fit.tokens,
                seconds=fit.seconds,
                parameters=count_parameters(fit.model),
                valid=valid,
                yardstick=None if self.material.counted else _score_yardstick(config, data, self.say),
                samples=samples,
            )
            if not self.ours():
                raise InputError(f"{folder}: was moved or removed; where it is now: elman train --resume RUN")
            environment, machine = self.material.environment, self.material.machine
            card = model_card(config, data.manifest, result.as_dict(), self.command, environment)
            text_model.save(result.model, card)
            write_atomically(folder / REPORT, _report(config, result, data, machine, self.command))
            # Last, as a run that has it is finished.
            write_atomically(folder / RESULT, json.dumps(result.as_dict(), indent=2) + "\n")
            return result.as_dict()

        return result_from(self.ranks.first_does(write))


def _checkpoints(folder: Path, config: RunConfig, say: Say) -> Checkpoints:
    return Checkpoints(folder / CHECKPOINTS, keep=config.training.checkpoints_kept, warn=warning(say))


def _leaves_more(config: RunConfig, changes: Mapping[str, Any], result: RunResult) -> bool:
    """Whether a finished run was given a budget that it has not used up."""
    if not any(name.partition(".")[2] in BUDGETS for name in changes):
        return False
    budget = config.training
    over_by_steps = budget.max_steps is not None and result.steps >= budget.max_steps
    over_by_time = budget.max_time is not None and result.seconds >= budget.max_time
    return not (over_by_steps or over_by_time)


def _facts(material: Material, config: RunConfig) -> dict[str, Any]:
    """What a manifest says of where its checkpoint was written, and of what."""
    machine = {name: material.environment[name] for name in ("threads", "device", "ranks", "instructions")}
    data = {name: material.data.manifest[name] for name in SAME_DATA}
    return {"torch": torch.__version__, **machine, **data, "settings": to_dict(config)}


def _score_yardstick(config: RunConfig, data: Prepared, say: Say) -> Score | None:
    """What counting alone makes of the same tokens."""
    order, tokenizer = config.training.yardstick_order, data.tokenizer
    if order is None or not order <= len(data.train) <= YARDSTICK_TOKENS:
        return None
    say(f"counting {order}-grams of the same tokens, to compare")
    counts = fit_counts(replace(config, model=ModelConfig(family="ngram", order=order)), data).model
    return score_store(counts, data.valid, pad_id=tokenizer.pad_id, unknown_id=tokenizer.unknown_id)


def _make_run_folder(out: Path | None, config: RunConfig) -> Path:
    if out is not None:
        if (out / CONFIG).is_file():
            raise InputError(
                f"{out}: exists already; give another --out, or go on with that run: {resume_command(out)}"
            )
        make_folder(out)
        return out
    number = 1
    while True:
        folder = Path("runs") / f"{short_name(config.data.corpus)}-{config.model.name}-{number}"
        if not folder.exists():
            make_folder(folder)
            return folder
        number += 1


def short_name(corpus: str) -> str:
    """Of a corpus, fit for a folder: the end of its path without what a file system may not like."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(corpus).stem)
    return safe.strip("-") or "stdin"


def _report(config: RunConfig, result: RunResult, data: Prepared, machine: Machine, command: str) -> str:
    values = result.as_dict()
    summary = {
        "Preset": config.preset,
        "Corpus": config.data.corpus,
        "Model": f"{config.model.name}, {config.model.shape}",
        "Parameters": f"{result.parameters:,}",
        "Vocabulary": f"{data.tokenizer.vocab_size:,}",
        "Steps": f"{result.steps:,}",
        "Tokens": f"{result.tokens:,}",
        "Training": f"{result.seconds:.0f} s, {values['tokens_per_second']:,.0f} tokens/s",
        "Machine": machine.describe(),
        "Finished": time.strftime("%Y-%m-%d %H:%M"),
    }
    return render_report(
        Report(
            title=result.run.name,
            summary=summary,
            scores=score_rows(config, result),
            metrics=read_metrics(result.run / METRICS) if result.steps else [],
            samples=[("", sample.text) for sample in result.samples],
            settings=to_toml(config),
            command=command,
        )
    )
