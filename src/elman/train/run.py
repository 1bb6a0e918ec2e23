"""One training with its folder, from settings to report.

runs/<name>/
    config.toml         every setting, resolved
    environment.json    versions, machine, what was chosen
    metrics.jsonl       a record every few steps and every validation
    report.html         curves, samples, table; self-contained
    model/              the best model so far: all that `elman eval` and `elman generate` need
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elman.config import RunConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.prepare import Prepared, prepare
from elman.errors import InputError
from elman.evaluate.score import Score, score_columns, score_store
from elman.files import make_folder, write_atomically
from elman.models.build import build, count_parameters, require_memory
from elman.models.ngram import estimate
from elman.settings import to_toml
from elman.text_model import Sample, TextModel
from elman.train.budget import Budget
from elman.train.card import model_card
from elman.train.interrupt import Interrupt
from elman.train.loop import train
from elman.train.machine import Machine, choose_machine, describe_environment, memory_bytes, set_up
from elman.train.metrics import MetricsLog, Progress, TensorBoardLog, read_metrics, require_tensorboard
from elman.train.optimizer import make_optimizer
from elman.train.report import Report, render_report
from elman.train.watcher import Watcher

SAMPLES = 3
SAMPLE_TOKENS = 100
SAMPLE_TEMPERATURE = 0.8
"""Of what is shown at the end: a little safer than the model itself, as a reader would ask for."""

YARDSTICK_TOKENS = 20_000_000
"""The n-gram yardstick is left out of texts with more tokens: its counts would outgrow a laptop's patience."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a finished run reports."""

    run: Path
    model: Path
    preset: str
    steps: int
    tokens: int
    """Targets trained on, padding not counted."""
    seconds: float
    """Of training, validation not counted."""
    parameters: int
    valid: Score
    yardstick: Score | None
    """What an n-gram model of the same tokens scores on the same text; None if it was left out."""
    samples: list[Sample]
    interrupted: bool

    def as_dict(self) -> dict[str, Any]:
        """As `elman train --json` prints it."""
        return {
            "schema": "elman.train/1",
            "run": str(self.run),
            "model": str(self.model),
            "preset": self.preset,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
            "parameters": self.parameters,
            "valid": self.valid.as_dict(),
            "yardstick": None if self.yardstick is None else self.yardstick.as_dict(),
            "interrupted": self.interrupted,
        }


def run_training(
    config: RunConfig,
    out: Path | None = None,
    *,
    command: str = "",
    say: Say = lambda line: None,
    quiet: bool = False,
) -> RunResult:
    """Train, validate, keep the best model, and write the run folder.

    Args:
        config: Every setting.
        out: The run folder, which must not exist; None takes the first free `runs/<corpus>-<cell>-<n>`.
        command: What the user typed, for the report.
        say: Told, a line at a time, what was chosen and what happens.
        quiet: No progress line.

    Raises:
        ElmanError: As the tree in `errors` says; a model that was kept before the error stays in the folder.
    """
    machine = choose_machine(config.training)
    set_up(config.training)
    if config.training.tensorboard:
        require_tensorboard()
    folder = _make_run_folder(out, config)
    try:
        data = prepare(config.data, report=_reporter(say))
        _say_what_was_prepared(say, data)
        require_memory(config.model, data.tokenizer.vocab_size, memory_bytes())
        loader = _make_loader(config, data)
    except BaseException:
        folder.rmdir()  # nothing was written; let the same command be given again
        raise
    model = build(config.model, data.tokenizer.vocab_size, data.tokenizer.pad_id).to(machine.device)
    parameters = count_parameters(model)
    say(
        f"{config.model.cell} {config.model.num_layers} x {config.model.hidden_size}, {parameters:,} parameters"
    )
    say(f"on {machine.describe()}")
    write_atomically(folder / "config.toml", to_toml(config))
    environment = describe_environment(machine) | {"data": data.manifest}
    write_atomically(folder / "environment.json", json.dumps(environment, indent=2) + "\n")

    text_model = TextModel(model, data.tokenizer, config.model)
    optimizer = make_optimizer(model, config.optimizer)
    with (
        Interrupt(say) as interrupt,
        Progress(quiet=quiet) as progress,
        contextlib.ExitStack() as stack,
    ):
        sinks: list[MetricsLog | TensorBoardLog] = [stack.enter_context(MetricsLog(folder / "metrics.jsonl"))]
        if config.training.tensorboard:
            sinks.append(stack.enter_context(TensorBoardLog(folder / "tensorboard")))
        budget = Budget(config.training, loader.steps_per_epoch)
        watcher = Watcher(config, text_model, data.valid, budget, sinks, progress, folder, interrupt)
        steps = train(
            model.train(), loader, optimizer, config.optimizer, budget, watcher, machine.product_dtype
        )
        seconds = budget.seconds
        watcher.validate(steps)
    model.load_state_dict(watcher.best_weights)
    say("scoring the held-out text")
    valid = text_model.score_store(data.valid)
    samples = text_model.generate(
        samples=SAMPLES,
        max_tokens=SAMPLE_TOKENS,
        temperature=SAMPLE_TEMPERATURE,
        seed=config.training.seed,
    )
    result = RunResult(
        run=folder,
        model=folder / "model",
        preset=config.preset,
        steps=steps,
        tokens=watcher.tokens,
        seconds=seconds,
        parameters=parameters,
        valid=valid,
        yardstick=None if interrupt.asked else _score_yardstick(config, data, say),
        samples=samples,
        interrupted=interrupt.asked,
    )
    text_model.save(result.model, model_card(config, data.manifest, result.as_dict(), command))
    write_atomically(folder / "report.html", _report(config, result, data, machine, command))
    return result


