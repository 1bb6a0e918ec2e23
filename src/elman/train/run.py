"""One training with its folder, from settings to report.

runs/<name>/
    config.toml         every setting, resolved
    environment.json    versions, machine, what was chosen
    metrics.jsonl       a record every few steps and every validation
    report.html         curves, samples, table; self-contained
    model/              the best model so far: all that `elman eval` and `elman generate` need
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elman.config import DataConfig, ModelConfig, RunConfig
from elman.data.prepare import Prepared, prepare
from elman.evaluate.score import Score, score_columns, score_store
from elman.files import make_folder, write_atomically
from elman.models.build import count_parameters, require_memory
from elman.settings import to_toml
from elman.text_model import Sample, TextModel
from elman.train.card import model_card
from elman.train.choices import choices
from elman.train.fit import METRICS, Say, fit_counts, fit_network, make_loader
from elman.train.machine import Machine, choose_machine, describe_environment, memory_bytes, set_up
from elman.train.metrics import read_metrics, require_tensorboard
from elman.train.report import Report, render_report

SAMPLES = 3
SAMPLE_TOKENS = 100
SAMPLE_TEMPERATURE = 0.8
"""Of what is shown at the end: a little safer than the model itself, as a reader would ask for."""

YARDSTICK_TOKENS = 20_000_000
"""The n-gram yardstick is left out of texts with more tokens: its counts would outgrow a laptop's patience."""


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
        out: The run folder, which must not exist; None takes the first free `runs/<corpus>-<model>-<n>`.
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
    network = config.model.family != "ngram"
    folder = _make_run_folder(out, config)
    try:
        data = prepare_aloud(config.data, say)
        tokenizer = data.tokenizer
        say(f"{config.model.name}, {config.model.shape}, on {machine.describe()}")
        if network:
            parameters = require_memory(config.model, tokenizer.vocab_size, memory_bytes())
            say(f"{parameters:,} parameters")
            chosen = choices(config, tokenizer.vocab_size, machine)
            for name, how in chosen.items():
                say(f"{name}: {how}")
            loader = make_loader(config, data)
        else:
            chosen = {}
            counted = fit_counts(config, data)
    except BaseException:
        folder.rmdir()  # nothing was written; let the same command be given again
        raise
    write_atomically(folder / "config.toml", to_toml(config))
    environment = describe_environment(machine) | {"choices": chosen, "data": data.manifest}
    write_atomically(folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    if network:
        fit = fit_network(config, data, loader, machine, folder, say=say, quiet=quiet)
    else:
        fit = counted
    text_model = TextModel(fit.model, tokenizer, config.model)
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
        steps=fit.steps,
        tokens=fit.tokens,
        seconds=fit.seconds,
        parameters=count_parameters(fit.model),
        valid=valid,
        yardstick=_score_yardstick(config, data, say) if network and not fit.interrupted else None,
        samples=samples,
        interrupted=fit.interrupted,
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
    counts = fit_counts(replace(config, model=ModelConfig(family="ngram", order=order)), data).model
    return score_store(counts, data.valid, pad_id=tokenizer.pad_id, unknown_id=tokenizer.unknown_id)


def score_rows(config: RunConfig, result: RunResult) -> dict[str, dict[str, str]]:
    """The table of a run: the model, and the yardstick beside it."""
    rows: dict[str, dict[str, str]] = {config.model.name: score_columns(result.valid)}
    if result.yardstick is not None:
        rows[f"{config.training.yardstick_order}-gram"] = score_columns(result.yardstick)
    return rows


def _make_run_folder(out: Path | None, config: RunConfig) -> Path:
    if out is not None:
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


def prepare_aloud(config: DataConfig, say: Say) -> Prepared:
    """The text as tokens; `say` is told what is done, and what there is to know of the text.

    Raises:
        ElmanError: As for `data.prepare.prepare`.
    """
    data = prepare(config, report=_reporter(say))
    _say_what_was_prepared(say, data)
    return data


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
