"""How a model comes to know its text: by gradient steps until the budget is used, or by counting."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from elman.config import RunConfig
from elman.data.batches import DocumentLoader, StreamLoader
from elman.data.prepare import Prepared
from elman.errors import ConfigError, InputError
from elman.models.base import LanguageModel
from elman.models.build import build, count
from elman.ranks import ALONE, Ranks
from elman.text_model import TextModel
from elman.train.budget import Budget
from elman.train.course import Course, Keeping
from elman.train.guard import Guard
from elman.train.loop import Training
from elman.train.machine import Machine, seed_rank
from elman.train.metrics import NOWHERE, MetricsLog
from elman.train.objective import Objective
from elman.train.optimizer import make_optimizer
from elman.train.progress import Progress
from elman.train.recorded_step import make_step
from elman.train.row_adamw import RowAdamW
from elman.train.run_folder import EVENTS, METRICS, TENSORBOARD
from elman.train.say import Say, warning
from elman.train.signals import Signals
from elman.train.step import Step
from elman.train.tensorboard import TensorBoardLog
from elman.train.watcher import Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A model and what it took."""

    model: LanguageModel
    steps: int = 0
    tokens: int
    """Targets seen, padding not counted."""
    seconds: float
    """Validation and checkpoints not counted."""


def fit_network(
    config: RunConfig,
    data: Prepared,
    loader: StreamLoader | DocumentLoader,
    machine: Machine,
    folder: Path,
    *,
    say: Say,
    quiet: bool,
    keeping: Keeping | None = None,
    ranks: Ranks = ALONE,
) -> Fit:
    """Train a network until its budget is used; the best weights by validation are kept, here and in `folder`.

    Raises:
        ElmanError: As for `train.course.Course.run`.
    """
    warn = warning(say)
    training, take_step = make_training(config, data, loader, machine, ranks=ranks, say=say)
    model, tokenizer, first = training.model, data.tokenizer, ranks.is_first
    with (
        Signals(say) as signals,
        Progress(quiet=quiet or not first) as progress,
        MetricsLog(folder / METRICS if first else NOWHERE, warn=warn) as log,
        MetricsLog(folder / EVENTS if first else NOWHERE, warn=warn) as events,
        contextlib.ExitStack() as stack,
    ):
        board = None
        if config.training.tensorboard and first:
            board = stack.enter_context(TensorBoardLog(folder / TENSORBOARD, warn=warn))
        budget = Budget(config.training, loader.steps_per_epoch, ranks=ranks)
        watcher = Watcher(
            config=config,
            model=model,
            text_model=TextModel(model, tokenizer, config.model),
            valid=data.valid,
            budget=budget,
            progress=progress,
            folder=folder if first else None,
            log=log,
            board=board,
            ranks=ranks,
            ours=folder.is_dir if keeping is None else keeping.ours,
            settle=lambda: settle(training),
            warn=warn,
        )
        Course(
            training=training,
            config=config.optimizer,
            take_step=take_step,
            budget=budget,
            guard=Guard(model, events.write, ranks),
            watcher=watcher,
            events=events,
            signals=signals,
            folder=folder,
            keeping=keeping,
            checkpoint_seconds=config.training.checkpoint_seconds,
            ranks=ranks,
            say=say,
        ).run()
    return Fit(model=model.eval(), steps=training.step, tokens=watcher.tokens, seconds=budget.seconds)


def make_training(
    config: RunConfig,
    data: Prepared,
    loader: StreamLoader | DocumentLoader,
    machine: Machine,
    *,
    ranks: Ranks = ALONE,
    say: Say = lambda line: None,
) -> tuple[Training, Step]:
    """A training before its first step, and how it takes one; draws the weights from torch's generator."""
    tokenizer = data.tokenizer
    model = build(config.model, tokenizer.vocab_size, tokenizer.pad_id).to(machine.device).train()
    model.embedding.sparse = config.optimizer.row_sparse
    optimizer = make_optimizer(model, config.optimizer)
    objective = Objective(config.training, data.train, tokenizer.vocab_size)
    seed_rank(config.training.seed, ranks)
    clip_norm, parts = config.optimizer.clip_norm, config.training.accumulate
    take_step = make_step(
        model, optimizer, clip_norm, machine.product_dtype, parts=parts, ranks=ranks, say=say
    )
    return Training(model, loader, optimizer, objective), take_step


def settle(training: Training) -> None:
    """Bring all weights up to date: an optimizer that updates rows leaves those behind that no batch has used."""
    if isinstance(training.optimizer, RowAdamW):
        training.optimizer.catch_up()


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


def make_loader(config: RunConfig, data: Prepared, ranks: Ranks = ALONE) -> StreamLoader | DocumentLoader:
    """The training text as batches.

    Raises:
        InputError: It is too short for the streams asked for.
        ConfigError: The streams cannot be dealt to the ranks evenly.
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
    if training.batch_size % ranks.size:
        raise ConfigError(
            f"batch_size ({training.batch_size}) streams cannot be dealt to {ranks.size} ranks evenly; give a multiple"
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
