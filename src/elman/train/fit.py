"""How a model comes to know its text: by gradient steps until the budget is used, or by counting."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from elman.config import RunConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.prepare import Prepared
from elman.errors import InputError
from elman.models.base import LanguageModel
from elman.models.build import build, count
from elman.text_model import TextModel
from elman.train.budget import Budget
from elman.train.interrupt import Interrupt
from elman.train.loop import train
from elman.train.machine import Machine
from elman.train.metrics import MetricsLog, Progress, TensorBoardLog
from elman.train.objective import Objective
from elman.train.optimizer import make_optimizer
from elman.train.row_adamw import RowAdamW
from elman.train.watcher import Watcher

METRICS = "metrics.jsonl"
"""The file of a run folder with a record every few steps and every validation."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A model and what it took."""

    model: LanguageModel
    steps: int = 0
    tokens: int
    """Targets seen, padding not counted."""
    seconds: float
    """Validation not counted."""
    interrupted: bool = False


def fit_network(
    config: RunConfig,
    data: Prepared,
    loader: StreamLoader | DocumentLoader,
    machine: Machine,
    folder: Path,
    *,
    say: Say,
    quiet: bool,
) -> Fit:
    """Train a network until its budget is used; the best weights by validation are kept, here and in `folder`.

    Raises:
        DivergedError: As for `train.loop.train`.
    """
    tokenizer = data.tokenizer
    model = build(config.model, tokenizer.vocab_size, tokenizer.pad_id).to(machine.device)
    model.embedding.sparse = config.optimizer.row_sparse
    optimizer = make_optimizer(model, config.optimizer)
    objective = Objective(config.training, data.train, tokenizer.vocab_size)
    with (
        Interrupt(say) as interrupt,
        Progress(quiet=quiet) as progress,
        contextlib.ExitStack() as stack,
    ):
        sinks: list[MetricsLog | TensorBoardLog] = [stack.enter_context(MetricsLog(folder / METRICS))]
        if config.training.tensorboard:
            sinks.append(stack.enter_context(TensorBoardLog(folder / "tensorboard")))
        budget = Budget(config.training, loader.steps_per_epoch)
        text_model = TextModel(model, tokenizer, config.model)
        settle = optimizer.catch_up if isinstance(optimizer, RowAdamW) else lambda: None
        watcher = Watcher(
            config, model, text_model, data.valid, budget, sinks, progress, folder, interrupt, settle
        )
        steps = train(
            model.train(),
            loader,
            optimizer,
            config.optimizer,
            budget,
            watcher,
            machine.product_dtype,
            objective.negatives,
        )
        seconds = budget.seconds
        watcher.validate(steps)
    model.load_state_dict(watcher.best_weights)
    return Fit(
        model=model.eval(), steps=steps, tokens=watcher.tokens, seconds=seconds, interrupted=interrupt.asked
    )


def fit_counts(config: RunConfig, data: Prepared) -> Fit:
    """Count the n-grams of the training text; there is no budget, as every one is needed.

    Raises:
        InputError: The text has fewer tokens than the order.
    """
    started = time.monotonic()
    model = count(
        config.model,
        (data.train.tokens, data.train.starts),
        data.tokenizer.vocab_size,
        start_id=data.tokenizer.start_id,
        pad_index=data.tokenizer.pad_id,
    )
    return Fit(model=model, tokens=len(data.train), seconds=time.monotonic() - started)


def make_loader(config: RunConfig, data: Prepared) -> StreamLoader | DocumentLoader:
    """The training text as batches.

    Raises:
        InputError: It is too short for the streams asked for.
    """
    training, pad_id = config.training, data.tokenizer.pad_id
    if training.batches == "documents":
        return DocumentLoader(
            data.train,
            training.batch_size,
            training.max_length,
            pad_id=pad_id,
            seed=training.seed,
            shuffle=training.shuffle,
            bucket=training.bucket,
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
