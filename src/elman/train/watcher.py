"""What is done beside the steps of a training: record, show, validate, keep the best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from elman.config import RunConfig
from elman.data.store import TokenStore
from elman.models.neural import NeuralLanguageModel
from elman.text_model import TextModel
from elman.train.budget import Budget
from elman.train.interrupt import Interrupt
from elman.train.loop import StepResult
from elman.train.metrics import MetricsLog, Progress, TensorBoardLog

RECORD_SECONDS = 0.5
"""Training records in metrics.jsonl are at least this far apart."""


@dataclass
class Watcher:
    """Sees every step: records it, shows it, validates now and then, keeps the best weights."""

    config: RunConfig
    model: NeuralLanguageModel
    text_model: TextModel
    valid: TokenStore
    budget: Budget
    sinks: Sequence[MetricsLog | TensorBoardLog]
    progress: Progress
    folder: Path
    interrupt: Interrupt
    settle: Callable[[], None] = lambda: None
    """Called before weights are looked at."""
    tokens: int = 0
    best: float = math.inf
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    _bits_per_byte: float | None = None
    _validated_at: int = 0
    _recorded: tuple[float, int] = (0.0, 0)

    def __post_init__(self) -> None:
        """Take the part of the held-out text that is scored on the way."""
        self._some = self.valid.sample_documents(self.config.training.valid_tokens)

    def __call__(self, result: StepResult) -> bool:
        """After every step; true when the user asked to stop."""
        self.tokens += result.targets
        seconds = self.budget.seconds
        since, tokens_then = self._recorded
        if result.step == 1 or seconds - since >= RECORD_SECONDS or result.used >= 1:
            self._record(result, seconds, (self.tokens - tokens_then) / max(seconds - since, 1e-9))
        due = math.floor(min(result.used, 1.0) * self.config.training.validations)
        if due > self._validated_at and result.used < 1:
            self._validated_at = due
            self.validate(result.step)
        return self.interrupt.asked

    def validate(self, step: int) -> None:
        """Score held-out text; keep the weights, and the model on disk, if they are the best so far."""
        self.settle()
        with self.budget.paused():
            self.model.eval()
            score = self.text_model.score_store(self._some)
            self.model.train()
            self._bits_per_byte = score.bits_per_byte
            self._write(
                step=step,
                seconds=self.budget.seconds,
                tokens=self.tokens,
                valid_bits_per_byte=score.bits_per_byte,
                valid_perplexity=score.perplexity,
            )
            if score.nats < self.best or not self.best_weights:
                self.best = score.nats
                self.best_weights = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
                card = f"# {self.folder.name}\n\nAn unfinished training of elman, after {step:,} steps.\n"
                self.text_model.save(self.folder / "model", card)

    def _record(self, result: StepResult, seconds: float, tokens_per_second: float) -> None:
        self._recorded = (seconds, self.tokens)
        numbers = {
            "loss": float(result.loss),
            "learning_rate": result.learning_rate,
            "gradient_norm": float(result.gradient_norm),
            "tokens_per_second": tokens_per_second,
        }
        self._write(step=result.step, seconds=seconds, tokens=self.tokens, **numbers)
        left = seconds / result.used * (1 - result.used) if result.used else None
        self.progress.update(
            result.used, step=result.step, bits_per_byte=self._bits_per_byte, seconds_left=left, **numbers
        )

    def _write(self, **record: float) -> None:
        for sink in self.sinks:
            sink.write(record)
