"""What is done beside the steps of a training: record, show, validate, keep the best."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from elman.config import RunConfig
from elman.data.store import TokenStore
from elman.errors import InputError, ResourceError
from elman.models.build import tensors_of
from elman.models.neural import NeuralLanguageModel
from elman.ranks import ALONE, Ranks
from elman.text_model import TextModel
from elman.train.budget import Budget, is_marked
from elman.train.loop import StepResult
from elman.train.metrics import MetricsLog
from elman.train.progress import Progress
from elman.train.run_folder import MODEL
from elman.train.say import Say
from elman.train.tensorboard import TensorBoardLog

SHOW_SECONDS = 0.5
"""The progress line is brought up to date no more often."""


@dataclass(kw_only=True)
class Watcher:
    """Sees every step: records it, shows it, validates now and then, keeps the best weights.

    All ranks watch, as they validate together; only the first has a folder, logs and a progress line.
    """

    config: RunConfig
    model: NeuralLanguageModel
    text_model: TextModel
    valid: TokenStore
    budget: Budget
    progress: Progress
    folder: Path | None
    """Of the run, whose `model/` is kept the best so far."""
    log: MetricsLog
    """Gets the records."""
    board: TensorBoardLog | None = None
    """Gets them too."""
    ranks: Ranks = ALONE
    ours: Callable[[], bool] = lambda: True
    """Whether the folder is still that of this run."""
    settle: Callable[[], None] = lambda: None
    """Called before weights are looked at."""
    warn: Say = lambda line: None
    """Told, a line at a time, where the model on disk is not the best."""
    tokens: int = field(default=0, init=False)
    """Targets seen, padding not counted."""
    best: float = field(default=math.inf, init=False)
    """Nats of the best validation."""
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict, init=False)
    used: float = field(default=0.0, init=False)
    """Share of the budget at the last step."""
    validated: int = field(default=-1, init=False)
    """Step of the last validation."""
    _bits_per_byte: float | None = field(default=None, init=False)
    _recorded: tuple[float, int] = field(default=(0.0, 0), init=False)
    _shown: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        """Take the part of the held-out text that is scored on the way."""
        self._some = self.valid.sample_documents(self.config.training.valid_tokens)

    def __call__(self, result: StepResult) -> None:
        """After every step."""
        self.tokens += result.targets
        if self.ranks.is_first:
            self._tell(result)
        validations = self.config.training.validations
        due = math.floor(result.used * validations) > math.floor(self.used * validations)
        self.used = result.used
        if due and not result.over:
            self.validate(result.step)

    def validate(self, step: int) -> None:
        """Score held-out text; keep the weights, and the model on disk, if they are the best so far."""
        if step == self.validated:
            return
        self.validated = step
        self.settle()
        with self.budget.paused():
            self.model.eval()
            score = self.text_model.score_store(self._some, ranks=self.ranks)
            self.model.train()
            self._bits_per_byte = score.bits_per_byte
            self._write(
                step=step,
                seconds=self.budget.seconds,
                tokens=self.tokens,
                valid_bits_per_byte=score.bits_per_byte,
                valid_perplexity=score.perplexity,
            )
            if score.nats < self.best:  # which a NaN is not
                self.best = score.nats
                self.best_weights = {
                    name: tensor.detach().clone() for name, tensor in tensors_of(self.model).items()
                }
                self.keep_model(step)

    def keep_model(self, step: int) -> None:
        """Write the model as it is into the folder of the run; if that fails, the checkpoints still have it."""

        def write() -> None:
            if self.folder is None or not self.ours():  # moved: the next checkpoint will find out
                return
            card = f"# {self.folder.name}\n\nAn unfinished training of elman, after {step:,} steps.\n"
            try:
                self.text_model.save(self.folder / MODEL, card)
            except (InputError, ResourceError, OSError) as error:
                self.warn(f"training goes on without the model of step {step:,} in its folder: {error}")

        self.ranks.first_does(write)

    def _tell(self, result: StepResult) -> None:
        seconds = self.budget.seconds
        record = is_marked(result.step) or result.over
        if not (record or seconds - self._shown >= SHOW_SECONDS):
            return
        since, tokens_then = self._recorded
        numbers = {
            "loss": float(result.loss),
            "learning_rate": result.learning_rate,
            "gradient_norm": float(result.gradient_norm),
            "tokens_per_second": (self.tokens - tokens_then) / max(seconds - since, 1e-9),
        }
        if record:
            self._recorded = (seconds, self.tokens)
            self._write(step=result.step, seconds=seconds, tokens=self.tokens, used=result.used, **numbers)
        self._shown = seconds
        left = seconds / result.used * (1 - result.used) if result.used else None
        self.progress.update(
            result.used, step=result.step, bits_per_byte=self._bits_per_byte, seconds_left=left, **numbers
        )

    def _write(self, **record: float) -> None:
        self.log.write(record)
        if self.board is not None:
            self.board.write(record)

    def state_dict(self) -> dict[str, Any]:
        """What it has counted and found; the best weights are kept apart."""
        return {
            "tokens": self.tokens,
            "best": self.best,
            "validated": self.validated,
            "bits_per_byte": self._bits_per_byte,
            "recorded": list(self._recorded),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.tokens, self.best, self.validated = state["tokens"], state["best"], state["validated"]
        self._bits_per_byte, self._recorded = state["bits_per_byte"], tuple(state["recorded"])
