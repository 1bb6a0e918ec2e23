"""The training loop: take a batch, predict, learn, look up now and then."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from elman.config import OptimizerConfig
from elman.data.batches import Batch, deal
from elman.models.base import State
from elman.models.neural import NeuralLanguageModel
from elman.ranks import ALONE, Ranks
from elman.train.budget import Schedule
from elman.train.guard import Guard
from elman.train.objective import Objective
from elman.train.optimizer import learning_rate, set_learning_rate
from elman.train.step import Outcome, Step, to_inputs


class Loader(Protocol):
    """An endless stream of batches that knows where it is."""

    carries_state: bool
    """Whether the state after a batch is the state before the next."""

    def __iter__(self) -> Iterator[Batch]:
        """The next batches."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Where the next batch begins."""
        ...

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go there."""
        ...


@dataclass
class Training:
    """What a training changes as it goes on; `snapshot` keeps it."""

    model: NeuralLanguageModel
    loader: Loader
    optimizer: torch.optim.Optimizer
    objective: Objective
    step: int = 0
    """Steps done."""
    state: State | None = None
    """Of the streams, after the last batch; None before the first."""
    ease: float = 1.0
    """Factor of the learning rate, for a training that has diverged once."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did."""

    step: int
    used: float
    """Share of the budget gone after the step, as the schedules see it."""
    over: bool
    """Whether it was the last."""
    loss: torch.Tensor
    """Mean nats a target, before the update; a scalar on the model's device."""
    targets: int
    """Targets counted, of all ranks."""
    gradient_norm: torch.Tensor
    """Global L2 norm before clipping; a scalar on the model's device."""
    learning_rate: float


class Observer(Protocol):
    """Told of every step; asks the loop to stop by returning true."""

    def __call__(self, result: StepResult) -> bool:
        """True to stop."""
        ...


def train(
    training: Training,
    config: OptimizerConfig,
    take_step: Step,
    budget: Schedule,
    guard: Guard,
    observe: Observer,
    ranks: Ranks = ALONE,
) -> None:
    """Train from where `training` is until the budget is used or `observe` says stop.

    The loader gives all ranks the same batches, and each learns from its rows.

    Raises:
        DivergedError: As `Guard` says; updates that are not finite were never made.
    """
    t, model = training, training.model
    batches = iter(t.loader)
    used, over = budget.look(t.step)
    while not over:
        cursor, batch = t.loader.state_dict(), next(batches)
        targets, batch = int(batch.counted.sum()), deal(batch, ranks)
        fresh = t.state is None or not t.loader.carries_state
        state = model.initial_state(len(batch.inputs)) if fresh else t.state
        rate = t.ease * learning_rate(config, used)
        set_learning_rate(t.optimizer, rate)
        inputs = to_inputs(batch, targets, t.objective.negatives(used), model.device, fresh=fresh)
        loss, norm, state = take_step(inputs, state)
        t.step += 1
        used, over = budget.look(t.step)
        t.state = guard(t.step, Outcome(loss, norm, state), cursor)
        if observe(StepResult(t.step, used, over, loss, targets, norm, rate)):
            break
    guard.look()