def _score_yardstick(config: RunConfig, data: Prepared, say: Say) -> Score | None:
    """What counting alone makes of the same tokens."""
    order, tokenizer = config.training.yardstick_order, data.tokenizer
    if order is None or not order <= len(data.train) <= YARDSTICK_TOKENS:
        return None
    say(f"counting {order}-grams of the same tokens, to compare")
    counted = estimate(
        (data.train.tokens, data.train.starts),
        tokenizer.vocab_size,
        order,
        start_id=tokenizer.start_id,
        excluded_ids=[tokenizer.pad_id],
    )
    return score_store(counted, data.valid, pad_id=tokenizer.pad_id, unknown_id=tokenizer.unknown_id)


def score_rows(config: RunConfig, result: RunResult) -> dict[str, dict[str, str]]:
    """The table of a run: the model, and the yardstick beside it."""
    rows: dict[str, dict[str, str]] = {config.model.cell: score_columns(result.valid)}
    if result.yardstick is not None:
        rows[f"{config.training.yardstick_order}-gram"] = score_columns(result.yardstick)
    return rows


def _make_run_folder(out: Path | None, config: RunConfig) -> Path:
    if out is not None:
        make_folder(out)
        return out
    corpus = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(config.data.corpus).stem) or "stdin"
    number = 1
    while True:
        folder = Path("runs") / f"{corpus.strip('-') or 'stdin'}-{config.model.cell}-{number}"
        if not folder.exists():
            make_folder(folder)
            return folder
        number += 1


def _make_loader(config: RunConfig, data: Prepared) -> StreamLoader | DocumentLoader:
    training, pad_id = config.training, data.tokenizer.pad_id
    if training.batches == "documents":
        return DocumentLoader(
            data.train,
            training.batch_size,
            training.max_length,
            pad_id=pad_id,
            seed=training.seed,
            shuffle=training.shuffle,
            workers=training.workers,
        )
    if len(data.train) < 2 * training.batch_size:
        raise InputError(
            f"{config.data.corpus}: {len(data.train)} training tokens are too few for {training.batch_size} streams;"
            f" give more text, or --batch-size {max(1, len(data.train) // 2)} at most"
        )
    return StreamLoader(
        data.train,
        training.batch_size,
        training.bptt,
        pad_id=pad_id,
        seed=training.seed,
        shuffle=training.shuffle,
        fresh_start=training.fresh_start,
    )


def _reporter(say: Say) -> Callable[[str, float], None]:
    """Say each stage of preparation once, and every tenth of the long ones."""
    said: set[tuple[str, int]] = set()

    def report(what: str, share: float) -> None:
        stage = (what, int(share * 10))
        if stage not in said:
            said.add(stage)
            say(f"{what}{f' {share:.0%}' if share else ''}")

    return report


def _say_what_was_prepared(say: Say, data: Prepared) -> None:
    manifest = data.manifest
    for name in ("train", "valid"):
        sizes = manifest[name]
        say(
            f"{name}: {sizes['targets']:,} tokens, {sizes['bytes']:,} bytes, {sizes['documents']:,} documents"
        )
    say(f"vocabulary: {manifest['vocab_size']:,}")
    for note in manifest["notes"]:
        say(f"note: {note}")
    shared = manifest["valid_documents_also_in_train"]
    if shared:
        share = shared / manifest["valid"]["documents"]
        say(f"warning: {shared:,} held-out documents ({share:.0%}) also stand in the training text")


def _report(config: RunConfig, result: RunResult, data: Prepared, machine: Machine, command: str) -> str:
    values = result.as_dict()
    summary = {
        "Preset": config.preset,
        "Corpus": config.data.corpus,
        "Model": f"{config.model.cell}, {config.model.num_layers} x {config.model.hidden_size}",
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
            metrics=read_metrics(result.run / "metrics.jsonl"),
            samples=[("", sample.text) for sample in result.samples],
            settings=to_toml(config),
            command=command,
        )
    )
