"""The training loop: take a batch, predict, learn, look up now and then."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.utils import clip_grad_norm_

from elman.config import OptimizerConfig
from elman.data.batches import Batch
from elman.errors import DivergedError
from elman.models.base import detach
from elman.models.neural import NeuralLanguageModel
from elman.train.budget import Budget
from elman.train.optimizer import learning_rate, set_learning_rate


class Loader(Protocol):
    """Batches without end, and whether the state after one is the state before the next."""

    carries_state: bool

    def __iter__(self) -> Iterator[Batch]:
        """The next batches."""
        ...


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did."""

    step: int
    used: float
    """Share of the budget gone after the step."""
    loss: torch.Tensor
    """Mean nats a target, before the update; a scalar on the model's device."""
    targets: torch.Tensor
    """Targets counted; a scalar on the model's device."""
    gradient_norm: torch.Tensor
    """Global L2 norm before clipping; a scalar on the model's device."""
    learning_rate: float


class Observer(Protocol):
    """Told of every step; asks the loop to stop by returning true."""

    def __call__(self, result: StepResult) -> bool:
        """True to stop."""
        ...


def train(
    model: NeuralLanguageModel,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    config: OptimizerConfig,
    budget: Budget,
    observe: Observer,
    product_dtype: torch.dtype = torch.float32,
) -> int:
    """Train `model` in place until the budget is used or `observe` says stop; returns the steps done.

    Large products are computed in `product_dtype`; see `ops.precision`.

    Raises:
        DivergedError: The loss or the gradient is not finite; the update that would follow is not made.
    """
    state = None
    batches = iter(loader)
    step, used = 0, budget.used(0)
    while used < 1:
        batch = Batch(*(tensor.to(model.device, non_blocking=True) for tensor in next(batches)))
        if state is None or not loader.carries_state:
            state = model.initial_state(len(batch.inputs))
        set_learning_rate(optimizer, rate := learning_rate(config, used))
        with torch.autocast(model.device.type, product_dtype, enabled=product_dtype != torch.float32):
            nats, state = model.loss(batch.inputs, batch.targets, detach(state), batch.reset, batch.counted)
        targets = batch.counted.sum()
        loss = nats / targets
        loss.backward()
        norm = clip_grad_norm_(model.parameters(), config.clip_norm or torch.inf)
        if not torch.isfinite(norm):
            raise DivergedError(
                f"step {step + 1}: the gradient is not finite (loss {loss.item():g} nats);"
                f" lower learning_rate ({config.learning_rate:g}) or set clip_norm"
            )
        optimizer.step()
        optimizer.zero_grad()
        step, used = step + 1, budget.used(step + 1)
        if observe(StepResult(step, used, loss.detach(), targets, norm, rate)):
            break
    return step
